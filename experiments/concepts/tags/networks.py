"""The networks of the tag experiment: one small CNN per agreement and seed, trained on drawn scenes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

import pellucid as pl
from pellucid.storage import write_atomically
from pellucid.synthetic import SHAPES, Scene, draw_scenes

SIZE = 48
"""Side of the images in pixels."""
Named = Sequence[str | None]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        agreement: chance that an image's tag names its class; else it names another class, each alike.
        seed: of scenes, tags, weights and order.
        scenes: training images.
        epochs: passes over them.
        width: channels of the first layer; the others have two, three and four times as many.
        untagged: share of the training images without a tag, so that an image without one is nothing new.
        batch: images of one step.
        rate: highest learning rate.
    """

    agreement: float
    seed: int = 0
    scenes: int = 3000
    epochs: int = 12
    width: int = 16
    untagged: float = 0.1
    batch: int = 50
    rate: float = 4e-3

    @property
    def name(self) -> str:
        """Unique among the networks of one experiment."""
        return f"agreement{self.agreement:g}_seed{self.seed}"

    @property
    def file_name(self) -> str:
        """Of the weights: another recipe has another."""
        return f"{self.name}_{sha256(repr(self).encode()).hexdigest()[:8]}.safetensors"


def to_input(scenes: Sequence[Scene], shapes: Named, tags: Named) -> Tensor:
    """Images of scenes as the networks take them, (N, 3, SIZE, SIZE), 0 to 255 mapped to -1 to 1."""
    images = [scene.image(*names) for scene, *names in zip(scenes, shapes, tags, strict=True)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def random_tags(classes: Sequence[int], agreement: float, random: np.random.Generator) -> list[int]:
    """The class that each image's tag names: its own with probability `agreement`, else another."""
    others = [(own + int(random.integers(1, len(SHAPES)))) % len(SHAPES) for own in classes]
    return [own if random.random() < agreement else other for own, other in zip(classes, others, strict=True)]


def small_network(width: int) -> nn.Sequential:
    """Four convolutions with batch norm and ReLU, global average pooling, a linear layer; 6 x 6 cells at the end."""

    def block(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
        convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())

    return nn.Sequential(
        *(block(3, width, 5, 2), block(width, 2 * width), nn.MaxPool2d(2)),
        *(block(2 * width, 3 * width), nn.MaxPool2d(2), block(3 * width, 4 * width)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, len(SHAPES))),
    )


def train(recipe: Recipe) -> nn.Sequential:
    """Train a network; the same recipe gives the same weights."""
    scenes = _training_scenes(recipe.scenes, recipe.seed)
    random = np.random.default_rng(recipe.seed)
    classes = random.integers(len(SHAPES), size=len(scenes)).tolist()
    named = random_tags(classes, recipe.agreement, random)
    tags = [SHAPES[tag] if random.random() >= recipe.untagged else None for tag in named]
    images, labels = to_input(scenes, [SHAPES[own] for own in classes], tags), torch.tensor(classes)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(recipe.seed)
        network = small_network(recipe.width)
        _fit(network, images, labels, recipe)
    return network.eval()


def classifier_for(recipe: Recipe, folder: Path | None = None) -> pl.Classifier:
    """The trained network as a classifier; its weights are kept in `folder` and found there by the same recipe."""
    file = None if folder is None else folder / recipe.file_name
    if file is not None and file.exists():
        network = small_network(recipe.width).eval()
        network.load_state_dict(load_file(file))
    else:
        network = train(recipe)
        if file is not None:
            write_atomically(file, save(network.state_dict()))
    return pl.Classifier(network, class_names=SHAPES, input_size=SIZE, name=recipe.name)


def _fit(network: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> None:
    steps = recipe.epochs * -(-len(images) // recipe.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    for _ in range(recipe.epochs):
        for rows in torch.split(torch.randperm(len(images)), recipe.batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


@lru_cache(maxsize=1)
def _training_scenes(count: int, seed: int) -> list[Scene]:
    return draw_scenes(count, SIZE, seed)
