"""The formulas of Visual-TCAV as pure functions: where a concept is seen, and how much it counts for a class.

First the concept map, which depends on no class: projections on a direction, the emblems that calibrate them. Then the
published score and the signed contribution, which take the axes N (images), D (directions) and T (targets), each of
which may be left out together:

    activation (N, C, h, w), integrated_gradients (N, T, C, h, w), direction (D, C), concept_map (N, D, h, w)
    -> (N, D, T)

De Santis, Campi, Bianchi, Brambilla: "Visual-TCAV: Concept-based Attribution and Saliency Maps for Post-hoc
Explainability in Image Classification" (2024).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.shapes import Float

STABILIZER = 1e-7
"""Added to the divisors of Visual-TCAV's reference algorithm."""


class Emblems(NamedTuple):
    """The two values that calibrate a concept map: the projections at which it is 0 and 1.

    The paper's word. The emblem of a set of images is the median over them of how strongly each shows the concept (the
    contraharmonic mean of its rectified projections).

    Attributes:
        low: what an image without the concept typically shows.
        high: what an image of the concept typically shows. The concept is separable at the layer if high > low.

    Example:
        >>> Emblems(low=0.1, high=2.0).high
        2.0
    """

    low: float
    high: float


def project_activation(activation: Float[Tensor, "..."], direction: Float[Tensor, "..."]) -> Float[Tensor, "... h w"]:
    """Project every cell on a direction: the scalar product sum_c p_c F_c,ij.

    Args:
        activation: (..., C, h, w).
        direction: (C,), or (D, C) for several.

    Returns:
        (..., h, w), or (..., D, h, w); signed.

    Raises:
        PellucidError: the shapes do not fit.

    Example:
        >>> project_activation(torch.ones(2, 3, 3), torch.tensor([2.0, -0.5])).unique().tolist()
        [1.5]
    """
    if activation.ndim < 3 or direction.ndim not in (1, 2) or direction.shape[-1] != activation.shape[-3]:
        raise PellucidError(
            f"a direction of shape {tuple(direction.shape)} does not fit an activation {tuple(activation.shape)}; "
            "expected (C,) or (D, C) with (..., C, h, w)"
        )
    direction = direction.to(activation)
    if direction.ndim == 1:
        return torch.einsum("...chw,c->...hw", activation, direction)
    return torch.einsum("...chw,dc->...dhw", activation, direction)


def contraharmonic_mean(
    values: Float[Tensor, "... h w"], weights: Float[Tensor, "... h w"] | None = None
) -> Float[Tensor, "..."]:
    """Average a map so that large cells dominate: sum r^2 / sum r over its cells.

    Args:
        values: (..., h, w), >= 0.
        weights: (..., h, w), >= 0: how much of each cell counts; broadcasts.

    Returns:
        (...,), in the unit of the values; 0 for a map of zeros.

    Example:
        >>> float(contraharmonic_mean(torch.tensor([[1.0, 3.0]])))
        2.5
    """
    weighted = values if weights is None else values * weights
    return (weighted * values).sum((-2, -1)) / (weighted.sum((-2, -1)) + STABILIZER)


def sample_median(values: Float[Tensor, "N ..."]) -> Float[Tensor, "..."]:
    """Take the median as one of the samples: of N in ascending order, number round((N - 1) / 2), half to even.

    The reference program's: counted from 0; for even N neither `torch.median` nor `torch.quantile` gives this one.

    Args:
        values: (N, ...).

    Returns:
        (...,).

    Example:
        >>> sample_median(torch.tensor([5.0, 1.0, 3.0])).item(), sample_median(torch.arange(1.0, 9)).item()
        (3.0, 5.0)
    """
    return values.sort(dim=0).values[round((len(values) - 1) / 2)]


def concept_map(
    activation: Float[Tensor, "... C h w"], direction: Float[Tensor, "... C"], low: float | Tensor, high: float | Tensor
) -> Float[Tensor, "... h w"]:
    """Map where, and how clearly, a concept is seen.

    M = (clip(ReLU(sum_c p_c F_c), low, high) - low) / (high - low), and 0 everywhere if high <= low: then the concept
    is not separable from other images at this layer. The scale is absolute: maps of several images are comparable.

    Args:
        activation: (..., C, h, w).
        direction: (C,) CAV, or (D, C) for several.
        low: lower emblem of the CAV, a number or (D,), in the unit of the projections.
        high: upper emblem, likewise.

    Returns:
        (..., h, w), or (..., D, h, w), in [0, 1].

    Example:
        >>> activation = torch.tensor([[[4.0, 0.0], [0.0, 2.0]]])
        >>> concept_map(activation, torch.tensor([1.0]), low=1.0, high=3.0).tolist()
        [[1.0, 0.0], [0.0, 0.5]]
    """
    raw = project_activation(activation, direction).relu()
    low, high = (_per_map(emblem, raw) for emblem in (low, high))
    separable = high > low
    width = torch.where(separable, high - low, 1.0)
    return torch.where(separable, (raw.clamp(min=low).clamp(max=high) - low) / width, 0.0)


def negative_concept_map(
    activation: Float[Tensor, "... C h w"], direction: Float[Tensor, "... C"], low: float | Tensor, high: float | Tensor
) -> Float[Tensor, "... h w"]:
    """Map where an image shows the opposite of a concept: the concept map of -direction, with its own emblems.

    Args:
        activation: (..., C, h, w).
        direction: (C,) CAV, or (D, C) for several.
        low: lower negative emblem: typical value of ReLU(-sum_c p_c F_c) on images of the concept.
        high: upper negative emblem: its typical value on images without the concept.

    Returns:
        As `concept_map`, in [0, 1].

    Example:
        >>> negative_concept_map(torch.tensor([[[-2.0, 2.0]]]), torch.tensor([1.0]), low=0.0, high=2.0).tolist()
        [[1.0, 0.0]]
    """
    return concept_map(activation, -direction, low, high)


def class_weights(logits: Float[Tensor, "*N K"], baseline_logits: Float[Tensor, "... K"]) -> Float[Tensor, "*N K"]:
    """Weigh classes by how far their logits rise above the baseline's, relative to the class that rises most.

    w_k = ReLU(z_k - z0_k) / max_l ReLU(z_l - z0_l); 0 for all classes if none rises.

    Args:
        logits: (..., K).
        baseline_logits: (..., K), of the baseline.

    Returns:
        (..., K), in [0, 1].

    Example:
        >>> class_weights(torch.tensor([3.0, 1.0, -1.0]), torch.tensor([1.0, 0.0, 0.0])).tolist()
        [1.0, 0.5, 0.0]
    """
    rise = (logits - baseline_logits).relu()
    largest = rise.amax(-1, keepdim=True)
    return torch.where(largest > 0, rise / torch.where(largest > 0, largest, 1.0), 0.0)


def binary_class_weights(integrated_gradients: Float[Tensor, "*N C h w"]) -> Float[Tensor, "*N 2"]:
    """Weigh the positive and the negative class of a network with one logit.

    Positive and negative mass of the logit's integrated gradients B, sum ReLU(B) and sum ReLU(-B), over the larger one.
    The classes' integrated gradients are B and -B.

    Args:
        integrated_gradients: (..., C, h, w) of the one logit.

    Returns:
        (..., 2), in [0, 1]: positive class, negative class.

    Example:
        >>> binary_class_weights(torch.tensor([[[4.0, -1.0]]])).tolist()
        [1.0, 0.25]
    """
    flat = integrated_gradients.flatten(-3)
    masses = torch.stack([flat.relu().sum(-1), (-flat).relu().sum(-1)], dim=-1)
    return class_weights(masses, torch.zeros_like(masses))


def direction_weights(
    activation: Float[Tensor, "..."], direction: Float[Tensor, "... C"], concept_map: Float[Tensor, "..."]
) -> Float[Tensor, "... C"]:
    """Turn a direction into weights of channels, largest 1.

    q = ReLU(p) where the image's activation is nowhere negative; else ReLU(s p), where s is -1 for the channels whose
    sum under the concept map is negative: there, a negative p raises the projection. The weights are q / max q.

    Args:
        activation: (C, h, w) or (N, C, h, w).
        direction: (C,) or (D, C).
        concept_map: (h, w), with the axes N and D where the others have them.

    Returns:
        (N, D, C) without the axes left out, in [0, 1]; 0 if no channel has a positive q.

    Raises:
        PellucidError: the shapes do not fit together.

    Example:
        >>> direction_weights(torch.ones(3, 2, 2), torch.tensor([1.0, -0.5, 0.25]), torch.ones(2, 2)).tolist()
        [1.0, 0.0, 0.25]
    """
    case = _Axes.of(activation, activation, direction, concept_map)
    return case.squeeze(_direction_weights(case.activation, case.direction, case.concept_map), targets=False)


def reference_attribution(
    activation: Float[Tensor, "..."],
    integrated_gradients: Float[Tensor, "..."],
    direction: Float[Tensor, "..."],
    concept_map: Float[Tensor, "..."],
    class_weight: float | Tensor,
) -> Float[Tensor, "..."]:
    """Score a concept for a class as published.

    The score is the share of the class's positive evidence that lies where the concept is seen and in channels aligned
    with it, times the class weight:

    a = sum_c phat_c sum_ij M_ij Ahat_c,ij with Ahat = ReLU(IG) / sum ReLU(IG) x w and phat from `direction_weights`.

    Args:
        activation: (C, h, w) or (N, C, h, w): F.
        integrated_gradients: (C, h, w), signed; with axes N and T as in the module's table.
        direction: (C,) CAV or (D, C).
        concept_map: (h, w) in [0, 1], with axes N and D.
        class_weight: number or (N, T): w, from `class_weights`.

    Returns:
        (N, D, T) without the axes left out; 0 <= a <= w <= 1.

    Raises:
        PellucidError: the shapes do not fit together.

    Example:
        >>> activation, evidence = torch.ones(2, 1, 2), torch.tensor([[[3.0, 1.0]], [[0.0, -4.0]]])
        >>> seen = torch.tensor([[1.0, 0.0]])
        >>> score = reference_attribution(activation, evidence, torch.tensor([1.0, 0.0]), seen, class_weight=1.0)
        >>> round(score.item(), 6)
        0.75
    """
    case = _Axes.of(activation, integrated_gradients, direction, concept_map)
    positive = case.gradients.relu()
    weight = torch.as_tensor(class_weight, dtype=positive.dtype, device=positive.device)
    if weight.numel() > 1:
        weight = weight.reshape(len(positive), 1, positive.shape[1])
    share = positive / (positive.sum((2, 3, 4), keepdim=True) + STABILIZER)
    return case.squeeze(_masked_sum(case, share) * weight)


def signed_contribution(
    activation: Float[Tensor, "..."],
    integrated_gradients: Float[Tensor, "..."],
    direction: Float[Tensor, "..."],
    concept_map: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    """Sum the evidence for (+) and against (-) the target where the concept is seen, in the target's unit (logits).

    S = sum_ij M_ij sum_c phat_c IG_c,ij; neither rectified nor normalized.

    Args:
        activation: as in `reference_attribution`.
        integrated_gradients: as in `reference_attribution`.
        direction: as in `reference_attribution`.
        concept_map: as in `reference_attribution`.

    Returns:
        (N, D, T) without the axes left out; signed. The parts of S come from ReLU(IG) and -ReLU(-IG).

    Raises:
        PellucidError: the shapes do not fit together.

    Example:
        >>> activation, evidence = torch.ones(2, 1, 2), torch.tensor([[[3.0, 1.0]], [[0.0, -4.0]]])
        >>> signed_contribution(activation, evidence, torch.tensor([0.5, 1.0]), torch.ones(1, 2)).item()
        -2.0
    """
    case = _Axes.of(activation, integrated_gradients, direction, concept_map)
    return case.squeeze(_masked_sum(case, case.gradients))


@dataclass(frozen=True)
class _Axes:
    """The arguments with all axes, and which of them the caller left out."""

    activation: Float[Tensor, "N C h w"]
    gradients: Tensor  # (N, T, C, h, w)
    direction: Tensor  # (D, C)
    concept_map: Tensor  # (N, D, h, w)
    has_images: bool
    has_directions: bool
    has_targets: bool

    @staticmethod
    def of(activation: Tensor, gradients: Tensor, direction: Tensor, concept_map: Tensor) -> "_Axes":
        """Check the shapes against each other and add the missing axes."""
        many = activation.ndim == 4
        full = activation if many else activation[None]
        fits = activation.ndim in (3, 4) and direction.ndim in (1, 2) and gradients.ndim - activation.ndim in (0, 1)
        try:
            images, channels, rows, columns = full.shape
            lines = direction.reshape(-1, channels)
            maps = concept_map.reshape(images, len(lines), rows, columns)
            values = gradients.reshape(images, -1, channels, rows, columns)
        except (RuntimeError, ValueError):
            fits = False
        if not fits:
            shapes = [tuple(tensor.shape) for tensor in (activation, gradients, direction, concept_map)]
            raise PellucidError(
                f"activation, integrated gradients, direction and concept map of shapes {shapes} do not fit together; "
                "expected (N, C, h, w), (N, T, C, h, w), (D, C) and (N, D, h, w), where N, D and T may be left out"
            )
        has_targets = gradients.ndim == activation.ndim + 1
        return _Axes(full, values, lines.to(full), maps, many, direction.ndim == 2, has_targets)

    def squeeze(self, result: Tensor, *, targets: bool = True) -> Tensor:
        """(N, D, T) without the axes left out; with `targets` False the last axis is none of them."""
        if targets and not self.has_targets:
            result = result[..., 0]
        if not self.has_directions:
            result = result[:, 0]
        return result if self.has_images else result[0]


def _direction_weights(activation: Tensor, direction: Tensor, concept_map: Tensor) -> Tensor:
    """(N, C, h, w), (D, C), (N, D, h, w) -> (N, D, C)."""
    under_map = torch.einsum("ndhw,nchw->ndc", concept_map, activation)
    has_negative = activation.flatten(1).amin(1) < 0
    flipped = (under_map < 0) & has_negative[:, None, None]
    aligned = torch.where(flipped, -direction, direction).relu()
    largest = aligned.amax(-1, keepdim=True)
    return torch.where(largest > 0, aligned / torch.where(largest > 0, largest, 1.0), 0.0)


def _masked_sum(case: _Axes, evidence: Tensor) -> Tensor:
    """sum_c phat_c sum_ij M_ij evidence_c,ij: (N, D, T)."""
    weights = _direction_weights(case.activation, case.direction, case.concept_map)
    pooled = torch.einsum("ndhw,ntchw->ndtc", case.concept_map, evidence)
    return torch.einsum("ndtc,ndc->ndt", pooled, weights)


def _per_map(emblem: float | Tensor, raw: Tensor) -> Tensor:
    emblem = torch.as_tensor(emblem, dtype=raw.dtype, device=raw.device)
    return emblem[:, None, None] if emblem.ndim == 1 else emblem
