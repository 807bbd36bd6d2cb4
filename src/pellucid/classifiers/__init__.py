"""Classifiers, their layers, and the cut: a network seen from a layer is a function of an activation."""

from pellucid.classifiers.crossing import Carried
from pellucid.classifiers.layers import LayerInfo
from pellucid.classifiers.model import Classifier, Prediction
from pellucid.classifiers.view import Activation, LayerView
from pellucid.classifiers.zoo import available, load

__all__ = ["Activation", "Carried", "Classifier", "LayerInfo", "LayerView", "Prediction", "available", "load"]
