"""`pellucid evaluate`, called as a user calls it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.command import pellucid, refusal
from tests.evaluation.sweep_support import MODEL, hear_ctrl_c, write_squares

from pellucid.evaluation.sweep import Run

ROOT = Path(__file__).parents[2]
Command = Callable[..., tuple[int, str, str]]
FAST = ("--settings", "GridPG", "--layers", "final", "--methods", "grad-cam", "--grids", "2")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_squares(tmp_path_factory.mktemp("squares"))
    (folder / "red" / "bad.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def evaluate(squares: Path) -> Command:
    """`pellucid evaluate SQUARES ARGUMENTS`."""
    return lambda *arguments, model=MODEL: pellucid("evaluate", squares, "--model", model, *arguments)


def test_a_run_is_printed_as_json_for_machines(evaluate: Command, squares: Path, tmp_path: Path) -> None:
    code, output, errors = evaluate(
        "--out", tmp_path / "run", "--settings", "gridpg,DiFull", "--layers", "input,final", "--grids", "5", "--smooth",
        "3,5", "--methods", "grad-cam,RISE", "--option", "RISE.masks=20", "--json", "--randomize", "fc",
    )  # fmt: skip
    assert code == 0
    record = json.loads(output)
    assert record["skipped"] == {"red/bad.png": record["skipped"]["red/bad.png"]}
    lines = {(e["variant"], e["setting"], e["layer"], e["name"]): e for e in record["summary"]}
    assert len(lines) == 2 * 2 * 2 * (2 * 3 + 5)
    line = lines["trained", "DiFull", "final", "GradCAM smoothed over 3"]
    assert line["median"]["grids"] == 5
    assert 0 < line["median"]["low"] <= line["median"]["estimate"] <= line["median"]["high"] <= 1
    assert line["mirror"] > 0.9
    assert lines["trained", "GridPG", "final", "GradCAM"]["mirror"] is None
    assert any(variant == "random down to fc (1 of 1)" for variant, *_ in lines)
    run = Run.load(tmp_path / "run")
    assert Path(record["table"]).is_file()
    assert run.plan.options.kernel_sizes == (3, 5)
    assert '"masks": 20' in run.plan.methods[1].options
    assert "images of the data set that could not be used: 1" in errors


def test_a_run_is_printed_as_a_table_for_people(evaluate: Command, tmp_path: Path) -> None:
    enough = [*FAST[:-1], "5"]  # grids; for fewer there is no interval
    code, output, errors = evaluate("--out", tmp_path / "run", *enough, "--n", "2x3")
    assert code == 0
    assert "GridPG of colors" in output
    (row,) = [line for line in output.splitlines() if "GradCAM" in line]
    assert "[" in row
    assert "(OracleMask)" in output
    assert "skipped: red/bad.png: is not an image" in errors
    assert Run.load(tmp_path / "run").plan.options.grid == (2, 3)


def test_the_same_command_again_only_reads(evaluate: Command, tmp_path: Path) -> None:
    first = evaluate("--out", tmp_path / "run", *FAST, "--json")
    second = evaluate("--out", tmp_path / "run", *FAST, "--json")
    assert first[:2] == second[:2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--settings", "GridPC"], "no setting 'GridPC'; did you mean GridPG?"),
        (["--methods", "grad-cat"], "did you mean GradCAM"),
        (["--layers", "finale"], "final"),
        (["--n", "two"], "--n: 'two' is not a whole number"),
        (["--n", "2x2x2"], "neither a number nor rows x columns"),
        (["--smooth", "4"], "kernel of 4 cells"),
        (["--maps", "some"], "choose from none, first, all"),
        (["--backend", "cloud"], "--backend: 'cloud' is unknown; choose from local, ray"),
        (
            ["--grids", "900"],
            "3552 are missing. It suffices for 12 grids. Only images classified right with a probability of 0.99",
        ),
        (["--explained", "loggit"], "--explained: 'loggit' is unknown; did you mean logit?"),
        (["--out", "/dev/null/run"], "/dev/null/run: Not a directory; choose another place"),
        (["--weights", "w.safetensors", "--model", "second"], "--weights is for one model"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    evaluate: Command, tmp_path: Path, arguments: list[str], words: str
) -> None:
    code, output, errors = evaluate("--out", tmp_path / "run", *FAST, *arguments)
    assert (code, output.strip()) == (2, "")
    assert [words in line for line in errors.splitlines() if line.startswith("error:")] == [True], errors


def test_another_runs_folder_is_refused_with_the_difference(evaluate: Command, tmp_path: Path) -> None:
    evaluate("--out", tmp_path / "run", *FAST)
    code, _, errors = evaluate("--out", tmp_path / "run", *FAST, "--seed", "3")
    assert code == 2
    assert "seed: 0 there, 3 now" in errors


def test_a_method_that_cannot_explain_is_told_and_the_others_go_on(evaluate: Command, tmp_path: Path) -> None:
    common = ("--settings", "GridPG", "--layers", "relu2", "--grids", "2", "--json")
    model = "tests.evaluation.sweep_support:detached_classifier"
    code, output, errors = evaluate("--out", tmp_path / "two", *common, "--methods", "GradCAM,Occlusion", model=model)
    assert code == 0
    status = {line["name"]: line["status"] for line in json.loads(output)["summary"]}
    assert status["GradCAM"] == {"refused": 8}
    assert status["Occlusion"] == status["Uniform"] == {"ok": 8}
    assert "not explained: GradCAM at relu2 in GridPG: no gradient flows" in errors
    assert "maps that could not be made and have no score: 8 (GradCAM at relu2)" in errors
    code, _, errors = evaluate("--out", tmp_path / "one", *common, "--methods", "GradCAM", model=model)
    assert code == 2
    assert "no method could be scored: no gradient flows" in errors


def test_ctrl_c_says_how_to_go_on(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "pellucid", "evaluate", str(squares), "--model", MODEL, "--out", str(out), "--grids",
        "8", "--shard", "1", "--methods", "RISE", "--option", "RISE.masks=200",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "COLUMNS": "200"}
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c
    )
    end = time.monotonic() + 60
    while not list(out.glob("shards/*.parquet")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "give the same command again to continue" in errors
    assert not Run.load(out).is_complete


def test_metrics_of_single_images_are_measured_and_printed(evaluate: Command, tmp_path: Path) -> None:
    arguments = ("--metrics", "deletion,random-logit", "--metric-options", "deletion.steps=3", "--images", "2", *FAST)
    code, output, _ = evaluate("--out", tmp_path / "run", *arguments)
    assert code == 0
    assert "deletion of colors: area under" in output
    assert f"metrics: {tmp_path / 'run' / 'metrics.parquet'}" in output
    assert (tmp_path / "run" / "report.html").is_file()
    code, output, _ = evaluate("--out", tmp_path / "run", *arguments, "--json")
    lines = json.loads(output)["metrics"]
    assert {(line["metric"], line["method"]) for line in lines} >= {
        ("deletion", "GradCAM"),
        ("random_logit", "GradCAM"),
    }
    assert all(0 <= line["mean"]["estimate"] <= 1 for line in lines if line["metric"] == "deletion")


def test_metrics_may_be_measured_without_localization_and_are_suggested(evaluate: Command, tmp_path: Path) -> None:
    code, out, errors = evaluate("--out", tmp_path / "alone", *FAST, "--metrics", "deletion", "--images", "2")
    assert code == 0, errors
    assert "deletion of colors: area under" in out
    assert "median localization score" not in out
    code, _, errors = evaluate("--out", tmp_path / "none", *FAST, "--metrics", "deletoin")
    assert "deletion" in refusal(code, errors)
