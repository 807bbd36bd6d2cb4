"""Guided Backprop against Captum, hand-made hooks, and every way of writing a ReLU."""

import copy
import warnings

import pytest
import torch
from tests.attribution.support import (
    classifier,
    halves,
    images,
    lite0,
    lite0_module,
    plain_net,
    relative_error,
    seeded,
)
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.attribution import Gradient, GuidedBackprop
from pellucid.attribution.gradient import GuidedReLUs


def hooked_gradient(module: nn.Module, x: Tensor, target: int, layer: str = "") -> Tensor:
    """Gradient at x, or at a layer's output, when every ReLU and ReLU6 module also drops negative gradients."""
    module, seen = copy.deepcopy(module), []
    for part in module.modules():
        if isinstance(part, nn.ReLU | nn.ReLU6):
            part.register_full_backward_hook(lambda part, inner, outer: (inner[0].clamp(min=0.0),))
    if layer:
        module.get_submodule(layer).register_forward_hook(lambda part, given, out: seen.append(out) or out)
    leaf = x.clone().requires_grad_()
    with warnings.catch_warnings(action="ignore"):
        logits = module(leaf)
    return torch.autograd.grad(logits[:, target].sum(), seen[0] if layer else leaf)[0]


def test_guided_backprop_is_captums_on_relu_modules() -> None:
    captum = pytest.importorskip("captum.attr")
    module, x = plain_net(), images(3)
    view = classifier(module).at("input")
    with warnings.catch_warnings(action="ignore"):
        wanted = captum.GuidedBackprop(copy.deepcopy(module)).attribute(x.clone().requires_grad_(), target=1)
    assert relative_error(GuidedBackprop(absolute=False)(view, x, 1).values, wanted.sum(1, keepdim=True)) < 1e-6
    assert relative_error(GuidedBackprop()(view, x, 1).values, wanted.abs().sum(1, keepdim=True)) < 1e-6
    assert relative_error(wanted.abs().sum(1, keepdim=True), Gradient()(view, x, 1).values) > 0.05


@pytest.mark.parametrize("layer", ["1", "2", "4"])
def test_only_relus_after_the_layer_are_guided(layer: str) -> None:
    module, x = plain_net(), images(2)
    before, after = halves(module, layer)
    wanted = hooked_gradient(after, before(x).detach(), 3).abs().sum(1, keepdim=True)
    assert relative_error(GuidedBackprop()(classifier(module).at(layer), x, 3).values, wanted) < 1e-6


@pytest.mark.parametrize("layer", ["input", "middle"])
def test_the_relu6_of_a_real_network_are_guided(layer: str) -> None:
    made, x = lite0()
    view = made.at(layer)
    # Captum guides nn.ReLU alone; the hooks of this file guide ReLU6 too.
    wanted = hooked_gradient(lite0_module(), x, 282, layer="" if layer == "input" else view.layer)
    found = GuidedBackprop()(view, x, 282)
    assert relative_error(found.values, wanted.abs().sum(1, keepdim=True)) < 1e-5
    assert relative_error(Gradient()(view, x, 282).values, found.values) > 0.1


def grads(relu: object, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    weights = torch.tensor([1.0, -1.0, 2.0, 3.0, -4.0, 5.0])
    out = relu(leaf * 1.0)  # type: ignore[operator]
    return torch.autograd.grad((out * weights).sum(), leaf)[0]


def in_place(x: Tensor) -> Tensor:
    return x.relu_()


@pytest.mark.parametrize(
    "relu",
    [
        *(nn.ReLU(), nn.ReLU(inplace=True), F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, in_place),
        lambda x: F.relu(x, True),
        lambda x: F.relu(x, inplace=True),
        lambda x: torch.relu(input=x),
        lambda x: F.relu(input=x),
    ],
)
def test_every_spelling_of_a_relu_is_guided(relu: object) -> None:
    x = torch.tensor([1.0, 2.0, -3.0, 0.0, 5.0, 7.0])
    guided = GuidedReLUs()
    with guided:
        found = grads(relu, x)
    assert found.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 5.0]
    assert guided.count == 1
    assert grads(relu, x).tolist() == [1.0, -1.0, 0.0, 0.0, -4.0, 5.0]


@pytest.mark.parametrize(
    "relu6",
    [
        *(nn.ReLU6(), nn.ReLU6(inplace=True), nn.Hardtanh(0, 6), F.relu6),
        lambda x: F.relu6(x, True),
        lambda x: F.hardtanh(x, 0.0, 6.0),
        lambda x: F.hardtanh_(x, max_val=6.0, min_val=0.0),
    ],
)
def test_relu6_is_closed_above_six_too(relu6: object) -> None:
    with GuidedReLUs():
        found = grads(relu6, torch.tensor([1.0, 2.0, -3.0, 6.0, 5.0, 7.0]))
    assert found.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_the_forward_pass_of_guided_relus_is_unchanged() -> None:
    x = torch.linspace(-3, 9, 50)
    with GuidedReLUs():
        inside = [F.relu(x), F.relu6(x), torch.relu(x), x.clone().relu_()]
    assert all(
        torch.equal(one, two) for one, two in zip(inside, [F.relu(x), F.relu6(x), x.relu(), x.relu()], strict=True)
    )


def test_a_hardtanh_that_lets_negative_values_pass_is_no_relu() -> None:
    with GuidedReLUs() as guided:
        assert grads(nn.Hardtanh(-1, 6), torch.full((6,), -0.5)).tolist() == [1.0, -1.0, 2.0, 3.0, -4.0, 5.0]
    assert guided.count == 0


def test_nothing_stays_guided_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), GuidedReLUs():
        raise ZeroDivisionError
    leaf = torch.tensor([1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad((-F.relu(leaf)).sum(), leaf)
    assert gradient.item() == -1.0


def test_a_network_without_relus_gets_the_gradient_and_a_note() -> None:
    module = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    )
    view, x = classifier(module).at("input"), images(2)
    found = GuidedBackprop()(view, x, 0)
    assert torch.equal(found.values, Gradient()(view, x, 0).values)
    assert found.notes == (("no ReLU comes after this layer, so that the map is the plain gradient's",),) * 2
    assert GuidedBackprop()(classifier(plain_net()).at("input"), x, 0).notes == ((), ())
