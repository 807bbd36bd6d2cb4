"""A run that is killed or interrupted goes on where it was, and ends with the same table."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.evaluation.sweep_support import MODEL, columns, hear_ctrl_c, write_squares

from pellucid.attribution import RISE, GradCAM
from pellucid.evaluation.sweep import Run, SweepOptions, evaluate

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, torch
from tests.evaluation.test_sweep_resume import sweep
torch.set_num_threads(1)
sweep(sys.argv[1], sys.argv[2])
"""


def sweep(squares: str | Path, out: str | Path) -> Run:
    options = SweepOptions(
        settings=("GridPG", "DiFull"), layers=("input", "final"), grids=8, shard_size=1, keep_maps="all"
    )
    return evaluate(squares, MODEL, [GradCAM(), RISE(masks=20)], out, options)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


def start(squares: Path, out: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, squares, out],
        env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=hear_ctrl_c,
    )  # fmt: skip


def wait_for(process: "subprocess.Popen[str]", reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def shards(out: Path) -> int:
    return len(list(out.glob("shards/*.parquet")))


def kill_at(squares: Path, out: Path, reached: int, how: signal.Signals) -> str:
    """Start a run, end it when so many shards are done, and return what it said."""
    process = start(squares, out)
    wait_for(process, lambda: (out / "plan.json").exists() and shards(out) >= reached)
    process.send_signal(how)
    _, said = process.communicate()
    assert process.returncode != 0
    return said


def test_killed_again_and_again_it_ends_with_the_same_table(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    for reached in (0, 7):
        kill_at(squares, out, reached, signal.SIGKILL)
        found = Run.load(out)
        assert not found.is_complete
        assert found.progress[0] == shards(out) >= reached  # no half of a shard counts
        assert found.table().num_rows == sum(7 * shard_cells(found, number) for number in range(shards(out)))
    sweep(squares, out)
    undisturbed = sweep(squares, tmp_path / "undisturbed")
    assert columns(Run.load(out)) == columns(undisturbed)
    assert not list(out.rglob("*.part"))
    for maps in sorted((out / "maps").iterdir()):
        assert maps.read_bytes() == (undisturbed.folder / "maps" / maps.name).read_bytes()


def shard_cells(run: Run, number: int) -> int:
    return 4 if list(run.plan.shards())[number].setting == "GridPG" else 2


def test_interrupted_it_can_go_on(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = kill_at(squares, out, 2, signal.SIGINT)
    assert "KeyboardInterrupt" in said
    assert 2 <= shards(out) < 32
    assert not list(out.rglob("*.part"))
    assert sweep(squares, out).is_complete
