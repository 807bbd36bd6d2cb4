"""Traced parts of a network and plain tensor code, written into one graph of operations."""

from functools import reduce
from typing import Any

from torch import fx


class Composition:
    """A graph in the making: its inputs and values are `fx.Proxy` objects, on which tensor code runs as it is."""

    def __init__(self) -> None:
        self._graph = fx.Graph()
        self._tracer = fx.proxy.GraphAppendingTracer(self._graph)
        self._modules: dict[str, Any] = {}

    def inputs_of(self, part: fx.GraphModule) -> list[fx.Proxy]:
        """New inputs named like those of a part."""
        return [self.input(node.name) for node in part.graph.nodes if node.op == "placeholder"]

    def input(self, name: str) -> fx.Proxy:
        """One more input."""
        return fx.Proxy(self._graph.placeholder(name), self._tracer)

    def run(self, part: fx.GraphModule, *inputs: Any) -> Any:
        """The only output of a part; its operations are copied and keep their names."""
        placeholders = [node for node in part.graph.nodes if node.op == "placeholder"]
        copies = {node: value.node for node, value in zip(placeholders, inputs, strict=True)}
        output: Any = self._graph.graph_copy(part.graph, copies)
        for node in part.graph.nodes:
            if node.op in ("call_module", "get_attr"):
                self._modules[str(node.target)] = reduce(getattr, str(node.target).split("."), part)
        return fx.Proxy(output[0], self._tracer)

    def finish(self, output: Any) -> fx.GraphModule:
        """The module that computes `(output,)`."""
        self._graph.output((output.node,))
        return fx.GraphModule(self._modules, self._graph)
