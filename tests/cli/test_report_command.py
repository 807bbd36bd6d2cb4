"""`pellucid report`, and the page that `pellucid evaluate` leaves behind, called as a user calls them."""

import json
from pathlib import Path

import pytest
from tests.cli.command import pellucid
from tests.evaluation.sweep_support import MODEL, write_squares

FAST = ("--model", MODEL, "--settings", "GridPG", "--layers", "final", "--methods", "grad-cam", "--grids", "2")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


def test_an_evaluation_ends_with_its_page(squares: Path, tmp_path: Path) -> None:
    code, output, _ = pellucid("evaluate", squares, "--out", tmp_path / "run", *FAST)
    assert code == 0
    assert f"report: {tmp_path / 'run' / 'report.html'}" in output
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_page_can_be_left_out_and_made_later(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, first, _ = pellucid("evaluate", squares, "--out", out, *FAST, "--no-report", "--json")
    assert (code, json.loads(first)["report"]) == (0, None)
    assert not (out / "report.html").exists()
    table = (out / "table.parquet").read_bytes()
    code, output, _ = pellucid("report", out, "--out", tmp_path / "pages" / "page.html")
    assert code == 0
    assert f"report: {tmp_path / 'pages' / 'page.html'}" in output
    assert (tmp_path / "pages" / "page.html").exists()
    assert (out / "table.parquet").read_bytes() == table
    _, again, _ = pellucid("report", out, "--json")
    assert json.loads(again) == json.loads(first) | {"report": str(out / "report.html")}


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    code, output, errors = pellucid("report", tmp_path)
    assert (code, output) == (2, "")
    assert "is not a run" in errors
