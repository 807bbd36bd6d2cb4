"""Classifiers, their layers, and the cut: a network seen from a layer is a function of an activation."""

from pellucid.classifiers.classifier import Classifier, Prediction
from pellucid.classifiers.cut import logits_agree
from pellucid.classifiers.image_input import stack_inputs
from pellucid.classifiers.layer_view import Activation, LayerView
from pellucid.classifiers.layers import LayerInfo
from pellucid.classifiers.layout import Layout
from pellucid.classifiers.loading.digit_cnn import DIGIT_WEIGHTS, digit_cnn, make_digit_preprocess
from pellucid.classifiers.loading.efficientnet_lite import SamePadding
from pellucid.classifiers.loading.loaded_model import imagenet_class_names, imagenet_synsets
from pellucid.classifiers.loading.registry import ModelEntry, available, load, names_factory
from pellucid.classifiers.loading.weights import copy_in_order, load_weights
from pellucid.classifiers.multi_view import LayerOutputs, MultiView, Segment
from pellucid.classifiers.precision import Precision, run_errors
from pellucid.classifiers.randomize import (
    Randomized,
    randomizable_layers,
    randomize_cascading,
    randomize_independent,
    reinitialize,
    replace_module,
)
from pellucid.classifiers.side_inputs import SideInputs
from pellucid.classifiers.tracing import ancestors

__all__ = [
    "DIGIT_WEIGHTS",
    "Activation",
    "Classifier",
    "LayerInfo",
    "LayerOutputs",
    "LayerView",
    "Layout",
    "ModelEntry",
    "MultiView",
    "Precision",
    "Prediction",
    "Randomized",
    "SamePadding",
    "Segment",
    "SideInputs",
    "ancestors",
    "available",
    "copy_in_order",
    "digit_cnn",
    "imagenet_class_names",
    "imagenet_synsets",
    "load",
    "load_weights",
    "logits_agree",
    "make_digit_preprocess",
    "names_factory",
    "randomizable_layers",
    "randomize_cascading",
    "randomize_independent",
    "reinitialize",
    "replace_module",
    "run_errors",
    "stack_inputs",
]
