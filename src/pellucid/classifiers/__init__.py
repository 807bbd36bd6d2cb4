"""Classifiers, their layers, and the cut: a network seen from a layer is a function of an activation."""

from pellucid.classifiers.classifier import Classifier, Prediction
from pellucid.classifiers.layer_view import Activation, LayerView
from pellucid.classifiers.layers import LayerInfo
from pellucid.classifiers.loading.registry import available, load
from pellucid.classifiers.randomize import Randomised, randomisable, randomise_cascadingly, randomise_independently
from pellucid.classifiers.side_inputs import Carried

__all__ = [
    "Activation",
    "Carried",
    "Classifier",
    "LayerInfo",
    "LayerView",
    "Prediction",
    "Randomised",
    "available",
    "load",
    "randomisable",
    "randomise_cascadingly",
    "randomise_independently",
]
