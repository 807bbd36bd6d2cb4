"""Who does the units of work of a run: a worker in this process, or the workers of a Ray cluster."""

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from pellucid.attribution import Method
from pellucid.classifiers import Classifier
from pellucid.errors import MissingExtraError, ModelError, PellucidError
from pellucid.evaluation.grids import Candidate, GridSet
from pellucid.evaluation.metrics import MeasuredImages, Metric, RegionFiles
from pellucid.evaluation.settings import GridSetting, GridSettingView
from pellucid.evaluation.sweep.labeled_images import DataSet, check_unchanged, grid_images, predict
from pellucid.evaluation.sweep.metric_shard import measure_shard
from pellucid.evaluation.sweep.models import ModelSource, load_variant, make_setting
from pellucid.evaluation.sweep.plan import MetricShard, Plan, PredictionChunk, Shard, Task
from pellucid.evaluation.sweep.run_tables import TAG, encode_table
from pellucid.evaluation.sweep.shard import evaluate_shard

BackendName = Literal["local", "ray"]

_RETRIES = 20  # of a unit of work whose worker dies


@dataclass(frozen=True)
class Job:
    """All that a process needs to do any unit of work of a run.

    Attributes:
        plan: of the run.
        sources: of the plan's models.
        methods: of the plan's methods.
        data: the images.
        metrics: of the plan's metrics of single images, by name.
        regions: of the images; None where no metric needs them.
        grid_sets: for every model those of distinct classes (False) and with same-class pairs (True), as needed.
        images: for every model the single images that metrics are measured on.
        digests: of the images when they were classified; empty before.
    """

    plan: Plan
    sources: tuple[ModelSource, ...]
    methods: tuple[Method, ...]
    data: DataSet
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    regions: RegionFiles | None = None
    grid_sets: Mapping[tuple[int, bool], GridSet] = field(default_factory=dict)
    images: Mapping[int, tuple[Candidate, ...]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def grid_set(self, shard: Shard) -> GridSet:
        """The grids of a shard's setting."""
        return self.grid_sets[shard.model, shard.setting != "GridPG"]


@dataclass(frozen=True)
class TaskResult:
    """What a unit of work made.

    Attributes:
        files: content by name, in the order in which they must be written: the last says that the unit is done.
        problems: what could not be explained, and why.
    """

    files: Mapping[str, bytes]
    problems: tuple[str, ...] = ()


class Worker:
    """Does units of work of a job, one after the other, and holds one model at a time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model: tuple[tuple[int, int], Classifier] | None = None
        self._settings: dict[str, GridSetting] = {}
        self._images: dict[bool, tuple[range, Tensor]] = {}

    def run(self, task: Task) -> TaskResult:
        """Do one unit of work.

        Raises:
            PellucidError: an image of a grid is gone, or the model is another one here.
        """
        tags = {TAG: self._job.plan.tag(task)}
        if isinstance(task, PredictionChunk):
            return self._predict(task, tags)
        return self._measure(task, tags) if isinstance(task, MetricShard) else self._evaluate(task, tags)

    def _predict(self, chunk: PredictionChunk, tags: Mapping[str, str]) -> TaskResult:
        classifier, options = self._classifier(chunk.model, 0), self._job.plan.options
        table = predict(classifier, self._job.data, chunk.start, chunk.stop, options.max_batch)
        return TaskResult({chunk.file: encode_table(table, tags)})

    def _evaluate(self, shard: Shard, tags: Mapping[str, str]) -> TaskResult:
        view, grids, images = self._view(shard), self._job.grid_set(shard), self._grid_images(shard)
        result = evaluate_shard(self._job.plan, shard, view, grids, images, self._job.methods)
        files = {}
        if shard.maps_file is not None:
            files[shard.maps_file] = encode_table(result.maps, tags, rows_per_group=result.maps_of_method)
        files[shard.file] = encode_table(result.table, tags)
        return TaskResult(files, result.problems)

    def _measure(self, shard: MetricShard, tags: Mapping[str, str]) -> TaskResult:
        job, classifier = self._job, self._classifier(shard.model, 0)
        view = classifier.at(job.plan.models[shard.model].layers[shard.layer])
        chosen = job.images[shard.model][shard.start : shard.stop]
        names, root = [image.path for image in chosen], job.data.root
        images = MeasuredImages(
            view=view,
            images=classifier.read([root / name for name in names]),
            targets=torch.tensor([image.label for image in chosen]),
            masks=None if job.regions is None else job.regions.masks(classifier, root, names),
            offset=shard.start,
        )
        check_unchanged(root, names, job.digests)
        table, problems = measure_shard(job.plan, shard, images, names, job.methods, job.metrics)
        return TaskResult({shard.file: encode_table(table, tags)}, problems)

    def _classifier(self, model: int, variant: int) -> Classifier:
        if self._model is None or self._model[0] != (model, variant):
            self._model, planned = None, self._job.plan.models[model]
            self._settings, self._images = {}, {}
            classifier = self._job.sources[model].load()
            if classifier.fingerprint() != planned.fingerprint:
                raise ModelError(f"the weights of {planned.name} are other ones here; give all machines the same file")
            seed = self._job.plan.options.seed
            self._model = (model, variant), load_variant(classifier, planned, variant, seed)
        return self._model[1]

    def _view(self, shard: Shard) -> GridSettingView:
        classifier = self._classifier(shard.model, shard.variant)
        if shard.setting not in self._settings:
            setting = make_setting(shard.setting, classifier, self._job.plan.options)
            has_one_head = shard.setting == "GridPG"
            self._settings[shard.setting] = (
                setting if has_one_head else setting.select_heads(self._job.grid_set(shard).evaluated_cells)
            )
        return self._settings[shard.setting].at(self._job.plan.models[shard.model].layers[shard.layer])

    def _grid_images(self, shard: Shard) -> Tensor:
        """The shard's images; those of the last shard are at hand, which is often the same grids at another layer."""
        grids, rows = self._job.grid_set(shard), range(shard.start, shard.stop)
        known = self._images.get(grids.same_class)
        if known is None or known[0] != rows:
            classifier = self._classifier(shard.model, shard.variant)
            known = rows, grid_images(classifier, grids, rows, self._job.data.root)
            cells = (cell.path for row in grids.cells[rows.start : rows.stop] for cell in row)
            check_unchanged(self._job.data.root, cells, self._job.digests)
            self._images[grids.same_class] = known
        return known[1]


class Backend(Protocol):
    """Does units of work in any order, each exactly once."""

    def __call__(self, job: Job, tasks: Iterable[Task]) -> Iterator[tuple[Task, TaskResult]]:
        """Yields each task with what it made, as it is finished."""


def run_local(job: Job, tasks: Iterable[Task]) -> Iterator[tuple[Task, TaskResult]]:
    """Do units of work in this process, in order."""
    worker = Worker(job)
    for task in tasks:
        yield task, worker.run(task)


def run_on_ray(job: Job, tasks: Iterable[Task]) -> Iterator[tuple[Task, TaskResult]]:
    """Do units of work as Ray tasks, of which a few for every core wait at any time.

    The cluster is the one that this process is connected to, else that of RAY_ADDRESS, else one of this machine. Files
    come back to this process, which alone writes to the run folder; images and weights must be where all workers find
    them. A unit whose worker dies is done again.

    Raises:
        MissingExtraError: ray is not installed.
        PellucidError: a model that only exists in this process.
    """
    in_memory = [source.name for source in job.sources if source.classifier is not None]
    if in_memory:
        raise PellucidError(
            f"the classifier {in_memory[0]} exists in this process only and cannot be sent to a cluster; give the "
            "model by a name that pellucid.load takes, such as package.module:factory"
        )
    with _cluster() as ray:
        content, key = ray.put(job), f"{job.plan.digest} {len(job.grid_sets)} {len(job.images)}"
        gpus = 1 if any((source.device or "").startswith("cuda") for source in job.sources) else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)(_run_one)
        coming = iter(tasks)
        waiting: dict[Any, Task] = {}
        try:
            while True:
                room = 2 * max(1, int(ray.cluster_resources().get("CPU", 1))) - len(waiting)
                waiting |= {remote.remote(key, [content], task): task for task in islice(coming, max(0, room))}
                if not waiting:
                    return
                done, _ = ray.wait(list(waiting), num_returns=1)
                yield waiting.pop(done[0]), _get_result(ray, done[0])
        finally:
            for reference in waiting:
                ray.cancel(reference, force=False)


BACKENDS: dict[str, Backend] = {"local": run_local, "ray": run_on_ray}
"""Backends by name."""


@contextmanager
def _cluster() -> Iterator[Any]:
    """The module `ray`, connected; a cluster that is started here is stopped here."""
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise MissingExtraError("ray", "cluster", "running on a cluster") from error
    if ray.is_initialized():
        yield ray
        return
    # Otherwise Ray warns that it hides GPUs from tasks that ask for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield ray
    finally:
        ray.shutdown()


def _get_result(ray: Any, reference: Any) -> TaskResult:
    try:
        result: TaskResult = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PellucidError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise PellucidError(
            f"the cluster lost a unit of work for good ({str(error).splitlines()[0]}); start the same command again"
        ) from error
    return result


_WORKERS: dict[str, Worker] = {}  # of a Ray process: the last job's, so that its model is loaded once


def _run_one(key: str, content: list[Any], task: Task) -> TaskResult:
    """Do a unit of work in a Ray worker; `content` holds the reference of the job that `key` names."""
    if key not in _WORKERS:
        _WORKERS.clear()
        _WORKERS[key] = Worker(importlib.import_module("ray").get(content[0]))
    return _WORKERS[key].run(task)
