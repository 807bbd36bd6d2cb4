"""The cut: a traced network split at one node into the part before it and the part after it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from pellucid.classifiers.tracing import TracedNetwork, depends_on, needed_by
from pellucid.errors import LayerError

__all__ = ["Carried", "Cut", "TracedCut", "equal_logits"]


@dataclass(frozen=True)
class Carried:
    """Values other than the activation that cross the cut; they belong to the pictures that made them.

    Attributes:
        values: tensors, numbers and tuples of them, as the part after the layer expects them.
        names: what each value is the output of, in the user's words.
        pictures: how many pictures (rows) the values were computed for.
    """

    values: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    pictures: int = 0

    def rows(self, index: Tensor) -> "Carried":
        """The values for the pictures `index` (R,), which may repeat: the i-th row then belongs to picture index[i]."""
        if not self.values:
            return Carried(pictures=len(index))
        return Carried(_select(self.values, index, self.pictures), self.names, len(index))


@dataclass(frozen=True)
class BatchMultiple:
    """A number that crosses the cut and grows with the batch, such as `x.size(0)`: `factor` times the rows."""

    factor: int


def _select(value: Any, index: Tensor, pictures: int) -> Any:
    if isinstance(value, Tensor):
        is_per_picture = value.ndim > 0 and value.shape[0] == pictures
        return value.index_select(0, index.to(value.device)) if is_per_picture else value
    if isinstance(value, tuple | list):
        return tuple(_select(part, index, pictures) for part in value)
    if isinstance(value, dict):
        return {key: _select(part, index, pictures) for key, part in value.items()}
    return value


class Cut(Protocol):
    """A network cut at a layer, in the layer's native layout."""

    suffix: fx.GraphModule | None
    """Operations of the part after the layer, where the network could be traced."""
    names: tuple[str, ...]
    """What else crosses the cut."""

    def before(self, pictures: Tensor) -> tuple[Any, Carried]:
        """Run the part before the layer."""

    def after(self, activation: Tensor, carried: Carried) -> Any:
        """Run the part after the layer."""


class TracedCut:
    """The cut of a traced network at `node`.

    Raises:
        LayerError: the logits do not depend on the layer, or what crosses the cut cannot be told apart by picture.
    """

    def __init__(self, network: TracedNetwork, layer: str, node: fx.Node, probe: Callable[[int], Tensor]) -> None:
        after = depends_on(node)
        if network.output not in after:
            raise LayerError(f"the logits do not depend on layer {layer!r}")
        varying = depends_on(network.input)
        needed = needed_by([network.output], stop=[node])
        crossing = {
            used
            for user in needed & after - {node}
            for used in user.all_input_nodes
            if used in varying and used not in after
        }
        live = [other for other in network.module.graph.nodes if other in crossing]
        self.names = tuple(_name_of(network, other) for other in live)
        self._prefix = _subgraph(network, [network.input], [node, *live])
        self.suffix: fx.GraphModule | None = _subgraph(network, [node, *live], [network.output.args[0]])
        self._numbers = self._batch_numbers(layer, probe) if live else ()

    def before(self, pictures: Tensor) -> tuple[Any, Carried]:
        """Run the part before the layer; returns its output and the other values that cross the cut."""
        activation, *live = self._prefix(pictures)
        values = tuple(
            number if isinstance(number, BatchMultiple) else value
            for value, number in zip(live, self._numbers or live, strict=True)
        )
        return activation, Carried(values, self.names, len(pictures))

    def after(self, activation: Tensor, carried: Carried) -> Any:
        """Run the part after the layer; returns the network's output."""
        assert self.suffix is not None
        values = (
            value.factor * len(activation) if isinstance(value, BatchMultiple) else value for value in carried.values
        )
        return self.suffix(activation, *values)[0]

    def _batch_numbers(self, layer: str, probe: Callable[[int], Tensor]) -> tuple[Any, ...]:
        """Tell numbers that grow with the batch from constants, by running two batch sizes."""
        with torch.no_grad():
            small, large = self._prefix(probe(2))[1:], self._prefix(probe(3))[1:]
        return tuple(
            _number(two, three, f"{name} crosses the cut at {layer!r}")
            for two, three, name in zip(small, large, self.names, strict=True)
        )


def _number(two: Any, three: Any, what: str) -> Any:
    if isinstance(two, Tensor) or two == three:
        return None
    if isinstance(two, int) and two % 2 == 0 and three * 2 == two * 3:
        return BatchMultiple(two // 2)
    raise LayerError(f"{what} and depends on the batch in a way that cannot be followed ({two!r}, then {three!r})")


def _name_of(network: TracedNetwork, node: fx.Node) -> str:
    names = [name for name, output in network.outputs.items() if output is node]
    return min(names, key=len) if names else ("input" if node is network.input else node.name)


def _subgraph(network: TracedNetwork, inputs: list[fx.Node], outputs: list[Any]) -> fx.GraphModule:
    """The part of the network that computes `outputs` (a tuple) when the values of `inputs` are given."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in inputs}
    ends: list[fx.Node] = []
    fx.map_arg(outputs, lambda node: ends.append(node))
    needed = needed_by(ends, stop=inputs)
    for node in network.module.graph.nodes:
        if node in needed and node not in copies:
            copies[node] = graph.node_copy(node, lambda used: copies[used])
    graph.output(tuple(fx.map_arg(outputs, lambda node: copies[node])))
    return fx.GraphModule(network.module, graph)


def equal_logits(found: Any, wanted: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether logits agree up to rounding: another batch size may choose another convolution kernel."""
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        return False
    scale = max(1.0, float(wanted.abs().max()))
    return bool(torch.allclose(found, wanted, rtol=0.0, atol=tolerance * scale, equal_nan=True))
