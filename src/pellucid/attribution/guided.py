"""Guided ReLUs: their backward also drops negative gradients, however the network calls them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["guided_relus"]

F = nn.functional
# What nn.ReLU, functional and in-place calls arrive as, with the upper limit of the unit (None: no limit).
_RELUS: dict[Callable[..., Any], float | None] = {
    F.relu: None,
    torch.relu: None,
    Tensor.relu: None,
    F.relu6: 6.0,
}
_IN_PLACE_RELUS: dict[Callable[..., Any], float | None] = {F.relu_: None, torch.relu_: None, Tensor.relu_: None}


class _GuidedReLU(torch.autograd.Function):
    """min(max(x, 0), limit), whose backward passes only positive gradients of active units."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        return x.clamp(0.0, limit)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        active = x > 0 if ctx.limit is None else (x > 0) & (x < ctx.limit)
        return gradient.clamp(min=0.0) * active, None


class _GuidedMode(TorchFunctionMode):
    """Answers every call of a ReLU with the guided one; seen at the call, a module or function makes no difference."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RELUS and not kwargs.get("inplace", len(args) > 1 and args[1]):
            return _GuidedReLU.apply(args[0] if args else kwargs["input"], _RELUS[func])
        if func in _RELUS or func in _IN_PLACE_RELUS:
            tensor = args[0] if args else kwargs["input"]
            limit = _RELUS.get(func, _IN_PLACE_RELUS.get(func))
            return tensor.copy_(_GuidedReLU.apply(tensor.clone(), limit))
        return func(*args, **kwargs)


@contextmanager
def guided_relus() -> Iterator[None]:
    """While this is entered, ReLU and ReLU6 are guided (Springenberg et al., Striving for Simplicity, 2015).

    It acts where the network runs, so traced and replayed networks, modules, functions and in-place calls are alike.
    """
    with _GuidedMode():
        yield
