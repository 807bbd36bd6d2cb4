"""Morpho-MNIST: measuring and redrawing digits, perturbing them, and sets of digits with a known causal model."""

from pellucid.data.morphomnist.generating import (
    CAUSAL_MODELS,
    intensity_to_thickness,
    thickness_slant_width_to_intensity,
    thickness_to_intensity,
    thickness_to_slant,
)
from pellucid.data.morphomnist.measuring import MEASURES, Measures, measure, measure_intensity, measure_thickness
from pellucid.data.morphomnist.perturbing import fracture, swell, thicken, thin
from pellucid.data.morphomnist.rendering import Rendering, render
from pellucid.data.morphomnist.setting import SETTABLE, redraw, set_intensity, set_slant, set_thickness, set_width
from pellucid.data.structural import Interventions, Mechanism, StructuralModel

__all__ = [
    "CAUSAL_MODELS",
    "MEASURES",
    "SETTABLE",
    "Interventions",
    "Measures",
    "Mechanism",
    "Rendering",
    "StructuralModel",
    "fracture",
    "intensity_to_thickness",
    "measure",
    "measure_intensity",
    "measure_thickness",
    "redraw",
    "render",
    "set_intensity",
    "set_slant",
    "set_thickness",
    "set_width",
    "swell",
    "thicken",
    "thickness_slant_width_to_intensity",
    "thickness_to_intensity",
    "thickness_to_slant",
    "thin",
]
