"""Statistics of scores that come in grids: cluster bootstrap, paired tests with Holm's correction, rank correlation.

The cells of one grid share an image and its passes, so their scores are dependent. Everything here therefore draws,
flips or compares whole grids.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pellucid.errors import PellucidError

Statistic = Literal["median", "mean"]
Floats = NDArray[np.float64]

_NAN = float("nan")
_BLOCK = 2**21  # numbers in memory at once
_TIE = 1e-9  # relative: sums of the same numbers in another order are equal


@dataclass(frozen=True)
class Interval:
    """A statistic of scores with its bootstrap interval.

    Attributes:
        estimate, low, high: in the unit of the scores; NaN if there are none. One grid has an estimate and no interval.
        level: coverage of the interval.
        scores: how many finite scores.
        grids: how many grids they come from.
        excluded: how many scores were NaN or infinite.
    """

    estimate: float
    low: float
    high: float
    level: float
    scores: int
    grids: int
    excluded: int


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same grids; differences are `first` minus `second`, averaged within each grid.

    Attributes:
        first, second: the methods.
        median, mean: of the differences of the grids.
        wilcoxon: p-value of Wilcoxon's signed-rank test, two-sided.
        permutation: p-value of the sign-flip test of the mean difference, two-sided.
        wilcoxon_holm, permutation_holm: the same, corrected over all pairs compared.
        rank_biserial: matched-pairs rank-biserial correlation in [-1, 1]; 0 is no effect.
        cliffs_delta: P(first > second) - P(first < second) over grids' means, in [-1, 1].
        grids: grids compared.
        excluded: rows left out because one of the two scores is not finite.
    """

    first: str
    second: str
    median: float
    mean: float
    wilcoxon: float
    permutation: float
    wilcoxon_holm: float
    permutation_holm: float
    rank_biserial: float
    cliffs_delta: float
    grids: int
    excluded: int


def bootstrap_interval(
    scores: ArrayLike,
    grids: ArrayLike,
    statistic: Statistic = "median",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a median or mean by the cluster bootstrap: grids are drawn with replacement, whole.

    Source: Davison and Hinkley, Bootstrap Methods and their Application, section 3.8.

    Args:
        scores: (M,) one number per attribution; NaN and infinite ones are left out and counted.
        grids: (M,) which grid it comes from: integers or texts.
        statistic: "median" or "mean".
        level: coverage.
        resamples: sets of grids that are drawn.
        seed: of the draws.
    """
    if statistic not in ("median", "mean") or not 0 < level < 1 or resamples < 1:
        raise PellucidError(
            f"statistic={statistic!r}, level={level}, resamples={resamples}: "
            "wanted 'median' or 'mean', a level between 0 and 1 and at least 1 resample"
        )
    values, clusters = _aligned(scores, grids)
    finite = np.isfinite(values)
    values, excluded = values[finite], int((~finite).sum())
    names, cluster = np.unique(clusters[finite], return_inverse=True)
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, level, 0, 0, excluded)
    estimate = np.median(values) if statistic == "median" else values.mean()
    if len(names) == 1:  # whole grids are drawn: one grid says nothing of the spread
        return Interval(float(estimate), np.nan, np.nan, level, len(values), 1, excluded)
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // len(values))
    drawn: list[Floats] = []
    for start in range(0, resamples, step):
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), min(step, resamples - start))
        drawn.append(_weighted(values, counts[:, cluster], statistic))
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), level, len(values), len(names), excluded)


def compare_methods(
    scores: Mapping[str, ArrayLike], grids: ArrayLike, *, permutations: int = 10_000, seed: int = 0
) -> tuple[Comparison, ...]:
    """Compare every pair of methods on the same attributions, paired grid by grid.

    Args:
        scores: method -> (M,) scores; row i of every method is the same grid and cell. Rows where one of the two scores
            is not finite are left out of that pair and counted.
        grids: (M,) which grid each row comes from.
        permutations: sign flips of the permutation test; all 2^G of them where that is fewer.
        seed: of the flips.

    Returns:
        One `Comparison` per pair, in the order of `scores`. A pair without a common finite row has NaN everywhere.
    """
    pairs = [_compare(pair, scores, grids, permutations, seed) for pair in combinations(scores, 2)]
    wilcoxon, permutation = holm([pair.wilcoxon for pair in pairs]), holm([pair.permutation for pair in pairs])
    return tuple(
        replace(pair, wilcoxon_holm=float(w), permutation_holm=float(p))
        for pair, w, p in zip(pairs, wilcoxon, permutation, strict=True)
    )


def wilcoxon_p(differences: ArrayLike) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; zero differences are dropped, and 1 if all are zero."""
    from scipy.stats import wilcoxon

    nonzero = _finite(differences)
    nonzero = nonzero[nonzero != 0]
    return float(wilcoxon(nonzero).pvalue) if len(nonzero) else 1.0


def sign_flip_p(differences: ArrayLike, *, permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the mean difference when every difference could as well have the other sign.

    Exact, over all 2^G sign patterns, where these are no more than `permutations`; else (1 + hits) / (1 + permutations)
    of random ones (Phipson and Smyth, 2010).
    """
    values = _finite(differences)
    count, whole = len(values), float(values.sum())
    exact = count < 63 and 2**count <= permutations
    total = 2**count if exact else permutations
    rng = np.random.default_rng(seed)
    least = abs(whole) - _TIE * float(np.abs(values).sum())
    hits = 0
    step = max(1, _BLOCK // max(count, 1))
    for start in range(0, total, step):
        rows = np.arange(start, min(start + step, total))
        flipped = rows[:, None] >> np.arange(count) & 1 if exact else rng.integers(0, 2, (len(rows), count), np.uint8)
        hits += int((np.abs(whole - 2 * (flipped @ values)) >= least).sum())
    return hits / total if exact else (hits + 1) / (total + 1)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction of p-values (m,), which holds under any dependence; NaN stay NaN and do not count."""
    p = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]  # NaN sort last
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return corrected


def rank_biserial(differences: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation: (W+ - W-) / (W+ + W-) of Wilcoxon's rank sums; in [-1, 1].

    Source: Kerby, The simple difference formula, 2014. Zeros are dropped; 0 if there is nothing else.
    """
    from scipy.stats import rankdata

    values = _finite(differences)
    values = values[values != 0]
    if not len(values):
        return 0.0
    ranks = rankdata(np.abs(values))
    return float((ranks * np.sign(values)).sum() / ranks.sum())


def cliffs_delta(first: ArrayLike, second: ArrayLike) -> float:
    """P(first > second) - P(first < second) over all pairs of two samples; in [-1, 1]."""
    a, b = _finite(first), np.sort(_finite(second))
    if not len(a) or not len(b):
        return _NAN
    below, not_above = np.searchsorted(b, a, "left"), np.searchsorted(b, a, "right")
    return float((below.sum() - (len(b) - not_above).sum()) / (len(a) * len(b)))


def spearman_matrix(columns: Mapping[str, ArrayLike]) -> Floats:
    """Spearman's rank correlation between columns, (C, C) in [-1, 1], in the order of `columns`.

    Rows that are not finite in one of two columns are left out of that pair. NaN where a column is constant or fewer
    than two rows remain: no correlation is defined there.
    """
    from scipy.stats import rankdata

    values = [np.asarray(column, dtype=np.float64) for column in columns.values()]
    if len({column.shape for column in values}) > 1 or any(column.ndim != 1 for column in values):
        raise PellucidError(f"columns of shapes {[column.shape for column in values]}: wanted one length for all, (M,)")
    matrix = np.full((len(values), len(values)), np.nan)
    for i, j in combinations_with_replacement(range(len(values)), 2):
        both = np.isfinite(values[i]) & np.isfinite(values[j])
        middle = (both.sum() + 1) / 2
        x, y = rankdata(values[i][both]) - middle, rankdata(values[j][both]) - middle
        norm = float(np.sqrt((x @ x) * (y @ y)))
        if norm > 0:
            matrix[i, j] = matrix[j, i] = np.clip(x @ y / norm, -1, 1)
    return matrix


def _compare(
    pair: tuple[str, str], scores: Mapping[str, ArrayLike], grids: ArrayLike, permutations: int, seed: int
) -> Comparison:
    """One pair, not yet corrected for the others."""
    (first, clusters), (second, _) = _aligned(scores[pair[0]], grids), _aligned(scores[pair[1]], grids)
    both = np.isfinite(first) & np.isfinite(second)
    excluded = int((~both).sum())
    if not both.any():
        return Comparison(*pair, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN, grids=0, excluded=excluded)
    names, cluster = np.unique(clusters[both], return_inverse=True)
    sizes = np.bincount(cluster)
    a, b = (np.bincount(cluster, weights=values[both]) / sizes for values in (first, second))
    differences = a - b
    differences[np.abs(differences) <= _TIE * np.maximum(np.abs(a), np.abs(b))] = 0
    return Comparison(
        *pair,
        median=float(np.median(differences)),
        mean=float(differences.mean()),
        wilcoxon=wilcoxon_p(differences),
        permutation=sign_flip_p(differences, permutations=permutations, seed=seed),
        wilcoxon_holm=_NAN,
        permutation_holm=_NAN,
        rank_biserial=rank_biserial(differences),
        cliffs_delta=cliffs_delta(a, b),
        grids=len(names),
        excluded=excluded,
    )


def _weighted(values: Floats, weights: NDArray[np.int64], statistic: Statistic) -> Floats:
    """Mean or median of `values` (M,) for every row of whole-number weights (B, M)."""
    if statistic == "mean":
        return np.asarray(weights @ values / weights.sum(1))
    order = np.argsort(values)
    reached = np.cumsum(weights[:, order], axis=1)
    total = reached[:, -1:]
    lower = (reached < (total + 1) // 2).sum(1)  # of an even number of values the two in the middle
    upper = (reached < total // 2 + 1).sum(1)
    return np.asarray((values[order[lower]] + values[order[upper]]) / 2)


def _aligned(scores: ArrayLike, grids: ArrayLike) -> tuple[Floats, NDArray[np.generic]]:
    values, clusters = np.asarray(scores, dtype=np.float64), np.asarray(grids)
    if values.ndim != 1 or values.shape != clusters.shape:
        raise PellucidError(f"scores {values.shape} and grids {clusters.shape} must both be (M,): one grid per score")
    return values, clusters


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]
