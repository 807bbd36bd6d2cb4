"""pellucid: explains image classifiers and proves its explanations.

import pellucid as pl

classifier = pl.load("efficientnet_lite0")
images = classifier.read("cat.jpg")
explanation = pl.attribution.GradCAM()(classifier.at("final"), images, "tabby")
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pellucid._version import __version__ as __version__

if TYPE_CHECKING:
    from pellucid import attribution, classifiers, concepts, data, evaluation, reports, results, surrogate, workflows
    from pellucid.classifiers import Classifier, available, load
    from pellucid.errors import PellucidError

__all__ = [
    "Classifier",
    "PellucidError",
    "attribution",
    "available",
    "classifiers",
    "concepts",
    "data",
    "evaluation",
    "load",
    "reports",
    "results",
    "surrogate",
    "workflows",
]

_HOMES = {
    "Classifier": "pellucid.classifiers",
    "available": "pellucid.classifiers",
    "load": "pellucid.classifiers",
    "PellucidError": "pellucid.errors",
}


def __getattr__(name: str) -> object:
    # Torch takes seconds to import; `pellucid --help` should not.
    if name not in __all__:
        raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    return import_module(f"pellucid.{name}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
