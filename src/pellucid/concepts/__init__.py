"""Concepts: what a classifier saw in images, and how much it counted for its classes."""

from pellucid.concepts.cav import CAV, null_directions
from pellucid.concepts.cav_fitting import fit_cav, fit_cavs, fit_layers
from pellucid.concepts.cav_store import load_cavs, save_cavs
from pellucid.concepts.class_explanation import ClassExplanation, Estimate, RankedConcept
from pellucid.concepts.collecting import collect_sets, concept_folders, draw_concept_set
from pellucid.concepts.concept_explanation import ConceptExplanation, adjust_over_layers
from pellucid.concepts.concept_maps import (
    Emblems,
    concept_map,
    contraharmonic_mean,
    negative_concept_map,
    sample_median,
)
from pellucid.concepts.concept_sets import ConceptSet, ConceptWarning, concept_set
from pellucid.concepts.estimators import ESTIMATORS, Estimator
from pellucid.concepts.explain_class import global_explanation, global_explanations
from pellucid.concepts.joint import JointAttribution, gram_matrix, joint_attribution
from pellucid.concepts.layer_fit import FitOptions
from pellucid.concepts.reference_attribution import (
    binary_class_weights,
    class_weights,
    direction_weights,
    reference_attribution,
    signed_contribution,
)
from pellucid.concepts.status import Status
from pellucid.concepts.tcav import TCAVResult, tcav
from pellucid.concepts.visual_tcav import VisualTCAV, explain_layers
from pellucid.statistics import CORRECTIONS

__all__ = [
    "CAV",
    "CORRECTIONS",
    "ESTIMATORS",
    "ClassExplanation",
    "ConceptExplanation",
    "ConceptSet",
    "ConceptWarning",
    "Emblems",
    "Estimate",
    "Estimator",
    "FitOptions",
    "JointAttribution",
    "RankedConcept",
    "Status",
    "TCAVResult",
    "VisualTCAV",
    "adjust_over_layers",
    "binary_class_weights",
    "class_weights",
    "collect_sets",
    "concept_folders",
    "concept_map",
    "concept_set",
    "contraharmonic_mean",
    "direction_weights",
    "draw_concept_set",
    "explain_layers",
    "fit_cav",
    "fit_cavs",
    "fit_layers",
    "global_explanation",
    "global_explanations",
    "gram_matrix",
    "joint_attribution",
    "load_cavs",
    "negative_concept_map",
    "null_directions",
    "reference_attribution",
    "sample_median",
    "save_cavs",
    "signed_contribution",
    "tcav",
]
