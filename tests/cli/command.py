"""The command line, called as a user calls it."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from pellucid.cli import main


def pellucid(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `pellucid ARGUMENTS`."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["pellucid", *map(str, arguments)])
        patch.setattr(sys, "path", list(sys.path))
        patch.setenv("COLUMNS", "200")
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def refusal(code: int, errors: str) -> str:
    """The one line that refuses bad input."""
    assert code == 2, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in errors
    return line
