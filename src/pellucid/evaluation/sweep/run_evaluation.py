"""Evaluate attribution methods over a data set: every method, at every layer, in every setting."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

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
from pellucid.evaluation.metrics import Metric, RegionFiles, make_metrics, read_regions
from pellucid.evaluation.sweep.labeled_images import (
    DataSet,
    DataSource,
    check_unchanged,
    confident_candidates,
    image_digests,
    read_data_set,
    unusable_images,
)
from pellucid.evaluation.sweep.metric_shard import metric_schema
from pellucid.evaluation.sweep.models import ModelSource, make_setting, plan_model
from pellucid.evaluation.sweep.plan import (
    Plan,
    PlannedData,
    PredictionChunk,
    Task,
    plan_methods,
    plan_metrics,
)
from pellucid.evaluation.sweep.run_reader import Run
from pellucid.evaluation.sweep.run_tables import arrow, read_table, score_schema
from pellucid.evaluation.sweep.sweep_folder import RunError, SweepFolder
from pellucid.evaluation.sweep.sweep_options import LOCALIZATION, SweepOptions
from pellucid.evaluation.sweep.workers import BACKENDS, Backend, BackendName, Job
from pellucid.results import library_versions

if TYPE_CHECKING:
    import pyarrow as pa

Models = str | Classifier | ModelSource | Sequence[str | Classifier | ModelSource]


@dataclass(frozen=True)
class SweepProgress:
    """How far a run is.

    Attributes:
        stage: "classifying" the data set, "explaining" grids, or "measuring" single images.
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
    data: DataSource,
    models: Models,
    methods: Sequence[Method],
    out: str | Path,
    options: SweepOptions | None = None,
    *,
    backend: BackendName = "local",
    on_progress: Callable[[SweepProgress], object] | None = None,
) -> Run:
    """Evaluate attribution methods over a data set, or resume a run that was interrupted.

    The images that the models are sure of make the grids of every setting. Each shard, a few grids of a setting at a
    layer, is explained with every method, scored beside the controls, and written before the next. Metrics of single
    images are measured likewise, on the images of the grids first. A run that was
    killed resumes with the shards that are missing, and ends with the table that it would have had. Source: Rao et al.,
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
        if folder.is_finished() and all(folder.is_done(chunk, job.plan) for chunk in job.plan.predictions()):
            check_unchanged(job.data.root, folder.images_in_grids(), image_digests(_predictions(job.plan, folder)))
        else:
            _finish(job, folder, BACKENDS[backend], on_progress or (lambda _: None))
    return Run(out)


def _job(
    data: DataSource,
    sources: Sequence[ModelSource],
    methods: Sequence[Method],
    options: SweepOptions,
    folder: SweepFolder,
) -> Job:
    """Look at everything that is given, before any work is done, and make the plan that of the folder."""
    classifiers = [source.load() for source in sources]
    data_set = _read_common_data_set(data, classifiers)
    metrics = make_metrics([name for name in options.metrics if name != LOCALIZATION], options.metric_options)
    regions = None if options.regions is None else read_regions(options.regions)
    if regions is None and "regions" in metrics:
        raise PellucidError("the metric 'regions' needs boxes or masks of the images; give them with regions=")
    plan = _plan(options, methods, classifiers, data_set, metrics, regions)
    folder.check_same_plan(plan)
    if not folder.table.exists():
        _check(classifiers, plan)
    folder.replace_plan(plan, data_set.root)
    return Job(plan, tuple(sources), tuple(methods), data_set, metrics, regions)


def _finish(job: Job, folder: SweepFolder, backend: Backend, on_progress: Callable[[SweepProgress], object]) -> None:
    """Do whatever is missing in a run folder."""
    chunks, shards = list(job.plan.predictions()), list(job.plan.shards())
    metric_shards = list(job.plan.metric_shards())
    _do("classifying", backend, job, chunks, folder, on_progress)
    pools = _candidate_pools(job, folder, chunks)
    job = replace(job, grid_sets=_draw_grid_sets(job, folder, pools))
    job = replace(job, images=_choose_images(job, pools), digests=image_digests(_predictions(job.plan, folder)))
    _do("explaining", backend, job, shards, folder, on_progress)
    if metric_shards:
        _do("measuring", backend, job, metric_shards, folder, on_progress)
        measured = (read_table(folder.path / shard.file) for shard in metric_shards)
        folder.merge(folder.metrics_table, metric_schema(), measured)
    in_use = {image.path for images in job.images.values() for image in images} | folder.images_in_grids()
    check_unchanged(job.data.root, sorted(in_use), job.digests)
    # Last, because this table says that the run is complete.
    folder.merge(folder.table, score_schema(), (read_table(folder.path / shard.file) for shard in shards))


def _predictions(plan: Plan, folder: SweepFolder) -> Iterator["pa.Table"]:
    """The tables of predictions, of all models."""
    return (read_table(folder.path / chunk.file) for chunk in plan.predictions())


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


def _read_common_data_set(data: DataSource, classifiers: Sequence[Classifier]) -> DataSet:
    """The data set, whose classes must be the same for all models."""
    read = [read_data_set(data, classifier) for classifier in classifiers]
    for classifier, other in zip(classifiers, read, strict=True):
        if other.labels != read[0].labels:
            raise PellucidError(
                f"the classes of {classifier.name} are not those of {classifiers[0].name}: the same folder has another "
                "index; evaluate them in runs of their own"
            )
    first = read[0]
    return DataSet(first.root.resolve(), first.files, first.labels, first.skipped)


def _plan(
    options: SweepOptions,
    methods: Sequence[Method],
    classifiers: Sequence[Classifier],
    data: DataSet,
    metrics: Mapping[str, Metric],
    regions: RegionFiles | None,
) -> Plan:
    names = Counter(classifier.name for classifier in classifiers)
    repeated = [name for name, times in names.items() if times > 1]
    if repeated:
        raise PellucidError(
            f"two models are called {repeated[0]!r}; give the second another name, Classifier(name=...)"
        )
    return Plan(
        options=options,
        methods=plan_methods(methods),
        models=tuple(plan_model(classifier, options) for classifier in classifiers),
        data=PlannedData(data.digest(), len(data), "" if regions is None else regions.digest()),
        versions=library_versions(),
        metrics=plan_metrics(metrics),
    )


@torch.no_grad()
def _check(classifiers: Sequence[Classifier], plan: Plan) -> None:
    """Make every setting, and see a grid from every layer, before any work is done."""
    options, longest = plan.options, 0
    for classifier, planned in zip(classifiers, plan.models, strict=True):
        if classifier.preprocess is None:
            raise ModelError(f"{classifier.name} was made without preprocess=, so it cannot read image files")
        for name in options.settings if options.measures_grids else ():
            setting = make_setting(name, classifier, options)
            for layer in planned.layers:
                sides = setting.at(layer).activation(torch.zeros(1, *setting.input_shape)).shape[2:]
                longest = max(longest, *sides)
    unfit = [kernel for kernel in options.kernel_sizes if kernel > longest]
    if unfit and options.measures_grids:
        raise PellucidError(f"a kernel of {unfit[0]} cells is longer than all maps, which have at most {longest} cells")


def _candidate_pools(job: Job, folder: SweepFolder, chunks: Sequence[PredictionChunk]) -> list[tuple[Candidate, ...]]:
    """For every model the images that it is sure of, or for all those of all; which cannot be used is written down."""
    options, models = job.plan.options, range(len(job.sources))
    tables = [[read_table(folder.path / chunk.file) for chunk in chunks if chunk.model == model] for model in models]
    skipped = [*job.data.skipped, *(failure for parts in tables for failure in unusable_images(parts))]
    folder.write_skipped({str(failure.path): failure.reason for failure in skipped})
    pools = [confident_candidates(arrow().concat_tables(parts), options.threshold) for parts in tables]
    return [common_pool(pools)] * len(pools) if options.pool == "common" else pools


def _draw_grid_sets(
    job: Job, folder: SweepFolder, pools: Sequence[tuple[Candidate, ...]]
) -> Mapping[tuple[int, bool], GridSet]:
    """Draw the grids, and keep their manifests."""
    options, grid_sets = job.plan.options, {}
    for model, pool in enumerate(pools):
        for same_class in [False] * options.needs_distinct + [True] * options.needs_same_class:
            try:
                grids = _draw_grids(job.plan, pool, model, same_class)
            except GridSetError as error:
                raise GridSetError(f"{error}. {_which_images_count(options, folder)}") from error
            _write_manifest(grids, folder.grid_set(model, same_class=same_class), folder)
            grid_sets[model, same_class] = grids
    return grid_sets


def _choose_images(job: Job, pools: Sequence[tuple[Candidate, ...]]) -> Mapping[int, tuple[Candidate, ...]]:
    """For every model the single images that metrics are measured on: those of the grids first, then drawn ones."""
    if not job.metrics:
        return {}
    options, chosen = job.plan.options, {}
    for model, pool in enumerate(pools):
        in_grids = [
            cell
            for same_class in (False, True)
            if (model, same_class) in job.grid_sets
            for row in job.grid_sets[model, same_class].cells
            for cell in row
        ]
        drawn = sorted(pool)
        random.Random(options.seed).shuffle(drawn)
        images = tuple(dict.fromkeys([*in_grids, *drawn]))[: options.images]
        if len(images) < options.images:
            raise PellucidError(
                f"the metrics are measured on {options.images} images, of which {options.images - len(images)} are "
                f"missing. Only images classified right with a probability of {options.threshold:g} or more count: "
                "give more images, ask for fewer, or lower the threshold"
            )
        chosen[model] = images
    return chosen


def _draw_grids(plan: Plan, pool: Sequence[Candidate], model: int, same_class: bool) -> GridSet:
    options = plan.options
    names = [planned.name for planned in plan.models] if options.pool == "common" else [plan.models[model].name]
    origin = {"models": names, "threshold": options.threshold, "data": plan.data.digest}
    if same_class:
        count = options.grids_of("DiFull")
        return same_class_grids(pool, options.grid, count, reuse=options.reuse, seed=options.seed, options=origin)
    return distinct_grids(pool, options.grid, options.grids, seed=options.seed, options=origin)


def _which_images_count(options: SweepOptions, folder: SweepFolder) -> str:
    return (
        f"Only images classified right with a probability of {options.threshold:g} or more count "
        f"({len(folder.skipped())} could not be used): give more images, or lower the threshold"
    )


def _write_manifest(grids: GridSet, path: Path, folder: SweepFolder) -> None:
    if path.exists():
        if GridSet.load(path) != grids:
            raise RunError(f"{path} is not the manifest that this run drew; put it back, or start again elsewhere")
        return
    with folder.disk_full_errors():
        grids.save(path)
