"""Evaluate attribution methods over a data set: every method, at every layer, in every setting."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from pellucid.attribution import Method
from pellucid.classifiers import Classifier
from pellucid.errors import ModelError, PellucidError
from pellucid.evaluation.grids import (
    Candidate,
    GridSet,
    GridSetError,
    common_pool,
    distinct_grids,
    same_class_grids,
)
from pellucid.evaluation.sweep.arrow import arrow, read
from pellucid.evaluation.sweep.backends import BACKENDS, Backend, BackendName
from pellucid.evaluation.sweep.dataset import Data, DataSet, read_data_set
from pellucid.evaluation.sweep.folder import RunError, SweepFolder
from pellucid.evaluation.sweep.models import ModelSource, make_setting, plan_model
from pellucid.evaluation.sweep.plan import (
    Plan,
    PlannedData,
    PlannedMethod,
    PredictionChunk,
    Task,
)
from pellucid.evaluation.sweep.predictions import confident_candidates, unusable_images
from pellucid.evaluation.sweep.run import Run
from pellucid.evaluation.sweep.sweep_options import SweepOptions
from pellucid.evaluation.sweep.worker import Job
from pellucid.results import library_versions

Models = str | Classifier | ModelSource | Sequence[str | Classifier | ModelSource]


@dataclass(frozen=True)
class SweepProgress:
    """How far a run is.

    Attributes:
        stage: "classifying" the data set, or "explaining" grids.
        done, total: units of work of the stage.
        task: the unit that was just finished; None when the stage begins.
        problems: what could not be explained in it, and why.
    """

    stage: str
    done: int
    total: int
    task: Task | None
    problems: tuple[str, ...]


def evaluate(
    data: Data,
    models: Models,
    methods: Sequence[Method],
    out: str | Path,
    options: SweepOptions | None = None,
    *,
    backend: BackendName = "local",
    on_progress: Callable[[SweepProgress], object] = lambda _: None,
) -> Run:
    """Evaluate attribution methods over a data set, or go on with a run that was interrupted.

    The images that the models are sure of make the grids of every setting. Each shard, a few grids of a setting at a
    layer, is explained with every method, scored beside the controls, and written before the next. A run that was
    killed goes on with the shards that are missing, and ends with the table that it would have had. Source: Rao et al.,
    Towards Better Understanding Attribution Methods, CVPR 2022.

    Args:
        data: a folder with one folder per class, a CSV or TSV file of paths and classes, or pairs of them (see
            `read_data_set`).
        models: a name that `pellucid.load` takes, a `Classifier`, a `ModelSource`, or several.
        methods: with their options.
        out: folder of the run; new, empty, or of the same run.
        options: everything else.
        backend: "local", or "ray" for the workers of a Ray cluster.
        on_progress: called after each unit of work.

    Returns:
        The finished run.

    Raises:
        RunError: `out` has a run with other options (the message names them), or its disk is full.
        GridSetError: too few images or classes; the message says how many of what are missing.
        ModelError: a setting is not defined for a model.
        LayerError: no such layer, or one whose map the grid does not divide.
        PellucidError: other bad input.
    """
    if backend not in BACKENDS:
        raise PellucidError(f"no backend {backend!r}; choose from {', '.join(BACKENDS)}")
    folder = SweepFolder(out)
    with folder.locked():
        job = _job(data, _sources(models), methods, options or SweepOptions(), folder)
        if not folder.table.exists():
            _finish(job, folder, BACKENDS[backend], on_progress)
    return Run(out)


def _job(
    data: Data, sources: Sequence[ModelSource], methods: Sequence[Method], options: SweepOptions, folder: SweepFolder
) -> Job:
    """Look at everything that is given, before any work is done, and make the plan that of the folder."""
    classifiers = [source.load() for source in sources]
    found = _one_data_set(data, classifiers)
    plan = _plan(options, methods, classifiers, found)
    folder.check_same_plan(plan)
    if not folder.table.exists():
        _check(classifiers, plan)
    folder.replace_plan(plan, found.root)
    return Job(plan, tuple(sources), tuple(methods), found, {})


def _finish(job: Job, folder: SweepFolder, backend: Backend, on_progress: Callable[[SweepProgress], object]) -> None:
    """Do whatever is missing in a run folder."""
    chunks, shards = list(job.plan.predictions()), list(job.plan.shards())
    _do("classifying", backend, job, chunks, folder, on_progress)
    job = replace(job, grid_sets=_grid_sets(job, folder, chunks))
    _do("explaining", backend, job, shards, folder, on_progress)
    folder.merge(read(folder.path / shard.file) for shard in shards)


def _do(
    stage: str,
    backend: Backend,
    job: Job,
    tasks: Sequence[Task],
    folder: SweepFolder,
    on_progress: Callable[[SweepProgress], object],
) -> None:
    missing = [task for task in tasks if not folder.is_done(task, job.plan)]
    done = len(tasks) - len(missing)
    on_progress(SweepProgress(stage, done, len(tasks), None, ()))
    if not missing:
        return
    for task, result in backend(job, missing):
        folder.commit(result.files)
        done += 1
        on_progress(SweepProgress(stage, done, len(tasks), task, result.problems))


def _sources(models: Models) -> list[ModelSource]:
    several = [models] if isinstance(models, str | Classifier | ModelSource) else list(models)
    if not several:
        raise PellucidError("no models given; give a name that pellucid.load takes, or a Classifier")
    return [ModelSource.of(model) for model in several]


def _one_data_set(data: Data, classifiers: Sequence[Classifier]) -> DataSet:
    """The data set, whose classes must be the same for all models."""
    found = [read_data_set(data, classifier) for classifier in classifiers]
    for classifier, other in zip(classifiers, found, strict=True):
        if other.labels != found[0].labels:
            raise PellucidError(
                f"the classes of {classifier.name} are not those of {classifiers[0].name}: the same folder has another "
                "index; evaluate them in runs of their own"
            )
    first = found[0]
    return DataSet(first.root.resolve(), first.files, first.labels, first.skipped)


def _plan(options: SweepOptions, methods: Sequence[Method], classifiers: Sequence[Classifier], data: DataSet) -> Plan:
    names = Counter(classifier.name for classifier in classifiers)
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise PellucidError(f"two models are called {twice[0]!r}; give the second another name, Classifier(name=...)")
    return Plan(
        options=options,
        methods=plan_methods(methods),
        models=tuple(plan_model(classifier, options) for classifier in classifiers),
        data=PlannedData(data.digest(), len(data)),
        versions=library_versions(),
    )


def plan_methods(methods: Sequence[Method]) -> tuple[PlannedMethod, ...]:
    """Methods with labels that tell them apart: where a class is there twice, with the options that differ.

    Raises:
        PellucidError: no methods, two that are the same, or an option that cannot be written down.
    """
    if not methods:
        raise PellucidError("no methods to evaluate: the list is empty")
    labels = Counter(method.label for method in methods)
    options = [_written(method) for method in methods]
    found = []
    for method, own in zip(methods, options, strict=True):
        others = [given for other, given in zip(methods, options, strict=True) if other.label == method.label]
        differing = [name for name in own if any(given.get(name) != own[name] for given in others)]
        label = method.label
        if labels[label] > 1:
            label = f"{label} ({', '.join(f'{name}={own[name]}' for name in differing)})"
        found.append(PlannedMethod(label, type(method).__name__, json.dumps(own, sort_keys=True)))
    if len({method.label for method in found}) < len(found):
        raise PellucidError(f"a method is given twice with the same options: {', '.join(m.label for m in found)}")
    return tuple(found)


def _written(method: Method) -> dict[str, object]:
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


@torch.no_grad()
def _check(classifiers: Sequence[Classifier], plan: Plan) -> None:
    """Make every setting, and see a grid from every layer, before any work is done."""
    options, longest = plan.options, 0
    for classifier, planned in zip(classifiers, plan.models, strict=True):
        if classifier.preprocess is None:
            raise ModelError(f"{classifier.name} was made without preprocess=, so it cannot read image files")
        for name in options.settings:
            setting = make_setting(name, classifier, options)
            for layer in planned.layers:
                sides = setting.at(layer).activation(torch.zeros(1, *setting.input_shape)).shape[2:]
                longest = max(longest, *sides)
    unfit = [kernel for kernel in options.kernel_sizes if kernel > longest]
    if unfit:
        raise PellucidError(f"a kernel of {unfit[0]} cells is longer than all maps, which have at most {longest} cells")


def _grid_sets(job: Job, folder: SweepFolder, chunks: Sequence[PredictionChunk]) -> Mapping[tuple[int, bool], GridSet]:
    """Draw the grids from the predictions, and keep their manifests."""
    options = job.plan.options
    tables = [[read(folder.path / chunk.file) for chunk in chunks if chunk.model == m] for m in range(len(job.sources))]
    skipped = [*job.data.skipped, *(failure for own in tables for failure in unusable_images(own))]
    folder.write_skipped({str(failure.path): failure.reason for failure in skipped})
    pools = [confident_candidates(arrow().concat_tables(own), options.threshold) for own in tables]
    if options.pool == "common":
        pools = [common_pool(pools)] * len(pools)
    found = {}
    for model, pool in enumerate(pools):
        for same_class in [False] * options.needs_distinct + [True] * options.needs_same_class:
            try:
                found[model, same_class] = _drawn(job.plan, pool, model, same_class)
            except GridSetError as error:
                raise GridSetError(
                    f"{error}. Only images classified right with a probability of {options.threshold:g} or more "
                    f"count ({len(skipped)} could not be used): give more images, or lower the threshold"
                ) from error
            _keep_manifest(found[model, same_class], folder.grid_set(model, same_class=same_class), folder)
    return found


def _drawn(plan: Plan, pool: Sequence[Candidate], model: int, same_class: bool) -> GridSet:
    options = plan.options
    names = [each.name for each in plan.models] if options.pool == "common" else [plan.models[model].name]
    made = {"models": names, "threshold": options.threshold, "data": plan.data.digest}
    if same_class:
        count = options.grids_of("DiFull")
        return same_class_grids(pool, options.grid, count, reuse=options.reuse, seed=options.seed, options=made)
    return distinct_grids(pool, options.grid, options.grids, seed=options.seed, options=made)


def _keep_manifest(grids: GridSet, path: Path, folder: SweepFolder) -> None:
    if path.exists():
        if GridSet.load(path) != grids:
            raise RunError(f"{path} is not the manifest that this run drew; put it back, or start anew elsewhere")
        return
    with folder.disk_full_errors():
        grids.save(path)
