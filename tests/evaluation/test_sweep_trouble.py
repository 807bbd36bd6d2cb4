"""What a run refuses, and what it does when images, maps, files or the disk fail."""

import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.evaluation.sweep_support import (
    COLORS,
    MODEL,
    color_classifier,
    color_network,
    columns,
    rows,
    write_squares,
)

from pellucid import Classifier
from pellucid.attribution import (
    Attribution,
    Case,
    GradCAM,
    InputXGradient,
    Method,
)
from pellucid.errors import (
    LayerError,
    MissingExtraError,
    ModelError,
    PellucidError,
)
from pellucid.evaluation import GridSetError
from pellucid.evaluation.sweep import (
    Run,
    RunError,
    SweepOptions,
    SweepProgress,
    evaluate,
)

OPTIONS = SweepOptions(
    settings=("GridPG", "DiFull"), layers=("input", "final"), grids=5, kernel_sizes=(5,), shard_size=2, keep_maps="all"
)
METHODS = (GradCAM(), InputXGradient())
SMALL = SweepOptions(settings=("GridPG",), layers=("final",), grids=2)
TIMES = ("seconds", "shared_seconds")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return evaluate(squares, color_classifier(), METHODS, tmp_path_factory.mktemp("run") / "run", OPTIONS)


def test_what_is_lost_is_made_again_and_nothing_else(squares: Path, tmp_path: Path) -> None:
    whole = evaluate(squares, color_classifier(), METHODS, tmp_path / "run", OPTIONS)
    before = columns(whole)
    folder = whole.folder
    shards = sorted((folder / "shards").iterdir())
    (folder / "table.parquet").unlink()
    shards[1].unlink()
    shards[3].write_bytes(shards[3].read_bytes()[:100])
    (folder / "maps" / shards[5].name).write_bytes(b"")
    (folder / "shards" / ".x.parquet.1.part").write_bytes(b"half a shard")
    assert not Run.load(folder).is_complete
    assert Run.load(folder).progress == (len(shards) - 3, len(shards))
    assert len(Run.load(folder).table()) < len(before["score"])
    made = []
    again = evaluate(squares, color_classifier(), METHODS, folder, OPTIONS, on_progress=made.append)
    assert [step.task.number for step in made if step.task is not None] == [1, 3, 5]  # type: ignore[union-attr]
    assert columns(again) == before
    assert not list(folder.rglob("*.part"))


def test_a_run_made_with_other_options_is_refused_with_the_difference(run: Run, squares: Path) -> None:
    classifier = color_classifier()
    with pytest.raises(RunError, match=r"\(options\.grids: 5 there, 6 now\)\. Give the same"):
        evaluate(squares, classifier, METHODS, run.folder, replace(OPTIONS, grids=6))
    with pytest.raises(RunError, match=r"methods\.0\.options"):
        evaluate(squares, classifier, [GradCAM(max_batch=3), InputXGradient()], run.folder, OPTIONS)
    network = color_network()
    with torch.no_grad():
        network.fc.weight += 1  # type: ignore[union-attr]
    other = Classifier(network, preprocess=classifier.preprocess, class_names=COLORS, name="colors")
    with pytest.raises(RunError, match=r"models\.0\.fingerprint"):
        evaluate(squares, other, METHODS, run.folder, OPTIONS)


def test_a_folder_that_is_no_run_is_left_alone(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="is not empty and not a run"):
        evaluate(squares, color_classifier(), METHODS, tmp_path, OPTIONS)
    with pytest.raises(RunError, match=r"has no plan\.json"):
        Run.load(tmp_path)


def test_too_few_images_can_be_mended_in_the_same_folder(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(GridSetError, match="missing"):
        evaluate(squares, color_classifier(), METHODS, out, replace(SMALL, grids=500))
    assert Run.load(out).table().num_rows == 0
    classified = []
    run = evaluate(squares, color_classifier(), METHODS, out, SMALL, on_progress=classified.append)
    assert run.is_complete
    assert [step.done for step in classified if step.stage == "classifying"] == [1]  # nothing was classified again


def test_a_folder_in_use_is_refused(squares: Path, tmp_path: Path) -> None:
    def again(_: SweepProgress) -> None:
        with pytest.raises(RunError, match="another process is at work"):
            evaluate(squares, color_classifier(), METHODS, tmp_path / "run", SMALL)

    evaluate(squares, color_classifier(), METHODS, tmp_path / "run", SMALL, on_progress=again)


@dataclass(frozen=True, kw_only=True)
class Broken(Method):
    """NaN maps for grid 1, and no map at all for grid 2."""

    def attribute(self, case: Case) -> Attribution:
        if case.offset == 2:
            raise ModelError("this grid is too difficult")
        values = torch.ones(len(case), case.target_count, 4, 4)
        values[:, :, 0, 0] = torch.nan if case.offset == 1 else 1
        return Attribution(values)


def test_maps_that_cannot_be_scored_are_counted_and_never_zero(squares: Path, tmp_path: Path) -> None:
    problems: list[str] = []
    options = replace(SMALL, grids=4, shard_size=1, keep_maps="first")
    run = evaluate(
        squares, color_classifier(), [Broken()], tmp_path / "run", options,
        on_progress=lambda step: problems.extend(step.problems),
    )  # fmt: skip
    found = rows(run, method="Broken", cell=0)
    assert [row["status"] for row in found] == ["ok", "non-finite", "refused", "ok"]
    assert [row["non_finite"] for row in found] == [False, True, False, False]
    assert [np.isnan(row["score"]) for row in found] == [False, True, True, False]
    assert found[2]["note"] == "this grid is too difficult"
    assert problems == ["Broken at final in GridPG: this grid is too difficult"]
    line = next(line for line in run.summary() if line.method == "Broken")
    assert line.status == {"ok": 8, "non-finite": 4, "refused": 4}
    assert (line.median.scores, line.median.excluded, line.note) == (8, 8, "this grid is too difficult")
    aggregate = run.agg_att("GridPG", "final", "Broken")
    assert aggregate.bins.excluded.tolist() == [1, 2]
    assert sum(aggregate.bins.sizes) == 2


def test_unreadable_images_are_listed_and_not_used(tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data")
    (data / "red" / "bad.png").write_bytes(b"no image")
    run = evaluate(data, color_classifier(), METHODS, tmp_path / "run", SMALL)
    assert list(run.skipped) == ["red/bad.png"]
    used = {cell.path for row in run.grid_set("GridPG").cells for cell in row}
    assert "red/bad.png" not in used


def test_a_full_disk_is_a_clear_error_and_what_is_done_can_be_read(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, written = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        written.append(path)
        if len([path for path in written if path.parent.name == "shards"]) > 3:
            whole(path, content[: len(content) // 2])
            raise OSError(28, "No space left on device")
        return whole(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match=r"no space is left on the disk of .* start the same command again"):
        evaluate(squares, color_classifier(), METHODS, tmp_path / "run", OPTIONS)
    monkeypatch.undo()
    run = Run.load(tmp_path / "run")
    assert run.progress == (3, 12)
    assert set(run.table()["setting"].to_pylist()) == {"GridPG", "DiFull"}
    assert run.summary()
    assert evaluate(squares, color_classifier(), METHODS, tmp_path / "run", OPTIONS).is_complete


def test_what_is_held_in_memory_does_not_grow_with_the_grids(squares: Path, tmp_path: Path) -> None:
    held = []

    def weigh(step: SweepProgress) -> None:
        if step.stage == "explaining" and step.done in (2, 12):
            gc.collect()
            tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
            held.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors))

    options = replace(SMALL, layers=("input",), grids=12, shard_size=1)
    evaluate(squares, color_classifier(), METHODS, tmp_path / "run", options, on_progress=weigh)
    assert len(held) == 2
    assert held[0] == held[1]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layers": ("relu3",)}, LayerError, "relu2"),
        ({"layers": ("final", "relu2")}, PellucidError, "are one layer"),
        ({"layers": ("relu2",), "n": 3, "settings": ("GridPG",)}, GridSetError, "9 classes"),
        ({"kernel_sizes": (99,)}, PellucidError, "longer than all maps"),
        ({"randomize": ("conv9",)}, ModelError, "no layer 'conv9'"),
        ({"layers": ("pool",)}, LayerError, "pool|divide"),
    ],
)
def test_bad_input_is_told_before_any_grid_is_explained(
    squares: Path, tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        evaluate(squares, color_classifier(), METHODS, tmp_path / "run", replace(SMALL, **change))
    assert not (tmp_path / "run" / "shards").exists()


def test_the_cluster_backend_names_the_package_that_it_needs(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pellucid\[cluster\]'"):
        evaluate(squares, MODEL, METHODS, tmp_path / "run", SMALL, backend="ray")


def test_unknown_backends_and_missing_methods_are_refused(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(PellucidError, match="no backend 'cloud'; choose from local, ray"):
        evaluate(squares, color_classifier(), METHODS, tmp_path / "run", SMALL, backend="cloud")  # type: ignore[arg-type]
    with pytest.raises(PellucidError, match="no methods"):
        evaluate(squares, color_classifier(), [], tmp_path / "run", SMALL)
    with pytest.raises(PellucidError, match="two models are called 'colors'"):
        evaluate(squares, [color_classifier(), color_classifier()], METHODS, tmp_path / "run", SMALL)
