"""`pellucid concepts` and `pellucid explain --concepts`, called as a user calls them, on a network beside the user."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.cli.command import pellucid as command
from tests.cli.command import refusal

from pellucid.concepts import COLUMNS, load_cavs
from pellucid.synthetic import draw_images

Pellucid = Callable[..., tuple[int, str, str]]

NETWORKS = """
import torch
from torch import nn
import pellucid as pl

def made(classes, *, names=None, last=None, first=None):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes),
    ]
    net = nn.Sequential(*([first] if first else []), *layers, *([last] if last else [])).eval()
    return pl.Classifier(net, preprocess=pl.data.Preprocess((24, 24)), class_names=names)

class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
    def forward(self, x):
        return x * self.factor

def three():
    return made(3, names=["bee", "zebra", "tiger"])

def two():
    return made(2, names=["yes", "no"])

def one():
    return made(1, names=["smile"])

def constant():
    return made(3, first=Scaled(0.0))

def broken():
    return made(3, first=Scaled(float("nan")))
"""


@pytest.fixture
def pellucid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pellucid:
    (tmp_path / "tinynets.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "tinynets", raising=False)
    return command


def _draw(folder: Path, name: str, count: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(draw_images(name, count, 24, seed)):
        image.save(folder / f"{index:02}.png")
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Folders of two concepts and of negatives."""
    for name in ("striped", "dotted", "negatives"):
        _draw(tmp_path / "sets" / name, name, 12)
    return tmp_path / "sets"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return _draw(tmp_path / "images", "striped", 6, seed=5)


TINY = ("--model", "tinynets:three", "--layers", "1,3")
QUICK = (*TINY, "--permutations", "19")


def test_fit_writes_cavs_that_can_be_listed_and_loaded(pellucid: Pellucid, sets: Path, tmp_path: Path) -> None:
    code, output, _ = pellucid("concepts", "fit", "--concepts", sets, *TINY, "--out", tmp_path / "cavs", "--json")
    result = json.loads(output)
    assert code == 0
    assert [Path(file).relative_to(tmp_path / "cavs").as_posix() for file in result["files"]] == [
        *("1/dotted.safetensors", "1/striped.safetensors", "3/dotted.safetensors", "3/striped.safetensors")
    ]
    cavs = load_cavs(tmp_path / "cavs")
    assert [(cav.layer, cav.name) for cav in cavs] == [(c["layer"], c["name"]) for c in result["cavs"]]
    one, other = (cav.direction for cav in cavs[:2])
    cosine = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
    assert result["cosines"]["1"]["dotted"]["striped"] == pytest.approx(cosine, abs=1e-6)
    assert all(0 <= c["auc"] <= 1 and c["images"] == 12 for c in result["cavs"])

    code, output, _ = pellucid("concepts", "list", tmp_path / "cavs", "--json")
    assert code == 0
    assert [receipt["file"] for receipt in json.loads(output)["cavs"]] == result["files"]
    code, output, _ = pellucid("concepts", "list", tmp_path / "cavs")
    assert code == 0
    assert "held-out AUC" in output
    assert f"{cavs[0].auc:.2f}" in output


def test_what_can_be_drawn_is_listed_and_can_be_fitted_with_every_estimator(pellucid: Pellucid, tmp_path: Path) -> None:
    code, output, _ = pellucid("concepts", "list", "--json")
    assert code == 0
    assert {"striped", "dotted"} <= set(json.loads(output)["textures"])
    code, output, _ = pellucid(
        "concepts", "fit", "--builtin", "striped,red", "--count", "12", "--estimator", "ridge", *TINY, "--json"
    )
    result = json.loads(output)
    assert code == 0
    assert {(c["name"], c["estimator"]) for c in result["cavs"]} == {("striped", "ridge"), ("red", "ridge")}
    assert load_cavs("pellucid-cavs")[0].sources[0] == "drawn red 0 of seed 0"


def test_explain_gives_the_same_numbers_as_json_parquet_and_on_stdout(
    pellucid: Pellucid, sets: Path, images: Path, tmp_path: Path
) -> None:
    image = images / "00.png"
    code, output, _ = pellucid(
        "concepts", "explain", image, "--concepts", sets, *QUICK, "--target", "zebra", "--target", "0",
        "--out", "x.json", "--out", "x.parquet", "--out", "x.html", "--json",
    )  # fmt: skip
    result = json.loads(output)
    assert code == 0
    assert result["files"] == ["x.json", "x.parquet", "x.html"]
    table = pq.read_table("x.parquet")
    assert table.column_names == list(COLUMNS)
    assert table.to_pylist() == result["rows"] == json.loads(Path("x.json").read_text())["rows"]
    signed = [row for row in result["rows"] if row["number"] == "signed"]
    assert {(row["layer"], row["concept"], row["target"]) for row in signed} == {
        (layer, concept, target) for layer in "13" for concept in ("striped", "dotted") for target in ("zebra", "bee")
    }
    keys = [tuple(row[name] for name in ("image", "layer", "concept", "target", "number")) for row in result["rows"]]
    assert len(set(keys)) == len(keys)
    assert result["about"]["classifier"]["name"]
    assert result["about"]["images"][0]["passes"]["3"]["prefix_forward"] == 0  # layer 3 goes on from layer 1
    assert result["about"]["images"][0]["passes"]["1"]["prefix_forward"] == 1
    assert "striped" in Path("x.html").read_text()
    for row in signed:
        assert row["low"] <= row["high"]
        assert 0 < row["p_value"] <= row["adjusted_p_value"] <= 1


def test_fitted_cavs_explain_as_the_images_they_were_fitted_to(
    pellucid: Pellucid, sets: Path, images: Path, tmp_path: Path
) -> None:
    arguments = (*QUICK, "--out", "a.json", "--json")
    _, first, _ = pellucid("concepts", "explain", images / "00.png", "--concepts", sets, *arguments)
    pellucid("concepts", "fit", "--concepts", sets, *TINY, "--out", "cavs")
    code, again, _ = pellucid("concepts", "explain", images / "00.png", "--concepts", "cavs", *arguments)
    assert code == 0
    assert json.loads(again)["rows"] == json.loads(first)["rows"]


def test_several_images_get_a_page_each_and_one_table(pellucid: Pellucid, sets: Path, images: Path) -> None:
    (images / "99.png").write_text("no image")
    code, output, errors = pellucid("concepts", "explain", images, "--concepts", sets, *QUICK, "--out", "found")
    assert code == 0
    assert "skipped" in errors
    assert len(list(Path("found").glob("*/concepts.html"))) == 6
    rows = pq.read_table("found/concepts.parquet").to_pylist()
    assert len({row["image"] for row in rows} - {None}) == 6
    assert "evidence for" in output


def test_rank_orders_the_concepts_with_intervals_and_paired_leads(pellucid: Pellucid, sets: Path, images: Path) -> None:
    code, output, _ = pellucid(
        "concepts", "rank", images, "--target", "zebra", "--concepts", sets, *QUICK,
        "--out", "r.html", "--out", "r.parquet", "--json",
    )  # fmt: skip
    result = json.loads(output)
    assert code == 0
    for ranking in result["about"]["rankings"]:
        first, second = ranking["ranking"]
        assert first["mean"] >= second["mean"]
        assert first["lead"] == pytest.approx(first["mean"] - second["mean"], abs=1e-5)
        rows = [r for r in result["rows"] if r["layer"] == ranking["layer"] and r["concept"] == first["concept"]]
        values = [r["value"] for r in rows if r["number"] == ranking["score"]]
        (mean,) = [r for r in rows if r["number"] == f"{ranking['score']}_mean"]
        assert len(values) == 6
        assert mean["value"] == pytest.approx(sum(values) / 6, abs=1e-5)
        if max(values) - min(values) > 1e-6:
            assert mean["low"] <= mean["value"] <= mean["high"]
        else:  # No spread is no error of zero: there is no interval.
            assert (mean["low"], mean["high"]) == (None, None)
    assert result["about"]["passes"]["3"]["prefix_forward"] == 0
    assert "zebra" in Path("r.html").read_text()
    code, output, _ = pellucid("concepts", "rank", images, "--target", "zebra", "--concepts", sets, *QUICK)
    assert code == 0
    assert "ahead of the next by" in output


def test_tcav_shows_scores_over_random_sets_and_the_test_of_the_mean_sensitivity(
    pellucid: Pellucid, sets: Path, images: Path
) -> None:
    code, output, _ = pellucid(
        "concepts", "tcav", images, "--target", "zebra", "--concepts", sets, *QUICK, "--out", "t.json", "--json"
    )
    result = json.loads(output)
    assert code == 0
    for layer in "13":
        rows = [r for r in result["rows"] if r["layer"] == layer and r["concept"] == "striped"]
        sensitivities = [r["value"] for r in rows if r["number"] == "sensitivity"]
        (score,) = [r["value"] for r in rows if r["number"] == "tcav"]
        assert score == pytest.approx(sum(s > 0 for s in sensitivities) / 6)
        assert {"p_values", "relabeled_p_values", "tcav_chance"} <= {r["number"] for r in rows}
    code, output, _ = pellucid("concepts", "tcav", images, "--target", "1", "--concepts", sets, *QUICK)
    assert code == 0
    assert "over all random sets" in " ".join(output.split())
    assert "permutation test of the concept's images" in " ".join(output.split())
    assert "relabeled" not in output


def test_explain_with_concepts_writes_a_second_page(pellucid: Pellucid, sets: Path, images: Path) -> None:
    code, output, _ = pellucid(
        "explain", images / "00.png", "--concepts", sets, "--model", "tinynets:three", "--methods", "GradCAM",
        "--layers", "input,3", "--out", "out", "--json",
    )  # fmt: skip
    (image,) = json.loads(output)["images"]
    assert code == 0
    assert Path(image["page"]).parent == Path(image["concepts"]["page"]).parent
    assert "00.png · concepts in" in Path(image["concepts"]["page"]).read_text()
    assert {row["layer"] for row in image["concepts"]["rows"]} == {"3"}  # not the input


def test_two_classes_and_one_logit_are_explained_on_both_sides(pellucid: Pellucid, sets: Path, images: Path) -> None:
    for model, expected in (("tinynets:two", {"yes", "no"}), ("tinynets:one", {"smile", "not smile"})):
        code, output, errors = pellucid(
            "concepts", "explain", images / "00.png", "--concepts", sets, "--model", model, "--layers", "3",
            "--permutations", "9", "--json",
        )  # fmt: skip
        assert code == 0, errors
        assert {r["target"] for r in json.loads(output)["rows"] if r["number"] == "signed"} == expected
    code, output, _ = pellucid(
        "concepts", "explain", images / "00.png", "--concepts", sets, "--model", "tinynets:one", "--layers", "3",
        "--permutations", "9", "--target", "not smile", "--json",
    )  # fmt: skip
    assert code == 0
    assert {r["target"] for r in json.loads(output)["rows"] if r["number"] == "signed"} == {"not smile"}


def test_a_layer_without_spatial_extent_works_and_message_so(pellucid: Pellucid, sets: Path, images: Path) -> None:
    code, output, _ = pellucid(
        "concepts", "explain", images / "00.png", "--concepts", sets, "--model", "tinynets:three", "--layers", "4",
        "--permutations", "9", "--out", "x.html", "--json",
    )  # fmt: skip
    result = json.loads(output)
    assert code == 0
    assert any("no spatial extent" in note for note in result["about"]["images"][0]["notes"])
    assert "no rows and columns" in Path("x.html").read_text()


def test_tiny_sets_are_warned_of(pellucid: Pellucid, sets: Path, tmp_path: Path) -> None:
    for file in sorted((sets / "striped").iterdir())[3:]:
        file.unlink()
    code, output, errors = pellucid("concepts", "fit", "--concepts", sets, *TINY, "--json")
    assert code == 0
    assert errors.count("concept 'striped': 3 images only") == 2  # once per layer
    assert "Warning" not in errors
    assert any("3 images only" in r for c in json.loads(output)["cavs"] for r in c["remarks"])


def test_drawn_negatives_for_given_images_are_warned_of(pellucid: Pellucid, sets: Path) -> None:
    for file in (sets / "negatives").iterdir():
        file.unlink()
    (sets / "negatives").rmdir()
    code, _, errors = pellucid("concepts", "fit", "--concepts", sets, "--count", "12", *TINY)
    assert code == 0
    assert "against drawn negatives" in errors


@pytest.mark.parametrize("state", ["corrupt", "in the way"])
def test_a_cache_that_cannot_be_used_is_said_and_changes_nothing(
    pellucid: Pellucid, sets: Path, tmp_path: Path, state: str
) -> None:
    cache = tmp_path / "cache"
    _, first, _ = pellucid("concepts", "fit", "--concepts", sets, *TINY, "--cache", cache, "--json")
    if state == "corrupt":
        for file in cache.iterdir():
            file.write_bytes(b"nonsense")
    else:
        cache = tmp_path / "file"
        cache.write_text("in the way")
    code, again, errors = pellucid("concepts", "fit", "--concepts", sets, *TINY, "--cache", cache, "--json")
    assert code == 0
    assert json.loads(again) == json.loads(first)
    assert "note: cache: " in errors
    assert "more like this" in errors
    assert ("computed again" if state == "corrupt" else "not kept") in errors


def test_a_damaged_file_among_cavs_is_told_by_list_and_refused_by_explain(
    pellucid: Pellucid, sets: Path, images: Path
) -> None:
    pellucid("concepts", "fit", "--concepts", sets, *TINY, "--out", "cavs")
    Path("cavs/1/dotted.safetensors").write_bytes(b"nonsense")
    code, output, errors = pellucid("concepts", "list", "cavs", "--json")
    assert code == 0
    assert list(json.loads(output)["damaged"]) == ["cavs/1/dotted.safetensors"]
    assert "damaged" in errors
    code, _, errors = pellucid("concepts", "explain", images, "--concepts", "cavs", "--model", "tinynets:three")
    assert code == 2
    assert "cavs/1/dotted.safetensors" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--concepts", "nowhere"], "nowhere: no such folder"),
        (["fit", "--concepts", "images"], "holds no folders"),
        (["fit"], "no concepts given"),
        (["fit", "--builtin", "plaid"], "no drawn concept 'plaid'"),
        (["fit", "--concepts", "{sets}", "--builtin", "striped"], "two concepts named striped"),
        (["fit", "--concepts", "{sets}", "--negatives", "{sets}/empty"], "no images in this folder"),
        (["fit", "--concepts", "{sets}", "--estimator", "magic"], "--estimator: 'magic' is unknown"),
        (["fit", "--concepts", "{sets}", "--layers", "99"], "no layer '99'"),
        (["fit", "--concepts", "{sets}", "--layers", ","], "no layers given"),
        (["fit", "--concepts", "{same}"], "are the same images"),
        (["fit", "--concepts", "{hollow}"], "no images in this folder"),
        (["fit", "--concepts", "{lonely}"], "1 image; a CAV needs at least 2"),
        (["fit", "--concepts", "{sets}", "--model", "tinynets:constant"], "so no concept has a direction"),
        (["fit", "--concepts", "{sets}", "--model", "tinynets:broken"], "NaN or infinite"),
        (["explain", "images/00.png", "--concepts", "{sets}", "--target", "zebro"], "did you mean 'zebra'"),
        (["explain", "images/00.png", "--concepts", "{sets}", "--target", "7"], "classes 0 to 2"),
        (["explain", "images/00.png", "--concepts", "{sets}", "--out", "x.csv"], "x.csv: expected a folder, or a file"),
        (["explain", "images", "--concepts", "{sets}", "--out", "x.html"], "several images need a page each"),
        (["explain", "images/00.png", "--concepts", "{sets}", "--baseline", "grey"], "--baseline: 'grey' is unknown"),
        (["explain", "nothing.png", "--concepts", "{sets}"], "nothing.png"),
        (["rank", "images", "--concepts", "{sets}", "--target", "zebro"], "did you mean 'zebra'"),
        (["tcav", "images", "--concepts", "{sets}", "--target", "zebro"], "did you mean 'zebra'"),
        (["tcav", "images", "--concepts", "{sets}", "--target", "zebra", "--out", "x.html"], "tables only"),
        (["list", "images"], "no CAVs"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    pellucid: Pellucid, sets: Path, images: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (sets.parent / "hollow" / "striped").mkdir(parents=True)
    (sets / "empty").mkdir() if "{sets}/empty" in arguments else None
    for name in ("striped", "negatives"):
        _draw(tmp_path / "same" / name, "striped", 4)
        _draw(tmp_path / "lonely" / name, name, 1 if name == "striped" else 6)
    folders = {name: tmp_path / name for name in ("sets", "hollow", "same", "lonely")}
    filled = [argument.format(**folders) for argument in arguments]
    if "--model" not in filled and filled[0] != "list":
        filled += ["--model", "tinynets:three"]
    if "--layers" not in filled and filled[0] != "list":
        filled += ["--layers", "3"]
    code, _, errors = pellucid("concepts", *filled)
    assert message in refusal(code, errors)
    assert len(errors.strip().splitlines()) == 1


def test_cavs_of_another_network_are_refused(pellucid: Pellucid, sets: Path, images: Path) -> None:
    pellucid("concepts", "fit", "--concepts", sets, *TINY, "--out", "cavs")
    code, _, errors = pellucid(
        "concepts", "explain", images / "00.png", "--concepts", "cavs", "--model", "tinynets:two"
    )
    assert code == 2
    assert "whose weights are not those of this classifier" in errors
    code, _, errors = pellucid(
        "concepts", "explain", images / "00.png", "--concepts", "cavs", "--model", "tinynets:three", "--layers", "0"
    )
    assert code == 2
    assert "holds CAVs at 1, 3, none at 0" in errors


def test_an_output_that_cannot_be_written_is_said(pellucid: Pellucid, sets: Path, images: Path) -> None:
    Path("file").write_text("in the way")
    arguments = ("--concepts", sets, *QUICK, "--out", "file/x.json")
    code, _, errors = pellucid("concepts", "explain", images / "00.png", *arguments)
    assert code == 2
    assert errors.strip().splitlines()[-1].startswith("error: file/x.json: cannot be written")
    assert "Traceback" not in errors


def test_images_that_are_no_images_are_one_line(pellucid: Pellucid, sets: Path, images: Path) -> None:
    Image.new("RGB", (4, 4)).save(images / "00.png")
    (images / "01.png").write_text("no image")
    code, _, errors = pellucid("concepts", "explain", images / "01.png", "--concepts", sets, *QUICK)
    assert code == 2
    assert "01.png" in errors
    assert "Traceback" not in errors
