"""Causal discovery: which concepts are joined, and in which direction where the data or the user identify it."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pellucid.errors import PellucidError
from pellucid.statistics import benjamini_hochberg
from pellucid.surrogate.causal.graph import CausalGraph, Edge, EndMark, OrientationSource
from pellucid.surrogate.causal.orientation import ASSUMPTIONS, Arrows, points, supported_arrows
from pellucid.surrogate.causal.rank_normalize import rank_gaussianize, subtract_class_means
from pellucid.surrogate.causal.search import (
    ARROW,
    TAIL,
    BackgroundKnowledge,
    DiscoveryOptions,
    EndMarks,
    Floats,
    make_search,
)

CLASS_NODE = "class"
"""Name of the node that stands for the class label."""

_NAMES: dict[int, EndMark] = {TAIL: "tail", ARROW: "arrow", 2: "circle"}
_JITTER = 1e-6  # drawing rows again makes exact copies; kernels and covariances should not see them
COPY_CORRELATION = 0.999
"""Correlation of rank-Gaussianized columns from which one is a copy of the other."""

_ROWS_PER_NODE = 10
_FEW_VALUES = 12
_CONSTANT = 1e-6


def discover(
    values: ArrayLike,
    names: Sequence[str],
    *,
    labels: ArrayLike | None = None,
    knowledge: BackgroundKnowledge | None = None,
    options: DiscoveryOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CausalGraph:
    """The causal graph of columns, with bootstrap confidence on every edge and orientations only where identified.

    Nodes are rank-Gaussianized first, so any increasing rescaling of a column gives the same graph. With `labels`, the
    class is a root: class means are subtracted before the search, and edges from the class to a node come from
    Kruskal-Wallis tests, corrected by Benjamini and Hochberg. A single class has no means to subtract.

    Args:
        values: (N, K), one row per image.
        names: Names of the K columns.
        labels: (N,) classes, or None.
        knowledge: Tiers, required and forbidden edges.
        options: Method, test, level and bootstraps.
        on_progress: Called with (bootstraps done, bootstraps in all).

    Raises:
        MissingExtraError: causal-learn is not installed.
        PellucidError: NaN, constant or copied columns, too few rows, or knowledge of unknown nodes.
    """
    options, knowledge = options or DiscoveryOptions(), knowledge or BackgroundKnowledge()
    table = _check_table(values, names, knowledge, options)
    rows = _draw_rows(len(table), options)
    normal = rank_gaussianize(table[rows])
    classes = None if labels is None else np.asarray(labels)[rows]
    if classes is not None and len(np.unique(classes)) < 2:
        classes = None
    if classes is not None:
        normal = rank_gaussianize(subtract_class_means(normal, classes))
    search = make_search(names, knowledge, options)
    marks = search(normal)
    data_marks = make_search(names, BackgroundKnowledge(), options)(normal) if knowledge else marks
    adjacent, pointing = _bootstrap(normal, search, options, on_progress)
    supported = _find_supported(normal, data_marks, (adjacent, pointing), names, options)
    evidence = _Evidence(tuple(names), normal, marks, data_marks, adjacent, pointing, supported)
    edges = _make_edges(evidence, knowledge, options)
    nodes = tuple(names)
    if classes is not None:
        nodes = (CLASS_NODE, *nodes)
        edges += _class_edges(table[rows], names, classes, options.alpha)
    provenance = _provenance(options, knowledge, len(rows))
    notes = (*_notes(labels is not None, classes is not None, options), *_data_notes(table[rows], evidence, options))
    return CausalGraph(nodes, tuple(edges), provenance, notes)


def _check_table(
    values: ArrayLike, names: Sequence[str], knowledge: BackgroundKnowledge, options: DiscoveryOptions
) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    nodes = len(names)
    if table.ndim != 2 or table.shape[1] != nodes:
        raise PellucidError(f"values of shape {table.shape} do not go with {nodes} names; expected (N, {nodes})")
    if len(set(names)) < nodes or CLASS_NODE in names:
        raise PellucidError(f"names of nodes must differ from each other and from {CLASS_NODE!r}; got {list(names)}")
    if len(table) < _ROWS_PER_NODE * nodes:
        raise PellucidError(f"{len(table)} rows are too few for {nodes} nodes: give {_ROWS_PER_NODE} or more per node")
    for name, column in zip(names, table.T, strict=True):
        if bad := np.count_nonzero(~np.isfinite(column)):
            raise PellucidError(f"node {name!r} has {bad} values that are not finite: leave those rows out")
        if column.std() <= 1e-9 * np.abs(column).max():
            raise PellucidError(f"node {name!r} is constant: leave it out")
    normal = rank_gaussianize(table)
    for i, j in combinations(range(nodes), 2):
        if abs(np.corrcoef(normal[:, i], normal[:, j])[0, 1]) > COPY_CORRELATION:
            raise PellucidError(f"nodes {names[i]!r} and {names[j]!r} are copies of each other: leave one out")
    if unknown := sorted(knowledge.names() - set(names)):
        raise PellucidError(f"background knowledge names {unknown}, which are no nodes ({list(names)})")
    if knowledge and options.method == "ges":
        raise PellucidError("GES takes no background knowledge: use method 'pc' or 'fci'")
    return table


def _draw_rows(count: int, options: DiscoveryOptions) -> NDArray[np.int64]:
    count_used = min(options.max_rows, options.kernel_rows) if options.test == "kci" else options.max_rows
    chosen = np.random.default_rng(options.seed).permutation(count)[:count_used]
    return np.sort(chosen)


def _bootstrap(
    normal: Floats,
    search: Callable[[Floats], EndMarks],
    options: DiscoveryOptions,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Floats, Floats]:
    """Shares of bootstraps (K, K) in which two nodes are adjacent, and in which the row points to the column."""
    nodes = normal.shape[1]
    adjacent, pointing = np.zeros((nodes, nodes)), np.zeros((nodes, nodes))
    random = np.random.default_rng([options.seed, 1])
    for done in range(options.bootstraps):
        sample = normal[random.integers(0, len(normal), len(normal))]
        marks = search(sample + _JITTER * random.standard_normal(sample.shape))
        adjacent += marks != 0
        pointing += points(marks)
        if on_progress:
            on_progress(done + 1, options.bootstraps)
    with np.errstate(invalid="ignore"):  # no bootstraps: NaN
        return adjacent / options.bootstraps, pointing / options.bootstraps


def _find_supported(
    normal: Floats, data_marks: EndMarks, shares: tuple[Floats, Floats], names: Sequence[str], options: DiscoveryOptions
) -> Arrows:
    """Arrows (K, K) that PC and GES agree on and several separating sets support (see `supported_arrows`)."""
    if not points(data_marks).any():
        return np.zeros(data_marks.shape, dtype=np.bool_)
    marks = {options.method: data_marks}
    for method in ("pc", "ges"):
        if method not in marks:
            rival = replace(options, method=method, test="fisherz")  # the scores of GES are those of linear models
            marks[method] = make_search(names, BackgroundKnowledge(), rival)(normal)
    if options.method == "fci":  # leaves circles at causes: its bootstraps say nothing of their arrows
        options = replace(options, bootstraps=0)
    return supported_arrows(normal, (marks["pc"], marks["ges"]), *shares, options)


@dataclass(frozen=True)
class _Evidence:
    """What the searches returned, (K, K) each: marks with knowledge and from data alone, shares of bootstraps in which
    nodes are adjacent and point, and the arrows that the data support.
    """

    names: tuple[str, ...]
    normal: Floats
    marks: EndMarks
    data_marks: EndMarks
    adjacent: Floats
    pointing: Floats
    supported: Arrows


def _make_edges(evidence: _Evidence, knowledge: BackgroundKnowledge, options: DiscoveryOptions) -> list[Edge]:
    edges = []
    for i, j in combinations(range(len(evidence.names)), 2):
        confidence = float(evidence.adjacent[i, j])
        if not (confidence >= options.show_threshold if options.bootstraps else evidence.marks[i, j] != 0):
            continue
        (at_source, at_target), source = _orientation(evidence, i, j, knowledge, options)
        edge = Edge(
            source=evidence.names[i],
            target=evidence.names[j],
            source_mark=at_source,
            target_mark=at_target,
            confidence=confidence,
            forward=float(evidence.pointing[i, j]),
            backward=float(evidence.pointing[j, i]),
            strength=_partial_correlation(evidence.normal, i, j, evidence.marks),
            orientation_source=source,
            tentative=confidence < options.firm_threshold,
        )
        edges.append(edge.reverse() if edge.reverse().directed else edge)
    return edges


def _orientation(
    evidence: _Evidence, i: int, j: int, knowledge: BackgroundKnowledge, options: DiscoveryOptions
) -> tuple[tuple[EndMark, EndMark], OrientationSource]:
    """The marks at both ends that are claimed, and what identifies them."""
    forward: tuple[EndMark, EndMark] = ("tail", "arrow")
    for cause, effect, ends in ((i, j, forward), (j, i, forward[::-1])):
        if knowledge.decides(evidence.names[cause], evidence.names[effect]):
            if options.method == "fci" and not knowledge.requires(evidence.names[cause], evidence.names[effect]):
                return _excluded_effect(evidence, cause, effect, ends), "knowledge"
            return ends, "knowledge"
        share = options.firm_threshold * evidence.adjacent[cause, effect]
        stable = not options.bootstraps or evidence.pointing[cause, effect] >= share
        if points(evidence.marks)[cause, effect] and stable:
            if not points(evidence.data_marks)[cause, effect]:
                return ends, "knowledge"
            if evidence.supported[cause, effect]:
                return ends, "collider"
    marks = int(evidence.marks[i, j]), int(evidence.marks[j, i])
    if options.method == "fci":
        open_ends = 0 in marks or set(marks) == {TAIL, ARROW}
        return ("circle", "circle") if open_ends else (_NAMES[marks[0]], _NAMES[marks[1]]), "undecided"
    return ("tail", "tail"), "undecided"


def _excluded_effect(
    evidence: _Evidence, cause: int, effect: int, ends: tuple[EndMark, EndMark]
) -> tuple[EndMark, EndMark]:
    """Marks where a common cause may hide: that the effect is no cause makes no cause of the other."""
    at_cause: EndMark = "circle"
    if evidence.supported[cause, effect] and points(evidence.data_marks)[cause, effect]:
        at_cause = "tail"
    elif evidence.data_marks[cause, effect] == ARROW:
        at_cause = "arrow"
    return (at_cause, "arrow") if ends == ("tail", "arrow") else ("arrow", at_cause)


def _partial_correlation(normal: Floats, i: int, j: int, marks: EndMarks) -> float:
    into = points(marks)
    given = [k for k in range(len(marks)) if k not in (i, j) and (into[k, i] or into[k, j])]
    design = np.column_stack([np.ones(len(normal)), normal[:, given]])
    ends = normal[:, [i, j]]
    residuals = ends - design @ np.linalg.lstsq(design, ends, rcond=None)[0]
    return float(np.corrcoef(residuals.T)[0, 1])


def _class_edges(table: Floats, names: Sequence[str], classes: NDArray[Any], alpha: float) -> list[Edge]:
    from scipy.stats import kruskal

    groups = [classes == label for label in np.unique(classes)]
    tests = [kruskal(*(column[group] for group in groups)) for column in table.T]
    corrected = benjamini_hochberg([test.pvalue for test in tests])
    # Epsilon squared, the share of the rank variance that the class explains.
    strengths = [float(test.statistic) * (len(table) + 1) / (len(table) ** 2 - 1) for test in tests]
    return [
        Edge(CLASS_NODE, name, "tail", "arrow", strength=strength, orientation_source="knowledge", p_value=float(p))
        for name, strength, p in zip(names, strengths, corrected, strict=True)
        if p < alpha
    ]


def _provenance(options: DiscoveryOptions, knowledge: BackgroundKnowledge, rows: int) -> dict[str, object]:
    from importlib.metadata import version

    return {
        **asdict(options),
        "tiers": dict(knowledge.tiers),
        "required": [list(pair) for pair in knowledge.required],
        "forbidden": [list(pair) for pair in knowledge.forbidden],
        "rows": rows,
        "causal_learn": version("causal-learn"),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }


def _notes(labeled: bool, with_class: bool, options: DiscoveryOptions) -> tuple[str, ...]:
    notes = ["Nodes were rank-Gaussianized: a rescaling of a node cannot change this graph."]
    if with_class:
        notes.append("Edges between nodes hold within classes: class means were subtracted.")
    elif labeled:
        notes.append("All images are of one class, so the class is no node.")
    if options.method != "fci":
        notes.append("No hidden common causes are assumed; FCI shows where there may be one.")
    notes.append(ASSUMPTIONS)
    if options.test == "fisherz":
        notes.append(
            "Only rising or falling dependence is tested: y = z² + noise, or a spread that depends on z, give no edge; "
            "the kernel test (test='kci', --test kci) sees these too."
        )
    return tuple(notes)


def _data_notes(table: Floats, evidence: _Evidence, options: DiscoveryOptions) -> list[str]:
    """Columns with few values, and pairs without an edge whose dependence does not rise or fall."""
    counts = {name: len(np.unique(column)) for name, column in zip(evidence.names, table.T, strict=True)}
    few = [f"{name} ({count} values)" for name, count in counts.items() if count <= _FEW_VALUES]
    notes = []
    if few:
        notes.append(
            f"Discrete columns: {', '.join(few)}. Equal values share their mean rank, and the order of the values "
            "counts: more than two kinds without an order are not described by one column."
        )
    if options.test == "fisherz" and (pairs := _unseen_dependences(evidence, options.alpha)):
        notes.append(
            f"Without an edge and yet dependent, but neither rising nor falling: {', '.join(pairs)}. "
            "Try the kernel test (test='kci', --test kci)."
        )
    return notes


def _unseen_dependences(evidence: _Evidence, alpha: float) -> list[str]:
    """Pairs that are not correlated and not adjacent while the square of one is correlated with the other."""
    from scipy.stats import pearsonr

    normal, names = evidence.normal, evidence.names
    pairs = [pair for pair in combinations(range(len(names)), 2) if evidence.marks[pair] == 0]
    level, unseen = alpha / (3 * max(len(pairs), 1)), []
    for i, j in pairs:
        first, second = normal[:, i], normal[:, j]
        forms = [(first**2, second), (first, second**2), (first**2, second**2)]
        tests = [pearsonr(*form).pvalue for form in forms if min(part.std() for part in form) > _CONSTANT]
        if pearsonr(first, second).pvalue > alpha and min(tests, default=1.0) < level:
            unseen.append(f"{names[i]} and {names[j]}")
    return unseen
