"""Bootstrap intervals: of scores that come in grids, which are drawn whole, and of means over images."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pellucid.errors import PellucidError

Statistic = Literal["median", "mean"]
Floats = NDArray[np.float64]

_BLOCK = 2**21  # numbers in memory at once
_CHUNK = 64  # bootstrap samples of a mean at once


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

    Raises:
        PellucidError: scores and grids differ in length, or an option is out of range.

    >>> interval = bootstrap_interval([0.2, 0.4, 0.9, 0.7], grids=["a", "a", "b", "b"], statistic="mean")
    >>> round(interval.estimate, 2), round(interval.low, 2), round(interval.high, 2), interval.grids
    (0.55, 0.3, 0.8, 2)
    """
    if statistic not in ("median", "mean") or not 0 < level < 1 or resamples < 1:
        raise PellucidError(
            f"statistic={statistic!r}, level={level}, resamples={resamples}: "
            "expected 'median' or 'mean', a level between 0 and 1 and at least 1 resample"
        )
    values, clusters = align_with_grids(scores, grids)
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


def bootstrap_mean_interval(
    values: Tensor,
    resampled: Tensor | None = None,
    *,
    confidence: float = 0.95,
    repeats: int = 2000,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Percentile interval of the mean over images, by resampling the images.

    Args:
        values: (N, ...) one value per image.
        resampled: (N, B, ...) the same values under B resamples of what they were measured with (the CAV): each repeat
            then draws a resample first and images second, so that the interval holds both uncertainties.
        confidence: of the interval, in (0, 1).
        repeats: bootstrap samples.
        seed: of the draws.

    Returns:
        (low, high), each (...,).

    Raises:
        PellucidError: confidence or repeats are out of range.

    >>> low, high = bootstrap_mean_interval(torch.tensor([0.0, 1.0, 0.0, 1.0]))
    >>> float(low), float(high)
    (0.0, 1.0)
    """
    if not 0 < confidence < 1 or repeats < 1:
        raise PellucidError(
            f"confidence {confidence} and repeats {repeats}: expected 0 < confidence < 1 and repeats >= 1"
        )
    generator = torch.Generator().manual_seed(seed)
    images = len(values)
    means = []
    for chunk in torch.split(torch.arange(repeats), _CHUNK):
        rows = torch.randint(images, (len(chunk), images), generator=generator)
        if resampled is None:
            means.append(values.double()[rows].mean(1))
        else:
            drawn = torch.randint(resampled.shape[1], (len(chunk), 1), generator=generator)
            means.append(resampled.double()[rows, drawn].mean(1))
    tail = (1 - confidence) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return low, high


def align_with_grids(scores: ArrayLike, grids: ArrayLike) -> tuple[Floats, NDArray[np.generic]]:
    """Scores (M,) and the grids (M,) that they come from, or an error.

    Raises:
        PellucidError: they differ in shape.
    """
    values, clusters = np.asarray(scores, dtype=np.float64), np.asarray(grids)
    if values.ndim != 1 or values.shape != clusters.shape:
        raise PellucidError(f"scores {values.shape} and grids {clusters.shape} must both be (M,): one grid per score")
    return values, clusters


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
