"""The part of a traced network between two layers."""

from torch import Tensor, fx

from pellucid.classifiers.layer_view import LayerView
from pellucid.classifiers.side_inputs import SideInputs
from pellucid.classifiers.tracing import ancestors
from pellucid.errors import LayerError


class Segment:
    """The operations that lead from the activation at one layer to the activation at a later one.

    Where both names stand for one output there are none, and the segment is the identity.

    Args:
        start: the classifier seen from the first layer.
        stop: the same classifier seen from the later layer, where the cut must be clean.

    Attributes:
        operations: the traced operations; called with `start.suffix_inputs`, they yield a tuple of one, the activation
            at `stop` in that layer's native layout.

    Raises:
        LayerError: the network could not be traced, `stop` is no clean cut at a map, or it does not lie after `start`.
    """

    def __init__(self, start: LayerView, stop: LayerView) -> None:
        self.start, self.stop = start, stop
        if start.suffix is None or stop.suffix is None:
            layer = start.layer if start.suffix is None else stop.layer
            raise LayerError(
                f"the operations from {start.layer!r} to {stop.layer!r} are not known: the network could not be traced "
                f"with torch.fx at {layer!r}"
            )
        if stop.side_input_names or stop.layout.order == "NTC":
            what = ", ".join(stop.side_input_names) or "tokens"
            raise LayerError(f"a segment ends at a map and a clean cut; at {stop.layer!r} there are {what}")
        self.operations = _until(start.suffix, _activation_of(stop.suffix).name, start.layer, stop.layer)

    def __call__(self, activation: Tensor, side_inputs: SideInputs | None = None) -> Tensor:
        """The map (R, C', h', w') at `stop` of R rows of activation (R, C, h, w) at `start`; differentiable.

        Args:
            activation: from `start.activation` or computed from it.
            carried: as `start.logits` takes it.
        """
        inputs = self.start.suffix_inputs(activation, side_inputs)
        precision = self.start.classifier.precision
        with precision.autocast_context():
            (native,) = self.operations(*inputs)
            folded, _ = self.stop.layout.fold(native, 0, 0)  # only tokens need to know the size of the images
            return precision.upcast(folded)


def _activation_of(suffix: fx.GraphModule) -> fx.Node:
    first: fx.Node = next(node for node in suffix.graph.nodes if node.op == "placeholder")
    return first


def _until(suffix: fx.GraphModule, end: str, start: str, stop: str) -> fx.GraphModule:
    """The operations of a suffix as far as the node called `end`.

    Every suffix is copied from one traced graph, in which a node's name is its own.
    """
    last = next((node for node in suffix.graph.nodes if node.name == end), None)
    if last is None:
        raise LayerError(f"layer {stop!r} does not lie after {start!r}")
    needed = ancestors([last])
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in suffix.graph.nodes:
        if node.op == "placeholder" or node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output((copies[last],))
    return fx.GraphModule(suffix, graph)
