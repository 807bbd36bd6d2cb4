"""Run folders: bound to one plan, used by one process at a time, written whole or not at all."""

import errno
import json
from pathlib import Path

import pytest

from pellucid.errors import PellucidError
from pellucid.storage import Difference, RunFolder, find_differences

PLAN = {"options": {"seed": 0, "layers": ["a", "b"]}, "models": [{"name": "net"}], "root": "/images"}


def folder(path: Path) -> RunFolder:
    return RunFolder(path / "run", kind="pellucid test", version=1)


def test_a_new_folder_takes_the_plan_and_the_same_plan_resumes(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.locked():
        assert not run.is_bound
        run.bind_plan(PLAN)
        run.bind_plan(PLAN)
    assert run.read_plan() == PLAN
    stored = json.loads((run.path / "plan.json").read_text())
    assert stored["format"] == "pellucid test"
    assert stored["version"] == 1


def test_another_plan_is_refused_and_the_differences_are_named(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.locked():
        run.bind_plan(PLAN)
        with pytest.raises(
            PellucidError, match=r"models\.0\.name: .net. there, .NET. now; options\.seed: 0 there, 1 now"
        ):
            run.bind_plan({**PLAN, "options": {"seed": 1, "layers": ["a", "b"]}, "models": [{"name": "NET"}]})
        run.bind_plan({**PLAN, "root": "/moved"}, ignored=["root"])
    assert run.read_plan()["root"] == "/images"


def test_many_differences_are_counted(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.locked():
        run.bind_plan({str(i): 0 for i in range(9)})
        with pytest.raises(PellucidError, match="3 more"):
            run.bind_plan({str(i): 1 for i in range(9)})


def test_differences_name_entries_that_only_one_side_has() -> None:
    assert find_differences({"a": 1, "b": {"c": (1, 2)}}, {"b": {"c": [1, 2]}, "d": 2}) == [
        Difference("a", 1, None),
        Difference("d", None, 2),
    ]


def test_a_folder_full_of_something_else_is_refused(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.path.mkdir()
    (run.path / "cat.jpg").touch()
    with pytest.raises(PellucidError, match="is not empty and not a run"), run.locked():
        raise AssertionError("entered")
    assert not (run.path / ".lock").exists()


def contents(path: Path) -> dict[str, bytes | str]:
    """Name -> content of everything in a folder; of a link where it points."""
    return {
        file.relative_to(path).as_posix(): str(file.readlink()) if file.is_symlink() else file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_symlink() or file.is_file()
    }


@pytest.mark.parametrize("plan", [None, '{"name": "plan of my house"}', "[1]", '{"format": "pellucid surrogate run"}'])
@pytest.mark.parametrize("lock", ["mine", "link", None])
def test_nothing_is_touched_in_a_folder_that_is_refused(tmp_path: Path, plan: str | None, lock: str | None) -> None:
    run = folder(tmp_path)
    (run.path / "sub").mkdir(parents=True)
    for name in ("cat.jpg", ".film.part", "sub/.film.part", ".plan.json.12.part", "sub/.film.12.part"):
        (run.path / name).write_text(name)
    if plan is not None:
        (run.path / "plan.json").write_text(plan)
    if lock == "link":
        (tmp_path / "thesis").write_text("years of work")
        (run.path / ".lock").symlink_to(tmp_path / "thesis")
    elif lock is not None:
        (run.path / ".lock").write_text(lock)
    before = contents(tmp_path)
    with pytest.raises(PellucidError), run.locked():
        raise AssertionError("entered")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("bound", [True, False])
def test_a_lock_of_somebody_else_is_neither_emptied_nor_followed(tmp_path: Path, bound: bool) -> None:
    run = folder(tmp_path)
    with run.locked():
        if bound:
            run.bind_plan(PLAN)
    (run.path / ".lock").unlink(missing_ok=True)
    (tmp_path / "thesis").write_text("years of work")
    for make in (
        lambda lock: lock.write_text("pid 7"),
        lambda lock: lock.symlink_to(tmp_path / "thesis"),
        lambda lock: lock.mkdir(),
    ):
        make(run.path / ".lock")
        before = contents(tmp_path)
        with pytest.raises(PellucidError, match=r"\.lock is not the lock of a run"), run.locked():
            raise AssertionError("entered")
        assert contents(tmp_path) == before
        (run.path / ".lock").rmdir() if (run.path / ".lock").is_dir() else (run.path / ".lock").unlink()


def test_a_run_killed_while_it_wrote_its_plan_starts_again(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.path.mkdir()
    (run.path / ".lock").touch()
    (run.path / ".plan.json.123.part").write_text('{"for')
    with run.locked():
        run.bind_plan(PLAN)
    assert run.read_plan() == PLAN
    assert not list(run.path.glob(".*.part"))


def test_only_names_of_half_written_files_are_removed_and_no_link_is_followed(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.locked():
        run.bind_plan(PLAN)
    (tmp_path / "elsewhere").mkdir()
    kept = [run.path / ".film.part", run.path / "film.12.part", tmp_path / "elsewhere" / ".film.12.part"]
    for file in kept:
        file.touch()
    (run.path / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    gone = run.path / ".table.parquet.12.part"
    gone.touch()
    with run.locked():
        assert all(file.exists() for file in kept)
        assert not gone.exists()


def test_two_processes_never_work_in_one_folder(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.locked(), pytest.raises(PellucidError, match="another process is at work"), folder(tmp_path).locked():
        raise AssertionError("entered")


def test_what_is_half_written_is_removed(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.locked():
        run.bind_plan(PLAN)
        run.commit({"shards/1": b"whole"})
    partial = run.path / "shards" / ".2.123.part"
    partial.touch()
    with run.locked():
        assert not partial.exists()
        assert (run.path / "shards" / "1").read_bytes() == b"whole"


def test_damaged_missing_and_strange_plans_are_named(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with pytest.raises(PellucidError, match=r"is not a run: it has no plan\.json"):
        run.read_plan()
    run.path.mkdir()
    for text, message in (
        ('{"format', r"plan\.json is damaged"),
        ("[1]", r"plan\.json is not the plan of a run"),
        ('{"format": "pellucid test", "version": 7}', "is a run of version 7; this pellucid reads 1"),
    ):
        (run.path / "plan.json").write_text(text)
        with pytest.raises(PellucidError, match=message):
            run.read_plan()


def test_a_full_disk_is_explained_and_other_errors_are_not_hidden(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with pytest.raises(PellucidError, match="no space is left"), run.disk_full_errors():
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(PellucidError, match="Change the permissions"), run.disk_full_errors():
        raise PermissionError(errno.EACCES, "forbidden")
    with pytest.raises(InterruptedError), run.disk_full_errors():
        raise InterruptedError(errno.EINTR, "interrupted")
