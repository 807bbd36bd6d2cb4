"""Jobs: runs of `pellucid.evaluation.evaluate` that stop when their time is up, and go on when started again."""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from experiments.attribution_evaluation.images import Labelled
from experiments.attribution_evaluation.models import load_model
from pellucid.attribution import Method
from pellucid.errors import PellucidError
from pellucid.evaluation import (
    Run,
    SweepOptions,
    candidate_pool,
    common_pool,
    evaluate,
)
from pellucid.evaluation.sweep import SweepProgress
from pellucid.storage import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

_KEYS = ("model", "variant", "setting", "layer", "method", "kernel_size", "grid", "cell")


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: folder of the run.
        models: by name.
        methods: with their options.
        options: of the run. Jobs with equal `n`, `grids`, `same_class_grids` and `seed` have the same grids, however
            many of them are finished.
        share: part of the time that all jobs have.
    """

    name: str
    models: tuple[str, ...]
    methods: tuple[Method, ...]
    options: SweepOptions
    share: float = 1.0


class _TimeIsUpError(Exception):
    """A job has had its share."""


def run_jobs(jobs: Sequence[Job], images: Labelled, data: Path, work: Path, minutes: float) -> None:
    """Give each job its share of the time, in order; what is finished stays in its folder under `work`.

    A unit of work is never cut short, so jobs may take more than their share; those that no time is left for wait.
    """
    whole, end = sum(job.share for job in jobs), time.monotonic() + 60 * minutes
    for job in jobs:
        started, seconds = time.monotonic(), 60 * minutes * job.share / whole
        if started > end:
            print(f"{job.name}: no time left", flush=True)
            continue

        def tell(progress: SweepProgress, job: Job = job, until: float = started + seconds) -> None:
            for problem in progress.problems:
                print(f"{job.name}: not explained: {problem}", flush=True)
            if time.monotonic() > until and progress.task is not None and progress.done < progress.total:
                raise _TimeIsUpError(f"{progress.stage} {progress.done} of {progress.total}")

        state = "finished"
        try:
            classifiers = [load_model(name, data) for name in job.models]
            evaluate(images, classifiers, job.methods, work / job.name, job.options, on_progress=tell)
        except _TimeIsUpError as stop:
            state = f"stopped at {stop}"
        print(f"{job.name}: {state} after {time.monotonic() - started:.0f} s", flush=True)


def table_of(jobs: Sequence[Job], work: Path) -> "pa.Table":
    """The rows of all jobs, finished or not; what two jobs measured alike is there once."""
    import pyarrow as pa

    tables = [Run(work / job.name).table() for job in jobs if (work / job.name / "plan.json").is_file()]
    if not tables:
        raise PellucidError(f"there are no runs in {work} yet; give the command some --minutes")
    table = pa.concat_tables(tables)
    seen: set[tuple[object, ...]] = set()
    kept = []
    for row, key in enumerate(zip(*(table[name].to_pylist() for name in _KEYS), strict=True)):
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return table.take(kept)


def sure_images(
    models: Sequence[str], images: Labelled, data: Path, file: Path, *, threshold: float, per_class: int, most: int
) -> Labelled:
    """Images that all models classify correctly with at least this probability; listed once, then read from `file`.

    Args:
        models: by name.
        images: to choose from.
        data: folder of the weights.
        file: JSON of paths and labels.
        threshold: least probability of the true class.
        per_class: most images of a class.
        most: most images of classes that have a single one, taken at equal steps.
    """
    if not file.is_file():
        paths, labels = [str(path) for path, _ in images], [label for _, label in images]
        pools = []
        for name in models:
            print(f"classifying {len(paths)} images with {name}", file=sys.stderr, flush=True)
            classifier = load_model(name, data)
            with torch.no_grad():
                logits = [classifier.logits(classifier.read(paths[at : at + 16])) for at in range(0, len(paths), 16)]
            pools.append(candidate_pool(paths, labels, torch.cat(logits), threshold))
        sure = [(candidate.path, candidate.label) for candidate in common_pool(pools)]
        write_atomically(file, json.dumps(sure, indent=0).encode())
    return _limited(json.loads(file.read_text()), per_class, most)


def _limited(sure: list[tuple[str, int]], per_class: int, most: int) -> Labelled:
    count = Counter(label for _, label in sure)
    single = [(Path(path), label) for path, label in sure if count[label] == 1]
    several: Labelled = []
    taken: Counter[int] = Counter()
    for path, label in sure:
        if count[label] > 1 and taken[label] < per_class:
            taken[label] += 1
            several.append((Path(path), label))
    return several + single[:: max(1, len(single) // most)][:most]
