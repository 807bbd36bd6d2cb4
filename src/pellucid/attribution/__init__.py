"""Attribution: where a classifier found its evidence, at the input or at any layer."""

from pellucid.attribution.batch_budget import BatchBudget, BatchLimits, ImageBatch, image_batches
from pellucid.attribution.cam import (
    AblationCAM,
    GradCAM,
    GradCAMPlusPlus,
    LayerCAM,
    ScoreCAM,
)
from pellucid.attribution.cases import Case, iterate_cases
from pellucid.attribution.explanation import Explanation
from pellucid.attribution.gradient import (
    Gradient,
    GuidedBackprop,
    InputXGradient,
    SmoothGrad,
)
from pellucid.attribution.integrated_gradients import IntegratedGradients, PathIntegral, integrate_path, refine_path
from pellucid.attribution.lrp import LRP, AlphaBeta, Epsilon, Flat, Gamma, IdentityRule, Rule, ZBox, ZPlus
from pellucid.attribution.method import Attribution, Method, explain, explain_case, make_methods
from pellucid.attribution.perturbation import RISE, Occlusion, occlusion_windows, rise_masks
from pellucid.attribution.smoothing import Smoothed, smooth
from pellucid.attribution.targets import Output, Target, TargetLike, count_targets
from pellucid.attribution.view import View, rows_per_image, select_heads
from pellucid.results import Passes

__all__ = [
    "LRP",
    "METHODS",
    "RISE",
    "AblationCAM",
    "AlphaBeta",
    "Attribution",
    "BatchBudget",
    "BatchLimits",
    "Case",
    "Epsilon",
    "Explanation",
    "Flat",
    "Gamma",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GuidedBackprop",
    "IdentityRule",
    "ImageBatch",
    "InputXGradient",
    "IntegratedGradients",
    "LayerCAM",
    "Method",
    "Occlusion",
    "Output",
    "Passes",
    "PathIntegral",
    "Rule",
    "ScoreCAM",
    "SmoothGrad",
    "Smoothed",
    "Target",
    "TargetLike",
    "View",
    "ZBox",
    "ZPlus",
    "count_targets",
    "explain",
    "explain_case",
    "image_batches",
    "integrate_path",
    "iterate_cases",
    "make_methods",
    "occlusion_windows",
    "refine_path",
    "rise_masks",
    "rows_per_image",
    "select_heads",
    "smooth",
]

METHODS: dict[str, type[Method]] = {
    method.__name__: method
    for method in (
        Gradient,
        InputXGradient,
        GuidedBackprop,
        IntegratedGradients,
        SmoothGrad,
        GradCAM,
        GradCAMPlusPlus,
        LayerCAM,
        AblationCAM,
        ScoreCAM,
        Occlusion,
        RISE,
        LRP,
    )
}
"""Attribution methods by name."""
