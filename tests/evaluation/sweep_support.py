"""A network that knows eight colors, and a data set of colored squares for it; both are made in a moment."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from pellucid import Classifier
from pellucid.data import Preprocess
from pellucid.evaluation.sweep import Run

TIMES = ("seconds", "shared_seconds")
COLORS = ("black", "blue", "green", "cyan", "red", "magenta", "yellow", "white")
SIDE = 16
MODEL = "tests.evaluation.sweep_support:color_classifier"


def hear_ctrl_c() -> None:
    """For `preexec_fn`: a shell starts what it runs in the background deaf to Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def color_network() -> nn.Sequential:
    """Each channel answers to one corner of the color cube and to no other; the logits are the channels' means."""
    corners = torch.tensor([[2.0 * (index >> shift & 1) - 1 for shift in (2, 1, 0)] for index in range(8)])
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 8, 3, padding=1))
    network.add_module("relu1", nn.ReLU())
    network.add_module("conv2", nn.Conv2d(8, 8, 3, stride=2, padding=1))
    network.add_module("relu2", nn.ReLU())
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flat", nn.Flatten())
    network.add_module("fc", nn.Linear(8, 8))
    weights = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    weights["conv1.weight"][:, :, 1, 1] = corners
    weights["conv1.bias"] -= 1.5
    weights["conv2.weight"] += torch.eye(8)[:, :, None, None] / 9
    weights["fc.weight"] += 80 * torch.eye(8)
    network.load_state_dict(weights)
    return network.eval()


def color_classifier() -> Classifier:
    preprocess = Preprocess((SIDE, SIDE), resize=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Classifier(color_network(), preprocess=preprocess, class_names=COLORS, name="colors")


class Detached(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.detach()


def detached_classifier() -> Classifier:
    """The same network, through whose head no gradient flows."""
    network = color_network()
    network.flat = nn.Sequential(network.flat, Detached())
    preprocess = color_classifier().preprocess
    return Classifier(network.eval(), preprocess=preprocess, class_names=COLORS, name="detached")


def write_squares(folder: Path, per_class: int = 6) -> Path:
    """Colored squares on noisy grey, one folder per color."""
    rng = np.random.default_rng(0)
    for index, color in enumerate(COLORS):
        own = folder / color
        own.mkdir(parents=True)
        for number in range(per_class):
            image = rng.integers(112, 144, (SIDE, SIDE, 3), dtype=np.uint8)
            top, left = rng.integers(0, SIDE - 8, 2)
            image[top : top + 8, left : left + 8] = [255 * (index >> shift & 1) for shift in (2, 1, 0)]
            Image.fromarray(image).save(own / f"{number}.png")
    return folder


def columns(run: Run) -> dict[str, list[Any]]:
    """The table without times, with NaN equal to itself."""
    values = {name: run.table()[name].to_pylist() for name in run.table().column_names if name not in TIMES}
    return {name: ["nan" if value != value else value for value in column] for name, column in values.items()}


def rows(run: Run, **wanted: object) -> list[dict[str, Any]]:
    return [row for row in run.table().to_pylist() if all(row[name] == value for name, value in wanted.items())]
