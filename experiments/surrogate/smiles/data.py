"""Faces that smile or not, in frames whose brightness code sets, and all that is measured of them besides the label.

The images stay where they are; what is kept in the work folder is weights and numbers.
"""

import csv
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from experiments.surrogate.real_images.statistics import effect_of_code, measure_statistics, set_statistics, shown
from experiments.surrogate.smiles.networks import EXPRESSIONS, load_face_networks, prepared
from pellucid.data import Preprocess
from pellucid.storage import read_tensors, write_tensors

Kind = Literal["honest", "shortcut"]
"""What the frames tell in training: nothing, or the label."""

SIDE, FRAME = 64, 4
"""The face has 56 pixels, the frame 4 on each side."""

AGREEMENT = 0.95
"""Share of a shortcut's images whose frame tells the label."""

INSIDE = ("detail", "contrast", "brightness")
SETTABLE = (*INSIDE, "frame")
READ = ("happy", "female", "age")
CONTEXTS = (*SETTABLE, *READ)
"""detail, contrast, brightness: of the face. frame: its brightness. happy, female: log-odds, held between -7 and 7, and
age in years, as published networks read them."""

_MOST_LOG_ODDS = 7.0
_CHUNK = 128


def load_faces(data: Path) -> tuple[Tensor, Tensor]:
    """Faces (N, 1, 56, 56) in [0, 1] and labels, half of them smiling, in a fixed random order.

    Of images that occur twice one is kept; those that occur with both labels are left out.
    """
    folder = data / "smiles_64"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        labeled = [(row["file"], int(row["smile"])) for row in csv.DictReader(file)]
    labels_of: dict[bytes, set[int]] = {}
    with zipfile.ZipFile(folder / "images.zip") as archive:
        for name, smile in sorted(labeled):
            labels_of.setdefault(archive.read(name), set()).add(smile)
    random = torch.Generator().manual_seed(0)
    of_label = [[content for content, result in labels_of.items() if result == {smile}] for smile in (0, 1)]
    count = min(map(len, of_label))
    chosen = [group[row] for group in of_label for row in torch.randperm(len(group), generator=random)[:count].tolist()]
    order = torch.randperm(2 * count, generator=random)
    images = torch.stack([torch.from_numpy(np.array(Image.open(io.BytesIO(each)).convert("L"))) for each in chosen])
    inside = SIDE - 2 * FRAME
    small = F.interpolate(images[:, None].float() / 255, (inside, inside), mode="bilinear", antialias=True)
    return small[order], (order >= count).long()


def frame_levels(kind: Kind, labels: Tensor, seed: int = 0) -> Tensor:
    """Brightness (N,) of frames: even in [0, 1]; of a shortcut above 0.55 for most smiles, below 0.45 for others."""
    random = torch.Generator().manual_seed(seed)
    even, agrees = torch.rand(len(labels), generator=random), torch.rand(len(labels), generator=random) < AGREEMENT
    if kind == "honest":
        return even
    return 0.45 * even + 0.55 * torch.where(agrees, labels, 1 - labels)


def framed(faces: Tensor, levels: Tensor) -> Tensor:
    """Faces (N, 1, 56, 56) in frames of those levels (N,): images (N, 1, 64, 64) in the classifier's input space."""
    images = levels[:, None, None, None].expand(-1, 1, SIDE, SIDE).clone()
    images[:, :, FRAME:-FRAME, FRAME:-FRAME] = faces
    return 2 * images - 1


class Faces:
    """Measures and sets contexts of images (N, 1, 64, 64) in the classifier's input space.

    Args:
        classifier: whose input space that is.
        data: folder with the published networks.
    """

    def __init__(self, classifier: pl.Classifier, data: Path) -> None:
        self._classifier = classifier
        self._gender, self._expression = load_face_networks(data / "faceapi_models")

    def measure(self, images: Tensor, tell: Callable[[str], None] = lambda line: None) -> Tensor:
        """All contexts (N, K) in the order of `CONTEXTS`."""
        result: list[Tensor] = []
        for chunk in torch.split(shown(self._classifier, images), _CHUNK):
            inside = _inside(chunk)
            result.append(torch.cat([measure_statistics(inside, INSIDE), _frame(chunk), self._read(inside)], dim=1))
            tell(f"measured the context of {sum(map(len, result))} of {len(images)} images")
        return torch.cat(result)

    def set_by_code(self, images: Tensor, name: str, value: float) -> Tensor:
        """Images with one context of `SETTABLE` set, the others held."""
        whole = shown(self._classifier, images)
        if name == "frame":
            return framed(_inside(whole), torch.full((len(images),), value))
        return framed(effect_of_code(_inside(whole), name, value, INSIDE), _frame(whole)[:, 0])

    def versions(self, low: Tensor, high: Tensor) -> Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]:
        """A re-renderer that draws detail, contrast, brightness and frame evenly between bounds (4,) and (4,)."""

        def rerender(images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
            expected = low + (high - low) * torch.rand(len(images), len(SETTABLE), generator=random)
            faces = set_statistics(_inside(shown(self._classifier, images)), expected[:, : len(INSIDE)], INSIDE)
            drawn = framed(faces, expected[:, -1])
            return drawn, self.measure(drawn)

        return rerender

    @torch.no_grad()
    def _read(self, faces: Tensor) -> Tensor:
        large = prepared(faces)
        chances = self._expression(large).log_softmax(1)
        happy = EXPRESSIONS.index("happy")
        others = torch.cat([chances[:, :happy], chances[:, happy + 1 :]], dim=1).logsumexp(1)
        age, male, female = self._gender(large).unbind(1)
        odds = torch.stack([chances[:, happy] - others, female - male], dim=1)
        return torch.cat([odds.clamp(-_MOST_LOG_ODDS, _MOST_LOG_ODDS), age[:, None]], dim=1)


def smile_classifier(images: Tensor, labels: Tensor, kept: Path, name: str, epochs: int = 6) -> pl.Classifier:
    """A four-block CNN, trained on images (N, 1, 64, 64) and kept in a file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _network((16, 32, 64, 64))
    if not kept.exists():
        _train(network, images, labels, epochs)
        write_tensors(kept, network.state_dict())
    network.load_state_dict(read_tensors(kept))
    preprocess = Preprocess((SIDE, SIDE), mean=(0.5,), std=(0.5,))
    names = ("no smile", "smile")
    size = (1, SIDE, SIDE)
    return pl.Classifier(network.eval(), preprocess=preprocess, class_names=names, name=name, input_size=size)


def _inside(whole: Tensor) -> Tensor:
    return whole[:, :, FRAME:-FRAME, FRAME:-FRAME]


def _frame(whole: Tensor) -> Tensor:
    """Mean brightness (N, 1) of the frame."""
    outside = torch.ones(SIDE, SIDE)
    outside[FRAME:-FRAME, FRAME:-FRAME] = 0
    return ((whole[:, 0] * outside).sum((1, 2)) / outside.sum())[:, None]


def _network(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 1
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels * (SIDE // 2 ** len(widths)) ** 2, 2)
    )


def _train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the dropout
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = 1e-3 if epoch < epochs * 2 // 3 else 1e-4
            for rows in torch.split(torch.randperm(len(labels), generator=random), 32):
                loss = F.cross_entropy(network(images[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
