"""The same shards as tasks of a real Ray cluster, of whose two workers one is killed."""

import os
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.sweep_support import MODEL, color_classifier, write_squares

from pellucid.attribution import RISE, GradCAM
from pellucid.errors import PellucidError
from pellucid.evaluation.sweep import (
    ModelSource,
    Run,
    SweepOptions,
    SweepProgress,
    evaluate,
)
from pellucid.evaluation.sweep.plan import Shard

ray = pytest.importorskip("ray", reason="the cluster backend is not tested: pip install 'pellucid[cluster]'")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray's own warnings are not ours

ROOT = Path(__file__).parents[2]
OPTIONS = SweepOptions(settings=("GridPG", "DiFull"), layers=("input", "final"), grids=8, shard_size=1)
METHODS = (GradCAM(), RISE(masks=100))


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error",
            runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
        )  # fmt: skip
    yield
    ray.shutdown()


def busy_workers() -> list[int]:
    """Processes below this one that are doing a unit of work."""
    names = {}
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                names[int(entry.name)] = (entry / "cmdline").read_text()
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue

    def below(process: int) -> bool:
        return process == os.getpid() or (process in parents and below(parents[process]))

    return [process for process, name in names.items() if name.startswith("ray::_run_one") and below(process)]


def rounded(run: Run) -> list[list[Any]]:
    """Numbers to six digits: other machines add in another order."""
    return [
        [f"{value:.5f}" if isinstance(value, float) else value for value in run.table()[name].to_pylist()]
        for name in ("setting", "layer", "method", "grid", "cell", "score", "status")
    ]


def test_nothing_is_lost_and_nothing_done_twice_when_a_worker_is_killed(squares: Path, tmp_path: Path) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("without /proc the workers cannot be found")
    finished: list[SweepProgress] = []
    killed: list[int] = []
    enough = threading.Event()

    def kill() -> None:
        enough.wait(60)
        end = time.monotonic() + 30
        while not killed and time.monotonic() < end:
            for process in busy_workers()[:1]:
                os.kill(process, signal.SIGKILL)
                killed.append(process)
            time.sleep(0.002)

    def follow(step: SweepProgress) -> None:
        finished.append(step)
        if isinstance(step.task, Shard) and step.done >= 4:
            enough.set()

    killer = threading.Thread(target=kill)
    killer.start()
    run = evaluate(squares, MODEL, METHODS, tmp_path / "ray", OPTIONS, backend="ray", on_progress=follow)
    killer.join()
    assert len(killed) == 1
    numbers = Counter(step.task.number for step in finished if isinstance(step.task, Shard))
    assert numbers == dict.fromkeys(range(32), 1)
    assert run.is_complete
    here = evaluate(squares, MODEL, METHODS, tmp_path / "here", OPTIONS)
    assert rounded(run) == rounded(here)
    keys = Counter(
        tuple(row[name] for name in ("setting", "layer", "method", "grid", "cell")) for row in run.table().to_pylist()
    )
    assert set(keys.values()) == {1}


def test_a_run_begun_here_is_finished_on_the_cluster(squares: Path, tmp_path: Path) -> None:
    def stop(step: SweepProgress) -> None:
        if step.stage == "explaining" and step.done == 3:
            raise KeyboardInterrupt

    options = SweepOptions(settings=("GridPG",), layers=("final",), grids=6, shard_size=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(squares, MODEL, [GradCAM()], tmp_path / "run", options, on_progress=stop)
    made: list[SweepProgress] = []
    run = evaluate(squares, MODEL, [GradCAM()], tmp_path / "run", options, backend="ray", on_progress=made.append)
    assert sorted(step.task.number for step in made if isinstance(step.task, Shard)) == [3, 4, 5]
    assert run.is_complete
    whole = evaluate(squares, MODEL, [GradCAM()], tmp_path / "whole", options)
    assert rounded(run) == rounded(whole)


def test_an_error_on_the_cluster_is_the_error_here(squares: Path, tmp_path: Path) -> None:
    options = SweepOptions(settings=("GridPG",), layers=("final",), grids=2)

    def remove(step: SweepProgress) -> None:
        if step.stage == "explaining" and step.task is None:
            for image in data.rglob("*.png"):
                image.unlink()

    data = write_squares(tmp_path / "data")
    with pytest.raises(PellucidError, match="no such file"):
        evaluate(data, MODEL, [GradCAM()], tmp_path / "run", options, backend="ray", on_progress=remove)


def test_a_classifier_of_this_process_cannot_be_sent(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(PellucidError, match="exists in this process only"):
        evaluate(squares, color_classifier(), [GradCAM()], tmp_path / "run", OPTIONS, backend="ray")
    source = ModelSource("colors", classifier=color_classifier())
    with pytest.raises(PellucidError, match="exists in this process only"):
        evaluate(squares, source, [GradCAM()], tmp_path / "other", OPTIONS, backend="ray")
