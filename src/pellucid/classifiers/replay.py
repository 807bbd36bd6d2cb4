"""Cut a network that cannot be traced, by running it again with what came before the layer answered from a recording."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from pellucid.classifiers.cut import Carried
from pellucid.errors import LayerError

__all__ = ["ReplayCut", "module_outputs"]

Call = tuple[str, int]
"""A module's path and which of its calls in one forward."""


class _LayerReachedError(Exception):
    """Ends a recording once the layer has answered; never leaves this module."""


class ReplayCut:
    """The cut of an untraceable network at the `call`-th call of the module `path`.

    Args:
        module: pellucid's own twin of the network; its submodules' forwards are wrapped while a part runs.
        path: module whose output is the layer.
        call: which call of it, where it is called several times.
        skip: answer modules that finished before the layer from the recording; False runs them all again.
    """

    suffix: fx.GraphModule | None = None
    names = ("the pictures", "the recorded outputs before the layer")

    def __init__(self, module: nn.Module, path: str, call: int, *, skip: bool = True) -> None:
        self._module = module
        self._layer: Call = (path, call)
        self._skip = skip

    def before(self, pictures: Tensor) -> tuple[Any, Carried]:
        """Run up to the layer; the carried values are the pictures and the recorded outputs."""
        recorder = _Recorder(self._layer)
        with _wrapped(self._module, recorder):
            try:
                self._module(pictures)
            except _LayerReachedError:
                pass
            else:
                raise LayerError(f"module {self._layer[0]!r} is called fewer than {self._layer[1] + 1} times")
        tape = recorder.tape if self._skip else {}
        calls = _Calls(tuple((call, inner) for call, (_, inner) in tape.items()), recorder.inside_layer)
        values = (pictures, tuple(output for output, _ in tape.values()), calls)
        return recorder.activation, Carried(values, ("input", *(path for path, _ in tape)), len(pictures))

    def after(self, activation: Tensor, carried: Carried) -> Any:
        """Run the network on the carried pictures with the layer's output replaced by `activation`."""
        pictures, outputs, calls = carried.values
        tape = {call: (output, inside) for (call, inside), output in zip(calls.recorded, outputs, strict=True)}
        tape[self._layer] = (activation, calls.inside_layer)
        with _wrapped(self._module, _Player(tape)):
            return self._module(pictures)


@dataclass(frozen=True)
class _Calls:
    """Which calls a recording answers, and how often each called the modules inside it."""

    recorded: tuple[tuple[Call, Counter[str]], ...]
    inside_layer: Counter[str]


class _Recorder:
    """Keeps the output of every outermost module call that ends before the layer's."""

    def __init__(self, layer: Call) -> None:
        self.layer = layer
        self.counts: Counter[str] = Counter()
        self.tape: dict[Call, tuple[Any, Counter[str]]] = {}
        self.activation: Any = None
        self.inside_layer: Counter[str] = Counter()

    def __call__(self, path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = (path, self.counts[path])
        self.counts[path] += 1
        counts, recorded = self.counts.copy(), len(self.tape)
        output = forward(*args, **kwargs)
        for inner in list(self.tape)[recorded:]:
            del self.tape[inner]
        if call == self.layer:
            self.activation, self.inside_layer = _clone(output), self.counts - counts
            raise _LayerReachedError
        self.tape[call] = (_clone(output), self.counts - counts)
        return output


class _Player:
    """Answers the calls on the tape, the layer's among them, and runs every other call."""

    def __init__(self, tape: dict[Call, tuple[Any, Counter[str]]]) -> None:
        self.tape = tape
        self.counts: Counter[str] = Counter()

    def __call__(self, path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = (path, self.counts[path])
        self.counts[path] += 1
        if call not in self.tape:
            return forward(*args, **kwargs)
        output, inside = self.tape[call]
        self.counts += inside
        return _clone(output)  # what follows may write to it in place


@contextmanager
def _wrapped(module: nn.Module, handler: Callable[..., Any]) -> Iterator[None]:
    """Route the forward of every submodule through `handler(path, forward, args, kwargs)`."""
    parts = [(path, part) for path, part in module.named_modules() if path]
    own_forwards = {part: vars(part)["forward"] for _, part in parts if "forward" in vars(part)}
    for path, part in parts:
        part.forward = partial(_routed, handler, path, part.forward)
    try:
        yield
    finally:
        for _, part in parts:
            if part in own_forwards:
                part.forward = own_forwards[part]
            else:
                del part.forward


def _routed(handler: Callable[..., Any], path: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return handler(path, forward, args, kwargs)


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (tuple, list):
        return type(value)(_clone(part) for part in value)
    return {key: _clone(part) for key, part in value.items()} if type(value) is dict else value


@dataclass(frozen=True)
class ModuleOutput:
    """One module call: its class, the shape of its output (None if that is no tensor), and when the output was made."""

    kind: str
    shape: tuple[int, ...] | None
    position: int
    operation: str


def module_outputs(module: nn.Module, pictures: Tensor) -> dict[Call, ModuleOutput]:
    """Every module call of one forward, in the order in which the calls end.

    A block that hands on its last submodule's output has that output's position and operation.
    """
    found: dict[Call, ModuleOutput] = {}
    counts: Counter[str] = Counter()
    last: tuple[Any, ModuleOutput] | None = None

    def note(path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal last
        call = (path, counts[path])
        counts[path] += 1
        output = forward(*args, **kwargs)
        kind = type(module.get_submodule(path)).__name__
        if last is not None and last[0] is output:
            found[call] = replace(last[1], kind=kind)
        else:
            shape = tuple(output.shape) if isinstance(output, Tensor) else None
            found[call] = ModuleOutput(kind, shape, len(found) + 1, kind)
        last = (output, found[call])
        return output

    with _wrapped(module, note):
        module(pictures)
    return found
