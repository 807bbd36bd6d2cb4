"""Images drawn from a seed, whose causes are known: textures, tagged objects, digits, bars, and causal models.

Digits of Morpho-MNIST have a face of their own, `pellucid.synthetic.morphomnist`.
"""

from pellucid.synthetic.bars import BAR_FEATURES, IntensityClassifier, ThicknessClassifier, bars_model, draw_bars
from pellucid.synthetic.causal_model import CausalModel, Interventions, Mechanism
from pellucid.synthetic.strokes import draw_digits
from pellucid.synthetic.tagged_objects import BLANK, SHAPES, Scene, draw_scenes
from pellucid.synthetic.textures import COLORS, NEGATIVES, TEXTURES, draw_images

__all__ = [
    "BAR_FEATURES",
    "BLANK",
    "COLORS",
    "NEGATIVES",
    "SHAPES",
    "TEXTURES",
    "CausalModel",
    "IntensityClassifier",
    "Interventions",
    "Mechanism",
    "Scene",
    "ThicknessClassifier",
    "bars_model",
    "draw_bars",
    "draw_digits",
    "draw_images",
    "draw_scenes",
]
