"""Which arrows the data identify: of colliders that two searches, bootstraps and several separating sets agree on.

A cause and an effect whose paths cancel look apart, and the search then invents a collider: on random linear graphs 14
to 38 % of the arrows of PC alone point the wrong way. One set of nodes that separates a pair may do so by chance; three
seldom do. Four nodes have no three such sets: there only a node that is joined to all others, which are joined to none,
is a collider, and only with so many rows that the test sees weak dependence. How many of the arrows that are left point
the wrong way is simulated in experiments/statistics.
"""

from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pellucid.surrogate.causal.search import ARROW, TAIL, DiscoveryOptions, EndMarks, Floats

Arrows = NDArray[np.bool_]

STABLE = 0.8
"""Share of the bootstraps with the edge in which an arrow by a collider points as claimed, at least."""
_APART, _APART_IN_STAR = 0.98, 0.9  # share of bootstraps in which the two causes of a collider are not adjacent
_SETS = 3  # sets that separate the two causes, and at least half of all
_LARGEST_SET = 3
_BLIND = 0.06  # largest partial correlation that the test may overlook where four nodes form a star
ASSUMPTIONS = (
    "Arrows by colliders assume that no common cause is hidden, that causes act one way, and that no two paths cancel. "
    "They are claimed only where PC and GES agree, at least 80 % of the bootstraps do, and three sets of other nodes "
    "separate the two causes, half of all sets; among four nodes only in a star of 2,000 rows or more, and never among "
    "three."
)


def points(marks: EndMarks) -> Arrows:
    """(K, K) whether the row is a cause of the column."""
    return np.asarray((marks == TAIL) & (marks.T == ARROW), dtype=np.bool_)


def supported_arrows(
    normal: Floats,
    marks: tuple[EndMarks, EndMarks],
    adjacent: Floats,
    pointing: Floats,
    options: DiscoveryOptions,
) -> Arrows:
    """The arrows (K, K) of colliders with enough support, and those that follow from them by Meek's rules.

    Args:
        normal: (N, K) rank-Gaussianized nodes.
        marks: the end marks (K, K) of two searches in all rows, without background knowledge.
        adjacent: (K, K) shares of bootstraps in which two nodes are adjacent; not used without bootstraps.
        pointing: (K, K) shares in which the row points to the column.
        options: level and number of bootstraps.
    """
    present = marks[0] != 0
    candidates = points(marks[0]) & points(marks[1])
    if options.bootstraps:
        candidates &= pointing >= STABLE * adjacent
    correlations: Floats = np.asarray(np.corrcoef(normal.T))
    arrows = np.zeros_like(candidates)
    for effect in range(len(present)):
        causes = np.flatnonzero(candidates[:, effect])
        for pair in combinations(causes.tolist(), 2):
            if present[pair]:
                continue
            apart = 1 - adjacent[pair] if options.bootstraps else 1.0
            separated = apart >= _APART and _has_separating_sets(correlations, len(normal), pair, effect, options.alpha)
            if separated or (apart >= _APART_IN_STAR and _is_star(present, effect, len(normal), options.alpha)):
                arrows[list(pair), effect] = True
    return _apply_meek_rules(arrows, candidates, present)


def _has_separating_sets(correlations: Floats, rows: int, pair: tuple[int, int], effect: int, alpha: float) -> bool:
    """Whether three sets of other nodes than the effect, and half of all, separate a pair."""
    others = [node for node in range(len(correlations)) if node not in (*pair, effect)]
    sizes = range(min(_LARGEST_SET, len(others)) + 1)
    separating = total = 0
    for given in (chosen for size in sizes for chosen in combinations(others, size)):
        nodes = [*pair, *given]
        inverse = np.linalg.inv(correlations[np.ix_(nodes, nodes)])
        partial = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
        total += 1
        separating += abs(np.arctanh(partial)) * np.sqrt(max(rows - len(given) - 3, 1)) < _critical(alpha)
    return separating >= max(_SETS, total / 2)


def _is_star(present: Arrows, center: int, rows: int, alpha: float) -> bool:
    """Whether four nodes have three edges, all at the center, and rows enough to see a weak fourth."""
    three_edges = len(present) == 4 and present.sum() == 6  # each edge counts twice
    return bool(three_edges and present[center].sum() == 3 and _critical(alpha) / np.sqrt(rows) <= _BLIND)


def _critical(alpha: float) -> float:
    return NormalDist().inv_cdf(1 - alpha / 2)


def _apply_meek_rules(arrows: Arrows, candidates: Arrows, present: Arrows) -> Arrows:
    """Add the candidates that Meek's first three rules (1995) derive from arrows already there."""
    count = len(arrows)
    while True:
        added = arrows.copy()
        for cause, effect in zip(*np.nonzero(candidates & ~arrows), strict=True):
            into_cause = [k for k in range(count) if arrows[k, cause] and not present[k, effect] and k != effect]
            between = [k for k in range(count) if arrows[cause, k] and arrows[k, effect]]
            into_effect = [k for k in range(count) if arrows[k, effect] and present[k, cause]]
            two = any(not present[pair] for pair in combinations(into_effect, 2))
            added[cause, effect] = bool(into_cause or between or two)
        if np.array_equal(added, arrows):
            return arrows
        arrows = added
