"""Statistics of concept scores: ranks in a null distribution, corrections for many tests, bootstrap intervals."""

from collections.abc import Callable

import torch
from torch import Tensor

from pellucid.errors import PellucidError

_CHUNK = 64


def roc_auc(positive: Tensor, negative: Tensor) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        positive, negative: (n1,) and (n0,) scores.

    Returns:
        In [0, 1]; 0.5 where the scores say nothing.
    """
    difference = positive[:, None] - negative[None]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def rank_p_value(observed: Tensor, null: Tensor, *, two_sided: bool = False) -> Tensor:
    """How often chance does as well: (1 + #{null >= observed}) / (1 + P).

    Args:
        observed: (...,).
        null: (..., P) what chance gives.
        two_sided: compare sizes, whatever the sign.

    Returns:
        (...,) in [1 / (1 + P), 1].
    """
    if two_sided:
        observed, null = observed.abs(), null.abs()
    # Numbers that differ only by the order in which they were summed count as equal.
    least = observed - 1e-9 * observed.abs()
    return (1.0 + (null >= least[..., None]).double().sum(-1)) / (1.0 + null.shape[-1])


def bonferroni(p_values: Tensor) -> Tensor:
    """p-values times their number: bounds the chance of any false discovery."""
    return (p_values * p_values.numel()).clamp(max=1.0)


def holm(p_values: Tensor) -> Tensor:
    """Holm's step-down adjustment (1979): bounds the chance of any false discovery, never weaker than Bonferroni's."""
    ordered, order = p_values.flatten().sort()
    factors = torch.arange(len(ordered), 0, -1, dtype=ordered.dtype)
    return _restore_order((ordered * factors).cummax(0).values, order, p_values)


def benjamini_hochberg(p_values: Tensor) -> Tensor:
    """Benjamini and Hochberg's step-up adjustment (1995): bounds the expected share of false discoveries."""
    ordered, order = p_values.flatten().sort()
    factors = len(ordered) / torch.arange(1, len(ordered) + 1, dtype=ordered.dtype)
    return _restore_order((ordered * factors).flip(0).cummin(0).values.flip(0), order, p_values)


CORRECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "holm": holm,
    "benjamini_hochberg": benjamini_hochberg,
    "bonferroni": bonferroni,
    "none": lambda p_values: p_values,
}
"""Adjustments of p-values for many tests by name; each takes p-values of any shape and returns them in that shape."""


def correct(p_values: Tensor, correction: str) -> Tensor:
    """Adjust p-values of any shape for their number, by the name of the correction."""
    if correction not in CORRECTIONS:
        raise PellucidError(f"unknown correction {correction!r}: {', '.join(CORRECTIONS)}")
    return CORRECTIONS[correction](p_values)


def bootstrap_interval(
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
    """
    if not 0 < confidence < 1 or repeats < 1:
        raise PellucidError(
            f"confidence {confidence} and repeats {repeats}: wanted 0 < confidence < 1 and repeats >= 1"
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


def sign_flip_p_value(differences: Tensor, *, repeats: int = 4999, seed: int = 0) -> Tensor:
    """Two-sided test that paired differences are centered on zero, by flipping their signs at random.

    Args:
        differences: (N, ...) one per pair.
        repeats: random flips.
        seed: of the flips.

    Returns:
        (...,) in [1 / (1 + repeats), 1].
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (repeats, len(differences)), generator=generator).double() * 2 - 1
    flat = differences.double().flatten(1) if differences.ndim > 1 else differences.double()[:, None]
    null = (signs @ flat / len(flat)).T
    return rank_p_value(flat.mean(0), null, two_sided=True).reshape(differences.shape[1:])


def permutation_p_value(first: Tensor, second: Tensor, *, repeats: int = 4999, seed: int = 0) -> float:
    """Two-sided permutation test that two samples have the same mean; holds for samples without spread too.

    Args:
        first, second: (n,) and (m,).
        repeats: random relabellings.
        seed: of the relabellings.

    Returns:
        In [1 / (1 + repeats), 1].
    """
    generator = torch.Generator().manual_seed(seed)
    both = torch.cat([first, second]).double()
    order = torch.rand(repeats, len(both), generator=generator).argsort(1)
    shuffled = both[order]
    null = shuffled[:, : len(first)].mean(1) - shuffled[:, len(first) :].mean(1)
    observed = both[: len(first)].mean() - both[len(first) :].mean()
    return float(rank_p_value(observed, null, two_sided=True))


def _restore_order(ordered: Tensor, order: Tensor, like: Tensor) -> Tensor:
    adjusted = torch.empty_like(ordered)
    adjusted[order] = ordered.clamp(max=1.0)
    return adjusted.reshape(like.shape)
