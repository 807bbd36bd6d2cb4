"""The network behind a classifier: run whole, listed layer by layer, and cut, each cut checked against the whole.

It is a frozen copy of the user's: the same memory, none of the same objects. Everything pellucid does to a network
(tracing it, switching in-place operations off, moving it to a device, hooking it) happens to the copy, so the user's
own module keeps its mode, gradients, hooks and flags whatever happens.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.classifiers.cut import Cut, DryRun, TracedCut, logits_agree
from pellucid.classifiers.layers import (
    LayerInfo,
    find_final_layer,
    find_middle_layer,
    find_replayed_gradients,
    find_traced_gradients,
    list_replayed_layers,
    list_traced_layers,
    unknown_layer_message,
)
from pellucid.classifiers.layout import Layout, find_layout
from pellucid.classifiers.precision import (
    Precision,
    check_logits,
    first_line,
    run_errors,
)
from pellucid.classifiers.replay import ReplayCut, find_last_linear
from pellucid.classifiers.side_inputs import SideInputs
from pellucid.classifiers.tracing import TracedNetwork, UntraceableError, parse_call, trace
from pellucid.errors import LayerError, ModelError, PellucidError
from pellucid.shapes import Float


def frozen_copy(module: nn.Module) -> nn.Module:
    """Copy the module tree while sharing every parameter and buffer, detached and without gradients.

    In-place changes of the user's weights (an optimizer step, `load_state_dict`) are seen by the copy; replacing the
    weights (`module.to(device)`, `load_state_dict(assign=True)`) is not: make a new `Classifier` after that. Hooks that
    the user has put on the module are part of what it computes, so they act on the copy too.

    Raises:
        ModelError: the module holds something that cannot be copied.

    >>> layer = nn.Linear(2, 1)
    >>> copied = frozen_copy(layer)
    >>> copied.weight.requires_grad, copied.weight.data_ptr() == layer.weight.data_ptr()
    (False, True)
    """
    memo: dict[int, Any] = {}
    try:
        with torch.inference_mode(False):
            for part in module.modules():
                memo |= {id(owner): owner for owner in _owners_of_hooks(part)}
                memo |= {id(tensor): _alias(tensor) for tensor in _tensors_in(vars(part))}
            return copy.deepcopy(module, memo)
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}); "
            "remove attributes that cannot be deep-copied, such as open files, locks and generators"
        ) from error


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Tensors in a module's attributes: weights, buffers, and those it keeps in plain containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors_in(part)


def _owners_of_hooks(part: nn.Module) -> Iterator[Any]:
    """Objects behind the hooks, such as another tool's recorder: they are the user's and are not to be copied."""
    for name, hooks in vars(part).items():
        if name.endswith("_hooks") and isinstance(hooks, dict):
            owners = (getattr(hook, "__self__", hook) for hook in hooks.values())
            yield from (owner for owner in owners if not isinstance(owner, nn.Module))


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=False)
    return tensor.detach()


def refuse_train_mode(module: nn.Module) -> None:
    """Raise a ModelError naming the first submodule in train mode: its output may depend on chance or the batch.

    >>> refuse_train_mode(nn.Linear(2, 1))
    Traceback (most recent call last):
        ...
    pellucid.errors.ModelError: the Linear is in train mode; call module.eval() before explaining it
    """
    for name, part in module.named_modules():
        if part.training:
            label = f"submodule {name!r} ({type(part).__name__})" if name else f"the {type(part).__name__}"
            raise ModelError(f"{label} is in train mode; call module.eval() before explaining it")


class Network:
    """A frozen copy of a module that can be run whole, listed and cut.

    Attributes:
        name: of the classifier, for messages.
        input_shape: (C, H, W) of the images that layers are listed for.
        num_classes: number of logits.
        precision: where and how precisely it runs.
        trace_failure: why torch.fx cannot trace the network; None if it can, or it was not tried yet.

    >>> module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)).eval()
    >>> network = Network(module, "small", (3, 8, 8), Precision(torch.device("cpu")), aliases={})
    >>> network.num_classes, network.resolve("final"), network.head
    (2, '0', '2')
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        input_shape: tuple[int, int, int],
        precision: Precision,
        aliases: Mapping[str, str],
    ) -> None:
        self.name = name
        self.precision = precision
        self.input_shape = input_shape
        self._aliases = dict(aliases)
        self._whole = frozen_copy(module).to(precision.device)
        if precision.channels_last:
            self._whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trace_failure: str | None = None
        with torch.no_grad():
            self.num_classes = self.logits(self._probe(2)).shape[1]

    def check_images(self, images: Tensor) -> Tensor:
        """`images` if they are a batch (N, C, H, W) of floats with the right channels; else raises PellucidError."""
        channels = self.input_shape[0]
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != channels or not len(images):
            given = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise PellucidError(f"{self.name} takes images of shape (N, {channels}, H, W), not {given}")
        if not images.is_floating_point():
            raise PellucidError(
                f"images are {images.dtype}; {self.name} takes its own normalized float input, see classifier.read"
            )
        return images

    def logits(self, images: Tensor) -> Float[Tensor, "N K"]:
        """Logits (N, K) of the whole network, float32 unless its weights are float64."""
        with self.precision.autocast_context(), run_errors(images, self.input_shape):
            return self.precision.upcast(self._run_whole(self.precision.prepare(images)))

    def _run_whole(self, images: Tensor) -> Tensor:
        return check_logits(self._whole(images.clone()))  # a forward may write to its input

    def _probe(self, images: int) -> Tensor:
        generator = torch.Generator().manual_seed(images)
        return self.precision.prepare(torch.randn(images, *self.input_shape, generator=generator))

    def new_copy(self) -> nn.Module:
        """Another frozen copy, to be hooked and changed."""
        return frozen_copy(self._whole)

    @cached_property
    def _traced(self) -> tuple[TracedNetwork, DryRun] | None:
        """The traced network and its dry run, if running the trace gives what the network gives."""
        try:
            with torch.inference_mode(False), torch.no_grad(), self.precision.autocast_context():
                traced = trace(self.new_copy())
                dry = DryRun(traced, self._probe)
                expected = self._run_whole(self._probe(2))
        except UntraceableError as error:
            self.trace_failure = str(error)
            return None
        except Exception as error:  # what holds for proxies need not hold for tensors
            self.trace_failure = f"the trace does not run: {first_line(error)}"
            return None
        if not logits_agree(dry.logits, expected, self.precision.tolerance):
            self.trace_failure = "the trace does not give the network's logits"
            return None
        return traced, dry

    @property
    def traced(self) -> TracedNetwork | None:
        """The traced network; None if it could not be traced."""
        return None if self._traced is None else self._traced[0]

    @cached_property
    def head(self) -> str | None:
        """Name of the last linear layer, if one vector for each image enters it."""
        with self.precision.autocast_context():
            return find_last_linear(self.new_copy(), self._probe(2))

    @cached_property
    def layers(self) -> list[LayerInfo]:
        """All layers in the order of computation."""
        with self.precision.autocast_context():
            if self._traced is not None:
                return list_traced_layers(*self._traced, self.input_shape[1:])
            return list_replayed_layers(self._whole, self._probe(2))

    @cached_property
    def _with_gradient(self) -> set[int]:
        with self.precision.autocast_context():
            if self._traced is not None:
                return find_traced_gradients(self._traced[0], self._probe(2))
            return find_replayed_gradients(self._whole, self._probe(2))

    @cached_property
    def _final(self) -> str:
        return self._listed(self._aliases.get("final") or find_final_layer(self.layers, self._with_gradient))

    @cached_property
    def _middle(self) -> str:
        return self._listed(self._aliases.get("middle") or find_middle_layer(self.layers, self._final))

    def resolve(self, layer: str) -> str:
        """The layer's name behind an alias; raises LayerError with the nearest names if there is none."""
        if layer == "final":
            return self._final
        return self._middle if layer == "middle" else self._listed(layer)

    def _listed(self, layer: str) -> str:
        names = [info.name for info in self.layers]
        if layer not in names:
            raise LayerError(unknown_layer_message(layer, names, [path for path, _ in self._whole.named_modules()]))
        return layer

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
                except Exception as error:  # any operation may raise anything
                    failures.append(f"{way}: {first_line(error)}")
                else:
                    return cut, self._layout(native, layer, order)
        raise LayerError(f"cannot cut at {layer!r}; " + "; ".join(failures))

    def _ways(self, layer: str) -> list[tuple[str, Callable[[], Cut]]]:
        ways: list[tuple[str, Callable[[], Cut]]] = []
        if self._traced is not None:
            network, dry = self._traced
            node = network.input if layer == "input" else network.outputs[layer]
            ways.append(("traced", partial(TracedCut, network, layer, node, dry)))
        path, call = parse_call(layer)
        if layer == "input":
            ways.append(("whole", lambda: _WholeCut(self.new_copy())))
        elif path in {path for path, _ in self._whole.named_modules()}:
            ways.append(("replayed", lambda: ReplayCut(self.new_copy(), path, call, self._probe)))
            ways.append(("run again whole", lambda: ReplayCut(self.new_copy(), path, call)))
        return ways

    def _check(self, cut: Cut, layer: str) -> Tensor:
        """Compare the cut with the whole network; returns the layer's native output."""
        images = self._probe(2)
        with self.precision.autocast_context():
            native, side_inputs = cut.before(images)
            if not isinstance(native, Tensor):
                raise LayerError(f"layer {layer!r} yields a {type(native).__name__}, not one tensor")
            whole = self._run_whole(images)
            if not logits_agree(cut.after(native, side_inputs), whole, self.precision.tolerance):
                raise LayerError("the parts before and after the layer do not give the network's logits")
            if isinstance(cut, ReplayCut):
                self._check_replay(cut, layer, native, side_inputs)
            rows = torch.tensor([1, 0, 1])
            picked = native.index_select(0, rows.to(native.device))
            if not logits_agree(cut.after(picked, side_inputs.rows(rows)), whole[rows], self.precision.tolerance):
                raise LayerError("rows of the activation do not give their own images' logits")
        return native

    def _check_replay(self, cut: ReplayCut, layer: str, native: Tensor, side_inputs: SideInputs) -> None:
        """A recording could hide a path around the layer; another activation must act as in a run without recording."""
        other = native.flip(0) * 0.5
        recomputed = ReplayCut(self.new_copy(), *parse_call(layer))
        _, images_only = recomputed.before(self._probe(2))
        expected = check_logits(recomputed.after(other, images_only))
        if not logits_agree(cut.after(other, side_inputs), expected, self.precision.tolerance):
            raise LayerError("the network computes around the recording")

    def _layout(self, native: Tensor, layer: str, order: str | None) -> Layout:
        layout = find_layout(tuple(native.shape), *self.input_shape[1:], order)
        if layout is None:
            raise LayerError(
                f"the output of {layer!r} has shape {tuple(native.shape)}, which is not a map, tokens or a vector"
            )
        return layout


class _WholeCut:
    """The cut of an untraceable network at its input."""

    suffix = None
    names = ()

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def before(self, images: Tensor) -> tuple[Any, SideInputs]:
        return images, SideInputs(images=len(images))

    def after(self, activation: Tensor, side_inputs: SideInputs) -> Any:
        return self._module(activation.clone())  # a forward may write to its input
