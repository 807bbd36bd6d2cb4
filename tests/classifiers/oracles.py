"""Slow and obvious ways to do what a cut does: forward hooks on the user's own network, and everything run again."""

from collections.abc import Callable
from functools import cache
from itertools import count

import torch
from tests.networks import NETWORKS, input_shape
from torch import Tensor, nn

import pellucid as pl


@cache
def reference(name: str) -> nn.Module:
    """The network with frozen weights: for those that take gradients torch may choose other kernels, one bit apart."""
    return NETWORKS[name]().requires_grad_(False)


@cache
def classifier(name: str) -> pl.Classifier:
    """A classifier of the network, shared by all tests, which is all right as nothing can change it."""
    return pl.Classifier(reference(name), input_size=input_shape(name), name=name)


def module_layers(name: str) -> list[str]:
    """The layers of a network that are outputs of modules, so that hooks can reach them; and the input."""
    paths = {path for path, _ in reference(name).named_modules()}
    layers = (info.name for info in classifier(name).layers())
    return [layer for layer in layers if layer == "input" or layer.partition(":")[0] in paths]


def run_with(net: nn.Module, layer: str, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits of the network when the output of a layer's module is replaced by `change` of it."""
    if layer == "input":
        return net(change(images).clone())
    path, _, call = layer.partition(":")
    calls = count()

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if next(calls) != int(call or 0):
            return None
        changed = change(output)
        # Whoever else holds a tensor that was written in place sees the change too.
        return output.copy_(changed) if getattr(module, "inplace", False) else changed.clone()

    handle = net.get_submodule(path).register_forward_hook(hook)
    try:
        return net(images.clone())
    finally:
        handle.remove()


def as_map(native: Tensor, shape: torch.Size) -> Tensor:
    """A layer's output as the map (N, C, h, w) of `shape`; leading tokens are left out."""
    if native.shape == shape:
        return native
    if native.ndim == 3:
        patches = native[:, native.shape[1] - shape[2] * shape[3] :]
        return patches.mT.reshape(shape)
    return native.movedim(-1, 1) if native.ndim == 4 else native[:, :, None, None]


def patches_only(change: Callable[[Tensor], Tensor], shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """`change` for the tokens of the image, in a layer whose map has `shape`; leading tokens stay as they are."""

    def changed(native: Tensor) -> Tensor:
        if native.ndim != 3:
            return change(native)
        leading = native.shape[1] - shape[2] * shape[3]
        return torch.cat([native[:, :leading], change(native[:, leading:])], 1)

    return changed
