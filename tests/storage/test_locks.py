"""Locks: one holder at a time, in this process and in others, and none left by a process that was killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from pellucid.storage.locks import hold_lock


def test_a_lock_is_held_once_and_can_be_had_again(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with (
        hold_lock(path, RuntimeError("in use")),
        pytest.raises(RuntimeError, match="in use"),
        hold_lock(path, RuntimeError("in use")),
    ):
        raise AssertionError("held twice")
    with hold_lock(path, RuntimeError("in use")):
        pass


def test_an_exception_inside_lets_go_of_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with pytest.raises(KeyError), hold_lock(path, RuntimeError("in use")):
        raise KeyError
    with hold_lock(path, RuntimeError("in use")):
        pass


def test_a_killed_process_lets_go_of_its_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    program = (
        "import sys, time\nfrom pellucid.storage.locks import hold_lock\n"
        f"with hold_lock({str(path)!r}, RuntimeError()):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline().strip() == b"held"
            with pytest.raises(RuntimeError, match="in use"), hold_lock(path, RuntimeError("in use")):
                raise AssertionError("held twice")
        finally:
            other.kill()
        other.wait()
    with hold_lock(path, RuntimeError("in use")):
        pass
