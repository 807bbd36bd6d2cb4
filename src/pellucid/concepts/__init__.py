"""Concepts: what a classifier saw in images, and how much it counted for its classes."""

from pellucid.concepts.cav import CAV, WEAK_AUC, cav_files, check_cavs, load_cavs, null_directions, save_cavs
from pellucid.concepts.cav_fitting import fit_cav, fit_cavs
from pellucid.concepts.class_explanation import SEEN, Bootstrap, ClassExplanation, Estimate, RankedConcept, class_rows
from pellucid.concepts.concept_explanation import ConceptExplanation, adjust_over_layers, concept_rows
from pellucid.concepts.concept_scores import (
    Emblems,
    binary_class_weights,
    class_weights,
    concept_map,
    direction_weights,
    negative_concept_map,
    project_activation,
    reference_attribution,
    signed_contribution,
)
from pellucid.concepts.concept_sets import (
    FEW_IMAGES,
    ConceptSet,
    ConceptWarning,
    collect_sets,
    concept_folders,
    concept_set,
    draw_concept_set,
)
from pellucid.concepts.concept_table import COLUMNS, cav_rows, write_table
from pellucid.concepts.estimators import ESTIMATORS, Estimator, fit_directions
from pellucid.concepts.evidence import Evidence, compute_concept_maps, gather_evidence, score_directions
from pellucid.concepts.global_visual_tcav import explain_class
from pellucid.concepts.joint import JointAttribution, gram_matrix, joint_attribution
from pellucid.concepts.layer_fit import FitOptions
from pellucid.concepts.status import Status
from pellucid.concepts.tcav_scores import TCAVResult, tcav, tcav_rows
from pellucid.concepts.visual_tcav import VisualTCAV, explain_layers
from pellucid.statistics import CORRECTIONS

__all__ = [
    "CAV",
    "COLUMNS",
    "CORRECTIONS",
    "ESTIMATORS",
    "FEW_IMAGES",
    "SEEN",
    "WEAK_AUC",
    "Bootstrap",
    "ClassExplanation",
    "ConceptExplanation",
    "ConceptSet",
    "ConceptWarning",
    "Emblems",
    "Estimate",
    "Estimator",
    "Evidence",
    "FitOptions",
    "JointAttribution",
    "RankedConcept",
    "Status",
    "TCAVResult",
    "VisualTCAV",
    "adjust_over_layers",
    "binary_class_weights",
    "cav_files",
    "cav_rows",
    "check_cavs",
    "class_rows",
    "class_weights",
    "collect_sets",
    "compute_concept_maps",
    "concept_folders",
    "concept_map",
    "concept_rows",
    "concept_set",
    "direction_weights",
    "draw_concept_set",
    "explain_class",
    "explain_layers",
    "fit_cav",
    "fit_cavs",
    "fit_directions",
    "gather_evidence",
    "gram_matrix",
    "joint_attribution",
    "load_cavs",
    "negative_concept_map",
    "null_directions",
    "project_activation",
    "reference_attribution",
    "save_cavs",
    "score_directions",
    "signed_contribution",
    "tcav",
    "tcav_rows",
    "write_table",
]
