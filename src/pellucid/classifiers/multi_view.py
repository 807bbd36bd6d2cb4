"""A classifier seen from several layers at once, and the operations that lead from one layer to another."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from pellucid.classifiers.cut import TracedCut, extract_prefix
from pellucid.classifiers.layer_view import Activation, LayerView
from pellucid.classifiers.network import Network
from pellucid.classifiers.precision import check_logits, run_errors
from pellucid.classifiers.replay import record_calls
from pellucid.classifiers.side_inputs import SideInputs
from pellucid.classifiers.tracing import ancestors, parse_call
from pellucid.errors import LayerError
from pellucid.shapes import Float


@dataclass(frozen=True, eq=False)
class LayerOutputs:
    """What a classifier computes for N images, from one pass.

    Attributes:
        activations: one map (N, C, h, w) for each layer.
        head_input: (N, F) the vectors that enter the last linear layer; None where there is no such layer.
        logits: (N, K).

    >>> import pellucid as pl
    >>> outputs = pl.load("digit_cnn").at_layers(["middle", "final"]).run(torch.zeros(2, 1, 32, 32))
    >>> [maps.shape[1] for maps in outputs.activations], outputs.head_input.shape, outputs.logits.shape
    ([32, 64], torch.Size([2, 1024]), torch.Size([2, 10]))
    """

    activations: tuple[Float[Tensor, "N _ _ _"], ...]
    head_input: Float[Tensor, "N F"] | None
    logits: Float[Tensor, "N K"]


class MultiView:
    """`classifier.at_layers([...])`: several layers of one classifier, computed together.

    A traced network is run once, as far as the last of the layers; one that could not be traced is run once for each
    layer by `activations`, which keep what else crosses the cut, and once in all by `run`.

    Args:
        views: the classifier seen from each layer, in any order.
        network: of that classifier.

    Attributes:
        views: as given.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 3))
        >>> network = network.append(torch.nn.AdaptiveAvgPool2d(1)).append(torch.nn.Flatten())
        >>> several = pl.Classifier(network.eval(), input_size=8).at_layers(["2", "1"])
        >>> [tuple(activation.shape) for activation in several.activations(torch.zeros(6, 3, 8, 8))]
        [(6, 5, 4, 4), (6, 4, 6, 6)]
        >>> several.order
        [1, 0]
    """

    def __init__(self, views: Sequence[LayerView], network: Network) -> None:
        self.views = tuple(views)
        self._network = network

    @cached_property
    def order(self) -> list[int]:
        """Indices of the layers in the order in which the network computes them."""
        position = {info.name: index for index, info in enumerate(self._network.layers)}
        return sorted(range(len(self.views)), key=lambda index: position[self.views[index].layer])

    @property
    def head(self) -> str | None:
        """Name of the last linear layer, if one vector for each image enters it."""
        return self._network.head

    @property
    def prefix_passes(self) -> tuple[int, ...]:
        """How often `activations` runs the part before each layer: once for the earliest, if the network was traced."""
        if self._cuts is None:
            return (1,) * len(self.views)
        return tuple(int(index == self.order[0]) for index in range(len(self.views)))

    def activations(self, images: Tensor) -> list[Activation]:
        """The activation at each layer, in the order of `views`, each as `view.activation` gives it.

        Args:
            images: (N, C, H, W) in the classifier's own input space.

        Returns:
            One (N, C, h, w) for each layer, detached.
        """
        if self._cuts is None or self._prefix is None:
            return [view.activation(images) for view in self.views]
        with torch.no_grad(), self._running(images):
            outputs = self._prefix(self._network.precision.prepare(images))
            size = (images.shape[-2], images.shape[-1])
            return [
                view.fold(native, cut.side_inputs_of(live, len(images)), size)
                for view, cut, (native, *live) in zip(self.views, self._cuts, outputs, strict=True)
            ]

    def run(self, images: Tensor) -> LayerOutputs:
        """The logits, with what the network computes at each layer on the way there; differentiable.

        Args:
            images: (N, C, H, W) in the classifier's own input space.

        Raises:
            LayerError: a layer yields more than one tensor.
        """
        upcast = self._network.precision.upcast
        with self._running(images):
            natives, vector, output = self._record(self._network.precision.prepare(images))
            maps = [
                upcast(view.layout.fold(native, *images.shape[-2:])[0])
                for view, native in zip(self.views, natives, strict=True)
            ]
            return LayerOutputs(tuple(maps), None if vector is None else upcast(vector), upcast(check_logits(output)))

    @contextmanager
    def _running(self, images: Tensor) -> Iterator[None]:
        self._network.check_images(images)
        with self._network.precision.autocast_context(), run_errors(images, self._network.input_shape):
            yield

    @cached_property
    def _cuts(self) -> list[TracedCut] | None:
        """The cuts, if all are of the traced network."""
        cuts = [view.cut for view in self.views if isinstance(view.cut, TracedCut)]
        return cuts if self._network.traced is not None and len(cuts) == len(self.views) else None

    @cached_property
    def _prefix(self) -> fx.GraphModule | None:
        """Native outputs of the layers, each with what else crosses its cut."""
        network = self._network.traced
        if network is None or not self._cuts:
            return None
        return extract_prefix(network, [[cut.node, *cut.live] for cut in self._cuts])

    @cached_property
    def _whole(self) -> fx.GraphModule | None:
        """Native outputs of the layers, what enters the head, and what the network returns."""
        network, head = self._network.traced, self._network.head
        if network is None or self._cuts is None:
            return None
        call = None if head is None else network.last_call(head)
        if call is None and head is not None:
            return None
        vectors = [] if call is None else [call.all_input_nodes[0]]
        return extract_prefix(network, [[cut.node for cut in self._cuts], vectors, network.output.args[0]])

    @cached_property
    def _module(self) -> nn.Module:
        return self._network.new_copy()

    def _record(self, images: Tensor) -> tuple[list[Any], Any, Any]:
        """Native outputs of the layers, what enters the head, and what the network returns."""
        if self._whole is not None:
            natives, vectors, output = self._whole(images)
            return natives, vectors[0] if vectors else None, output
        calls = [("", 0) if view.layer == "input" else parse_call(view.layer) for view in self.views]
        outputs, vector, output = record_calls(self._module, images, calls, inputs_of=self._network.head)
        return [images if not call[0] else outputs[call] for call in calls], vector, output


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

    >>> import pellucid as pl
    >>> classifier = pl.load("digit_cnn")
    >>> middle, final = classifier.at("middle"), classifier.at("final")
    >>> Segment(middle, final)(middle.activation(torch.zeros(2, 1, 32, 32))).shape
    torch.Size([2, 64, 8, 8])
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

    def __call__(
        self, activation: Float[Tensor, "R _ _ _"], side_inputs: SideInputs | None = None
    ) -> Float[Tensor, "R _ _ _"]:
        """The map (R, C', h', w') at `stop` of R rows of activation (R, C, h, w) at `start`; differentiable.

        Args:
            activation: from `start.activation` or computed from it.
            side_inputs: as `start.logits` takes it.
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
