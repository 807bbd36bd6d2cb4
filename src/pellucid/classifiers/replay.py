"""Cut a network that cannot be traced: run it again, with what came before the layer answered from a recording."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from pellucid.classifiers.side_inputs import (
    BatchPatternError,
    Pattern,
    PerImage,
    SideInputs,
    find_batch_pattern,
)
from pellucid.errors import LayerError

Call = tuple[str, int]
"""A module's path and which of its calls in one forward."""


class _LayerReached(BaseException):
    """Ends a recording once the layer has answered; no `except Exception` of the network's own can catch it."""


class ReplayCut:
    """The cut of an untraceable network at the `call`-th call of the module `path`.

    Args:
        module: pellucid's own copy of the network; its submodules' forwards are wrapped while a part runs.
        path: module whose output is the layer.
        call: which call of it, where it is called several times.
        probe: makes a batch of a given number of images. Modules that finish before the layer on probes of two and of
            three, with outputs that tell which part belongs to which image, are answered from a recording, and what the
            layer's module computes inside is left out. Without `probe` every module runs again, the layer's too.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()).eval()
    >>> cut = ReplayCut(network, "0", 0, probe=lambda count: torch.zeros(count, 3, 8, 8))
    >>> activation, side_inputs = cut.before(torch.zeros(2, 3, 8, 8))
    >>> cut.after(activation, side_inputs).shape
    torch.Size([2, 144])
    """

    suffix: fx.GraphModule | None = None
    names = ("input", "the recorded outputs before the layer")

    def __init__(self, module: nn.Module, path: str, call: int, probe: Callable[[int], Tensor] | None = None) -> None:
        self._module = module
        self._layer: Call = (path, call)
        self._run_layer = probe is None
        self._patterns = {} if probe is None else _patterns(*(self._record(probe(count)).tape for count in (2, 3)))

    def before(self, images: Tensor) -> tuple[Any, SideInputs]:
        """Run up to the layer; the side inputs are the images and the recording."""
        recorder = self._record(images)
        tape = {call: answer for call, answer in recorder.tape.items() if call in self._patterns}
        outputs = tuple(answer.output for answer in tape.values())
        answers = {call: answer.without_output() for call, answer in tape.items()}
        recording = (outputs, _Answers(answers, recorder.layer_answer.without_output()))
        patterns = (PerImage(0), (tuple(self._patterns[call] for call in tape), None))
        return recorder.layer_answer.output, SideInputs((images, recording), self.names, len(images), patterns)

    def after(self, activation: Tensor, side_inputs: SideInputs) -> Any:
        """Run the network on the images that crossed the cut with the layer's output replaced by `activation`."""
        images, (outputs, answers) = side_inputs.values
        tape = {
            call: replace(answer, output=output)
            for (call, answer), output in zip(answers.before.items(), outputs, strict=True)
        }
        tape[self._layer] = replace(answers.layer, output=activation)
        with _wrapped(self._module, _Player(tape, self._layer if self._run_layer else None)):
            return self._module(images.clone())

    def _record(self, images: Tensor) -> "_Recorder":
        recorder = _Recorder(self._layer)
        # Inference mode would hide which tensors are written to.
        with torch.inference_mode(False), torch.no_grad(), _wrapped(self._module, recorder):
            try:
                self._module(images.clone())
            except _LayerReached:
                return recorder
        raise LayerError(f"module {self._layer[0]!r} is called fewer than {self._layer[1] + 1} times")


@dataclass(frozen=True)
class _Answer:
    """How a module call ended.

    Attributes:
        output: what it returned.
        inside: how often it called each of the modules inside it.
        in_place: whether it wrote its output over its first argument.
    """

    output: Any
    inside: Counter[str]
    in_place: bool

    def without_output(self) -> "_Answer":
        return replace(self, output=None)


@dataclass(frozen=True)
class _Answers:
    """How the calls of a recording ended, apart from their outputs."""

    before: dict[Call, _Answer]
    layer: _Answer


def _patterns(two: dict[Call, _Answer], three: dict[Call, _Answer]) -> dict[Call, Pattern]:
    patterns: dict[Call, Pattern] = {}
    for call in two.keys() & three.keys():
        try:
            patterns[call] = find_batch_pattern(two[call].output, three[call].output)
        except BatchPatternError:
            continue
    return patterns


class _Recorder:
    """Keeps the answer of every outermost module call that ends before the layer's."""

    def __init__(self, layer: Call) -> None:
        self.layer = layer
        self.counts: Counter[str] = Counter()
        self.tape: dict[Call, _Answer] = {}
        self.layer_answer = _Answer(None, Counter(), in_place=False)

    def __call__(self, path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = (path, self.counts[path])
        self.counts[path] += 1
        counts, recorded = self.counts.copy(), len(self.tape)
        version = _version(args[0]) if args else None
        output = forward(*args, **kwargs)
        in_place = version is not None and output is args[0] and _version(output) != version
        answer = _Answer(_clone(output), self.counts - counts, in_place)
        for inner in list(self.tape)[recorded:]:
            del self.tape[inner]
        if call == self.layer:
            self.layer_answer = answer
            raise _LayerReached
        self.tape[call] = answer
        return output


class _Player:
    """Answers the calls on the tape, the layer's among them, and runs every other; `run_too` is run and answered."""

    def __init__(self, tape: dict[Call, _Answer], run_too: Call | None) -> None:
        self.tape = tape
        self.run_too = run_too
        self.counts: Counter[str] = Counter()

    def __call__(self, path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = (path, self.counts[path])
        self.counts[path] += 1
        if call not in self.tape:
            return forward(*args, **kwargs)
        answer = self.tape[call]
        if call == self.run_too:
            forward(*args, **kwargs)
        else:
            self.counts += answer.inside
        if answer.in_place:
            return args[0].copy_(answer.output)  # others hold this tensor too
        return _clone(answer.output)  # what follows may write to it in place


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


def _version(value: Any) -> int | None:
    """How often a tensor has been written to; None for anything else."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else None


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (tuple, list):
        return type(value)(_clone(part) for part in value)
    return {key: _clone(part) for key, part in value.items()} if type(value) is dict else value


@dataclass(frozen=True)
class ModuleOutput:
    """One module call: its class, its output, when that was made, and the class of the module that made it."""

    kind: str
    value: Any
    position: int
    operation: str


def module_outputs(module: nn.Module, images: Tensor) -> tuple[dict[Call, ModuleOutput], Any]:
    """Every module call of one forward, in the order in which the calls end, and the network's own output.

    A block that hands on its last submodule's output as it is has that output's position and operation.

    >>> outputs, _ = module_outputs(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8))
    >>> [(call, output.kind) for call, output in outputs.items()]
    [(('0', 0), 'Conv2d'), (('1', 0), 'ReLU')]
    """
    outputs: dict[Call, ModuleOutput] = {}
    counts: Counter[str] = Counter()
    last: tuple[Any, int | None, ModuleOutput] | None = None

    def note(path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal last
        call = (path, counts[path])
        counts[path] += 1
        result = forward(*args, **kwargs)
        kind = type(module.get_submodule(path)).__name__
        version = _version(result)  # an in-place operation hands on its input too, but has changed it
        if last is not None and last[0] is result and last[1] == version:
            outputs[call] = replace(last[2], kind=kind)
        else:
            outputs[call] = ModuleOutput(kind, result, len(outputs) + 1, kind)
        last = (result, version, outputs[call])
        return result

    with torch.inference_mode(False), _wrapped(module, note):
        result = module(images.clone())
    return outputs, result


def record_calls(
    module: nn.Module, images: Tensor, calls: Sequence[Call], *, inputs_of: str | None = None
) -> tuple[dict[Call, Any], Any, Any]:
    """Run a network once and keep what some of its modules return; differentiable.

    Args:
        module: pellucid's own copy of the network.
        images: (N, C, H, W).
        calls: whose outputs are kept, as they are when the module returns.
        inputs_of: a module whose input is kept, that of its last call.

    Returns:
        The outputs by call, the input of `inputs_of`, and what the network returns.

    Raises:
        LayerError: a module is called fewer times than that.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> outputs, entered, output = record_calls(network, torch.zeros(1, 3, 8, 8), [("0", 0)], inputs_of="1")
    >>> outputs["0", 0].shape == entered.shape == output.shape
    True
    """
    outputs: dict[Call, Any] = {}
    counts: Counter[str] = Counter()
    entered: Any = None

    def keep(path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal entered
        call = (path, counts[path])
        counts[path] += 1
        if path == inputs_of:
            entered = _clone(args[0] if args else kwargs["input"])  # what follows may write to it
        output = forward(*args, **kwargs)
        if call in calls:
            outputs[call] = _clone(output)
        return output

    with _wrapped(module, keep):
        result = module(images.clone())
    for path, number in calls:
        if path and (path, number) not in outputs:
            raise LayerError(f"module {path!r} is called {counts[path]} times, so there is no call {number}")
    return outputs, entered, result


def find_last_linear(module: nn.Module, images: Tensor) -> str | None:
    """The linear layer that is called last, if what enters it is one vector for each image.

    >>> find_last_linear(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2)), torch.zeros(1, 3, 2, 2))
    '2'
    """
    last: tuple[str, int] | None = None

    def note(path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal last
        if isinstance(module.get_submodule(path), nn.Linear):
            last = path, (args[0] if args else kwargs["input"]).ndim
        return forward(*args, **kwargs)

    with torch.no_grad(), _wrapped(module, note):
        module(images.clone())
    return last[0] if last is not None and last[1] == 2 else None
