"""What one process does: units of work in, files out. It holds one model at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pellucid.attribution import Method
from pellucid.classifiers import Classifier
from pellucid.errors import ModelError
from pellucid.evaluation.grids import GridSet
from pellucid.evaluation.settings import GridSetting, GridSettingView
from pellucid.evaluation.sweep.arrow import TAG, encode
from pellucid.evaluation.sweep.dataset import DataSet
from pellucid.evaluation.sweep.models import ModelSource, make_setting, randomized
from pellucid.evaluation.sweep.plan import (
    Plan,
    PredictionChunk,
    Shard,
    Task,
)
from pellucid.evaluation.sweep.predictions import predict
from pellucid.evaluation.sweep.shard import evaluate_shard
from pellucid.evaluation.sweep.sweep_images import grid_images


@dataclass(frozen=True)
class Job:
    """All that a process needs to do any unit of work of a run.

    Attributes:
        plan: of the run.
        sources: of the plan's models.
        methods: of the plan's methods.
        data: the images.
        grid_sets: for every model those of distinct classes (False) and with twins (True), as far as they are needed.
    """

    plan: Plan
    sources: tuple[ModelSource, ...]
    methods: tuple[Method, ...]
    data: DataSet
    grid_sets: Mapping[tuple[int, bool], GridSet]

    def grid_set(self, shard: Shard) -> GridSet:
        """The grids of a shard's setting."""
        return self.grid_sets[shard.model, shard.setting != "GridPG"]


@dataclass(frozen=True)
class Result:
    """What a unit of work made.

    Attributes:
        files: content by name, in the order in which they must be written: the last says that the unit is done.
        problems: what could not be explained, and why.
    """

    files: Mapping[str, bytes]
    problems: tuple[str, ...] = ()


class Worker:
    """Does units of work of a job, one after the other."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model: tuple[tuple[int, int], Classifier] | None = None
        self._settings: dict[str, GridSetting] = {}
        self._images: dict[bool, tuple[range, Tensor]] = {}

    def run(self, task: Task) -> Result:
        """Do one unit of work.

        Raises:
            PellucidError: an image of a grid is gone, or the model is another one here.
        """
        tags = {TAG: self._job.plan.tag(task)}
        return self._predict(task, tags) if isinstance(task, PredictionChunk) else self._evaluate(task, tags)

    def _predict(self, chunk: PredictionChunk, tags: Mapping[str, str]) -> Result:
        classifier, options = self._classifier(chunk.model, 0), self._job.plan.options
        table = predict(classifier, self._job.data, chunk.start, chunk.stop, options.max_batch)
        return Result({chunk.file: encode(table, tags)})

    def _evaluate(self, shard: Shard, tags: Mapping[str, str]) -> Result:
        view, grids, images = self._view(shard), self._job.grid_set(shard), self._grid_images(shard)
        found = evaluate_shard(self._job.plan, shard, view, grids, images, self._job.methods)
        files = {}
        if shard.maps_file is not None:
            files[shard.maps_file] = encode(found.maps, tags, rows_per_group=found.maps_of_method)
        files[shard.file] = encode(found.table, tags)
        return Result(files, found.problems)

    def _classifier(self, model: int, variant: int) -> Classifier:
        if self._model is None or self._model[0] != (model, variant):
            self._model, planned = None, self._job.plan.models[model]
            self._settings, self._images = {}, {}
            classifier = self._job.sources[model].load()
            if classifier.fingerprint() != planned.fingerprint:
                raise ModelError(f"the weights of {planned.name} are other ones here; give all machines the same file")
            seed = self._job.plan.options.seed
            self._model = (model, variant), randomized(classifier, planned, variant, seed)
        return self._model[1]

    def _view(self, shard: Shard) -> GridSettingView:
        classifier = self._classifier(shard.model, shard.variant)
        if shard.setting not in self._settings:
            setting = make_setting(shard.setting, classifier, self._job.plan.options)
            single = shard.setting == "GridPG"
            self._settings[shard.setting] = (
                setting if single else setting.select_heads(self._job.grid_set(shard).evaluated_cells)
            )
        return self._settings[shard.setting].at(self._job.plan.models[shard.model].layers[shard.layer])

    def _grid_images(self, shard: Shard) -> Tensor:
        """The shard's images; those of the last shard are at hand, which is often the same grids at another layer."""
        grids, rows = self._job.grid_set(shard), range(shard.start, shard.stop)
        known = self._images.get(grids.same_class)
        if known is None or known[0] != rows:
            classifier = self._classifier(shard.model, shard.variant)
            known = rows, grid_images(classifier, grids, rows, self._job.data.root)
            self._images[grids.same_class] = known
        return known[1]
