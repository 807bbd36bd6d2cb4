"""The user's network, and the program around it, are as they were when a call returns or raises."""

import gc
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tests.networks import CLASSES, NETWORKS, images, input_shape
from torch import Tensor, nn

import pellucid as pl
from pellucid.attribution import METHODS
from pellucid.errors import (
    LayerError,
    ModelError,
    PellucidError,
    TargetError,
)

# Wirings that tempt a tool to change them: in-place and shared modules, hooks, computed weights, replay.
NAMES = ["residual", "in_place_module", "preactivation", "hooked", "weight_norm", "vit", "control_flow", "remembers"]
EVERY_NAME = pytest.mark.parametrize("name", NAMES)
# Options that make the expensive methods cheap.
OPTIONS: dict[str, dict[str, Any]] = {
    "IntegratedGradients": {"steps": 2},
    "SmoothGrad": {"samples": 2},
    "RISE": {"masks": 4, "cells": 2},
    "Occlusion": {"window": 8, "stride": 8},
}


def state_of(net: nn.Module) -> dict[str, Any]:
    """Everything of a network that a call could change: values as bytes, containers as their contents."""
    state: dict[str, Any] = {}
    for path, part in net.named_modules():
        for name, value in vars(part).items():
            state[f"{path}/{name}"] = dict(value) if isinstance(value, dict) else value
        state[f"{path}/forward"] = vars(part).get("forward")
        state[f"{path}/mode"] = part.training
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        state[f"{name} is"] = id(tensor)
        state[f"{name} bytes"] = tensor.detach().numpy().tobytes()
        state[f"{name} flags"] = (tensor.requires_grad, tensor.device, tensor.dtype, tensor.stride(), tensor._version)
        state[f"{name} grad"] = None if tensor.grad is None else (id(tensor.grad), tensor.grad.numpy().tobytes())
    return state


def program_state() -> dict[str, Any]:
    """Everything of the program that a call could change."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr] # noqa: NPY002
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "global hooks": [len(hooks) for hooks in _global_hooks()],
        "call": (nn.Module.__call__, nn.Module.__getattr__),
    }


def _global_hooks() -> list[dict[int, Any]]:
    module = torch.nn.modules.module
    return [value for name, value in vars(module).items() if name.startswith("_global_") and isinstance(value, dict)]


def prepared(name: str) -> nn.Module:
    """A network as its user may have it: some weights frozen, gradients from an earlier backward."""
    net = NETWORKS[name]()
    net(images(name, 1)).sum().backward()
    next(iter(net.parameters())).requires_grad_(False)
    if hasattr(net, "seen"):
        net.seen.clear()
    return net


@contextmanager
def unchanged(net: nn.Module, by: str = "") -> Iterator[None]:
    """Check that a network, and the program around it, are the same afterwards."""
    np.random.seed(3)  # noqa: NPY002
    random.seed(4)
    before, around = state_of(net), program_state()
    yield
    after = state_of(net)
    assert list(after) == list(before), by
    assert {key for key in before if not _same(before[key], after[key])} == set(), by
    assert program_state() == around, by


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def classifier_of(name: str, net: nn.Module, **options: Any) -> pl.Classifier:
    return pl.Classifier(net, input_size=input_shape(name), **options)


# --- Calls that return


@EVERY_NAME
def test_making_listing_and_predicting_change_nothing(name: str) -> None:
    net = prepared(name)
    with unchanged(net):
        clf = classifier_of(name, net)
        clf.layers()
        clf.logits(images(name))
        clf.predict(images(name))
        clf.fingerprint()
        classifier_of(name, net, channels_last=True).predict(images(name))
        classifier_of(name, net, autocast=torch.bfloat16).predict(images(name))


@EVERY_NAME
def test_cutting_and_running_the_parts_changes_nothing(name: str) -> None:
    net = prepared(name)
    with unchanged(net):
        clf = classifier_of(name, net)
        for layer in ("input", "middle", "final", *[info.name for info in clf.layers()[1::5]]):
            view = clf.at(layer)
            activation = view.activation(images(name))
            view.logits(activation)
            leaf = activation.clone().requires_grad_()
            view.logits(leaf, activation.side_inputs).sum().backward()
            view.logits(activation[:1], activation.side_inputs.rows(torch.tensor([0])))


@EVERY_NAME
def test_no_attribution_method_changes_anything(name: str) -> None:
    net, x = prepared(name), images(name, 2)
    views = [classifier_of(name, net).at(layer) for layer in ("input", "final")]
    before = x.clone()
    for method, make in METHODS.items():
        with unchanged(net, method):
            for view in views:
                try:
                    make(**OPTIONS.get(method, {}))(view, x, [0, 2])
                except PellucidError:
                    assert method == "LRP"  # refuses networks that cannot be traced
        assert torch.equal(x, before), method
        assert x.grad is None


# --- Calls that raise


@EVERY_NAME
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda clf, x: clf.at("nowhere"), LayerError),
        (lambda clf, x: clf.at("final", layout="NTCX"), LayerError),
        (lambda clf, x: clf.logits(x[0]), PellucidError),
        (lambda clf, x: clf.at("final").activation(x[:, :2]), PellucidError),
        (lambda clf, x: clf.predict(x * float("nan")), ModelError),
        (lambda clf, x: clf.logits(x[:, :, :0]), ModelError),
        (lambda clf, x: clf.at("final").logits(torch.zeros(2, 1, 1, 1)), Exception),
        (lambda clf, x: METHODS["Gradient"]()(clf.at("final"), x, "no such class"), TargetError),
        (lambda clf, x: METHODS["GuidedBackprop"]()(clf.at("final"), x * float("nan"), 0), ModelError),
        (lambda clf, x: METHODS["IntegratedGradients"](baseline=torch.zeros(7, 7))(clf.at("final"), x), PellucidError),
    ],
)
def test_calls_that_raise_change_nothing(
    call: Callable[[pl.Classifier, Tensor], object], error: type[Exception], name: str
) -> None:
    net = prepared(name)
    with unchanged(net):
        clf = classifier_of(name, net)
        with pytest.raises(error):
            call(clf, images(name))


@EVERY_NAME
def test_a_classifier_that_cannot_be_made_changes_nothing(name: str) -> None:
    net = prepared(name)
    with unchanged(net):
        for wrong in ({"device": "nowhere"}, {"class_names": ["one"]}, {"input_size": (9, 16, 16)}, {"input_size": 0}):
            with pytest.raises(ModelError):
                pl.Classifier(net, **{"input_size": input_shape(name), **wrong})


class Fails(nn.Module):
    """Fails on large images, after it has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        if bool(x.max() > 1e3):
            raise RuntimeError("too bright\nmore of the message")
        return self.fc(x.mean((2, 3)))


def test_a_network_that_raises_itself_is_left_as_it_was() -> None:
    net = Fails().eval()
    bright = torch.full((1, 3, 8, 8), 1e6)
    with unchanged(net):
        clf = pl.Classifier(net, input_size=8)
        view = clf.at("conv")
        with pytest.raises(ModelError, match=r"RuntimeError: too bright; input_size="):
            clf.logits(bright)
        with pytest.raises(RuntimeError, match="too bright"):
            view.logits(1e6 + view.activation(bright), view.activation(bright).side_inputs)


# --- The user's own hooks


def test_hooks_that_belong_to_another_tool_act_but_are_not_copied() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.lock = threading.Lock()  # cannot be copied
            self.count = 0

        def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            self.count += 1
            return output * 2

        def look(self, module: nn.Module, inputs: object) -> None:
            self.count += 1

    net, recorder = NETWORKS["gap_linear"](), Recorder()
    net[2].register_forward_hook(recorder)
    net[0].register_forward_pre_hook(recorder.look)
    clf = pl.Classifier(net, input_size=32)
    x = images("gap_linear")
    with torch.no_grad():
        torch.testing.assert_close(clf.logits(x), net(x))
        torch.testing.assert_close(clf.at("1").logits(clf.at("1").activation(x)), net(x))
    assert recorder.count > 0


def test_hooks_that_a_user_adds_later_do_not_act() -> None:
    net = NETWORKS["gap_linear"]()
    clf = pl.Classifier(net, input_size=32)
    x = images("gap_linear")
    wanted = clf.logits(x)
    seen: list[Tensor] = []
    net[2].register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert torch.equal(clf.logits(x), wanted)
    assert seen == []


def test_a_network_can_be_trained_between_two_explanations() -> None:
    net = NETWORKS["residual"]()
    clf = pl.Classifier(net, input_size=32)
    view, x = clf.at("layer2"), images("residual", 4)
    before = view.logits(view.activation(x))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.train()
    loss = nn.functional.cross_entropy(net(x), torch.arange(4) % CLASSES)
    view.logits(view.activation(x))  # does not disturb the graph that waits for its backward pass
    loss.backward()
    optimizer.step()
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(view.logits(view.activation(x)), net(x))
    assert not torch.allclose(view.logits(view.activation(x)), before)


# --- Nothing is left behind


@pytest.mark.parametrize("name", ["residual", "control_flow", "hooked", "vit"])
def test_the_network_and_the_activations_are_released(name: str) -> None:
    net = NETWORKS[name]()
    clf = classifier_of(name, net)
    x = images(name, 2)
    view = clf.at("middle")
    activation = view.activation(x)
    METHODS["IntegratedGradients"](steps=2)(view, x, 0)
    METHODS["GuidedBackprop"]()(view, x, 0)
    leaf = activation.clone().requires_grad_()
    view.logits(leaf, activation.side_inputs).sum().backward()
    ghosts = [weakref.ref(thing) for thing in (net, clf, view, activation, leaf, x)]
    del net, clf, view, activation, leaf, x
    gc.collect()
    assert [ghost() for ghost in ghosts] == [None] * len(ghosts)


@pytest.mark.parametrize("name", ["residual", "control_flow"])
def test_explaining_again_and_again_keeps_no_tensors(name: str) -> None:
    clf = classifier_of(name, NETWORKS[name]())
    view = clf.at("middle")

    def explain() -> None:
        for method in ("IntegratedGradients", "GuidedBackprop", "Occlusion"):
            METHODS[method](**OPTIONS.get(method, {}))(view, images(name, 2), 0)

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    explain()
    before = tensors()
    for _ in range(3):
        explain()
    assert tensors() == before


def test_views_share_the_users_weights() -> None:
    net = NETWORKS["residual"]()
    clf = classifier_of("residual", net)
    storages = {tensor.data_ptr() for tensor in [*net.parameters(), *net.buffers()]}
    for layer in ("input", "layer1", "layer2.0.conv1"):
        suffix = clf.at(layer).suffix
        assert suffix is not None
        assert {tensor.data_ptr() for tensor in [*suffix.parameters(), *suffix.buffers()]} <= storages
        assert not any(parameter.requires_grad for parameter in suffix.parameters())
