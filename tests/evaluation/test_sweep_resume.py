"""A run that is killed or interrupted goes on where it was, and ends with the same table."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.evaluation.sweep_support import MODEL, columns, hear_ctrl_c, write_squares

from pellucid.attribution import RISE, GradCAM
from pellucid.errors import PellucidError
from pellucid.evaluation.sweep import Run, SweepOptions, SweepProgress, evaluate
from pellucid.evaluation.sweep.sweep_folder import SweepFolder

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


def repaint(squares: Path, out: Path) -> None:
    """Replace one image of the grids by another of the same size in bytes, as no list of sizes would show."""
    file = squares / sorted(SweepFolder(out).images_in_grids())[0]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.fixture
def own_squares(squares: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(squares, tmp_path / "own"))


def small_sweep(squares: Path, out: Path, on_progress: Callable[[SweepProgress], object] | None = None) -> Run:
    options = SweepOptions(settings=("GridPG",), layers=("final",), grids=4, shard_size=1)
    return evaluate(squares, MODEL, [GradCAM()], out, options, on_progress=on_progress)


@pytest.mark.parametrize("done", [0, 2, 4])
def test_an_image_replaced_during_a_run_ends_it(own_squares: Path, tmp_path: Path, done: int) -> None:
    out = tmp_path / "run"

    def replace(progress: SweepProgress) -> None:
        if progress.stage == "explaining" and progress.done == done:
            repaint(own_squares, out)

    with pytest.raises(PellucidError, match="is not the image that the run began with"):
        small_sweep(own_squares, out, replace)
    assert not Run.load(out).is_complete


def test_an_image_replaced_between_runs_is_refused_until_it_is_put_back(own_squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    table = columns(small_sweep(own_squares, out))
    repaint(own_squares, out)
    with pytest.raises(PellucidError, match="is not the image that the run began with"):
        small_sweep(own_squares, out)
    repaint(own_squares, out)  # the same bit again
    assert columns(small_sweep(own_squares, out)) == table


@pytest.mark.parametrize("name", ["table.parquet", "shards/000001.parquet", "predictions/0/000000.parquet"])
def test_a_damaged_table_is_made_again(own_squares: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    table = columns(small_sweep(own_squares, out))
    for damaged in {name, "table.parquet"}:
        content = bytearray((out / damaged).read_bytes())
        content[len(content) // 2] ^= 1
        (out / damaged).write_bytes(content)
    assert columns(small_sweep(own_squares, out)) == table
