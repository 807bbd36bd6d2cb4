"""How a change of one concept reaches the decision: directly, through other concepts, along each path, together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pellucid.surrogate.causal.mechanisms import FittedStructuralModel, Floats

Outcome = Callable[[Tensor], Tensor]
"""From concepts (N, K) to the outcome (N,), as a logit margin: the rest of the code of each image is held."""


@dataclass(frozen=True)
class PathEffects:
    """The effect of setting one node, for each row, in units of the outcome.

    Attributes:
        node: The node that is set.
        total: (N,), with all descendants responding.
        direct: (N,), the node alone.
        paths: Each directed path of two nodes or more that begins at the node -> (N,), the effect of what the last
            node of the path becomes when the change runs along this path alone, the node itself held.
        remainder: (N,), total - direct - the sum over paths: what acts only together.
    """

    node: str
    total: Tensor
    direct: Tensor
    paths: Mapping[tuple[str, ...], Tensor]
    remainder: Tensor

    def mediated(self, node: str) -> Tensor:
        """The effect (N,) that reaches the outcome through a node last, over all paths that end there."""
        return torch.stack([effect for path, effect in self.paths.items() if path[-1] == node]).sum(0)


def path_effects(
    model: FittedStructuralModel, outcome: Outcome, concepts: Tensor, node: str, value: float | Tensor
) -> PathEffects:
    """Total, direct and path effects of setting a node.

    Direct: only the node changes. Total: its descendants respond, with the noise they had. Along a path: each node
    responds to its predecessor on the path alone; the outcome then sees only the last node changed.

    Source: Pearl, Causality (2009), section 4.5; Avin, Shpitser, Pearl (2005) for path-specific effects.

    Args:
        model: The structural model of the concepts.
        outcome: From concepts (N, K) to (N,).
        concepts: (N, K), columns in the order of the graph's nodes.
        node: The node to be set.
        value: What it is set to, one or (N,).

    Raises:
        PellucidError: The node is not a node of the graph.

    >>> from pellucid.surrogate.causal import CausalGraph, Edge
    >>> concepts = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).cumsum(1)
    >>> graph = CausalGraph(("a", "b"), (Edge("a", "b", "tail", "arrow"),))
    >>> model = FittedStructuralModel.fit(concepts, graph)
    >>> effects = path_effects(model, lambda values: values.sum(1), concepts, "a", concepts[:, 0] + 1)
    >>> round(float(effects.direct.mean()), 3), list(effects.paths)
    (1.0, [('a', 'b')])
    """
    factual, do = _array(concepts), {node: _array(torch.as_tensor(value))}
    alone = _tensor(model.counterfactual(factual, do, through=()), concepts)
    everything = _tensor(model.counterfactual(factual, do), concepts)
    before = outcome(concepts)
    total, direct = outcome(everything) - before, outcome(alone) - before
    paths = {}
    for path in model.graph.paths(node):
        if len(path) > 1:
            changed = concepts.clone()
            last = model.graph.nodes.index(path[-1])
            changed[:, last] = path_values(model, concepts, path, value)
            paths[path] = outcome(changed) - before
    along = torch.stack(list(paths.values())).sum(0) if paths else torch.zeros_like(total)
    return PathEffects(node, total, direct, paths, total - direct - along)


def path_values(model: FittedStructuralModel, concepts: Tensor, path: tuple[str, ...], value: float | Tensor) -> Tensor:
    """What the last node of a path becomes (N,) when its first is set and the change runs along the path alone.

    Args:
        model: The structural model of the concepts.
        concepts: (N, K), columns in the order of the graph's nodes.
        path: Names of nodes, each the cause of the next.
        value: What the first node is set to, one or (N,).
    """
    factual = _array(concepts)
    changed = _array(torch.as_tensor(value))
    for cause, effect in pairwise(path):
        moved = model.counterfactual(factual, {cause: changed}, through=(effect,))
        changed = moved[:, model.graph.nodes.index(effect)]
    return _tensor(changed, concepts)


def interaction(outcome: Outcome, concepts: Tensor, first: tuple[int, float], second: tuple[int, float]) -> Tensor:
    """The second difference (N,): what two changes do together beyond the sum of what each does alone.

    Args:
        outcome: From concepts (N, K) to (N,).
        concepts: (N, K).
        first: Column and the value it is set to.
        second: Another column and the value it is set to.

    >>> interaction(lambda w: w.prod(1), torch.zeros(1, 2), (0, 2.0), (1, 3.0))
    tensor([6.])
    """
    only_first, only_second, both = concepts.clone(), concepts.clone(), concepts.clone()
    only_first[:, first[0]] = both[:, first[0]] = first[1]
    only_second[:, second[0]] = both[:, second[0]] = second[1]
    return outcome(both) - outcome(only_first) - outcome(only_second) + outcome(concepts)


def _array(values: Tensor) -> Floats:
    return values.detach().to("cpu", torch.float64).numpy()


def _tensor(values: Floats, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like)
