"""The options of all commands: made from dataclasses, documented, and named rightly wherever a message names them."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import App
from tests.cli.command import pellucid, refusal

from pellucid.cli import app
from pellucid.cli.commands import RENAMED

ROOT = Path(__file__).parents[2]
GROUPS = ("concepts", "surrogate")
COMMANDS = [
    *("explain", "evaluate", "report", "layers", "classes", "models", "demo"),
    *("concepts fit", "concepts list", "concepts explain", "concepts rank", "concepts tcav"),
    *("surrogate train", "surrogate resume", "surrogate graph", "surrogate explain", "surrogate evaluate"),
]


def command_app(path: str) -> App:
    found = app
    for name in path.split():
        found = found[name]
    return found


def options(path: str) -> dict[str, object]:
    """Option -> its argument."""
    arguments = command_app(path).assemble_argument_collection(
        default_parameter=app.default_parameter, parse_docstring=True
    )
    return {name: argument for argument in arguments for name in argument.names if name.startswith("--")}


def test_there_are_no_other_commands() -> None:
    names = {name for name in app if not name.startswith("-")} - set(GROUPS)
    names |= {f"{group} {name}" for group in GROUPS for name in app[group] if not name.startswith("-")}
    assert names == set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_each_option_has_a_help_text(path: str) -> None:
    arguments = command_app(path).assemble_argument_collection(
        default_parameter=app.default_parameter, parse_docstring=True
    )
    assert [argument.name for argument in arguments if argument.show and not argument.parameter.help] == []


@pytest.mark.parametrize("path", COMMANDS)
def test_each_command_prints_json_too(path: str) -> None:
    assert "--json" in options(path)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("explain", "model weights methods layers target option smooth top out device max-batch max-bytes concepts "
         "builtin cache json"),
        ("evaluate", "out model weights settings layers methods option n grids threshold pool reuse smooth randomize "
         "maps order head input-size explained seed shard backend device max-batch report no-report json"),
        ("report", "out"),
        ("layers", "model weights clean json"),
        ("concepts fit", "concepts builtin negatives layers model weights estimator features count seed out cache "
         "device max-batch json"),
        ("concepts explain", "concepts builtin negatives layers target model weights estimator baseline permutations "
         "count seed out cache device max-batch max-bytes json"),
        ("concepts rank", "target concepts builtin negatives layers model weights estimator baseline permutations "
         "hierarchical count seed out cache device max-batch max-bytes json"),
        ("concepts tcav", "target concepts builtin negatives layers model weights estimator features random-sets "
         "permutations count seed out cache device max-batch json"),
        ("surrogate train", "model out context columns weights preset steps layers held-out measure rerender option "
         "seed device json"),
        ("surrogate resume", "device json"),
        ("surrogate graph", "tier required forbidden method bootstraps max-interventions target residual-transfer "
         "images context model weights out seed device json"),
        ("surrogate explain", "target flip-to set propagate permutations values residual-transfer model weights out "
         "seed device json"),
        ("surrogate evaluate", "images context measure model weights keep out seed device json"),
    ],
)  # fmt: skip
def test_options_keep_their_names(path: str, names: str) -> None:
    assert {f"--{name}" for name in names.split()} <= set(options(path))


def test_help_needs_no_torch() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONPROFILEIMPORTTIME": "1"}
    for arguments in ([], ["--help"], ["concepts", "--help"], ["--version"]):
        ran = subprocess.run(
            [sys.executable, "-m", "pellucid", *arguments], capture_output=True, text=True, env=environment, check=False
        )
        assert ran.returncode == 0
        assert "| torch" not in ran.stderr


@pytest.mark.parametrize("path", COMMANDS)
def test_help_names_each_option_and_says_what_the_list_of_commands_says(path: str) -> None:
    code, text, _ = pellucid(*path.split(), "--help")
    assert code == 0
    assert [name for name in options(path) if name not in text] == []
    _, listing, _ = pellucid(*path.split()[:-1], "--help")
    (line,) = [line for line in listing.splitlines() if line.startswith(f"│ {path.split()[-1]} ")]
    assert " ".join(line.strip("│ ").split()[1:])[:60] in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("explane", "'explane'|\"explane\""),
        ("explain", "IMAGES.*pellucid explain --help"),
        ("explain a.png --colour red", "--colour.*pellucid explain --help"),
        ("explain a.png --top many", "--top: 'many' is not a whole number"),
        ("explain a.png --top 0", "top is 0; it must be at least 1"),
        ("explain a.png --out", "--out requires an argument"),
        ("evaluate data --out run --threshold high", "--threshold: 'high' is not a number"),
        ("concepts rank a.png --builtin striped", "no class given: --target CLASS"),
        ("concepts rank a.png --target 1 --estimator ridje", "did you mean ridge"),
        ("concepts fit --count 0", "count is 0; it must be at least 1"),
        ("surrogate train images --out run", "--model"),
        ("surrogate explain digits a.png --values 2", "values is 2; it must be at least 3"),
    ],
)
def test_a_word_that_cannot_be_parsed_is_one_line_and_exit_code_2(arguments: str, message: str) -> None:
    code, out, errors = pellucid(*arguments.split())
    assert re.search(message, refusal(code, errors))
    assert len(errors.strip().splitlines()) == 1
    assert out == ""


def test_names_may_be_separated_by_commas_or_given_again_and_classes_may_have_commas() -> None:
    words = "a.png b.png --layers middle,final --layers input c.png --target cat,tabby --target 3 -m digit_cnn --json"
    _, bound, _ = app.parse_args(["explain", *words.split()], exit_on_error=False, print_error=False)
    assert bound.args == ("a.png", "b.png", "c.png")
    assert bound.kwargs["options"].layers == ("middle", "final", "input")
    assert bound.kwargs["options"].target == ("cat,tabby", "3")
    assert bound.kwargs["classifier"].model == "digit_cnn"
    assert bound.kwargs["as_json"]


def test_the_commands_of_the_readme_can_be_typed() -> None:
    lines = re.findall(r"^    \.venv/bin/pellucid (.*)$", (ROOT / "README.md").read_text(), re.M)
    assert len(lines) > 15
    for line in lines:
        for command in line.split("&& .venv/bin/pellucid"):
            app.parse_args(shlex.split(command), exit_on_error=False, print_error=False)


def literals() -> str:
    """The texts in the sources: what messages, help and pages are made of."""
    texts = []
    for file in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(file.read_text())
        texts += [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
    for file in sorted((ROOT / "src").rglob("*.html")):
        texts += re.findall("<code>(.*?)</code>", file.read_text())
    return "\n".join(texts)


def test_each_command_and_option_that_a_message_names_exists() -> None:
    text = literals()
    known = {name for path in COMMANDS for name in options(path)} | {"--help", "--version", "--install-completion"}
    known |= set(RENAMED)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text))
    assert named - known - {"--force-reinstall"} == set()  # pip's
    calls = set(re.findall(r"`pellucid ((?:concepts |surrogate )?[a-z]+)", text))
    calls |= set(re.findall(r"pellucid ((?:concepts|surrogate) [a-z]+)", text))
    assert calls - {*COMMANDS, *GROUPS, "surrogate run"} == set()  # the last is a kind of folder


def test_options_that_were_renamed_still_work_and_are_noted() -> None:
    code, _, errors = pellucid("surrogate", "graph", "nowhere", "--intervened=30", "--transferred", "--method", "pcc")
    assert "'pcc'" in refusal(code, errors)
    assert "note: --intervened is now --max-interventions" in errors
    assert "note: --transferred is now --residual-transfer" in errors


def test_completion_knows_commands_options_and_choices() -> None:
    script = app.generate_completion(shell="zsh")
    assert [path for path in COMMANDS if path.split()[-1] not in script] == []
    assert "--layers" in script
    assert "classify_first" in script
