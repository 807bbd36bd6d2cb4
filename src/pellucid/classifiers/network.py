"""The network behind a classifier: run whole, listed layer by layer, and cut, each cut checked against the whole."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.classifiers.cut import Carried, Cut, TracedCut, equal_logits
from pellucid.classifiers.layers import (
    LayerInfo,
    final_layer,
    middle_layer,
    nearest_name,
    replayed_layers,
    traced_layers,
)
from pellucid.classifiers.layout import Layout, find_layout
from pellucid.classifiers.replay import ReplayCut
from pellucid.classifiers.tracing import TracedNetwork, UntraceableError, trace
from pellucid.classifiers.twin import frozen_twin
from pellucid.classifiers.view import Precision, checked_logits
from pellucid.errors import LayerError, ModelError

__all__ = ["Network"]


class Network:
    """A frozen twin of a module that can be run whole, listed and cut.

    Attributes:
        num_classes: number of logits.
        trace_failure: why torch.fx cannot trace the network; None if it can.
    """

    def __init__(
        self, module: nn.Module, shape: tuple[int, int, int], precision: Precision, aliases: Mapping[str, str]
    ) -> None:
        self._precision = precision
        self._shape = shape
        self._aliases = dict(aliases)
        self._new_twin = partial(_placed_twin, module, precision)
        self._whole = self._new_twin()
        self.trace_failure: str | None = None
        self.num_classes = self._first_forward().shape[1]

    def logits(self, pictures: Tensor) -> Tensor:
        """Logits (N, K) float32 of the whole network."""
        with self._precision.running():
            return checked_logits(self._whole(self._precision.prepare(pictures))).float()

    def _first_forward(self) -> Tensor:
        try:
            with torch.no_grad():
                return self.logits(self._probe(2))
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"the network cannot be run on pictures of shape (2, {', '.join(map(str, self._shape))}): "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; give input_size="
            ) from error

    def _probe(self, pictures: int) -> Tensor:
        generator = torch.Generator().manual_seed(pictures)
        return torch.randn(pictures, *self._shape, generator=generator)

    def _placed_probe(self, pictures: int) -> Tensor:
        return self._precision.prepare(self._probe(pictures))

    @cached_property
    def _traced(self) -> TracedNetwork | None:
        try:
            return trace(self._new_twin())
        except UntraceableError as error:
            self.trace_failure = str(error)
            return None

    @cached_property
    def layers(self) -> list[LayerInfo]:
        """All layers in the order of computation."""
        with self._precision.running():
            if self._traced is not None:
                return traced_layers(self._traced, self._placed_probe(2))
            return replayed_layers(self._whole, self._placed_probe(2))

    @cached_property
    def _final(self) -> str:
        return self._aliases.get("final") or final_layer(self.layers, self._informs)

    @cached_property
    def _middle(self) -> str:
        return self._aliases.get("middle") or middle_layer(self.layers, self._final)

    def resolve(self, layer: str) -> str:
        """The layer's name behind an alias; raises LayerError with the nearest names if there is none."""
        if layer in ("final", "middle"):
            layer = self._final if layer == "final" else self._middle
        names = [info.name for info in self.layers]
        if layer not in names:
            raise LayerError(nearest_name(layer, names))
        return layer

    def _informs(self, layer: str) -> bool:
        cut, layout = self.cut(layer, None)
        pictures = self._placed_probe(2)
        with self._precision.running():
            native, carried = cut.before(pictures)
            folded, leading = layout.fold(native.detach(), *pictures.shape[-2:])
            folded = folded.requires_grad_()
            logits = checked_logits(cut.after(layout.unfold(folded, leading), carried))
        (gradient,) = torch.autograd.grad(logits.float().abs().sum(), folded, allow_unused=True)
        return gradient is not None and bool(gradient.any())

    def cut(self, layer: str, order: str | None) -> tuple[Cut, Layout]:
        """Cut at a layer, checked: the two parts must give what the whole gives, also for selected and repeated rows.

        Raises:
            LayerError: no way of cutting there gives the network's own logits.
        """
        failures: list[str] = []
        with torch.no_grad():
            for way, make in self._ways(layer):
                try:
                    cut = make()
                    native = self._check(cut, layer)
                    return cut, self._layout(native, layer, order)
                except LayerError as error:
                    failures.append(f"{way}: {error}")
        raise LayerError(f"cannot cut at {layer!r}; " + "; ".join(failures))

    def _ways(self, layer: str) -> list[tuple[str, Callable[[], Cut]]]:
        path, _, call = layer.partition(":")
        ways: list[tuple[str, Callable[[], Cut]]] = []
        if self._traced is not None:
            node = self._traced.input if layer == "input" else self._traced.outputs[layer]
            ways.append(("traced", partial(TracedCut, self._traced, layer, node, self._placed_probe)))
        if layer == "input":
            ways.append(("whole", lambda: _WholeCut(self._new_twin())))
        elif path in dict(self._whole.named_modules()):
            for way, skip in (("replayed", True), ("run again whole", False)):
                ways.append((way, lambda skip=skip: ReplayCut(self._new_twin(), path, int(call or 0), skip=skip)))
        return ways

    def _check(self, cut: Cut, layer: str) -> Tensor:
        """Compare the cut with the whole network; returns the layer's native output."""
        pictures = self._placed_probe(2)
        with self._precision.running():
            native, carried = cut.before(pictures)
            if not isinstance(native, Tensor):
                raise LayerError(f"layer {layer!r} yields a {type(native).__name__}, not one tensor")
            whole = checked_logits(self._whole(pictures))
            if not equal_logits(cut.after(native, carried), whole):
                raise LayerError("the parts before and after the layer do not give the network's logits")
            rows = torch.tensor([1, 0, 1])
            picked = native.index_select(0, rows.to(native.device))
            if not equal_logits(cut.after(picked, carried.rows(rows)), whole[rows]):
                raise LayerError("rows of the activation do not give their own pictures' logits")
            if isinstance(cut, ReplayCut):
                self._check_replay(cut, layer, native, carried)
        return native

    def _check_replay(self, cut: ReplayCut, layer: str, native: Tensor, carried: Carried) -> None:
        """A recording could hide a path around the layer; another activation must act as in a run without recording."""
        other = native.flip(0) * 0.5
        path, _, call = layer.partition(":")
        again = ReplayCut(self._new_twin(), path, int(call or 0), skip=False)
        _, pictures_only = again.before(self._placed_probe(2))
        if not equal_logits(cut.after(other, carried), checked_logits(again.after(other, pictures_only))):
            raise LayerError("the network computes around the recording")

    def _layout(self, native: Tensor, layer: str, order: str | None) -> Layout:
        layout = find_layout(tuple(native.shape), *self._shape[1:], order)
        if layout is None:
            raise LayerError(
                f"the output of {layer!r} has shape {tuple(native.shape)}, which is no map, tokens or vector"
            )
        return layout


class _WholeCut:
    """The cut of an untraceable network at its input."""

    suffix = None
    names = ()

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def before(self, pictures: Tensor) -> tuple[Any, Carried]:
        return pictures, Carried(pictures=len(pictures))

    def after(self, activation: Tensor, carried: Carried) -> Any:
        return self._module(activation)


def _placed_twin(module: nn.Module, precision: Precision) -> nn.Module:
    twin = frozen_twin(module).to(precision.device)
    return twin.to(memory_format=torch.channels_last) if precision.channels_last else twin  # type: ignore[call-overload, no-any-return]
