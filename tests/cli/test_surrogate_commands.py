"""`pellucid surrogate`, called as a user calls it, on a network and images beside the user."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.cli.command import pellucid as command
from tests.cli.command import refusal
from tests.surrogate.support import bars
from torch import Tensor

from pellucid import Classifier, PellucidError
from pellucid.data import ContextTable, Preprocess, write_context
from pellucid.storage import read_json
from pellucid.surrogate.model import DisplaySpace
from pellucid.surrogate.training.training_progress import TrainingProgress
from pellucid.synthetic import draw_digits
from pellucid.synthetic.morphomnist import measure
from pellucid.workflows.options import TrainSurrogateOptions
from pellucid.workflows.surrogate_images import ImageSample, find_measure, find_rerender
from pellucid.workflows.surrogate_training import train_surrogate

NETWORKS = """
import torch
from torch import nn
import pellucid as pl

def made(scale=1.0, size=(16, 16), seed=3):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).eval()
    net[-1].weight.data *= scale
    preprocess = pl.data.Preprocess(size, mean=(0.5,), std=(0.25,))
    return pl.Classifier(net, preprocess=preprocess, class_names=["thin", "plain", "thick"], name="bar net")

def net():
    return made(40.0)

def other():
    return made(40.0, seed=4)

def constant():
    return made(0.0)

def oblong():
    return made(40.0, (16, 20))
"""

TINY = [
    word
    for text in (
        *("batch_size=8", "latent_dim=3", "nuisance_dim=3", "channel_base=64", "max_channels=8"),
        *("encoder_channel_base=64", "encoder_max_channels=8"),
        *("predictor_steps=10", "log_every=1", "checkpoint_every=4", "preview_every=4"),
    )
    for word in ("--option", text)
]
BEGIN = ["--preset", "ci-16", "--steps", "8", "--held-out", "0.5", *TINY]


def pellucid(*arguments: str | Path) -> tuple[int, str, str]:
    return command("surrogate", *arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with images of bars, their table, networks, and a finished run."""
    folder = tmp_path_factory.mktemp("surrogate")
    (folder / "barnets.py").write_text(NETWORKS)
    data = bars(130, 0, 0.5)
    (folder / "images").mkdir()
    files = [folder / "images" / f"{number:03}.png" for number in range(130)]
    for file, image in zip(files, data.images, strict=True):
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(file)
    table = ContextTable(data.context.names, data.context.values, tuple(files))
    write_context(table, folder / "context.csv", folder=folder / "images")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums differ in the last bit with the number of threads
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.delitem(sys.modules, "barnets", raising=False)
        yield folder
    sys.modules.pop("barnets", None)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def begun(place: Path) -> dict[str, Any]:
    code, output, err = pellucid(
        "train", "images", "--context", "context.csv", "--model", "barnets:net", "--out", "run", *BEGIN, "--json"
    )
    assert code == 0, err
    return json.loads(output)


@pytest.fixture
def run(place: Path, begun: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the finished run, to write into."""
    shutil.copytree(place / "run", tmp_path / "run")
    return tmp_path / "run"


def test_training_measures_the_twin_on_images_held_out_and_keeps_what_it_was_begun_with(
    place: Path, begun: dict[str, Any]
) -> None:
    assert begun["steps"] == 8
    assert begun["assessment"]["num_images"] == 65
    assert "upper bounds" in begun["assessment"]["measured_by"]
    assert [control["concept"] for control in begun["assessment"]["controls"]] == ["thickness", "intensity"]
    command = json.loads((place / "run" / "command.json").read_text())
    assert (command["model"], command["steps"], command["held_out"]) == ("barnets:net", 8, 0.5)
    assert {"surrogate.json", "assessment.json", "reference.safetensors", "preview.png"} <= {
        file.name for file in (place / "run").iterdir()
    }


def test_a_stopped_training_says_how_to_go_on_and_goes_on(
    place: Path, begun: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(progress: TrainingProgress) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr("pellucid.cli.surrogate_commands.print_progress", stop)
        code, _, err = pellucid(
            "train", "images", "--context", "context.csv", "-m", "barnets:net", "--out", out, *BEGIN
        )
    assert code == 130
    assert f"pellucid surrogate resume {out}" in err
    code, output, err = pellucid("resume", out, "--json")
    assert code == 0, err
    assert "resuming after step 4 of 8" in err
    assert json.loads(output)["assessment"] == begun["assessment"]


def test_evaluate_prints_fidelity_control_and_leaks(run: Path) -> None:
    code, output, _ = pellucid("evaluate", run, "--out", run / "assessment.html")
    assert code == 0
    for word in ("agreement", "swaps", "leak", "probe", "intensity"):  # a narrow screen wraps longer ones
        assert word in output
    assert "Control of each concept" in (run / "assessment.html").read_text()


def test_evaluate_gives_numbers_of_other_images_to_machines_and_keeps_them_only_when_asked(
    run: Path, place: Path
) -> None:
    before = (run / "assessment.json").read_text()
    arguments = ("evaluate", run, "--images", "images", "--context", "context.csv", "--json")
    code, output, _ = pellucid(*arguments)
    result = json.loads(output)
    assert code == 0
    assert result["assessment"]["num_images"] == 130
    assert set(result["predictors"]) == {"thickness", "intensity"}
    assert (run / "assessment.json").read_text() == before
    pellucid(*arguments, "--keep")
    assert json.loads((run / "assessment.json").read_text())["num_images"] == 130


def test_graph_prints_edges_and_writes_them(run: Path) -> None:
    pytest.importorskip("causallearn")
    files = [run / f"graph{suffix}" for suffix in (".json", ".graphml", ".html")]
    outs = [word for file in files for word in ("--out", file)]
    code, output, err = pellucid(
        "graph",
        run,
        "--tier",
        "thickness=0",
        "--tier",
        "intensity=1",
        "--bootstraps",
        "2",
        "--max-interventions",
        "20",
        *outs,
    )
    assert code == 0, err
    assert "edges to the decision, by intervention" in output
    assert {"thickness", "intensity"} <= set(json.loads(files[0].read_text())["data"]["nodes"])
    assert "<graphml" in files[1].read_text()
    assert "What the classifier perceives" in files[2].read_text()
    assert (run / "global_explanation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tier", "thickness"), "is not NAME=VALUE"),
        (("--tier", "hue=0"), "['hue'], which are not concepts"),
        (("--required", "thickness"), "is not CAUSE->EFFECT"),
        (("--tier", "thickness=-1"), "expected a whole number"),
        (("--target", "zebra"), "zebra"),
        (("--method", "pcc"), "'pcc' is unknown"),
        (("--test", "hsic"), "'hsic' is unknown"),
        (("--required", "width->thickness", "--required", "thickness->width"), "required causes make a cycle"),
        (("--out", "graph.pdf"), "must end in"),
        (("--context", "context.csv"), "give both"),
    ],
)
def test_graph_refuses_what_it_does_not_know(run: Path, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = pellucid("graph", run, *arguments)
    assert message in refusal(code, err)


def test_for_one_class_the_graph_tells_doses_necessity_and_where_it_measured(run: Path) -> None:
    code, output, err = pellucid("graph", run, "--bootstraps", "0", "--target", "thick", "--residual-transfer")
    assert code == 0, err
    assert "edges to the decision for thick, by intervention transferred to the input images" in output
    global_explanation = json.loads((run / "global_explanation.json").read_text())
    assert (global_explanation["target"], global_explanation["residual_transfer"]) == (2, True)


def test_held_out_images_are_those_of_the_training_or_none(run: Path, place: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(place / "images", tmp_path / "images")
    command = read_json(run / "command.json")
    (run / "command.json").write_text(json.dumps(command | {"data": str(moved), "context": None}))
    code, _, err = pellucid("evaluate", run)
    assert "no longer holds the images that the training began with" in refusal(code, err)


def test_explain_writes_a_page_numbers_and_strips(run: Path, place: Path) -> None:
    shutil.copy(run / "assessment.json", run / "before.json")
    marks = read_json(run / "assessment.json")
    marks["controls"][0]["correlation"], marks["controls"][1]["correlation"] = 0.95, 0.3
    (run / "assessment.json").write_text(json.dumps(marks))
    code, output, err = pellucid(
        "explain", run, "images/003.png", "--set", "thickness=4.5", "--permutations", "2", "--values", "3",
        "--out", run / "why", "--json",
    )  # fmt: skip
    assert code == 0, err
    (result,) = json.loads(output)["images"]
    assert result["counterfactual"]["do"] == {"thickness": 4.5}
    assert set(result["refused"]) == {"intensity"}
    assert [strip["concept"] for strip in result["traversals"]] == ["thickness", "latent 1", "latent 2", "latent 3"]
    assert "003.png" in (run / "why" / "explanation.html").read_text()
    assert json.loads((run / "why" / "explanation.json").read_text())["images"][0]["file"] == "003.png"
    with Image.open(run / "why" / "003" / "thickness.png") as strip:
        assert strip.size == (3 * 96, 96)
    code, _, err = pellucid("explain", run, "images/003.png", "--set", "intensity=0.5")
    assert "counterfactuals of 'intensity' are refused" in refusal(code, err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "hue=1"), "no context ['hue']"),
        (("--set", "thickness=much"), "'much' is not a number"),
        (("--target", "zebra"), "zebra"),
        (("--model", "barnets:other"), "its decisions are not the ones that were distilled"),
    ],
)
def test_explain_refuses_what_it_does_not_know(run: Path, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = pellucid("explain", run, "images/003.png", "--permutations", "2", "--values", "3", *arguments)
    assert message in refusal(code, err)


def rows(place: Path) -> list[list[str]]:
    return [line.split(",") for line in (place / "context.csv").read_text().splitlines()]


def table_with(place: Path, file: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> Path:
    lines = rows(place)
    file.write_text("\n".join(",".join(row) for row in change(lines)) + "\n")
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-3], "3 of 130 images in"),
        (lambda lines: [lines[0], *([*row[:2], "0.5"] for row in lines[1:])], "without any variation: 'intensity'"),
        (lambda lines: [[*lines[0], "again"], *([*row, row[1]] for row in lines[1:])], "are copies of each other"),
        (lambda lines: [*lines[:-1], [*lines[-1][:2], ""]], "the cell is empty"),
    ],
)
def test_a_table_from_which_nothing_can_be_learnt_is_refused(
    place: Path, tmp_path: Path, change: Callable[[list[list[str]]], list[list[str]]], message: str
) -> None:
    table = table_with(place, tmp_path / "bad.csv", change)
    code, _, err = pellucid("train", "images", "--context", table, "-m", "barnets:net", "--out", tmp_path / "r", *BEGIN)
    assert message in refusal(code, err)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "barnets:constant"), "there is nothing to explain"),
        (("--model", "barnets:oblong"), "needs square images"),
        (("--model", "barnets:net", "--held-out", "0.1"), "130 images are too few"),
        (("--model", "barnets:net", "--held-out", "1.5"), "between 0 and 1"),
        (("--model", "barnets:net", "--preset", "cpu-33"), "no preset 'cpu-33'"),
        (("--model", "barnets:net", "--option", "lattents=4"), "no training option 'lattents'"),
        (("--model", "barnets:net", "--option", "max_grad_norm=four"), "expected a value such as"),
        (("--model", "barnets:net", "--preset", "cpu-32"), "the preset generates 32 x 32"),
        (("--model", "barnets:net", "--measure", "morphomnist", "--columns", "hue"), "hue"),
        (("--model", "barnets:net", "--measure", "ruler"), "choose from predictors, morphomnist"),
    ],
)
def test_bad_input_is_one_clear_line(place: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = pellucid("train", "images", "--context", "context.csv", "--out", tmp_path / "r", *BEGIN, *arguments)
    assert message in refusal(code, err)


def test_a_run_of_another_classifier_is_not_gone_on_with(run: Path) -> None:
    code, _, err = pellucid("train", "images", "--context", "context.csv", "-m", "barnets:other", "--out", run, *BEGIN)
    assert "another classifier" in refusal(code, err)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    code, _, err = pellucid("resume", tmp_path)
    assert "has no command.json" in refusal(code, err)


class DrawnDigits:
    """As much of a twin of a digit classifier as measuring needs, with images (40, 1, 28, 28)."""

    context_names = ("thickness", "slant")

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        thickness, slant = 2 + 2 * torch.rand(40, generator=random), torch.rand(40, generator=random) - 0.5
        gray = draw_digits(torch.arange(40) % 10, thickness=thickness, slant=slant)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)).eval()
        self.classifier = Classifier(
            network, preprocess=Preprocess((28, 28), mean=(0.5,), std=(0.5,)), input_size=(1, 28, 28)
        )
        self.images = gray[:, None] / 127.5 - 1
        self.space = DisplaySpace.of(self.classifier, self.images)
        self.table = measure(gray).table(*self.context_names)

    @property
    def surrogate(self) -> "DrawnDigits":
        return self

    def standard_context(self, values: Tensor) -> Tensor:
        return (values - self.table.values.mean(0).float()) / self.table.values.std(0).float()


def test_morphometry_finds_what_the_table_says_and_refuses_a_table_in_other_units() -> None:
    digits = DrawnDigits()
    sample = ImageSample([], digits.images, digits.table)
    found = find_measure("morphomnist", digits, sample)(digits.images)
    torch.testing.assert_close(found, digits.standard_context(digits.table.values.float()), rtol=0.2, atol=0.2)
    other = digits.table.with_columns({"thickness": 2 * digits.table.column("thickness")})
    with pytest.raises(PellucidError, match=r"does not give what the context table says \(thickness R2"):
        find_measure("morphomnist", digits, ImageSample([], digits.images, other))


@pytest.mark.parametrize("option", ["--measure", "--rerender"])
def test_a_table_that_does_not_fit_its_images_is_refused_before_the_training(tmp_path: Path, option: str) -> None:
    digits = draw_digits(torch.arange(120) % 10, thickness=2 + torch.arange(120) % 3, slant=0.0)
    (tmp_path / "images").mkdir()
    for number, digit in enumerate(digits):
        Image.fromarray(digit.round().clamp(0, 255).byte().numpy()).save(tmp_path / "images" / f"{number:03}.png")
    files = sorted((tmp_path / "images").iterdir())
    thickness = torch.rand(120, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    write_context(ContextTable(("thickness",), thickness, tuple(files)), tmp_path / "t.csv", folder=tmp_path / "images")
    options = TrainSurrogateOptions(
        tmp_path / "images",
        model="digit_cnn",
        context=tmp_path / "t.csv",
        steps=8,
        held_out=0.5,
        **{option[2:]: "morphomnist"},
    )
    with pytest.raises(PellucidError, match=rf"does not give what the context table says.*Use {option}"):
        train_surrogate(tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_redrawn_digits_have_other_contexts_which_are_told() -> None:
    digits = DrawnDigits()
    anew = find_rerender("morphomnist", digits.classifier, digits.table, digits.images)
    drawn, contexts = anew(digits.images, torch.Generator().manual_seed(1))
    assert drawn.shape == digits.images.shape
    again = measure(digits.space.to_display(drawn)[:, 0].add(1).mul(127.5)).table(*digits.context_names).values.float()
    torch.testing.assert_close(contexts, again, rtol=0.05, atol=0.05)
    thickness = torch.stack([contexts[:, 0], digits.table.column("thickness").float()])
    assert abs(float(torch.corrcoef(thickness)[0, 1])) < 0.5
    assert find_rerender("none", digits.classifier, digits.table, digits.images) is None
