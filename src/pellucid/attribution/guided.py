"""Guided ReLUs: their backward also drops negative gradients, however the network calls them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

F = nn.functional
# What modules, functions and in-place calls arrive as, with their arguments in order. nn.ReLU6 arrives as hardtanh.
_ARGUMENTS: dict[Callable[..., Any], tuple[str, ...]] = {
    F.relu: ("input", "inplace"),
    torch.relu: ("input",),
    Tensor.relu: ("input",),
    F.relu6: ("input", "inplace"),
    F.hardtanh: ("input", "min_val", "max_val", "inplace"),
    F.relu_: ("input",),
    torch.relu_: ("input",),
    Tensor.relu_: ("input",),
    F.hardtanh_: ("input", "min_val", "max_val"),
}
_HARDTANH = (F.hardtanh, F.hardtanh_)
_IN_PLACE = (F.relu_, torch.relu_, Tensor.relu_, F.hardtanh_)


class _GuidedReLU(torch.autograd.Function):
    """min(max(x, 0), limit), whose backward passes only positive gradients of active units."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        return x.clamp(0.0, limit)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        active = x > 0 if ctx.limit is None else (x > 0) & (x < ctx.limit)
        return gradient.clamp(min=0.0) * active, None


_guided_relu: Callable[[Tensor, float | None], Tensor] = _GuidedReLU.apply


class GuidedReLUs(TorchFunctionMode):
    """While this is entered, ReLU and ReLU6 are guided (Springenberg et al., Striving for Simplicity, 2015).

    It answers the calls where the network runs, so traced and replayed networks, modules, functions and in-place calls
    are alike; a hardtanh from 0 counts as one. A ReLU written as `clamp` or `threshold` is not taken for one.

    Attributes:
        met: how many ReLUs have been guided so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = dict(zip(_ARGUMENTS.get(func, ()), args, strict=False)) | kwargs
        if func not in _ARGUMENTS or (func in _HARDTANH and given.get("min_val", -1.0) != 0):
            return func(*args, **kwargs)
        self.met += 1
        limit = 6.0 if func is F.relu6 else given.get("max_val", 1.0 if func in _HARDTANH else None)
        if func in _IN_PLACE or given.get("inplace", False):
            return given["input"].copy_(_guided_relu(given["input"].clone(), limit))
        return _guided_relu(given["input"], limit)
