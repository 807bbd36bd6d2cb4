"""Tests by permutation: ranks among what chance gives, flips of signs, and shuffles of two samples.

scipy's `permutation_test` doubles the smaller of two one-sided p-values, and does not count sums as equal that differ
by rounding; what is tested here is the size of the statistic, with ties counted.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pellucid.errors import PellucidError

SAME = 1e-9
"""Relative: sums of the same numbers in another order are equal."""
_BLOCK = 2**21  # numbers in memory at once


def rank_p_value(observed: Tensor, null: Tensor, *, two_sided: bool = False) -> Tensor:
    """How often chance does as well: (1 + #{null >= observed}) / (1 + P).

    Args:
        observed: (...,).
        null: (..., P) what chance gives.
        two_sided: compare sizes, whatever the sign.

    Returns:
        (...,) in [1 / (1 + P), 1].

    >>> float(rank_p_value(torch.tensor(2.0), torch.tensor([0.0, 1.0, 3.0])))
    0.5
    """
    if two_sided:
        observed, null = observed.abs(), null.abs()
    # Numbers that differ only by the order in which they were summed count as equal.
    least = observed - SAME * observed.abs()
    return (1.0 + (null >= least[..., None]).double().sum(-1)) / (1.0 + null.shape[-1])


def sign_flip_p_value(differences: ArrayLike, *, permutations: int = 10_000, seed: int = 0) -> NDArray[np.float64]:
    """Two-sided p-values of mean differences when every difference could as well have the other sign.

    Exact, over all 2^N sign patterns, where these are no more than `permutations`; else (1 + hits) / (1 + permutations)
    of random ones (Phipson and Smyth, 2010).

    Args:
        differences: (N, ...) one per pair, along the first axis; NaN and infinite ones are left out.
        permutations: sign patterns.
        seed: of the random ones, which are the same for every column.

    Returns:
        (...,) in (0, 1]; without dimensions for (N,) differences.

    >>> float(sign_flip_p_value([1.0, 2.0, 0.5, 1.5]))
    0.125
    """
    columns = np.asarray(differences, dtype=np.float64)
    return np.apply_along_axis(_sign_flip_p_value, 0, columns, permutations, seed)


def permutation_p_value(first: Tensor, second: Tensor, *, repeats: int = 4999, seed: int = 0) -> float:
    """Two-sided permutation test that two samples have the same mean, by Welch's t.

    Exact where the samples are drawn alike. Because the difference is divided by its own standard error it also holds,
    for larger samples, where only the means agree and the spreads do not (Janssen, 1997; Chung and Romano, 2013).

    Args:
        first: (n,); a sample without spread is allowed.
        second: (m,), likewise.
        repeats: random relabelings.
        seed: of the relabelings.

    Returns:
        In [1 / (1 + repeats), 1]; NaN without relabelings.

    Raises:
        PellucidError: a sample is empty.

    >>> permutation_p_value(torch.ones(6), torch.ones(6))
    1.0
    """
    if not len(first) or not len(second):
        raise PellucidError(f"two samples are compared, got {len(first)} and {len(second)} numbers: one is empty")
    if not repeats:
        return float("nan")
    generator = torch.Generator().manual_seed(seed)
    both = torch.cat([first, second]).double()
    observed = _welch_t(both[None], len(first))[0]
    null = [
        _welch_t(both[torch.rand(size, len(both), generator=generator).argsort(1)], len(first))
        for size in _block_sizes(repeats, len(both))
    ]
    return float(rank_p_value(observed, torch.cat(null), two_sided=True))


def _welch_t(rows: Tensor, size: int) -> Tensor:
    """Difference of means over its standard error, for rows whose first `size` numbers are the first sample."""
    samples = rows[:, :size], rows[:, size:]
    difference = samples[0].mean(1) - samples[1].mean(1)
    scale = rows.abs().amax(1)
    difference = torch.where(difference.abs() <= SAME * scale, 0.0, difference)
    # A sample of one shows no spread: the other's stands for both.
    spread = [sample.var(1) if sample.shape[1] > 1 else other.var(1) for sample, other in (samples, samples[::-1])]
    error = sum((part / sample.shape[1] for part, sample in zip(spread, samples, strict=True)), torch.zeros_like(scale))
    # Without spread any difference is beyond chance.
    return difference / error.nan_to_num(0.0).sqrt().clamp(min=SAME * SAME * scale.clamp(min=SAME))


def _block_sizes(repeats: int, width: int) -> list[int]:
    step = max(1, _BLOCK // max(width, 1))
    return [min(step, repeats - start) for start in range(0, repeats, step)]


def _sign_flip_p_value(differences: NDArray[np.float64], permutations: int, seed: int) -> float:
    values = differences[np.isfinite(differences)]
    count, whole = len(values), float(values.sum())
    exact = count < 63 and 2**count <= permutations
    total = 2**count if exact else permutations
    rng = np.random.default_rng(seed)
    least = abs(whole) - SAME * float(np.abs(values).sum())
    hits = 0
    step = max(1, _BLOCK // max(count, 1))
    for start in range(0, total, step):
        rows = np.arange(start, min(start + step, total))
        flipped = rows[:, None] >> np.arange(count) & 1 if exact else rng.integers(0, 2, (len(rows), count), np.uint8)
        hits += int((np.abs(whole - 2 * (flipped @ values)) >= least).sum())
    return hits / total if exact else (hits + 1) / (total + 1)
