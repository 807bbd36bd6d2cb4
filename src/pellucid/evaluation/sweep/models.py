"""Where the models of a run come from, and their variants that have forgotten their weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pellucid.classifiers import Classifier, load, randomizable_layers, randomize_cascading, replace_module
from pellucid.errors import ModelError, PellucidError
from pellucid.evaluation.metrics import cascade_steps
from pellucid.evaluation.settings import (
    DiFull,
    DiPart,
    GridPG,
    GridSetting,
)
from pellucid.evaluation.sweep.plan import PlannedModel
from pellucid.evaluation.sweep.sweep_options import SweepOptions


@dataclass(frozen=True)
class ModelSource:
    """A model that every process of a run can load, or one that lives in this process only.

    Attributes:
        name, weights, device, input_size, class_names: as `pellucid.load` takes them.
        classifier: used as it is; it cannot be sent to other machines.
    """

    name: str
    weights: str | Path | None = None
    device: str | None = None
    input_size: int | tuple[int, int] | None = None
    classifier: Classifier | None = field(default=None, compare=False)
    class_names: Sequence[str] | Mapping[Any, Any] | None = None

    @staticmethod
    def of(model: "ModelSource | Classifier | str") -> "ModelSource":
        """A source of whatever a caller calls a model."""
        if isinstance(model, Classifier):
            return ModelSource(model.name, classifier=model)
        return ModelSource(model) if isinstance(model, str) else model

    def load(self) -> Classifier:
        """The classifier."""
        if self.classifier is not None:
            return self.classifier
        return load(
            self.name,
            weights=self.weights,
            device=self.device,
            input_size=self.input_size,
            class_names=self.class_names,
        )


def plan_model(classifier: Classifier, options: SweepOptions) -> PlannedModel:
    """What the numbers of a run depend on in a classifier.

    Raises:
        LayerError: no such layer.
        PellucidError: two names for one layer.
    """
    layers = tuple(classifier.resolve(layer) for layer in options.layers)
    for index, name in enumerate(layers):
        if name in layers[:index]:
            other = options.layers[layers.index(name)]
            raise PellucidError(
                f"{other!r} and {options.layers[index]!r} are one layer of {classifier.name}, {name}; name it once"
            )
    precision = classifier.precision
    cascade, steps = _cascade(classifier, options.randomize)
    return PlannedModel(
        name=classifier.name,
        fingerprint=classifier.fingerprint(),
        precision=f"{precision.device.type} {precision.dtype} {precision.autocast} {precision.channels_last}",
        input_shape=classifier.input_shape,
        preprocess=re.sub(" at 0x[0-9a-f]+", "", repr(classifier.preprocess)),
        layers=layers,
        cascade=cascade,
        steps=steps,
    )


def _cascade(classifier: Classifier, randomize: int | Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if not randomize:
        return (), (0,)
    if not isinstance(randomize, int):
        next(randomize_cascading(classifier.module, layers=randomize))  # checks the names
        return tuple(randomize), tuple(range(len(randomize) + 1))
    names = randomizable_layers(classifier.module)
    if not names:
        raise ModelError(f"{classifier.name} has no weights that could be randomized")
    return names, (0, *cascade_steps(len(names), randomize))


def load_variant(classifier: Classifier, planned: PlannedModel, variant: int, seed: int) -> Classifier:
    """The classifier with as many layers of the cascade set back as the variant says.

    Args:
        classifier: the trained one, which is not changed.
        planned: its cascade.
        variant: index into `planned.steps`; 0 is the classifier itself.
        seed: of the random weights.
    """
    step = planned.steps[variant]
    if not step:
        return classifier
    cascade = randomize_cascading(classifier.module, seed=seed, layers=planned.cascade[:step])
    return replace_module(classifier, next(islice(cascade, step - 1, None)).network)


def make_setting(name: str, classifier: Classifier, options: SweepOptions) -> GridSetting:
    """A grid setting by name.

    Args:
        name: one of `SETTINGS`.
        classifier: of the cells.
        options: the grid, and how GridPG orders its head.

    Raises:
        ModelError: it is not defined for this classifier; the message says why.
    """
    if name == "GridPG":
        return GridPG(classifier, options.grid, order=options.order, head=options.head)
    if name == "DiPart":
        return DiPart(classifier, options.grid, head=options.head)
    return DiFull(classifier, options.grid)
