"""Whether the part after a layer is known to be affine: never wrongly so."""

from collections.abc import Callable

import pytest
import torch
from tests.classifiers.oracles import classifier
from tests.networks import CLASSES, NETWORKS, images
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl


def is_affine(name: str, layer: str) -> bool:
    return classifier(name).at(layer).is_affine


def seems_affine(name: str, layer: str) -> bool:
    """f(a + 2 b) - f(a) = 2 (f(a + b) - f(a)) for random b, which no network here gives by chance."""
    view = classifier(name).at(layer)
    activation = view.activation(images(name))
    step = torch.randn(activation.shape)
    at = [view.logits(activation + factor * step, activation.side_inputs) for factor in (0.0, 1.0, 2.0)]
    return torch.allclose(at[2] - at[0], 2 * (at[1] - at[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_suffix_said_to_be_affine_is(name: str) -> None:
    for info in classifier(name).layers():
        assert seems_affine(name, info.name) or not is_affine(name, info.name), info.name


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("gap_linear", "3"),
        ("functional_relu", "relu:1"),
        ("residual", "layer3"),
        ("dense", "relu"),
        ("inception", "inception2"),
        ("squeeze_excite", "6"),
        ("preactivation", "add:1"),
        ("nested_sequential", "features.1.2"),
        ("batch_size_across", "relu:1"),
        ("channels_last_blocks", "head"),
    ],
)
def test_a_pooled_linear_head_is_known_to_be_affine(name: str, layer: str) -> None:
    assert is_affine(name, layer)


@pytest.mark.parametrize(("name", "layer"), [("gap_linear", "2"), ("vit", "blocks.1"), ("flatten_head", "features.4")])
def test_what_passes_a_nonlinearity_is_not_affine(name: str, layer: str) -> None:
    assert not is_affine(name, layer)
    assert not seems_affine(name, layer)


class Head(nn.Module):
    """A convolution, then a head to be asked about."""

    def __init__(self, head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.norm = nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES), nn.BatchNorm2d(4)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("head", "affine"),
    [
        (nn.BatchNorm2d(4), True),
        (nn.Conv2d(4, 4, 3, padding_mode="reflect", padding=1), True),
        (nn.AvgPool2d(2), True),
        (nn.Dropout2d(), True),
        (lambda x: 2 * x - 1, True),
        (lambda x: x / 3, True),
        (lambda x: 3 * (x + 1), True),
        (lambda x: F.dropout(x, training=False), True),
        (lambda x: torch.cat([x, x], 2), True),
        (lambda x: x * x, False),
        (lambda x: 1 / x, False),
        (lambda x: x / x, False),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), False),
        (lambda x: torch.matmul(x, x), False),
        (lambda x: x / x.sum(1, keepdim=True), False),
        (lambda x: x.abs(), False),
        (nn.MaxPool2d(2), False),
        (nn.GroupNorm(2, 4), False),
        (nn.Softmax(1), False),
    ],
)
def test_affine_operations_are_told_from_others(head: Callable[[Tensor], Tensor], affine: bool) -> None:
    net = Head(head).eval()
    assert pl.Classifier(net, input_size=8).at("conv").is_affine == affine


def test_a_hook_on_a_linear_layer_can_make_anything_of_it() -> None:
    net = NETWORKS["gap_linear"]()
    assert pl.Classifier(net, input_size=32).at("3").is_affine
    net[6].register_forward_hook(lambda module, inputs, output: output.tanh())
    assert not pl.Classifier(net, input_size=32).at("3").is_affine


def test_an_untraceable_network_is_never_known_to_be_affine() -> None:
    assert not is_affine("control_flow", "head.2")
