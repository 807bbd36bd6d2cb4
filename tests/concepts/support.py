"""Classifiers whose activations are the images themselves, so that every number can be worked out by hand."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.classifiers import LayerView
from pellucid.concepts import CAV, Emblems

HAND_F = torch.tensor([[[4.0, 0.0], [0.0, 0.0]], [[2.0, 2.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
HAND_W = torch.tensor([[2.0, -1.0, 1.0], [0.0, 0.5, 1.0]])
HAND_B = torch.tensor([0.3, -0.7])
HAND_P = torch.tensor([1.0, -0.5, 0.25])


class Function(nn.Module):
    """A network that is any function of its input; the parameter lets it have weights to hash."""

    def __init__(self, function: Callable[[Tensor], Tensor], salt: float = 0.0) -> None:
        super().__init__()
        self.function = function
        self.salt = nn.Parameter(torch.tensor(salt), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class LinearHead(nn.Module):
    """Global average pooling and a linear layer."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(weight.shape[1], len(weight))
        self.head.weight.data, self.head.bias.data = weight.clone(), bias.clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(x), 1))


def view_of(module: nn.Module, shape: tuple[int, int, int], layer: str = "input") -> LayerView:
    """The classifier `module` for images of `shape` (C, H, W), seen from `layer`."""
    return pl.Classifier(module.eval(), input_size=shape).at(layer)


def curved_view(channels: int = 4, classes: int = 3, size: tuple[int, int] = (3, 5), seed: int = 0) -> LayerView:
    """A view whose logits are a curved function of the activation, which is the image."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(6, channels, 1, 1, generator=generator)
    second = torch.randn(classes, 6, generator=generator)
    return view_of(
        Function(lambda x: torch.tanh(nn.functional.conv2d(x, first)).square().mean((2, 3)) @ second.T),
        (channels, *size),
    )


def make_cav(
    direction: Tensor, low: float = 0.1, high: float = 1.0, *, name: str = "concept", **changes: object
) -> CAV:
    """A CAV with a given direction and emblems, whose images were random."""
    generator = torch.Generator().manual_seed(len(name))
    channels = len(direction)
    plain: dict[str, object] = {
        "name": name,
        "layer": "input",
        "direction": direction,
        "emblems": Emblems(low, high),
        "negative_emblems": Emblems(0.1, 1.0),
        "auc": 0.9,
        "auc_deviation": 0.01,
        "stability": 0.8,
        "concept_features": torch.randn(12, channels, generator=generator) + direction,
        "negative_features": torch.randn(12, channels, generator=generator),
        "resamples": direction + 0.1 * torch.randn(4, channels, generator=generator),
        "resample_emblems": torch.tensor([[low, high]]).repeat(4, 1),
        "estimator": "difference",
        "estimator_options": {},
        "options": {"features": "pooled"},
        "sources": ["image 0"],
        "negative_sources": ["image 0"],
        "classifier": "Function",
        "fingerprint": "",
        "remarks": [],
        "versions": {},
    }
    return CAV(**(plain | changes))  # type: ignore[arg-type]


def cav_for(view: LayerView, direction: Tensor, low: float = 0.1, high: float = 1.0, **changes: object) -> CAV:
    """`make_cav` for this very view."""
    own = {"layer": view.layer, "fingerprint": view.classifier.fingerprint()}
    return make_cav(direction, low, high, **(own | changes))
