"""Who does the units of work: this process, or the workers of a Ray cluster."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, Protocol

from pellucid.errors import MissingExtraError, PellucidError
from pellucid.evaluation.sweep.plan import Task
from pellucid.evaluation.sweep.worker import Job, Result, Worker

BackendName = Literal["local", "ray"]

_RETRIES = 20  # of a unit of work whose worker dies


class Backend(Protocol):
    """Does units of work in any order, each exactly once."""

    def __call__(self, job: Job, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Yields each task with what it made, as it is finished."""


def run_here(job: Job, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
    """Do units of work in this process, in order."""
    worker = Worker(job)
    for task in tasks:
        yield task, worker.run(task)


def run_on_ray(job: Job, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
    """Do units of work as Ray tasks, of which a few for every core wait at any time.

    The cluster is the one that this process is connected to, else that of RAY_ADDRESS, else one of this machine. Files
    come back to this process, which alone writes to the run folder; images and weights must be where all workers find
    them. A unit whose worker dies is done again.

    Raises:
        MissingExtraError: ray is not installed.
        PellucidError: a model that only exists in this process.
    """
    here = [source.name for source in job.sources if source.classifier is not None]
    if here:
        raise PellucidError(
            f"the classifier {here[0]} exists in this process only and cannot be sent to a cluster; give the model by "
            "a name that pellucid.load takes, such as package.module:factory"
        )
    with _cluster() as ray:
        content, key = ray.put(job), f"{job.plan.digest} {len(job.grid_sets)}"
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
                yield waiting.pop(done[0]), _result(ray, done[0])
        finally:
            for reference in waiting:
                ray.cancel(reference, force=False)


BACKENDS: dict[str, Backend] = {"local": run_here, "ray": run_on_ray}
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


def _result(ray: Any, reference: Any) -> Result:
    try:
        result: Result = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PellucidError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise PellucidError(
            f"the cluster lost a unit of work for good ({str(error).splitlines()[0]}); start the same command again"
        ) from error
    return result


def _run_one(key: str, content: list[Any], task: Task) -> Result:
    """What a Ray worker is asked to do; it keeps the job, and so the model, from one task to the next."""
    return _worker(key, _Reference(content[0])).run(task)


class _Reference:
    """A reference that is equal to all others, so that the job's key alone decides what is cached."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reference)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=1)
def _worker(key: str, content: _Reference) -> Worker:
    return Worker(importlib.import_module("ray").get(content.reference))
