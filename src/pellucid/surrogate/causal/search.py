"""The search itself: causal-learn's PC, FCI and GES as functions from a table to marks."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import MissingExtraError, PellucidError

Floats = NDArray[np.float64]
EndMarks = NDArray[
    np.int64
]  # (K, K), as causal-learn writes them: [i, j] is the mark at i of the edge i - j, 0 for none
Search = Callable[[Floats], EndMarks]

TAIL, ARROW = -1, 1


@dataclass(frozen=True)
class BackgroundKnowledge:
    """What the user knows beforehand.

    Attributes:
        tiers: name -> tier; a node never causes one of a lower tier. Nodes that are not named are free.
        required: (cause, effect) pairs that are so, if the data join them at all.
        forbidden: (cause, effect) pairs that cannot be.
    """

    tiers: Mapping[str, int] = field(default_factory=dict)
    required: tuple[tuple[str, str], ...] = ()
    forbidden: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tiers or self.required or self.forbidden)

    def names(self) -> set[str]:
        """All nodes that are spoken of."""
        return set(self.tiers) | {name for pair in (*self.required, *self.forbidden) for name in pair}

    def decides(self, cause: str, effect: str) -> bool:
        """Whether this knowledge alone orients an edge from cause to effect."""
        tiered = cause in self.tiers and effect in self.tiers and self.tiers[cause] < self.tiers[effect]
        return tiered or (cause, effect) in self.required or (effect, cause) in self.forbidden


@dataclass(frozen=True)
class DiscoveryOptions:
    """How edges are looked for.

    Attributes:
        method: "pc" (stable PC), "fci" (allows hidden common causes) or "ges" (score based, no knowledge).
        test: "fisherz" on rank-Gaussianised nodes, or "kci", a kernel test, for at most `kernel_rows` rows.
        alpha: level of each independence test.
        bootstraps: resamples of the rows; 0 leaves the confidences NaN.
        keep: share of bootstraps from which an edge is firm, and its orientation claimed.
        show: share from which an edge is shown at all.
        max_rows: rows used at most, drawn without replacement.
        kernel_rows: the same for "kci", whose cost grows with the cube of the rows.
        seed: of rows, ties and bootstraps.
    """

    method: Literal["pc", "fci", "ges"] = "pc"
    test: Literal["fisherz", "kci"] = "fisherz"
    alpha: float = 0.01
    bootstraps: int = 50
    keep: float = 0.7
    show: float = 0.3
    max_rows: int = 5000
    kernel_rows: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in ("pc", "fci", "ges"):
            raise PellucidError(f"method {self.method!r} is unknown; choose 'pc', 'fci' or 'ges'")
        if self.test not in ("fisherz", "kci"):
            raise PellucidError(f"test {self.test!r} is unknown; choose 'fisherz' or 'kci'")
        if not 0 < self.alpha < 1 or not 0 <= self.show <= self.keep <= 1 or self.bootstraps < 0:
            raise PellucidError("wanted 0 < alpha < 1, 0 <= show <= keep <= 1 and bootstraps >= 0")


def make_search(names: Sequence[str], knowledge: BackgroundKnowledge, options: DiscoveryOptions) -> Search:
    """The chosen search as a function from a table (N, K) of named columns to marks (K, K).

    Raises:
        MissingExtraError: without causal-learn.
    """
    pc, fci, ges, background = _causal_learn()

    def known() -> Any:
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
            background_knowledge=known(),
            node_names=list(names),
            show_progress=False,
        )
        return np.asarray(graph.G.graph)

    def by_fci(data: Floats) -> EndMarks:
        graph, _ = fci(
            data,
            options.test,
            options.alpha,
            background_knowledge=known(),
            node_names=list(names),
            show_progress=False,
        )
        return np.asarray(graph.graph)

    def by_ges(data: Floats) -> EndMarks:
        return np.asarray(ges(data, "local_score_BIC")["G"].graph)

    chosen = {"pc": by_pc, "fci": by_fci, "ges": by_ges}[options.method]

    def quietly(data: Floats) -> EndMarks:
        with redirect_stdout(StringIO()):  # FCI prints each orientation
            return chosen(data).astype(np.int64)

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
        told = KnowledgeForLearner()
        for name, tier in knowledge.tiers.items():
            told.add_node_to_tier(nodes[name], tier)
        for cause, effect in knowledge.required:
            told.add_required_by_node(nodes[cause], nodes[effect])
            told.add_forbidden_by_node(nodes[effect], nodes[cause])
        for cause, effect in knowledge.forbidden:
            told.add_forbidden_by_node(nodes[cause], nodes[effect])
        return told

    return pc, fci, ges, background
