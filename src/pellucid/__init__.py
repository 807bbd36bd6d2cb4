"""pellucid: explains image classifiers and proves its explanations."""

__version__ = "0.1.0"

from pellucid import attribution, classifiers, data
from pellucid.classifiers import Classifier, available, load
from pellucid.errors import PellucidError

__all__ = ["Classifier", "PellucidError", "attribution", "available", "classifiers", "data", "load"]
