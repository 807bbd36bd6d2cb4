"""What the operations of a traced network yield for probe images: shapes, how values follow the batch, gradients."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from pellucid.classifiers.side_inputs import Pattern, find_batch_pattern
from pellucid.classifiers.tracing import TracedNetwork


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
