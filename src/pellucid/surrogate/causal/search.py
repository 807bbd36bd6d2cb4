"""The search itself: causal-learn's PC, FCI and GES as functions from a table to end marks."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import MissingExtraError, PellucidError

Floats = NDArray[np.float64]
EndMarks = NDArray[np.int64]
"""(K, K), as causal-learn writes them: [i, j] is the mark at i of the edge i - j, 0 for none."""
Search = Callable[[Floats], EndMarks]

TAIL, ARROW = -1, 1


@dataclass(frozen=True)
class BackgroundKnowledge:
    """What the user knows beforehand.

    Attributes:
        tiers: Name -> tier; a node never causes one of a lower tier. Nodes that are not named are free.
        required: (cause, effect) pairs that are so, if the data join them at all.
        forbidden: (cause, effect) pairs that cannot be.

    Raises:
        PellucidError: It contradicts itself: required causes make a cycle, are forbidden, or come after their effects
            in the tiers.

    >>> BackgroundKnowledge({"thickness": 0, "intensity": 1}).decides("thickness", "intensity")
    True
    """

    tiers: Mapping[str, int] = field(default_factory=dict)
    required: tuple[tuple[str, str], ...] = ()
    forbidden: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        import networkx

        required = networkx.DiGraph(list(self.required))
        if not networkx.is_directed_acyclic_graph(required):
            cycle = [cause for cause, _ in networkx.find_cycle(required)]
            raise PellucidError(f"required causes make a cycle among {cycle}: drop one of them")
        if both := sorted(set(self.required) & set(self.forbidden)):
            raise PellucidError(f"{both[0][0]!r} -> {both[0][1]!r} is both required and forbidden: drop one of the two")
        for cause in required:
            for effect in networkx.descendants(required, cause):
                if self._in_order(effect, cause):
                    raise PellucidError(
                        f"{cause!r} is required to cause {effect!r}, but its tier {self.tiers[cause]} comes after "
                        f"tier {self.tiers[effect]}: change the tiers or drop what is required"
                    )

    def __bool__(self) -> bool:
        return bool(self.tiers or self.required or self.forbidden)

    def names(self) -> set[str]:
        """All nodes that the knowledge is about."""
        return set(self.tiers) | {name for pair in (*self.required, *self.forbidden) for name in pair}

    def decides(self, cause: str, effect: str) -> bool:
        """Whether this knowledge alone orients an edge from cause to effect."""
        return self._in_order(cause, effect) or self.requires(cause, effect) or (effect, cause) in self.forbidden

    def requires(self, cause: str, effect: str) -> bool:
        """Whether the user says that the one causes the other; tiers only say what cannot be a cause."""
        return (cause, effect) in self.required

    def _in_order(self, cause: str, effect: str) -> bool:
        return cause in self.tiers and effect in self.tiers and self.tiers[cause] < self.tiers[effect]


@dataclass(frozen=True)
class DiscoveryOptions:
    """How edges are searched for.

    Attributes:
        method: "pc" (stable PC), "fci" (allows hidden common causes) or "ges" (score based, no background knowledge).
        test: "fisherz" on rank-Gaussianized nodes, or "kci", a kernel test, for at most `kernel_rows` rows.
        alpha: Level of each independence test, in (0, 1).
        bootstraps: Resamples of the rows, 0 or more; 0 leaves the confidences NaN.
        firm_threshold: Share of bootstraps from which an edge is firm and its orientation claimed, in [0, 1].
        show_threshold: Share of bootstraps from which an edge is shown at all, from 0 to `firm_threshold`.
        max_rows: Most rows used, drawn without replacement.
        kernel_rows: Most rows used by "kci", whose cost grows with the cube of the rows.
        seed: Seed of rows and bootstraps.

    >>> DiscoveryOptions(bootstraps=10).method
    'pc'
    """

    method: Literal["pc", "fci", "ges"] = "pc"
    test: Literal["fisherz", "kci"] = "fisherz"
    alpha: float = 0.01
    bootstraps: int = 50
    firm_threshold: float = 0.7
    show_threshold: float = 0.3
    max_rows: int = 5000
    kernel_rows: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in ("pc", "fci", "ges"):
            raise PellucidError(f"method {self.method!r} is unknown; choose 'pc', 'fci' or 'ges'")
        if self.test not in ("fisherz", "kci"):
            raise PellucidError(f"test {self.test!r} is unknown; choose 'fisherz' or 'kci'")
        if not 0 < self.alpha < 1 or not 0 <= self.show_threshold <= self.firm_threshold <= 1 or self.bootstraps < 0:
            raise PellucidError("needed: 0 < alpha < 1, 0 <= show_threshold <= firm_threshold <= 1, bootstraps >= 0")


def make_search(names: Sequence[str], knowledge: BackgroundKnowledge, options: DiscoveryOptions) -> Search:
    """The chosen search as a function from a table (N, K) of named columns to end marks (K, K).

    Args:
        names: Names of the columns.
        knowledge: Tiers, required and forbidden edges.
        options: Method, test and level.

    Raises:
        MissingExtraError: causal-learn is not installed.
    """
    pc, fci, ges, background = _causal_learn()

    def prior() -> Any:
        return background(names, knowledge) if knowledge else None

    def by_pc(data: Floats) -> EndMarks:
        # Colliders by the strongest test, conflicts to the stronger one: the result does not depend on column order.
        graph = pc(
            data,
            options.alpha,
            options.test,
            True,
            1,
            3,
            background_knowledge=prior(),
            node_names=list(names),
            show_progress=False,
        )
        return np.asarray(graph.G.graph)

    def by_fci(data: Floats) -> EndMarks:
        graph, _ = fci(
            data,
            options.test,
            options.alpha,
            background_knowledge=prior(),
            node_names=list(names),
            show_progress=False,
        )
        return np.asarray(graph.graph)

    def by_ges(data: Floats) -> EndMarks:
        return np.asarray(ges(data, "local_score_BIC")["G"].graph)

    search = {"pc": by_pc, "fci": by_fci, "ges": by_ges}[options.method]

    def quietly(data: Floats) -> EndMarks:
        with redirect_stdout(StringIO()):  # FCI prints each orientation
            return search(data).astype(np.int64)

    return quietly


def _causal_learn() -> tuple[Any, Any, Any, Callable[[Sequence[str], BackgroundKnowledge], Any]]:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from causallearn.graph.GraphNode import GraphNode
            from causallearn.search.ConstraintBased.FCI import fci
            from causallearn.search.ConstraintBased.PC import pc
            from causallearn.search.ScoreBased.GES import ges
            from causallearn.utils.PCUtils.BackgroundKnowledge import BackgroundKnowledge as KnowledgeForLearner
    except ImportError as error:
        raise MissingExtraError("causal-learn", "causal", "causal discovery") from error

    def background(names: Sequence[str], knowledge: BackgroundKnowledge) -> Any:
        nodes = {name: GraphNode(name) for name in names}
        converted = KnowledgeForLearner()
        for name, tier in knowledge.tiers.items():
            converted.add_node_to_tier(nodes[name], tier)
        for cause, effect in knowledge.required:
            converted.add_required_by_node(nodes[cause], nodes[effect])
            converted.add_forbidden_by_node(nodes[effect], nodes[cause])
        for cause, effect in knowledge.forbidden:
            converted.add_forbidden_by_node(nodes[cause], nodes[effect])
        return converted

    return pc, fci, ges, background
