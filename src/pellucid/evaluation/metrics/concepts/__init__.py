"""Are explanations by concepts true? Concept maps against masks, concepts removed, and concepts in grids."""

from pellucid.evaluation.metrics.concepts.agreement import (
    balanced_mse,
    cell_shares,
    false_alarm,
    soft_iou,
)
from pellucid.evaluation.metrics.concepts.pointing import (
    ConceptPointing,
    concept_evidence,
    concept_grids,
    concept_pointing_game,
)
from pellucid.evaluation.metrics.concepts.removal import (
    ConceptCurves,
    concept_amounts,
    deletion_rank_correlation,
    remove_concepts,
)

__all__ = [
    "ConceptCurves",
    "ConceptPointing",
    "balanced_mse",
    "cell_shares",
    "concept_amounts",
    "concept_evidence",
    "concept_grids",
    "concept_pointing_game",
    "deletion_rank_correlation",
    "false_alarm",
    "remove_concepts",
    "soft_iou",
]
