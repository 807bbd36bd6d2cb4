"""Where a concept is seen: projections on a direction, the emblems that calibrate them, and concept maps."""

from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.errors import PellucidError

STABILIZER = 1e-7
"""Added to the divisors of Visual-TCAV's reference algorithm."""


class Emblems(NamedTuple):
    """The projections at which a concept map is 0 and 1.

    Attributes:
        low: what an image without the concept typically shows.
        high: what an image of the concept typically shows. The concept is separable at the layer if high > low.
    """

    low: float
    high: float


def project(activation: Tensor, direction: Tensor) -> Tensor:
    """Scalar product of every cell with a direction, sum_c p_c F_c,ij.

    Args:
        activation: (..., C, h, w).
        direction: (C,), or (D, C) for several.

    Returns:
        (..., h, w), or (..., D, h, w); signed.
    """
    if activation.ndim < 3 or direction.ndim not in (1, 2) or direction.shape[-1] != activation.shape[-3]:
        raise PellucidError(
            f"a direction of shape {tuple(direction.shape)} does not fit an activation {tuple(activation.shape)}; "
            "wanted (C,) or (D, C) with (..., C, h, w)"
        )
    direction = direction.to(activation)
    if direction.ndim == 1:
        return torch.einsum("...chw,c->...hw", activation, direction)
    return torch.einsum("...chw,dc->...dhw", activation, direction)


def contraharmonic_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """sum r^2 / sum r over the cells of a map: the mean that large cells dominate.

    Args:
        values: (..., h, w), >= 0.
        weights: (..., h, w), >= 0: how much of each cell counts; broadcasts.

    Returns:
        (...,), in the unit of the values; 0 for a map of zeros.
    """
    weighted = values if weights is None else values * weights
    return (weighted * values).sum((-2, -1)) / (weighted.sum((-2, -1)) + STABILIZER)


def sample_median(values: Tensor) -> Tensor:
    """The median as one of the samples: of N in descending order, number round((N - 1) / 2), half to even.

    For even N neither `torch.median` nor `torch.quantile` gives this one.

    Args:
        values: (N, ...).

    Returns:
        (...,).
    """
    return values.sort(dim=0, descending=True).values[round((len(values) - 1) / 2)]


def concept_map(activation: Tensor, direction: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Where, and how clearly, a concept is seen (Visual-TCAV, De Santis et al., 2024).

    M = (clip(ReLU(sum_c p_c F_c), low, high) - low) / (high - low), and 0 everywhere if high <= low: then the concept
    cannot be told from other images at this layer. The scale is absolute: maps of several images are comparable.

    Args:
        activation: (..., C, h, w).
        direction: (C,) CAV, or (D, C) for several.
        low, high: emblems of the CAV, numbers or (D,).

    Returns:
        (..., h, w), or (..., D, h, w), in [0, 1].
    """
    raw = project(activation, direction).relu()
    low, high = (_per_map(emblem, raw) for emblem in (low, high))
    separable = high > low
    width = torch.where(separable, high - low, 1.0)
    return torch.where(separable, (raw.clamp(min=low).clamp(max=high) - low) / width, 0.0)


def negative_concept_map(activation: Tensor, direction: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Where an image shows the opposite of a concept: the concept map of -direction, with its own emblems.

    Args:
        activation, direction: as in `concept_map`.
        low, high: the negative emblems: typical values of ReLU(-sum_c p_c F_c) on images of the concept (low) and on
            images without it (high).

    Returns:
        As `concept_map`, in [0, 1].
    """
    return concept_map(activation, -direction, low, high)


def _per_map(emblem: float | Tensor, raw: Tensor) -> Tensor:
    emblem = torch.as_tensor(emblem, dtype=raw.dtype, device=raw.device)
    return emblem[:, None, None] if emblem.ndim == 1 else emblem
