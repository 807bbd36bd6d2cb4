"""Small networks, and views that count what is run or hide what is known, for the tests of attribution."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from pellucid.attribution import METHODS, Method

SIZE = 12


def seeded(build: Any, seed: int = 1) -> Any:
    """A network in eval mode with random weights and batch statistics, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build()
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.3)
    return net.eval()


def plain_net() -> nn.Sequential:
    """Two strides and a fully connected head: no layer before the head sees an affine suffix."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(72, 12),
            nn.ReLU(),
            nn.Linear(12, 5),
        )
    )


def gap_net() -> nn.Sequential:
    """Global average pooling and a linear head: affine from layer 4 ("final") on."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        )
    )


class WiredNet(nn.Module):
    """A residual block and a head whose ReLUs are modules, functions, one module used twice, or in place."""

    def __init__(self, relu: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.left = nn.Conv2d(6, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.narrow = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 5)
        self.relus = nn.ModuleList(nn.ReLU(inplace=relu == "in place") for _ in range(1 if relu == "reused" else 3))
        self.functional = relu == "functional"

    def relu(self, index: int, x: Tensor) -> Tensor:
        if self.functional:
            return (F.relu, torch.relu, lambda x: x.relu())[index](x)
        return self.relus[index % len(self.relus)](x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(0, self.stem(x))
        x = self.relu(1, x + self.bn(self.left(x)))
        x = self.relu(2, self.narrow(x))
        return self.head(x.mean((2, 3)))


class BranchingNet(WiredNet):
    """The same network with control flow that depends on the data, so that it cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.isnan().any()):
            raise ValueError("NaN image")
        return super().forward(x)


class TokenNet(nn.Module):
    """A small vision transformer: 3 x 3 patches, a class token that alone is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.class_token = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList(TokenBlock() for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class TokenBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1)
        x = x + weights @ self.value(x)
        return x + self.mlp(x)


QUICK: dict[str, dict[str, Any]] = {
    "IntegratedGradients": {"steps": 5},
    "SmoothGrad": {"samples": 4},
    "RISE": {"masks": 45, "cells": 3, "keep": 0.4},
    "LRP": {"low": -5.0, "high": 5.0},
}


def quick(name: str, **options: Any) -> Method:
    """A method by name with few steps, samples and masks."""
    return METHODS[name](**(QUICK.get(name, {}) | options))


def classifier(net: nn.Module, size: int = SIZE) -> pl.Classifier:
    return pl.Classifier(net, input_size=size)


def images(count: int = 2, size: int = SIZE, seed: int = 5) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def halves(net: nn.Sequential, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    """The network up to and after a layer, cut by hand."""
    cut = 0 if layer == "input" else int(layer) + 1
    return net[:cut], net[cut:]


def hand_gradient(net: nn.Sequential, layer: str, x: Tensor, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Activation, its gradient (both (N, C, h, w)) and the logits, from a cut made by hand."""
    before, after = halves(net, layer)
    activation = before(x).detach().requires_grad_()
    logits = after(activation)
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), activation)
    return activation.detach(), gradient, logits.detach()


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Largest error in units of the largest value."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    scale = float(wanted.detach().abs().max())
    assert scale > 0, "a comparison with zeros shows nothing"
    return float((found.detach() - wanted.detach()).abs().max()) / scale


class GeneralView:
    """A view that does not say that it is affine, so that methods take their general path."""

    is_affine = False

    def __init__(self, view: Any) -> None:
        self._view = view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)


class CountingView:
    """Counts the rows that really go through each part, for comparison with the passes reported."""

    def __init__(self, view: Any) -> None:
        self._view = view
        self.counts = {"prefix_forward": 0, "suffix_forward": 0, "suffix_backward": 0, "network_forward": 0}
        self.largest = 0
        self.classifier = _CountingClassifier(view.classifier, self.counts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def activation(self, x: Tensor) -> Tensor:
        self.counts["prefix_forward"] += len(x)
        return self._view.activation(x)

    def logits(self, activation: Tensor, side_inputs: Any = None) -> Tensor:
        self.counts["suffix_forward"] += len(activation)
        self.largest = max(self.largest, len(activation))
        logits = self._view.logits(activation, side_inputs)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.counts["suffix_backward"] += len(gradient)


class _CountingClassifier:
    def __init__(self, inner: pl.Classifier, counts: dict[str, int]) -> None:
        self._inner, self._counts = inner, counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def logits(self, x: Tensor) -> Tensor:
        self._counts["network_forward"] += len(x)
        return self._inner.logits(x)


@cache
def _lite0() -> tuple[pl.Classifier, Tensor]:
    made = pl.load("efficientnet_lite0")
    skimage = pytest.importorskip("skimage", reason="the real image is scikit-image's (extra demo)")
    return made, made.read(Path(skimage.__file__).parent / "data" / "chelsea.png")


def lite0() -> tuple[pl.Classifier, Tensor]:
    """EfficientNet-Lite0 with its published weights and a real photograph; skips where they are not installed."""
    try:
        return _lite0()
    except pl.PellucidError as error:
        pytest.skip(f"{error}")


def lite0_module() -> nn.Module:
    """A copy of the network itself, for oracles that put hooks on modules."""
    return copy.deepcopy(lite0()[0]._module)
