"""From the evidence at a layer to the maps, scores and statuses of concepts."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.concepts.cav import CAV
from pellucid.concepts.concept_explanation import DirectionScores
from pellucid.concepts.concept_maps import concept_map, negative_concept_map
from pellucid.concepts.evidence import Evidence
from pellucid.concepts.reference_attribution import direction_weights, reference_attribution, signed_contribution
from pellucid.concepts.status import Status, choose_statuses


def compute_concept_maps(activation: Tensor, cavs: Sequence[CAV]) -> tuple[Tensor, Tensor]:
    """Concept maps and negative concept maps (N, D, h, w) of D concepts, in [0, 1]."""
    directions = torch.stack([cav.direction for cav in cavs])
    low, high = torch.tensor([cav.emblems for cav in cavs]).T
    negative_low, negative_high = torch.tensor([cav.negative_emblems for cav in cavs]).T
    return (
        concept_map(activation, directions, low, high),
        negative_concept_map(activation, directions, negative_low, negative_high),
    )


def score_directions(
    evidence: Evidence, directions: Tensor, low: float | Tensor, high: float | Tensor
) -> DirectionScores:
    """Scores (N, S, T) of S directions (S, C) in place of a CAV, with emblems that are numbers or (S,)."""
    reference, signed = [], []
    directions = directions.to(evidence.activation)
    # Image by image: S maps of a batch would be large at early layers.
    for image, activation in enumerate(evidence.activation):
        maps = concept_map(activation, directions, low, high)
        evidence_for = evidence.reference[image], evidence.path.mean[image] * evidence.path.difference[image]
        weights = evidence.class_weights[image]
        reference.append(reference_attribution(activation, evidence_for[0], directions, maps, weights))
        signed.append(signed_contribution(activation, evidence_for[1], directions, maps))
    return DirectionScores(torch.stack(reference), torch.stack(signed))


def find_statuses(
    evidence: Evidence,
    cavs: Sequence[CAV],
    maps: Tensor,
    reference: Tensor,
    signed: Tensor,
    tolerance: float | None,
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """A `Status` for each reference score and each signed contribution, (N, D, T)."""
    directions = torch.stack([cav.direction for cav in cavs])
    aligned = direction_weights(evidence.activation, directions, maps).any(-1)  # (N, D)
    zero = {
        Status.NOT_SEPARABLE: torch.tensor([not cav.is_separable for cav in cavs])[None, :, None],
        Status.NO_POSITIVE_DIRECTION: ~aligned[:, :, None],
        Status.EMPTY_MAP: ~maps.flatten(2).any(-1)[:, :, None],
    }
    weak = {Status.CAV_WEAK: torch.tensor([cav.is_weak for cav in cavs])[None, :, None]}
    no_weight = evidence.class_weights[:, None] == 0
    missed = evidence.path.relative_gap[:, None] > (torch.inf if tolerance is None else tolerance)
    return (
        choose_statuses(zero | {Status.CLASS_WEIGHT_ZERO: no_weight, Status.NO_EVIDENCE: reference == 0} | weak),
        choose_statuses(zero | {Status.NO_EVIDENCE: signed == 0, Status.NOT_CONVERGED: missed} | weak),
    )
