"""How much a concept counted: Visual-TCAV's reference score and the signed contribution, as pure functions.

All take the axes N (images), D (directions) and T (targets), each of which may be left out together:

    activation (N, C, h, w), integrated_gradients (N, T, C, h, w), direction (D, C), concept_map (N, D, h, w)
    -> (N, D, T)

De Santis, Campi, Bianchi, Brambilla: "Visual-TCAV: Concept-based Attribution and Saliency Maps for Post-hoc
Explainability in Image Classification" (2024).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.concepts.concept_maps import STABILIZER
from pellucid.errors import PellucidError


def class_weights(logits: Tensor, baseline_logits: Tensor) -> Tensor:
    """How far each class's logit rises above the baseline's, relative to the class that rises most.

    w_k = ReLU(z_k - z0_k) / max_l ReLU(z_l - z0_l); 0 for all classes if none rises.

    Args:
        logits, baseline_logits: (..., K).

    Returns:
        (..., K), in [0, 1].
    """
    rise = (logits - baseline_logits).relu()
    largest = rise.amax(-1, keepdim=True)
    return torch.where(largest > 0, rise / torch.where(largest > 0, largest, 1.0), 0.0)


def binary_class_weights(integrated_gradients: Tensor) -> Tensor:
    """Weights of the positive and the negative class of a network with one logit.

    Positive and negative mass of the logit's integrated gradients B, sum ReLU(B) and sum ReLU(-B), over the larger one.
    The classes' integrated gradients are B and -B.

    Args:
        integrated_gradients: (..., C, h, w) of the one logit.

    Returns:
        (..., 2), in [0, 1]: positive class, negative class.
    """
    flat = integrated_gradients.flatten(-3)
    masses = torch.stack([flat.relu().sum(-1), (-flat).relu().sum(-1)], dim=-1)
    return class_weights(masses, torch.zeros_like(masses))


def direction_weights(activation: Tensor, direction: Tensor, concept_map: Tensor) -> Tensor:
    """The direction as weights of channels, largest 1.

    q = ReLU(p) where the image's activation is nowhere negative; else ReLU(s p), where s is -1 for the channels whose
    sum under the concept map is negative: there, a negative p raises the projection. The weights are q / max q.

    Args:
        activation: (C, h, w) or (N, C, h, w).
        direction: (C,) or (D, C).
        concept_map: (h, w), with the axes N and D where the others have them.

    Returns:
        (N, D, C) without the axes left out, in [0, 1]; 0 if no channel has a positive q.
    """
    case = _Axes.of(activation, activation, direction, concept_map)
    return case.squeeze(_direction_weights(case.activation, case.direction, case.concept_map), targets=False)


def reference_attribution(
    activation: Tensor,
    integrated_gradients: Tensor,
    direction: Tensor,
    concept_map: Tensor,
    class_weight: float | Tensor,
) -> Tensor:
    """The share of the class's positive evidence that lies where the concept is seen and in channels aligned with it.

    a = sum_c phat_c sum_ij M_ij Ahat_c,ij with Ahat = ReLU(IG) / sum ReLU(IG) x w and phat from `direction_weights`.

    Args:
        activation: (C, h, w) or (N, C, h, w): F.
        integrated_gradients: (C, h, w), signed; with axes N and T as in the module's table.
        direction: (C,) CAV or (D, C).
        concept_map: (h, w) in [0, 1], with axes N and D.
        class_weight: number or (N, T): w, from `class_weights`.

    Returns:
        (N, D, T) without the axes left out; 0 <= a <= w <= 1.
    """
    case = _Axes.of(activation, integrated_gradients, direction, concept_map)
    positive = case.gradients.relu()
    weight = torch.as_tensor(class_weight, dtype=positive.dtype, device=positive.device)
    if weight.numel() > 1:
        weight = weight.reshape(len(positive), 1, positive.shape[1])
    share = positive / (positive.sum((2, 3, 4), keepdim=True) + STABILIZER)
    return case.squeeze(_masked_sum(case, share) * weight)


def signed_contribution(
    activation: Tensor, integrated_gradients: Tensor, direction: Tensor, concept_map: Tensor
) -> Tensor:
    """Evidence for (+) and against (-) the target where the concept is seen, in the target's own unit (logits).

    S = sum_ij M_ij sum_c phat_c IG_c,ij; neither rectified nor normalized.

    Args:
        activation, integrated_gradients, direction, concept_map: as in `reference_attribution`.

    Returns:
        (N, D, T) without the axes left out; signed. The parts of S come from ReLU(IG) and -ReLU(-IG).
    """
    case = _Axes.of(activation, integrated_gradients, direction, concept_map)
    return case.squeeze(_masked_sum(case, case.gradients))


@dataclass(frozen=True)
class _Axes:
    """The arguments with all axes, and which of them the caller left out."""

    activation: Tensor  # (N, C, h, w)
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
            found = [tuple(tensor.shape) for tensor in (activation, gradients, direction, concept_map)]
            raise PellucidError(
                f"activation, integrated gradients, direction and concept map of shapes {found} do not fit together; "
                "wanted (N, C, h, w), (N, T, C, h, w), (D, C) and (N, D, h, w), where N, D and T may be left out"
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
