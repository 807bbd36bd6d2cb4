"""What a run is: every choice and every fact that its numbers depend on, cut into shards in a fixed order."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from pellucid.attribution import Method
from pellucid.errors import PellucidError
from pellucid.evaluation.metrics import ConceptAgreement, Metric
from pellucid.evaluation.sweep.sweep_options import SweepOptions
from pellucid.storage import to_record

PREDICTIONS_PER_CHUNK = 256


@dataclass(frozen=True)
class PlannedModel:
    """A model of a run.

    Attributes:
        name: of the classifier; models of one run have different names.
        fingerprint: of its weights.
        precision: where and how it is run.
        input_shape: (C, h, w) of one cell.
        preprocess: what makes a cell of an image.
        layers: names of the layers, in the order in which they were requested.
        cascade: layers that are set back to random weights, the top first.
        steps: of the cascade, how many layers are set back in each variant; the first variant has 0, the model itself.
    """

    name: str
    fingerprint: str
    precision: str
    input_shape: tuple[int, int, int]
    preprocess: str
    layers: tuple[str, ...]
    cascade: tuple[str, ...] = ()
    steps: tuple[int, ...] = (0,)

    def variant(self, index: int) -> str:
        """What tables call a variant."""
        step = self.steps[index]
        return f"random down to {self.cascade[step - 1]} ({step} of {len(self.cascade)})" if step else "trained"


@dataclass(frozen=True)
class PlannedMethod:
    """A method of a run: what tables call it, its class, and its options as JSON."""

    label: str
    name: str
    options: str


@dataclass(frozen=True)
class PlannedMetric:
    """A metric of single images: its name, its options as JSON, and a digest of the files that it reads."""

    name: str
    options: str
    files: str = ""


@dataclass(frozen=True)
class PlannedData:
    """A data set: the digest of its list of files, labels and sizes, how many files there are, and of their regions."""

    digest: str
    images: int
    regions: str = ""


@dataclass(frozen=True)
class PredictionChunk:
    """A unit of work: classify the images `start` to `stop` with a model."""

    model: int
    start: int
    stop: int

    @property
    def file(self) -> str:
        return f"predictions/{self.model}/{self.start // PREDICTIONS_PER_CHUNK:06d}.parquet"

    @property
    def maps_file(self) -> None:
        """Predictions come without maps."""


@dataclass(frozen=True)
class Shard:
    """A unit of work: the grids `start` to `stop` of a setting, explained with every method at a layer.

    Attributes:
        number: position in the order of the run.
        model, variant: indices into the plan's models, and into the model's steps.
        setting: by name.
        layer: index into the options' layers.
        keeps_maps: whether maps are kept with the scores.
    """

    number: int
    model: int
    variant: int
    setting: str
    layer: int
    start: int
    stop: int
    keeps_maps: bool

    @property
    def file(self) -> str:
        return f"shards/{self.number:06d}.parquet"

    @property
    def maps_file(self) -> str | None:
        return f"maps/{self.number:06d}.parquet" if self.keeps_maps else None


@dataclass(frozen=True)
class MetricShard:
    """A unit of work: the single images `start` to `stop`, explained with every method at a layer and measured.

    Attributes:
        number: position in the order of the run.
        model: index into the plan's models.
        layer: index into the options' layers.
    """

    number: int
    model: int
    layer: int
    start: int
    stop: int

    @property
    def file(self) -> str:
        return f"metrics/{self.number:06d}.parquet"

    @property
    def maps_file(self) -> None:
        """Metrics keep no maps."""


Task = PredictionChunk | Shard | MetricShard


@dataclass(frozen=True)
class Plan:
    """All that the numbers of a run depend on.

    Attributes:
        options: what was chosen.
        methods, models, data: what was given.
        metrics: of single images; localization, which is of grids, is not among them.
        versions: of pellucid and torch.
    """

    options: SweepOptions
    methods: tuple[PlannedMethod, ...]
    models: tuple[PlannedModel, ...]
    data: PlannedData
    versions: Mapping[str, str]
    metrics: tuple[PlannedMetric, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the plan as JSON."""
        return _digest(to_record(self))

    def tag(self, task: Task) -> str:
        """SHA-256 of all that the result of a unit of work depends on; the files that it makes carry it."""
        if not isinstance(task, PredictionChunk):
            return self.digest
        model = replace(self.models[task.model], layers=(), cascade=(), steps=())
        data = replace(self.data, regions="")
        return _digest([*map(to_record, (model, data, self.versions)), self.options.max_batch])

    def predictions(self) -> Iterator[PredictionChunk]:
        """The units of work of classifying the data set."""
        for model in range(len(self.models)):
            for start in range(0, self.data.images, PREDICTIONS_PER_CHUNK):
                yield PredictionChunk(model, start, min(start + PREDICTIONS_PER_CHUNK, self.data.images))

    def shards(self) -> Iterator[Shard]:
        """The units of work of explaining; an unfinished run has about as many grids in every setting and layer."""
        if not self.options.measures_grids:
            return
        number = 0
        size = self.options.shard_size
        counts = {setting: self.options.grids_of(setting) for setting in self.options.settings}
        keeps = self.options.keep_maps != "none"
        for model, planned in enumerate(self.models):
            for variant in range(len(planned.steps)):
                for start in range(0, max(counts.values()), size):
                    for setting, count in counts.items():
                        for layer in range(len(planned.layers) if start < count else 0):
                            stop = min(start + size, count)
                            yield Shard(number, model, variant, setting, layer, start, stop, keeps and not variant)
                            number += 1

    def metric_shards(self) -> Iterator[MetricShard]:
        """The units of work of measuring single images; an unfinished run has about as many at every layer."""
        number, size, count = 0, self.options.shard_size, self.options.images if self.metrics else 0
        for model, planned in enumerate(self.models):
            for start in range(0, count, size):
                for layer in range(len(planned.layers)):
                    yield MetricShard(number, model, layer, start, min(start + size, count))
                    number += 1

    def model_index(self, name: str | None) -> int:
        """The model of a name; None for the only one."""
        names = [model.name for model in self.models]
        if name is None and len(names) == 1:
            return 0
        if name not in names:
            raise PellucidError(f"model {name!r}: the run has {', '.join(names)}; name one of them")
        return names.index(name)

    def layer_index(self, layer: str, model: int = 0) -> int:
        """A layer by the name under which it was asked for, or by its own."""
        for names in (self.options.layers, self.models[model].layers):
            if layer in names:
                return names.index(layer)
        raise PellucidError(f"the run has no layer {layer!r}; it has {', '.join(self.options.layers)}")


def plan_methods(methods: Sequence[Method]) -> tuple[PlannedMethod, ...]:
    """Methods with labels that tell them apart: where a class is there twice, with the options that differ.

    Raises:
        PellucidError: no methods, two that are the same, or an option that cannot be written down.
    """
    if not methods:
        raise PellucidError("no methods to evaluate: the list is empty")
    labels = Counter(method.label for method in methods)
    options = [_options_of(method) for method in methods]
    planned = []
    for method, chosen in zip(methods, options, strict=True):
        same = [other for another, other in zip(methods, options, strict=True) if another.label == method.label]
        differing = [name for name in chosen if any(other.get(name) != chosen[name] for other in same)]
        label = method.label
        if labels[label] > 1:
            label = f"{label} ({', '.join(f'{name}={chosen[name]}' for name in differing)})"
        planned.append(PlannedMethod(label, type(method).__name__, json.dumps(chosen, sort_keys=True)))
    if len({method.label for method in planned}) < len(planned):
        raise PellucidError(
            f"a method is given twice with the same options: {', '.join(method.label for method in planned)}"
        )
    return tuple(planned)


def _options_of(method: Method) -> dict[str, object]:
    options = dict(method.options())
    for item in fields(method):
        value = getattr(method, item.name)
        if isinstance(value, Tensor):
            content = hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
            options[item.name] = f"tensor {tuple(value.shape)} {value.dtype}, SHA-256 {content}"
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PellucidError(
            f"the options of {method.label} cannot be written into the plan of a run ({error}); evaluate methods whose "
            "options are numbers, texts and lists of them"
        ) from error
    return options


def plan_metrics(metrics: Mapping[str, Metric]) -> tuple[PlannedMetric, ...]:
    """Metrics of single images, by name, with their options."""
    planned = []
    for name, metric in metrics.items():
        options = {item.name: getattr(metric, item.name) for item in fields(metric)}  # type: ignore[arg-type]
        files = metric.digest() if isinstance(metric, ConceptAgreement) else ""
        planned.append(PlannedMetric(name, json.dumps(to_record(options), sort_keys=True), files))
    return tuple(planned)


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
