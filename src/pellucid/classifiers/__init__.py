"""Classifiers, their layers, and the cut: a network seen from a layer is a function of an activation."""

from pellucid.classifiers.classifier import Classifier, Prediction
from pellucid.classifiers.layer_view import Activation, LayerView
from pellucid.classifiers.layers import LayerInfo
from pellucid.classifiers.loading.registry import available, load
from pellucid.classifiers.multi_view import LayerOutputs, MultiView, Segment
from pellucid.classifiers.randomize import (
    Randomized,
    randomizable_layers,
    randomize_cascading,
    randomize_independent,
    reinitialize,
    replace_module,
)
from pellucid.classifiers.side_inputs import SideInputs

__all__ = [
    "Activation",
    "Classifier",
    "LayerInfo",
    "LayerOutputs",
    "LayerView",
    "MultiView",
    "Prediction",
    "Randomized",
    "Segment",
    "SideInputs",
    "available",
    "load",
    "randomizable_layers",
    "randomize_cascading",
    "randomize_independent",
    "reinitialize",
    "replace_module",
]
