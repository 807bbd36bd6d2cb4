"""p-values corrected for their number: the chance of any false discovery, or the share of false ones, stays bounded."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pellucid.errors import PellucidError

PValues = NDArray[np.float64]


def holm(p_values: ArrayLike) -> PValues:
    """Holm's step-down adjustment (1979): bounds the chance of any false discovery, whatever the dependence.

    Args:
        p_values: of any shape; NaN stay NaN and do not count.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    return _adjust(p_values, _step_down)


def benjamini_hochberg(p_values: ArrayLike) -> PValues:
    """Benjamini and Hochberg's step-up adjustment (1995): bounds the expected share of false discoveries.

    Args:
        p_values: of any shape; NaN stay NaN and do not count.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.04, 0.04]
    """
    from scipy.stats import false_discovery_control

    return _adjust(p_values, false_discovery_control)


def bonferroni(p_values: ArrayLike) -> PValues:
    """p-values times their number: bounds the chance of any false discovery.

    Args:
        p_values: of any shape; NaN stay NaN and do not count.

    >>> bonferroni([0.01, 0.04, 0.5]).tolist()
    [0.03, 0.12, 1.0]
    """
    return _adjust(p_values, lambda p: np.minimum(p * len(p), 1))


CORRECTIONS: dict[str, Callable[[ArrayLike], PValues]] = {
    "holm": holm,
    "benjamini_hochberg": benjamini_hochberg,
    "bonferroni": bonferroni,
    "none": lambda p_values: np.asarray(p_values, dtype=np.float64),
}
"""Adjustments of p-values for many tests by name; each takes p-values of any shape and returns them in that shape."""


def correct(p_values: Tensor, correction: str) -> Tensor:
    """Adjust p-values for their number, by the name of the correction.

    Args:
        p_values: (...,) of all tests that are made together.
        correction: a name from `CORRECTIONS`.

    Returns:
        (...,), in the type and on the device of the p-values.

    Raises:
        PellucidError: no such correction.

    >>> correct(torch.tensor([0.25, 0.5]), "bonferroni")
    tensor([0.5000, 1.0000])
    """
    if correction not in CORRECTIONS:
        raise PellucidError(f"unknown correction {correction!r}: {', '.join(CORRECTIONS)}")
    return torch.from_numpy(CORRECTIONS[correction](p_values.cpu().numpy())).to(p_values)


def _adjust(p_values: ArrayLike, adjust: Callable[[PValues], PValues]) -> PValues:
    """Adjust the p-values (m,) that are not NaN, in the shape of all."""
    p = np.asarray(p_values, dtype=np.float64)
    known = ~np.isnan(p)
    adjusted = np.full(p.shape, np.nan)
    if known.any():
        adjusted[known] = adjust(p[known])
    return adjusted


def _step_down(p: PValues) -> PValues:
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted
