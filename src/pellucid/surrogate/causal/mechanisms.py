"""The structural model along a graph: each node as a function of its causes plus its own noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pellucid.errors import PellucidError
from pellucid.surrogate.causal.graph import CausalGraph
from pellucid.surrogate.causal.rank_normalize import Marginal

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MechanismOptions:
    """How mechanisms are fitted.

    Attributes:
        knots: Knots of the cubic splines of each cause, at its quantiles.
        penalties: Penalties of the ridge, chosen among by leave-one-out.
        folds: Folds of the cross-fitting behind the diagnosis.
        hsic_rows: Most rows of the independence test; its cost grows with their square.
        hsic_permutations: Permutations of the independence test.
        seed: Seed of folds and permutations.
    """

    knots: int = 5
    penalties: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    folds: int = 5
    hsic_rows: int = 400
    hsic_permutations: int = 200
    seed: int = 0


@dataclass(frozen=True)
class Diagnosis:
    """Whether a mechanism may be believed; all from rows it was not fitted on.

    Attributes:
        r2: Share of the node's variance (as a Gaussian) that its causes explain; 1 is all.
        coverage: Share of rows inside the middle 90 % of the noise; 0.9 is right.
        hsic_p: P-value of independence of noise and causes; small says the mechanism misses something.
    """

    r2: float
    coverage: float
    hsic_p: float


class _Regression(Protocol):
    def predict(self, causes: Floats) -> Floats: ...


@dataclass(frozen=True)
class FittedStructuralModel:
    """Nodes of a directed graph as z_j = h_j(z of its causes) + noise, on rank-Gaussian scales.

    Attributes:
        graph: Directed and acyclic.
        marginals: Distribution of each node, in the order of the graph's nodes.
        mechanisms: h_j of each node that has causes.
        rows: (N, K) on the Gaussian scale, what the mechanisms were fitted on.
        options: How it was fitted.

    >>> from pellucid.surrogate.causal import CausalGraph, Edge
    >>> values = np.random.default_rng(0).standard_normal((200, 2)).cumsum(1)
    >>> graph = CausalGraph(("a", "b"), (Edge("a", "b", "tail", "arrow"),))
    >>> model = FittedStructuralModel.fit(values, graph)
    >>> changed = model.counterfactual(values, {"a": values[:, 0] + 1})
    >>> round(float((changed - values)[:, 1].mean()))
    1
    """

    graph: CausalGraph
    marginals: tuple[Marginal, ...]
    mechanisms: Mapping[str, _Regression]
    rows: Floats
    options: MechanismOptions

    @classmethod
    def fit(
        cls, values: ArrayLike, graph: CausalGraph, options: MechanismOptions | None = None
    ) -> "FittedStructuralModel":
        """Fit the mechanisms of a graph to data.

        Args:
            values: (N, K), columns in the order of the graph's nodes.
            graph: Directed and acyclic.
            options: How the mechanisms are fitted.

        Raises:
            PellucidError: An edge is undecided, the graph has a cycle or the data do not fit it.
        """
        options = options or MechanismOptions()
        table = np.asarray(values, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != len(graph.nodes):
            raise PellucidError(
                f"values of shape {table.shape} do not go with the {len(graph.nodes)} nodes of the graph"
            )
        _check_orientations(graph)
        marginals = tuple(Marginal.fit(column) for column in table.T)
        normal = _to_normal(marginals, table)
        mechanisms = {}
        for node in graph.topological_order():
            if graph.parents(node):
                mechanisms[node] = _regression(options).fit(*_causes_and_effect(graph, node, normal))
        return cls(graph, marginals, mechanisms, normal, options)

    @cached_property
    def diagnosis(self) -> Mapping[str, Diagnosis]:
        """Diagnosis of each mechanism, computed at first use: it takes longer than the fit."""
        return {
            node: _diagnose(*_causes_and_effect(self.graph, node, self.rows), self.options) for node in self.mechanisms
        }

    def noise(self, values: ArrayLike) -> Floats:
        """Abduction: the noise (N, K) that explains values (N, K), on the Gaussian scale."""
        normal = _to_normal(self.marginals, np.asarray(values, dtype=np.float64))
        noise = normal.copy()
        for node, mechanism in self.mechanisms.items():
            noise[:, self.graph.nodes.index(node)] -= mechanism.predict(normal[:, self._causes(node)])
        return noise

    def counterfactual(
        self, values: ArrayLike, do: Mapping[str, ArrayLike], *, through: Sequence[str] | None = None
    ) -> Floats:
        """What the values would have been, had some nodes been set: abduction, action, prediction.

        Noise stays as it was. Nodes that the change cannot reach keep their values to the last bit.

        Args:
            values: (N, K), in the units of the nodes.
            do: Node -> a value, or one per row (N,).
            through: Nodes that may respond; None for all descendants. Others are held where they were.

        Returns:
            (N, K).

        Raises:
            PellucidError: `do` names something that is not a node.
        """
        before = np.asarray(values, dtype=np.float64)
        if unknown := sorted(set(do) - set(self.graph.nodes)):
            raise PellucidError(f"{unknown} are no nodes of the graph; they are {list(self.graph.nodes)}")
        after = before.copy()
        for node, value in do.items():
            after[:, self.graph.nodes.index(node)] = value
        reached = {name for node in do for name in self.graph.descendants(node)} - set(do)
        responding = reached if through is None else reached & set(through)
        for node in (name for name in self.graph.topological_order() if name in responding):
            after[:, self.graph.nodes.index(node)] = self._response(node, before, after)
        return after

    def _response(self, node: str, before: Floats, after: Floats) -> Floats:
        column, causes = self.graph.nodes.index(node), self._causes(node)
        marginals = [self.marginals[cause] for cause in causes]
        after_mean = self.mechanisms[node].predict(_to_normal(marginals, after[:, causes]))
        before_mean = self.mechanisms[node].predict(_to_normal(marginals, before[:, causes]))
        marginal = self.marginals[column]
        changed = marginal.from_normal(marginal.to_normal(before[:, column]) + after_mean - before_mean)
        return np.where(after_mean == before_mean, before[:, column], changed)

    def _causes(self, node: str) -> list[int]:
        return _columns(self.graph, self.graph.parents(node))


def hsic_p_value(first: ArrayLike, second: ArrayLike, *, permutations: int = 200, seed: int = 0) -> float:
    """Permutation p-value of the independence of two samples (N, D1) and (N, D2).

    Source: Gretton et al. (2008), biased statistic, Gaussian kernels with the median distance as width.

    Args:
        first: (N, D1).
        second: (N, D2).
        permutations: Number of permutations.
        seed: Seed of the permutations.

    >>> sample = np.linspace(-1, 1, 40)
    >>> hsic_p_value(sample, sample**2, permutations=50) < 0.05
    True
    """
    from scipy.spatial.distance import pdist, squareform

    def kernel(sample: ArrayLike) -> Floats:
        distances = squareform(pdist(np.atleast_2d(np.asarray(sample, dtype=np.float64).T).T, "sqeuclidean"))
        return np.asarray(np.exp(-distances / np.median(distances[distances > 0])))

    first_kernel, second_kernel = kernel(first), kernel(second)
    centered = first_kernel - first_kernel.mean(0) - first_kernel.mean(1)[:, None] + first_kernel.mean()
    random = np.random.default_rng(seed)
    statistic = float((centered * second_kernel).sum())
    orders = (random.permutation(len(second_kernel)) for _ in range(permutations))
    null = [float((centered * second_kernel[np.ix_(order, order)]).sum()) for order in orders]
    return (1 + sum(value >= statistic for value in null)) / (1 + permutations)


def _check_orientations(graph: CausalGraph) -> None:
    open_edges = [f"{edge.source} - {edge.target}" for edge in graph.edges if not edge.directed]
    if open_edges:
        raise PellucidError(
            f"the direction of {open_edges} is not identified: orient them with graph.orient({{cause: effect}}), "
            "or report the range over graph.extensions()"
        )
    graph.topological_order()


def _causes_and_effect(graph: CausalGraph, node: str, normal: Floats) -> tuple[Floats, Floats]:
    return normal[:, _columns(graph, graph.parents(node))], normal[:, graph.nodes.index(node)]


def _columns(graph: CausalGraph, names: Sequence[str]) -> list[int]:
    return [graph.nodes.index(name) for name in names]


def _to_normal(marginals: Sequence[Marginal], table: Floats) -> Floats:
    return np.stack([marginal.to_normal(column) for marginal, column in zip(marginals, table.T, strict=True)], axis=1)


def _regression(options: MechanismOptions) -> Any:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import SplineTransformer

    splines = SplineTransformer(n_knots=options.knots, knots="quantile", extrapolation="linear", include_bias=False)
    return make_pipeline(splines, RidgeCV(options.penalties))


def _diagnose(causes: Floats, effect: Floats, options: MechanismOptions) -> Diagnosis:
    from sklearn.model_selection import KFold

    noise, covered = np.empty_like(effect), np.empty(len(effect), dtype=bool)
    for fitted, held_out in KFold(options.folds, shuffle=True, random_state=options.seed).split(causes):
        mechanism = _regression(options).fit(causes[fitted], effect[fitted])
        low, high = np.quantile(effect[fitted] - mechanism.predict(causes[fitted]), (0.05, 0.95))
        noise[held_out] = effect[held_out] - mechanism.predict(causes[held_out])
        covered[held_out] = (noise[held_out] >= low) & (noise[held_out] <= high)
    rows = np.random.default_rng(options.seed).permutation(len(effect))[: options.hsic_rows]
    p = hsic_p_value(noise[rows, None], causes[rows], permutations=options.hsic_permutations, seed=options.seed)
    return Diagnosis(float(1 - noise.var() / effect.var()), float(covered.mean()), p)
