"""The surrogate (GLANCE): why does the classifier decide so?"""

from pellucid.surrogate.assess.assessment import Assessment, Control
from pellucid.surrogate.assess.leakage import ConceptLeakage, ContextMeasurement, Measure, concept_leakage
from pellucid.surrogate.assess.morphometry import digit_measure, digit_rerender, measure_digits
from pellucid.surrogate.assess.realism import Realism
from pellucid.surrogate.explain.concept_effects import ConceptEffect, fit_structural_models
from pellucid.surrogate.explain.counterfactual import Counterfactual
from pellucid.surrogate.explain.decision_effects import (
    DECISION_NODE,
    DOSE_QUANTILES,
    DecisionEffect,
    NuisanceNull,
    measure_decision_effects,
)
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, margin, predict_class, probabilities
from pellucid.surrogate.explain.global_explanation import (
    MIN_PROBE_R2,
    GlobalExplanation,
    GlobalOptions,
    r2_by_context,
)
from pellucid.surrogate.explain.local_explanation import LocalExplanation, LocalOptions
from pellucid.surrogate.explain.minimal_counterfactual import (
    FlipOptions,
    MinimalCounterfactual,
    find_minimal_counterfactual,
)
from pellucid.surrogate.explain.necessity import Necessity, Proportion
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.explain.shapley import Importance, shapley_importance
from pellucid.surrogate.explain.traversal import LatentTraversal, traverse_latent
from pellucid.surrogate.explain.validity import MIN_EFFECTIVENESS, ControlGate, Fidelity, RefusedError, measure_fidelity
from pellucid.surrogate.explainer import SurrogateExplainer, load
from pellucid.surrogate.model.auxiliary_models import AuxiliaryQuality
from pellucid.surrogate.model.codes import Codes, SurrogateProtocol
from pellucid.surrogate.model.features import LOGITS_ONLY
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.pretrained import digit_surrogate, pretrained_folder
from pellucid.surrogate.surrogate import Surrogate
from pellucid.surrogate.training import CheckpointError, DivergedError, train
from pellucid.surrogate.training_options import PRESETS, LossWeights, Rerender, TrainingOptions, get_preset

__all__ = [
    "DECISION_NODE",
    "DOSE_QUANTILES",
    "LOGITS_ONLY",
    "MIN_EFFECTIVENESS",
    "MIN_PROBE_R2",
    "PRESETS",
    "Assessment",
    "AuxiliaryQuality",
    "CheckpointError",
    "Codes",
    "ConceptEffect",
    "ConceptLeakage",
    "ContextMeasurement",
    "Control",
    "ControlGate",
    "Counterfactual",
    "DecisionEffect",
    "DisplaySpace",
    "DivergedError",
    "EncodedBatch",
    "Fidelity",
    "FlipOptions",
    "GlobalExplanation",
    "GlobalOptions",
    "Importance",
    "LatentTraversal",
    "LocalExplanation",
    "LocalOptions",
    "LossWeights",
    "Measure",
    "MinimalCounterfactual",
    "Necessity",
    "NuisanceNull",
    "Proportion",
    "Realism",
    "ReferenceSet",
    "RefusedError",
    "Rerender",
    "Surrogate",
    "SurrogateExplainer",
    "SurrogateProtocol",
    "TrainingOptions",
    "concept_leakage",
    "digit_measure",
    "digit_rerender",
    "digit_surrogate",
    "find_minimal_counterfactual",
    "fit_structural_models",
    "get_preset",
    "load",
    "margin",
    "measure_decision_effects",
    "measure_digits",
    "measure_fidelity",
    "predict_class",
    "pretrained_folder",
    "probabilities",
    "r2_by_context",
    "shapley_importance",
    "train",
    "traverse_latent",
]
