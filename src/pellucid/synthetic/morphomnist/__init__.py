"""Morpho-MNIST: measuring and redrawing digits, and sets of digits with a known causal model."""

from pellucid.synthetic.morphomnist.digit_sets import (
    CAUSAL_MODELS,
    Rendering,
    intensity_to_thickness,
    render,
    thickness_slant_width_to_intensity,
    thickness_to_intensity,
    thickness_to_slant,
)
from pellucid.synthetic.morphomnist.measures import (
    MEASURES,
    Measures,
    measure,
    measure_intensity,
    measure_thickness,
)
from pellucid.synthetic.morphomnist.redrawing import (
    SETTABLE,
    redraw,
    set_intensity,
    set_slant,
    set_thickness,
    set_width,
)

__all__ = [
    "CAUSAL_MODELS",
    "MEASURES",
    "SETTABLE",
    "Measures",
    "Rendering",
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
    "thickness_slant_width_to_intensity",
    "thickness_to_intensity",
    "thickness_to_slant",
]
