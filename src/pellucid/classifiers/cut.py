"""The cut: a traced network split at one node into the part before it and the part after it."""

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, fx

from pellucid.classifiers.dry_run import DryRun
from pellucid.classifiers.side_inputs import BatchPatternError, Pattern, SideInputs
from pellucid.classifiers.tracing import TracedNetwork, ancestors, descendants
from pellucid.errors import LayerError


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

    The inputs of `suffix` are the activation and the carried values in their order. The number of images, where the
    part after the layer uses it, is read off the activation.

    Raises:
        LayerError: the logits do not depend on the layer, or what crosses the cut cannot be told apart by image.
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
        self.names = tuple(_name_of(network, other) for other in live)
        self._patterns = tuple(_pattern(dry, other, name) for other, name in zip(live, self.names, strict=True))
        self._prefix = _subgraph(network, [network.input], [node, *live])
        self.suffix = _subgraph(
            network, [node, *live], [network.output.args[0]], batch_sizes=crossing & dry.batch_sizes
        )

    def before(self, images: Tensor) -> tuple[Any, SideInputs]:
        """Run the part before the layer; returns its output and the other values that cross the cut."""
        activation, *live = self._prefix(images)
        return activation, SideInputs(tuple(live), self.names, len(images), self._patterns)

    def after(self, activation: Tensor, side_inputs: SideInputs) -> Any:
        """Run the part after the layer; returns the network's output."""
        return self.suffix(activation, *side_inputs.values)[0]


def _pattern(dry: DryRun, node: fx.Node, name: str) -> Pattern:
    try:
        return dry.pattern(node)
    except BatchPatternError as error:
        raise LayerError(f"{name} crosses the cut and cannot be told apart by image: it {error}") from error


def _name_of(network: TracedNetwork, node: fx.Node) -> str:
    names = [name for name, output in network.outputs.items() if output is node]
    return min(names, key=len) if names else ("input" if node is network.input else node.name)


def _subgraph(
    network: TracedNetwork, inputs: list[fx.Node], outputs: list[Any], batch_sizes: Iterable[fx.Node] = ()
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


def equal_logits(found: Any, wanted: Tensor, tolerance: float) -> bool:
    """Whether logits agree to `tolerance` of the largest: another batch size may choose another kernel."""
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        return False
    atol = tolerance * float(wanted.abs().nan_to_num().max())
    return found.allclose(wanted, rtol=0.0, atol=atol, equal_nan=True)
