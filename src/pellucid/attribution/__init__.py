"""Attribution: where a classifier found its evidence, at the input or at any layer."""

from pellucid.attribution.cam import (
    AblationCAM,
    GradCAM,
    GradCAMPlusPlus,
    LayerCAM,
    ScoreCAM,
)
from pellucid.attribution.case import Case
from pellucid.attribution.cases import explain
from pellucid.attribution.explanation import Explanation
from pellucid.attribution.gradient import (
    Gradient,
    GuidedBackprop,
    InputXGradient,
    SmoothGrad,
)
from pellucid.attribution.integrated_gradients import IntegratedGradients
from pellucid.attribution.lrp import LRP
from pellucid.attribution.method import Attribution, Method
from pellucid.attribution.method_names import make_methods
from pellucid.attribution.perturbation import RISE, Occlusion
from pellucid.attribution.smoothed import Smoothed
from pellucid.attribution.smoothing import smooth
from pellucid.attribution.targets import Target
from pellucid.attribution.view import View
from pellucid.results import Passes

__all__ = [
    "LRP",
    "METHODS",
    "RISE",
    "AblationCAM",
    "Attribution",
    "Case",
    "Explanation",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GuidedBackprop",
    "InputXGradient",
    "IntegratedGradients",
    "LayerCAM",
    "Method",
    "Occlusion",
    "Passes",
    "ScoreCAM",
    "SmoothGrad",
    "Smoothed",
    "Target",
    "View",
    "explain",
    "make_methods",
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
