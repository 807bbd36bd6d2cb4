"""Where concepts come from and where results go: drawn sets, folders of CAVs, tidy tables."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.concepts.support import cav_for, curved_view, make_cav

from pellucid.concepts import (
    COLUMNS,
    ConceptWarning,
    VisualTCAV,
    adjust_over_layers,
    class_rows,
    collect_sets,
    concept_rows,
    draw_concept_set,
    explain_class,
    explain_layers,
    load_cavs,
    save_cavs,
    tcav,
    tcav_rows,
    write_table,
)
from pellucid.errors import ImageError, PellucidError
from pellucid.synthetic import draw_images

VIEW = curved_view()
IMAGES = torch.randn(3, 4, 3, 5, generator=torch.Generator().manual_seed(3))
CAVS = [
    cav_for(VIEW, torch.tensor([1.0, -0.5, 0.2, 0.1]), 0.1, 1.0, name="one"),
    cav_for(VIEW, torch.tensor([-0.3, 0.8, 0.4, -0.2]), 0.0, 0.9, name="other"),
]


def _folder(path: Path, count: int = 3) -> Path:
    path.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(path / f"{index}.png")
    return path


def test_a_drawn_set_holds_the_drawn_images_and_says_which_they_are() -> None:
    result = draw_concept_set("dotted", 3, size=20, seed=4)
    assert result.sources == tuple(f"drawn dotted {index} of seed 4" for index in range(3))
    for image, expected in zip(result.images, draw_images("dotted", 3, 20, 4), strict=True):
        assert isinstance(image, Image.Image)
        assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_folders_and_drawn_concepts_come_together_with_the_folders_own_negatives(tmp_path: Path) -> None:
    for name in ("zebra", "apple", "negatives"):
        _folder(tmp_path / name)
    reported: list[str] = []
    sets, negatives = collect_sets(tmp_path, ["striped"], count=2, size=20, on_set=reported.append)
    assert [each.name for each in sets] == ["apple", "zebra", "striped"]
    assert [len(each) for each in (*sets, negatives)] == [2, 2, 2, 2]
    assert all(str(tmp_path / "negatives") in source for source in negatives.sources)
    assert reported == ["apple", "zebra", "striped", "negatives"]
    other = _folder(tmp_path / "elsewhere" / "plain")
    assert collect_sets(None, ["striped"], other, count=2, size=20)[1].sources[0].startswith(str(other))


def test_drawn_negatives_are_for_drawn_concepts_and_warned_of_with_others(tmp_path: Path) -> None:
    _, negatives = collect_sets(None, ["striped"], count=2, size=20)
    assert negatives.sources[0] == "drawn negatives 0 of seed 0"
    _folder(tmp_path / "zebra")
    with pytest.warns(ConceptWarning, match="zebra: given images against drawn negatives"):
        collect_sets(tmp_path, count=2, size=20)


def test_concepts_that_are_missing_or_double_are_errors(tmp_path: Path) -> None:
    with pytest.raises(PellucidError, match="there are no concepts"):
        collect_sets()
    with pytest.raises(PellucidError, match="two concepts named striped"):
        collect_sets(None, ["striped", "striped"])
    with pytest.raises(ImageError, match="holds no folders"):
        collect_sets(tmp_path)


def test_cavs_are_found_again_whatever_they_are_called(tmp_path: Path) -> None:
    names = ["a b", "a_b", "../up", ".hidden", "ümläut/slash", "%2E"]
    cavs = [make_cav(torch.ones(3), name=name, layer=layer) for name in names for layer in ("relu:1", "features.3")]
    files = save_cavs(cavs, tmp_path / "cavs")
    assert len(set(files)) == len(files)
    assert all(file.resolve().is_relative_to((tmp_path / "cavs").resolve()) for file in files)
    result = load_cavs(tmp_path / "cavs")
    assert {(cav.name, cav.layer) for cav in result} == {(cav.name, cav.layer) for cav in cavs}


def test_a_folder_without_cavs_or_with_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PellucidError, match="no CAVs"):
        load_cavs(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(PellucidError, match=r"x\.safetensors: missing or damaged"):
        load_cavs(tmp_path)


def test_every_local_number_has_one_row_of_its_own() -> None:
    result = VisualTCAV(VIEW, CAVS, permutations=9).explain(IMAGES, [0, 2], resample=True)
    names = ["a.png", "b.png", "c.png"]
    rows = list(concept_rows([result], names))
    keys = [tuple(row[key] for key in ("image", "layer", "concept", "target", "number")) for row in rows]
    assert len(set(keys)) == len(keys)
    assert all(tuple(row) == COLUMNS for row in rows)
    table = dict(zip(keys, rows, strict=True))
    interval, adjusted = result.interval(), adjust_over_layers([result])[0]
    assert interval is not None
    for n, image in enumerate(names):
        for d, concept in enumerate(("one", "other")):
            for t, target in enumerate(("class 0", "class 2")):
                row = table[image, "input", concept, target, "signed"]
                assert row["value"] == float(result.signed[n, d, t])
                assert (row["low"], row["high"]) == tuple(interval[:, n, d, t].tolist())
                assert row["adjusted_p_value"] == float(adjusted[n, d, t])
                assert row["status"] == result.signed_status[n, d, t]
                key = (image, "input", concept, target)
                parts = table[*key, "positive"]["value"] + table[*key, "negative"]["value"]
                assert parts == pytest.approx(row["value"], abs=1e-5)
        joint = sum(table[image, "input", concept, "class 0", "joint"]["value"] for concept in ("one", "other"))
        residual = table[image, "input", None, "class 0", "joint_residual"]["value"]
        assert joint + residual == pytest.approx(table[image, "input", None, "class 0", "delta"]["value"], abs=1e-4)


def test_several_layers_adjust_their_p_values_together() -> None:
    explainers = [VisualTCAV(VIEW, CAVS, permutations=9), VisualTCAV(VIEW, CAVS[:1], permutations=9)]
    result = explain_layers(explainers, IMAGES, [0])
    rows = [row["adjusted_p_value"] for row in concept_rows(result, "abc") if row["number"] == "signed"]
    expected = [float(p) for layer in adjust_over_layers(result) for p in layer.flatten()]
    assert rows == expected


def test_global_and_tcav_rows_hold_means_and_what_they_are_means_of() -> None:
    results = explain_class(VisualTCAV(VIEW, CAVS, permutations=9), IMAGES, [1])
    rows = [row for row in class_rows([results]) if row["concept"] == "one"]
    values = [row["value"] for row in rows if row["number"] == "signed"]
    (mean,) = [row for row in rows if row["number"] == "signed_mean"]
    assert mean["value"] == pytest.approx(sum(values) / 3, abs=1e-6)
    assert mean["image"] is None
    assert {row["number"] for row in rows} >= {"auc", "stability", "cosine to other", "share_seen", "map_max"}
    cavs = [cav_for(VIEW, cav.direction, name=cav.name) for cav in CAVS]
    result = tcav(VIEW, cavs, IMAGES, 1, random_sets=2, permutations=9)
    rows = [row for row in tcav_rows([result], ["a", "b", "c"]) if row["concept"] == "one"]
    positive = [row["value"] > 0 for row in rows if row["number"] == "sensitivity"]
    assert [row["value"] for row in rows if row["number"] == "tcav"] == [pytest.approx(sum(positive) / 3)]


def test_json_and_parquet_hold_the_same_rows_and_numbers_that_are_none_are_null(tmp_path: Path) -> None:
    rows = [dict.fromkeys(COLUMNS) | {"number": "gap", "value": value} for value in (0.5, float("inf"), float("nan"))]
    for suffix in (".json", ".parquet"):
        write_table(tmp_path / f"x{suffix}", rows, {"seed": 3})
    reported = json.loads((tmp_path / "x.json").read_text())
    assert [row["value"] for row in reported["rows"]] == [0.5, None, None]
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.to_pylist() == reported["rows"]
    assert json.loads(table.schema.metadata[b"about"]) == reported["about"] == {"seed": 3}
    with pytest.raises(PellucidError, match=r"\.json or \.parquet, not '\.csv'"):
        write_table(tmp_path / "x.csv", rows, {})
