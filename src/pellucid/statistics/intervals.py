"""Confidence intervals that hold for few scores: of medians and means of grids, of means over images, of one score.

None is drawn: all are closed formulas, and below `FEWEST` grids or images there is no interval, since none holds there.
How often each covers the truth is simulated in experiments/statistics.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pellucid.errors import PellucidError

Statistic = Literal["median", "mean"]
Floats = NDArray[np.float64]

FEWEST = 5
"""Grids, images or pairs from which there is an interval; below, no method was seen to hold its level."""


@dataclass(frozen=True)
class Interval:
    """A statistic of scores with its confidence interval.

    Attributes:
        estimate, low, high: in the unit of the scores; NaN if there are none. Fewer than `FEWEST` grids have an
            estimate and no interval, and so have means of scores that are all the same.
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


def cluster_interval(
    scores: ArrayLike, grids: ArrayLike, statistic: Statistic = "median", *, level: float = 0.95
) -> Interval:
    """Confidence interval of a median or mean of scores that come in grids; scores of one grid may depend.

    The median's holds every value that a sign test of whole grids does not reject: with s_g the scores of a grid above
    the value minus those below, (sum s_g)^2 <= z^2 sum s_g^2. The mean's is that of the grids' sums, freed of their
    skewness (`mean_interval`).

    Args:
        scores: (M,) one number per attribution; NaN and infinite ones are left out and counted.
        grids: (M,) which grid it comes from: integers or texts.
        statistic: "median" or "mean".
        level: coverage.

    Raises:
        PellucidError: scores and grids differ in length, or an option is out of range.

    >>> interval = cluster_interval([0.2, 0.4, 0.9, 0.7, 0.5, 0.6], grids=[0, 1, 2, 3, 4, 5])
    >>> round(interval.estimate, 2), interval.low, interval.high, interval.grids
    (0.55, 0.2, 0.9, 6)
    """
    if statistic not in ("median", "mean") or not 0 < level < 1:
        raise PellucidError(
            f"statistic={statistic!r}, level={level}: expected 'median' or 'mean', and a level between 0 and 1"
        )
    values, clusters = align_with_grids(scores, grids)
    finite = np.isfinite(values)
    values, excluded = values[finite], int((~finite).sum())
    names, cluster = np.unique(clusters[finite], return_inverse=True)
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, level, 0, 0, excluded)
    estimate = float(np.median(values) if statistic == "median" else values.mean())
    if len(names) < FEWEST:
        low = high = np.nan
    elif statistic == "median":
        low, high = _median_bounds(values, cluster, estimate, level)
    else:
        sums = np.bincount(cluster, weights=values - estimate) * (len(names) / len(values))
        around_zero = mean_interval(torch.from_numpy(sums), confidence=level)
        low, high = (estimate + float(bound) for bound in around_zero)
    return Interval(estimate, low, high, level, len(values), len(names), excluded)


def bootstrap_interval(
    scores: ArrayLike,
    grids: ArrayLike,
    statistic: Statistic = "median",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The former name of `cluster_interval`, when grids were still drawn; `resamples` and `seed` change nothing."""
    return cluster_interval(scores, grids, statistic, level=level)


def mean_interval(
    values: Tensor, resampled: Tensor | None = None, *, confidence: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Confidence interval of the mean over images, by Student's t freed of its skewness.

    Scores of images are skewed, and the plain t-interval of 10 exponential values covers 90 % instead of 95.
    Source: Hall (1992), On the removal of skewness by transformation: T + a T^2 / 3 + a^2 T^3 / 27 + a / 6, with a the
    skewness of the mean, is nearly symmetric, increases in T, and is solved for the mean.

    Args:
        values: (N, ...) one value per image.
        resampled: (N, B, ...) the same values under B resamples of what they were measured with (the CAV); their spread
            is then added, so that the interval holds both uncertainties.
        confidence: of the interval, in (0, 1).

    Returns:
        (low, high), each (...,) float64; NaN with fewer than `FEWEST` images or 2 resamples, and where all values are
        the same: no spread is no error of zero.

    Raises:
        PellucidError: the confidence is out of range.

    >>> low, high = mean_interval(torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]))
    >>> round(float(low), 2), round(float(high), 2)
    (-0.07, 1.07)
    """
    _check_confidence(confidence)
    values = values.double()
    count, mean = len(values), values.mean(0)
    nothing = torch.full_like(mean, torch.nan)
    if count < FEWEST or (resampled is not None and resampled.shape[1] < 2):
        return nothing, nothing.clone()
    deviations = values - mean
    variance = values.var(0) / count
    total, degrees = variance, torch.full_like(variance, float(count - 1))
    if resampled is not None:
        draws = resampled.double().mean(0)  # (B, ...)
        added = draws.var(0)
        total = variance + added
        shares = variance.square() / (count - 1) + added.square() / (len(draws) - 1)
        degrees = total.square() / torch.where(shares > 0, shares, 1.0)  # Welch and Satterthwaite
    error = total.sqrt()
    spread = error > 1e-9 * values.abs().amax(0)
    error = torch.where(spread, error, 1.0)
    third = deviations.pow(3).mean(0) / count**2
    skewness = third / (error.pow(3) * ((count - 1) / count) ** 1.5)
    quantile = _t_quantile(confidence, degrees)
    low, high = (mean - error * _remove_skewness(end, skewness) for end in (quantile, -quantile))
    return torch.where(spread, low, nothing), torch.where(spread, high, nothing)


def score_interval(
    score: Tensor, resampled: Tensor, *, dim: int = -1, confidence: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Interval of a score from its spread over bootstrap resamples of what it was measured with, by Student's t.

    Quantiles of B resamples reach no further than the two outermost: of 20 they hold less than 88 %. Here the score and
    what it would be with other data both deviate as the resamples do, so that their difference has twice the variance:
    score ± t sqrt(2) s, with s the deviation of the resamples and t the quantile with B - 1 degrees of freedom. For
    scores that are no smooth function of the data (concept scores) that holds where ± t s covers 80 to 90 %.

    Args:
        score: (...,) with all data.
        resampled: the score under B resamples, with their axis at `dim`.
        dim: axis of the resamples.
        confidence: of the interval, in (0, 1).

    Returns:
        (low, high), each (...,) float64; NaN with fewer than 2 resamples and where these all agree.

    Raises:
        PellucidError: the confidence is out of range.

    >>> low, high = score_interval(torch.tensor(0.5), torch.tensor([0.4, 0.5, 0.6, 0.4, 0.6]))
    >>> round(float(low), 2), round(float(high), 2)
    (0.11, 0.89)
    """
    _check_confidence(confidence)
    center, draws = score.double(), resampled.double()
    nothing = torch.full_like(center, torch.nan)
    if draws.shape[dim] < 2:
        return nothing, nothing.clone()
    error = draws.std(dim)
    margin = 2**0.5 * error * _t_quantile(confidence, torch.full_like(error, draws.shape[dim] - 1.0))
    spread = error > 1e-9 * draws.abs().amax(dim)
    return torch.where(spread, center - margin, nothing), torch.where(spread, center + margin, nothing)


def binomial_interval(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share, by the exact binomial test with mid-p.

    Wilson's interval covers only 84 to 90 % at 5 or 10 trials where the share is small; this one 92 % or more at any.
    Source: Lancaster (1961); Agresti and Gottard (2007).

    Args:
        successes: 0 to `trials`.
        trials: at least 1.
        level: coverage.

    Raises:
        PellucidError: no trials, more successes than trials, or a level that is none.

    >>> low, high = binomial_interval(3, 10)
    >>> round(low, 3), round(high, 3)
    (0.083, 0.62)
    """
    from scipy.optimize import brentq
    from scipy.stats import binom

    _check_confidence(level)
    if not 0 <= successes <= trials or not trials:
        raise PellucidError(
            f"{successes} successes of {trials} trials: expected 1 trial or more, and no more successes"
        )
    tail = (1 - level) / 2

    def excess(share: float, sign: int) -> float:
        beyond = binom.sf(successes, trials, share) if sign > 0 else binom.cdf(successes - 1, trials, share)
        return float(beyond + binom.pmf(successes, trials, share) / 2 - tail)

    low = 0.0 if successes == 0 else float(brentq(excess, 0, 1, args=(1,)))
    high = 1.0 if successes == trials else float(brentq(excess, 0, 1, args=(-1,)))
    return low, high


def t_quantile(confidence: float, degrees: int) -> float:
    """How many standard errors a two-sided interval of Student's t reaches to each side; NaN without a degree.

    >>> round(t_quantile(0.95, 31), 2)
    2.04
    """
    return float(_t_quantile(confidence, torch.tensor(float(degrees) if degrees > 0 else torch.nan)))


def align_with_grids(scores: ArrayLike, grids: ArrayLike) -> tuple[Floats, NDArray[np.generic]]:
    """Scores (M,) and the grids (M,) that they come from, or an error.

    Raises:
        PellucidError: they differ in shape.
    """
    values, clusters = np.asarray(scores, dtype=np.float64), np.asarray(grids)
    if values.ndim != 1 or values.shape != clusters.shape:
        raise PellucidError(f"scores {values.shape} and grids {clusters.shape} must both be (M,): one grid per score")
    return values, clusters


def _median_bounds(values: Floats, cluster: NDArray[np.int64], estimate: float, level: float) -> tuple[float, float]:
    """Hull of the values that the sign test of whole grids accepts."""
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    sizes = np.bincount(cluster)
    if len(sizes) <= z2:  # then nothing is ever rejected
        return np.nan, np.nan
    order = np.argsort(values, kind="stable")
    ordered, owner = values[order], cluster[order]
    # Between the j-th and the next value, s of the grid that value j belongs to has fallen by 2.
    by_grid = np.argsort(owner, kind="stable")
    firsts = np.cumsum(sizes) - sizes
    place = np.empty(len(values))
    place[by_grid] = np.arange(len(values)) - firsts[owner[by_grid]]  # scores of the same grid that lie below
    total = len(values) - 2.0 * np.arange(1, len(values))
    squares = float((sizes**2).sum()) + np.cumsum(4.0 - 4.0 * (sizes[owner] - 2.0 * place))[:-1]
    accepted = (total**2 <= z2 * squares) & (ordered[1:] > ordered[:-1])
    inside = np.flatnonzero(accepted)
    if not len(inside):  # ties at the median
        return estimate, estimate
    return min(float(ordered[inside[0]]), estimate), max(float(ordered[inside[-1] + 1]), estimate)


def _remove_skewness(transformed: Tensor, skewness: Tensor) -> Tensor:
    """Solve y = T + a T^2 / 3 + a^2 T^3 / 27 + a / 6 for T."""
    small = skewness.abs() < 1e-6
    a = torch.where(small, 1.0, skewness)
    cube = 1 + a * (transformed - a / 6)
    root = cube.sign() * cube.abs().pow(1 / 3)
    return torch.where(small, transformed, 3 * (root - 1) / a)


def _t_quantile(confidence: float, degrees: Tensor) -> Tensor:
    from scipy.special import stdtrit

    return torch.as_tensor(stdtrit(degrees.numpy(), (1 + confidence) / 2), dtype=torch.float64)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise PellucidError(f"confidence {confidence}: expected 0 < confidence < 1")
