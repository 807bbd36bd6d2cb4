"""Networks whose last map and head are cut by hand, and slow attribution from the definitions, one head at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tests.attribution.support import gap_net, plain_net, seeded
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from pellucid.attribution.perturbation import occlusion_windows, rise_masks
from pellucid.evaluation import DiFull, DiPart, GridPG
from pellucid.evaluation.settings import GridSetting

CELL = 12
SETTINGS: dict[str, type[GridSetting]] = {"GridPG": GridPG, "DiFull": DiFull, "DiPart": DiPart}

Score = Callable[[Tensor], Tensor]
"""An activation (1, C, h, w) -> a number, differentiable."""


def grids(
    grid: tuple[int, int] = (2, 2), count: int = 2, cell: tuple[int, int] = (CELL, CELL), seed: int = 3
) -> Tensor:
    size = (grid[0] * cell[0], grid[1] * cell[1])
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def classifier(net: nn.Module, size: int | tuple[int, int] = CELL) -> pl.Classifier:
    return pl.Classifier(net, input_size=size)


@dataclass(frozen=True)
class Plain:
    """A sequential network, the index of the layer with its last map, and whether that is pooled to one vector."""

    net: nn.Sequential
    last: int
    is_global: bool


def vgg_net() -> nn.Sequential:
    """As VGG: adaptive pooling that changes nothing at the cells' own size, dropout, and fully connected layers."""
    return seeded(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.AdaptiveAvgPool2d(3), nn.Flatten()),
            *(nn.Linear(72, 12), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(12, 5)),
        )
    )


class Positionwise(nn.Module):
    """Layer norm over channels, as ConvNeXt writes it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext_net() -> nn.Sequential:
    """A layer norm between pooling and the linear layer."""
    return seeded(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 4, stride=4), nn.GELU()),
            *(nn.AdaptiveAvgPool2d(1), Positionwise(8), nn.Flatten(), nn.Linear(8, 5)),
        )
    )


def mobilenet_net() -> nn.Sequential:
    """Two linear layers with a hard swish between, after pooling."""
    return seeded(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 4, stride=4), nn.Hardswish()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12), nn.Hardswish(), nn.Linear(12, 5)),
        )
    )


class FixedPooling(nn.Module):
    """Pooling with a kernel as large as the map of an image of the network's own size, as many CIFAR networks have."""

    def __init__(self, pool: Callable[[Tensor, int], Tensor], *, hidden: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.fc = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5)) if hidden else nn.Linear(8, 5)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.pool(x, CELL // 2)
        return self.fc(x.view(x.size(0), -1))


class BatchStatistics(nn.Module):
    """Normalizes by the statistics of whatever batch it is given, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, track_running_stats=False)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


PLAIN = {
    "average and linear": Plain(gap_net(), 4, is_global=True),
    "adaptive pooling and fully connected": Plain(plain_net(), 4, is_global=False),
    "flatten and fully connected": Plain(vgg_net(), 5, is_global=False),
}


def score_of(plain: Plain, name: str, layer: str, head: int, target: int, grid: tuple[int, int] = (2, 2)) -> Score:
    """The logit of one head of a setting as a function of a grid's activation at a layer; the network runs whole."""
    start = 0 if layer == "input" else int(layer) + 1
    to_map, head_net = plain.net[start : plain.last + 1], plain.net[plain.last + 1 :]

    def score(activation: Tensor) -> Tensor:
        if name == "DiFull":
            return plain.net[start:](crop(activation, head, grid))[0, target]
        maps = to_map(activation)
        if name == "DiPart":
            return head_net(crop(maps, head, grid))[0, target]
        if plain.is_global:
            return head_net(maps)[0, target]
        height, width = maps.shape[2] // grid[0], maps.shape[3] // grid[1]
        logits = [
            head_net(maps[:, :, top : top + height, left : left + width])[0, target]
            for top in range(maps.shape[2] - height + 1)
            for left in range(maps.shape[3] - width + 1)
        ]
        return torch.stack(logits).mean()

    return score


def crop(maps: Tensor, cell: int, grid: tuple[int, int] = (2, 2)) -> Tensor:
    height, width = maps.shape[2] // grid[0], maps.shape[3] // grid[1]
    row, column = divmod(cell, grid[1])
    return maps[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width]


def activation_of(plain: Plain, name: str, layer: str, image: Tensor, grid: tuple[int, int] = (2, 2)) -> Tensor:
    """The activation (1, C, h, w) of a grid image (1, 3, H, W); in DiFull cell by cell."""
    before = plain.net[: 0 if layer == "input" else int(layer) + 1]
    with torch.no_grad():
        if name != "DiFull":
            return before(image)
        rows = [
            torch.cat([before(crop(image, row * grid[1] + column, grid)) for column in range(grid[1])], 3)
            for row in range(grid[0])
        ]
        return torch.cat(rows, 2)


def gradient(score: Score, activation: Tensor) -> Tensor:
    """(C, h, w)."""
    leaf = activation.clone().requires_grad_()
    return torch.autograd.grad(score(leaf), leaf)[0][0]


def slow_gradient(score: Score, activation: Tensor) -> Tensor:
    return gradient(score, activation).abs().sum(0)


def slow_input_x_gradient(score: Score, activation: Tensor) -> Tensor:
    return (gradient(score, activation) * activation[0]).sum(0)


def slow_integrated_gradients(score: Score, activation: Tensor) -> Tensor:
    nodes, weights = np.polynomial.legendre.leggauss(20)
    mean = sum(
        float(weight) / 2 * gradient(score, (float(node) + 1) / 2 * activation)
        for node, weight in zip(nodes, weights, strict=True)
    )
    return (mean * activation[0]).sum(0)


def slow_grad_cam(score: Score, activation: Tensor) -> Tensor:
    weights = gradient(score, activation).mean((1, 2))
    return (weights[:, None, None] * activation[0]).sum(0)


def slow_occlusion(score: Score, activation: Tensor) -> Tensor:
    window, stride = OCCLUSION["window"], OCCLUSION["stride"]
    found = torch.zeros(activation.shape[2:])
    whole = score(activation)
    for top, bottom in occlusion_windows(activation.shape[2], window, stride):
        for left, right in occlusion_windows(activation.shape[3], window, stride):
            hidden = activation.clone()
            hidden[:, :, top:bottom, left:right] = 0.0
            found[top:bottom, left:right] += (whole - score(hidden)).detach() / ((bottom - top) * (right - left))
    return found


OCCLUSION = {"window": 6, "stride": 3}
RISE = {"masks": 12, "cells": 3, "keep": 0.4, "seed": 2}


def slow_rise(score: Score, activation: Tensor) -> Tensor:
    """With the logit in place of the probability."""
    options = {key: value for key, value in RISE.items() if key != "masks"}
    masks = rise_masks(RISE["masks"], *activation.shape[2:], **options)[torch.arange(RISE["masks"])]
    found = sum(score(activation * mask).detach() * mask for mask in masks)
    return found / (RISE["masks"] * RISE["keep"])


SLOW = {
    "Gradient": slow_gradient,
    "InputXGradient": slow_input_x_gradient,
    "IntegratedGradients": slow_integrated_gradients,
    "GradCAM": slow_grad_cam,
    "Occlusion": slow_occlusion,
    "RISE": slow_rise,
}
OPTIONS: dict[str, dict[str, object]] = {
    "GradCAM": {"relu": False},
    "Occlusion": OCCLUSION,
    "RISE": {**RISE, "output": "target"},
}
