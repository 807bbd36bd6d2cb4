"""What a run is: every choice and every fact that its numbers depend on, cut into shards in a fixed order."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pellucid.errors import PellucidError
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
        layers: names of the layers, in the order in which they were asked for.
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
class PlannedData:
    """A data set: the digest of its list of files, labels and sizes, and how many files there are."""

    digest: str
    images: int


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
        number: place in the order of the run.
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


Task = PredictionChunk | Shard


@dataclass(frozen=True)
class Plan:
    """All that the numbers of a run depend on.

    Attributes:
        options: what was chosen.
        methods, models, data: what was given.
        versions: of pellucid and torch.
    """

    options: SweepOptions
    methods: tuple[PlannedMethod, ...]
    models: tuple[PlannedModel, ...]
    data: PlannedData
    versions: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the plan as JSON."""
        return _digest(to_record(self))

    def tag(self, task: Task) -> str:
        """SHA-256 of all that the result of a unit of work depends on; the files that it makes carry it."""
        if isinstance(task, Shard):
            return self.digest
        model = replace(self.models[task.model], layers=(), cascade=(), steps=())
        return _digest([*map(to_record, (model, self.data, self.versions)), self.options.max_batch])

    def predictions(self) -> Iterator[PredictionChunk]:
        """The units of work of classifying the data set."""
        for model in range(len(self.models)):
            for start in range(0, self.data.images, PREDICTIONS_PER_CHUNK):
                yield PredictionChunk(model, start, min(start + PREDICTIONS_PER_CHUNK, self.data.images))

    def shards(self) -> Iterator[Shard]:
        """The units of work of explaining; an unfinished run has about as many grids in every setting and layer."""
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


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
