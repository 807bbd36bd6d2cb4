"""However a network is written and wherever it is cut, every method gives the same maps."""

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from tests import networks
from tests.attribution.support import (
    BranchingNet,
    TokenNet,
    WiredNet,
    classifier,
    images,
    quick,
    relative_error,
    seeded,
)
from torch import Tensor, nn

import pellucid as pl
from pellucid.attribution import METHODS, Method, explain
from pellucid.errors import LayerError

WITHOUT_TRACE = [name for name in METHODS if name != "LRP"]
"""Methods that need no list of operations."""


def wired(relu: str, make: Callable[[str], nn.Module] = WiredNet) -> nn.Module:
    """The same weights in every wiring; in double precision, so that only wiring can make a difference."""
    net = seeded(lambda: make(relu)).double()
    net.load_state_dict(seeded(lambda: WiredNet("functional")).state_dict())
    return net


@cache
def made(relu: str, make: Callable[[str], nn.Module] = WiredNet) -> pl.Classifier:
    return classifier(wired(relu, make))


@cache
def reference(name: str, layer: str) -> Tensor:
    return quick(name)(made("module").at(layer), images(2), [1, 4]).values


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("relu", "layers"),
    [
        ("functional", {"input": "input", "stem": "stem", "relus.1": "relu:1", "relus.2": "relu:2"}),
        ("reused", {"input": "input", "stem": "stem", "relus.1": "relus.0:1", "relus.2": "relus.0:2"}),
        ("in place", {"input": "input", "stem": "stem", "relus.1": "relus.1", "relus.2": "relus.2"}),
    ],
)
def test_module_functional_reused_and_in_place_relus_give_the_same_maps(
    name: str, relu: str, layers: dict[str, str]
) -> None:
    for layer, here in layers.items():
        found = quick(name)(made(relu).at(here), images(2), [1, 4])
        assert relative_error(found.values, reference(name, layer)) < 1e-6


@pytest.mark.parametrize("name", WITHOUT_TRACE)
@pytest.mark.parametrize("relu", ["module", "reused", "in place"])
def test_networks_that_cannot_be_traced_give_the_same_maps(name: str, relu: str) -> None:
    second, third = ("relus.0:1", "relus.0:2") if relu == "reused" else ("relus.1", "relus.2")
    for layer, here in {"input": "input", "stem": "stem", "bn": "bn", "relus.1": second, "relus.2": third}.items():
        view = made(relu, BranchingNet).at(here)
        assert view.suffix is None
        assert relative_error(quick(name)(view, images(2), [1, 4]).values, reference(name, layer)) < 1e-6


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("max_batch", [1, 7])
def test_values_that_cross_the_cut_stay_with_their_images(name: str, max_batch: int) -> None:
    view, x = made("module").at("bn"), images(3)
    assert view.side_input_names
    found = quick(name, max_batch=max_batch)(view, x, [0, 2])
    singly = torch.cat([quick(name)(view, one[None], [0, 2]).values for one in x])
    assert relative_error(found.values, singly) < 1e-6


class Tail(nn.Module):
    """What comes after `bn`, with what else crosses the cut there as a constant of the network."""

    def __init__(self, net: WiredNet, x: Tensor) -> None:
        super().__init__()
        self.net = net
        self.crossing = net.relu(0, net.stem(x)).detach()

    def forward(self, activation: Tensor) -> Tensor:
        x = self.net.relu(1, self.crossing + activation)
        return self.net.head(self.net.relu(2, self.net.narrow(x)).mean((2, 3)))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("ScoreCAM", "LRP")])
def test_what_crosses_the_cut_is_a_constant(name: str) -> None:
    net, x = wired("module"), images(1)
    view = classifier(net).at("bn")
    tail = pl.Classifier(Tail(net, x.double()).eval(), input_size=(6, 12, 12))
    options = {"window": 5, "stride": 2} if name == "Occlusion" else {}  # "input" has other defaults
    wanted = quick(name, **options)(tail.at("input"), view.activation(x), 3).values
    assert relative_error(quick(name)(view, x, 3).values, wanted) < 1e-6


@cache
def tokens() -> pl.Classifier:
    return classifier(seeded(TokenNet).double())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("layer", ["input", "blocks.0", "blocks.0.mlp"])
def test_token_grids_are_explained_like_maps(name: str, layer: str) -> None:
    view, x = tokens().at(layer), images(3)
    found = quick(name)(view, x, [1, 4])
    size = 12 if layer == "input" else 3
    assert found.values.shape == (3, 2, size, size)
    assert bool(found.values.isfinite().all())
    assert bool(found.values.any())
    singly = torch.cat([quick(name)(view, one[None], [1, 4]).values for one in x])
    assert relative_error(found.values, singly) < 1e-6


def test_the_gradient_at_tokens_is_that_of_the_patch_tokens_alone() -> None:
    net, x, outputs = seeded(TokenNet).double(), images(2), []
    net.blocks[0].register_forward_hook(lambda block, given, out: outputs.append(out) or out)
    (gradient,) = torch.autograd.grad(net(x.double())[:, 2].sum(), outputs)
    wanted = (outputs[0] * gradient)[:, 1:].sum(2).reshape(2, 1, 3, 3)
    found = quick("InputXGradient")(tokens().at("blocks.0"), x, 2)
    assert relative_error(found.values, wanted.float()) < 1e-6


SHARED = [
    *(quick("InputXGradient"), quick("GuidedBackprop"), quick("GradCAM")),
    *(quick("IntegratedGradients", steps=2), quick("SmoothGrad", samples=2)),
    *(quick("Occlusion", window=16, stride=16), quick("RISE", masks=8)),
]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_wiring_gives_its_own_gradient_and_keeps_images_apart(name: str) -> None:
    net, x = networks.NETWORKS[name]().double(), networks.images(name, 2)
    wrapped = pl.Classifier(net, input_size=networks.input_shape(name))
    leaf = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(networks.NETWORKS[name]().double()(leaf + 0.0)[:, 0].sum(), leaf)
    product = quick("InputXGradient")(wrapped.at("input"), x, 0)
    assert relative_error(product.values, (leaf * gradient).sum(1, keepdim=True).float()) < 1e-6
    together = explain(wrapped.at("middle"), x, 0, SHARED)
    singly = [explain(wrapped.at("middle"), one[None], 0, SHARED) for one in x]
    for index, found in enumerate(together):
        alone = torch.cat([parts[index].values for parts in singly])
        assert torch.allclose(found.values, alone, atol=1e-6 * float(alone.abs().max()))


def test_lrp_says_that_it_needs_a_traced_network() -> None:
    view = made("module", BranchingNet).at("relus.1")
    with pytest.raises(LayerError, match=r"LRP .* traced"):
        METHODS["LRP"]()(view, images(1), 1)


def snapshot(net: nn.Module) -> dict[str, object]:
    return {
        "modes": [part.training for part in net.modules()],
        "in place": [getattr(part, "inplace", None) for part in net.modules()],
        "hooks": [len(part._forward_hooks) + len(part._backward_hooks) for part in net.modules()],
        "attributes": [sorted(vars(part)) for part in net.modules()],
        "requires_grad": [one.requires_grad for one in net.parameters()],
        "gradients": [one.grad for one in net.parameters()],
        "identity": [id(one) for one in (*net.parameters(), *net.buffers())],
        "random state": torch.random.get_rng_state().tolist(),
    }


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("relu", ["module", "in place"])
def test_the_network_and_the_images_are_as_they_were(name: str, relu: str) -> None:
    net, x = wired(relu), images(2).requires_grad_()
    fresh = classifier(net)
    weights, values = copy.deepcopy(net.state_dict()), x.detach().clone()
    before = snapshot(net)
    for layer in ("input", "stem", "relus.1"):
        quick(name)(fresh.at(layer), x, [0, 1])
    assert snapshot(net) == before
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    assert torch.equal(x, values)
    assert x.grad is None


class BrokenError(Exception):
    pass


class BreakingView:
    """Raises in the middle of a method's passes."""

    def __init__(self, view: object) -> None:
        self._view, self._left = view, 2

    def __getattr__(self, name: str) -> object:
        return getattr(self._view, name)

    def logits(self, *given: object) -> Tensor:
        self._left -= 1
        if self._left < 0:
            raise BrokenError
        return self._view.logits(*given)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "method", [quick("GuidedBackprop", max_batch=1), quick("Occlusion"), quick("SmoothGrad", max_batch=1)]
)
def test_the_network_is_as_it_was_after_an_error(method: Method) -> None:
    net, x = wired("in place"), images(3)
    before = snapshot(net)
    with pytest.raises(BrokenError):
        method(BreakingView(classifier(net).at("stem")), x, 1)  # type: ignore[arg-type]
    assert snapshot(net) == before
