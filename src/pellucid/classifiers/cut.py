"""The cut: a traced network split at one node into the part before it and the part after it.

Where it can be cut follows from a dry run: what its operations yield for probe images, shapes, how values follow the
batch, and gradients.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pellucid.classifiers.side_inputs import BatchPatternError, Pattern, SideInputs, find_batch_pattern
from pellucid.classifiers.tracing import TracedNetwork, ancestors, descendants
from pellucid.errors import LayerError


class DryRun:
    """A traced network run on two probe images, and on three where that is needed to see what follows the batch.

    Attributes:
        logits: the network's output for two images.
        shapes: shape of every tensor that is computed for two images.

    >>> from pellucid.classifiers.tracing import trace
    >>> network = trace(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten()))
    >>> dry = DryRun(network, lambda count: torch.zeros(count, 3, 8, 8))
    >>> dry.shapes[network.outputs["1"]], dry.pattern(network.outputs["1"])
    ((2, 144), PerImage(axis=0))
    """

    def __init__(self, network: TracedNetwork, probe: Callable[[int], Tensor]) -> None:
        self._network = network
        self._probe = probe
        self._two, self.logits = _run_outlines(network, probe(2))
        self.shapes = {node: tuple(value.shape) for node, value in self._two.items() if isinstance(value, Tensor)}

    @cached_property
    def _three(self) -> dict[fx.Node, Any]:
        return _run_outlines(self._network, self._probe(3))[0]

    @cached_property
    def batch_sizes(self) -> frozenset[fx.Node]:
        """Nodes that yield the number of images itself."""
        twos = [node for node, value in self._two.items() if type(value) is int and value == 2]
        return frozenset(node for node in twos if self._three[node] == 3)

    def pattern(self, node: fx.Node) -> Pattern:
        """How the value of a node follows the batch.

        Raises:
            BatchPatternError: the shapes do not say.
        """
        return find_batch_pattern(self._two[node], self._three[node])


def _run_outlines(network: TracedNetwork, images: Tensor) -> tuple[dict[fx.Node, Any], Any]:
    """What every node yields, tensors without their data, and the network's output with it."""
    outlines: dict[fx.Node, Any] = {}
    with torch.no_grad():
        output = _run(network, images, lambda node, value: outlines.__setitem__(node, _outline(value)))
    return outlines, output


def _outline(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_like(value, device="meta")
    if type(value) in (tuple, list):
        return type(value)(map(_outline, value))
    return {key: _outline(part) for key, part in value.items()} if type(value) is dict else value


def _run(network: TracedNetwork, images: Tensor, note: Callable[[fx.Node, Any], None]) -> Any:
    class Noting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            note(n, value)
            return value

    interpreter = Noting(network.module)
    interpreter.extra_traceback = False  # to make one, torch imports its compiler, which takes seconds
    return interpreter.run(images)


def compute_node_gradients(network: TracedNetwork, images: Tensor) -> dict[fx.Node, Tensor]:
    """Gradients of the logits (see `compute_logit_gradients`) at every node whose output has one."""
    with torch.inference_mode(False), torch.enable_grad():
        values: dict[fx.Node, Any] = {}
        logits = _run(network, images.clone().requires_grad_(), values.__setitem__)
        return compute_logit_gradients(logits, values)


def compute_logit_gradients(logits: Tensor, values: Mapping[Any, Any]) -> dict[Any, Tensor]:
    """Gradient of a random mixture of the logits at each of the tensors that it depends on, from one backward pass.

    Where the logits depend on a tensor, a mixture has a gradient there with probability one; their sum may have none.

    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> list(compute_logit_gradients(x * 2, {"x": x, "other": torch.ones(1)}))
    ['x']
    """
    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor) and value.requires_grad}
    if not logits.requires_grad:
        return {}
    mixture = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
    gradients = torch.autograd.grad(logits, list(tensors.values()), mixture, allow_unused=True)
    return {key: gradient for key, gradient in zip(tensors, gradients, strict=True) if gradient is not None}


_AFFINE_MODULES = (
    nn.Conv2d,
    nn.Linear,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Dropout,
    nn.Dropout2d,
    nn.ZeroPad2d,
)
_AFFINE_FUNCTIONS: set[Callable[..., Any]] = {
    torch.flatten,
    torch.mean,
    torch.sum,
    torch.reshape,
    torch.permute,
    torch.transpose,
    torch.squeeze,
    torch.unsqueeze,
    torch.cat,
    torch.add,
    torch.sub,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    operator.add,
    operator.sub,
    operator.neg,
    operator.getitem,
    getattr,
}
_BILINEAR: set[Callable[..., Any]] = {operator.mul, torch.mul, F.linear, F.conv2d, torch.matmul, operator.matmul}
_AFFINE_METHODS = {
    *("mean", "sum", "flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous"),
    *("size", "add", "sub", "unflatten"),
}


class Cut(Protocol):
    """A network cut at a layer, in the layer's native layout."""

    @property
    def suffix(self) -> fx.GraphModule | None:
        """Operations of the part after the layer, where the network could be traced."""

    @property
    def names(self) -> tuple[str, ...]:
        """What else crosses the cut."""

    def before(self, images: Tensor) -> tuple[Any, SideInputs]:
        """Run the part before the layer."""

    def after(self, activation: Tensor, side_inputs: SideInputs) -> Any:
        """Run the part after the layer."""


class TracedCut:
    """The cut of a traced network at `node`.

    The inputs of `suffix` are the activation and the side inputs in their order. The number of images, where the
    part after the layer uses it, is read off the activation.

    Attributes:
        node: yields the layer's output.
        live: yield what else crosses the cut.

    Raises:
        LayerError: the logits do not depend on the layer, or what crosses the cut cannot be divided by image.

    >>> import pellucid as pl
    >>> cut = pl.load("digit_cnn").at("final").cut
    >>> activation, side_inputs = cut.before(torch.zeros(2, 1, 32, 32))
    >>> activation.shape, cut.after(activation, side_inputs).shape
    (torch.Size([2, 64, 8, 8]), torch.Size([2, 10]))
    """

    def __init__(self, network: TracedNetwork, layer: str, node: fx.Node, dry: DryRun) -> None:
        after = descendants(node)
        if network.output not in after:
            raise LayerError(f"the logits do not depend on layer {layer!r}")
        varying = descendants(network.input)
        needed = ancestors([network.output], stop=[node])
        crossing = {
            used
            for user in needed & (after - {node})
            for used in user.all_input_nodes
            if used in varying and used not in after
        }
        live = [other for other in network.module.graph.nodes if other in crossing - dry.batch_sizes]
        self.node, self.live = node, live
        self.names = tuple(_name_of(network, other) for other in live)
        self._patterns = tuple(_pattern(dry, other, name) for other, name in zip(live, self.names, strict=True))
        self._prefix = extract_prefix(network, [node, *live])
        outputs, sizes = [network.output.args[0]], crossing & dry.batch_sizes
        self.suffix = _subgraph(network, [node, *live], outputs, batch_sizes=sizes)

    def before(self, images: Tensor) -> tuple[Any, SideInputs]:
        """Run the part before the layer; returns its output and the other values that cross the cut."""
        activation, *live = self._prefix(images)
        return activation, self.side_inputs_of(live, len(images))

    def side_inputs_of(self, values: Sequence[Any], images: int) -> SideInputs:
        """The values of the nodes `live`, computed for this number of images, as what crosses the cut."""
        return SideInputs(tuple(values), self.names, images, self._patterns)

    def after(self, activation: Tensor, side_inputs: SideInputs) -> Any:
        """Run the part after the layer; returns the network's output."""
        return self.suffix(activation, *side_inputs.values)[0]


def _pattern(dry: DryRun, node: fx.Node, name: str) -> Pattern:
    try:
        return dry.pattern(node)
    except BatchPatternError as error:
        raise LayerError(f"{name} crosses the cut and cannot be divided by image: it {error}") from error


def _name_of(network: TracedNetwork, node: fx.Node) -> str:
    names = [name for name, output in network.outputs.items() if output is node]
    return min(names, key=len) if names else ("input" if node is network.input else node.name)


def extract_prefix(network: TracedNetwork, outputs: Sequence[Any]) -> fx.GraphModule:
    """The part of a network that computes the values of nodes, given as (nested) lists, from images."""
    return _subgraph(network, [network.input], outputs)


def _subgraph(
    network: TracedNetwork, inputs: list[fx.Node], outputs: Sequence[Any], batch_sizes: Iterable[fx.Node] = ()
) -> fx.GraphModule:
    """The part of the network that computes `outputs` (a tuple) when the values of `inputs` are given.

    Nodes in `batch_sizes` become the length of the first input.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in inputs}
    copies |= {node: graph.call_method("size", (copies[inputs[0]], 0)) for node in batch_sizes}
    ends: list[fx.Node] = []
    fx.map_arg(outputs, lambda node: ends.append(node))
    needed = ancestors(ends, stop=copies)
    for node in network.module.graph.nodes:
        if node in needed and node not in copies:
            copies[node] = graph.node_copy(node, lambda used: copies[used])
    graph.output(tuple(fx.map_arg(outputs, lambda node: copies[node])))
    return fx.GraphModule(network.module, graph)


def logits_agree(logits: Any, expected: Tensor, tolerance: float) -> bool:
    """Whether logits agree to `tolerance` of the largest: another batch size may choose another kernel.

    Args:
        logits: what was computed; anything but a tensor of that shape is not equal.
        expected: (N, K).
        tolerance: in units of the largest.

    >>> logits_agree(torch.tensor([[100.0, 0.001]]), torch.tensor([[100.0, 0.0]]), tolerance=1e-4)
    True
    """
    if not isinstance(logits, Tensor) or logits.shape != expected.shape:
        return False
    atol = tolerance * float(expected.abs().nan_to_num().max())
    return logits.allclose(expected, rtol=0.0, atol=atol, equal_nan=True)


def is_affine(suffix: fx.GraphModule) -> bool:
    """Whether every operation that the activation (the first input) passes through is affine in it.

    False also where an operation is not known to be: a wrong "yes" would give wrong maps, a wrong "no" only costs time.

    >>> head = fx.symbolic_trace(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval())
    >>> is_affine(head), is_affine(fx.symbolic_trace(nn.Sequential(nn.ReLU())))
    (True, False)
    """
    activation = next(node for node in suffix.graph.nodes if node.op == "placeholder")
    varying = descendants(activation)
    return all(
        _is_affine_in(suffix, node, varying)
        for node in suffix.graph.nodes
        if node in varying and node.op not in ("placeholder", "output")
    )


def _is_affine_in(suffix: fx.GraphModule, node: fx.Node, varying: set[fx.Node]) -> bool:
    if node.op == "call_module":
        return _is_affine_module(suffix.get_submodule(str(node.target)))
    if node.op == "call_method":
        return node.target in _AFFINE_METHODS
    if node.op != "call_function":
        return False
    if node.target is F.dropout:
        return not (node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True))
    operands: list[fx.Node] = []  # with repetition: x * x has two
    fx.map_arg((node.args, node.kwargs), operands.append)
    once = sum(used in varying for used in operands) == 1
    if node.target in (operator.truediv, torch.div):
        return once and node.args[:1] == (operands[0],) and not node.kwargs
    return once if node.target in _BILINEAR else node.target in _AFFINE_FUNCTIONS


def _is_affine_module(module: nn.Module) -> bool:
    # A hook, or a forward of its own, can make anything of a linear layer.
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return module.running_mean is not None
    return type(module) in _AFFINE_MODULES
