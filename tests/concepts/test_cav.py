"""A CAV's file: complete, atomic, checked; its cache: never stale, never silent; its null directions."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.concepts.support import Function, curved_view, make_cav, view_of
from torch import Tensor, nn

import pellucid as pl
from pellucid.classifiers import LayerView
from pellucid.concepts import (
    CAV,
    ConceptWarning,
    FitOptions,
    fit_cav,
    fit_cavs,
    null_directions,
)
from pellucid.concepts.cav import Null
from pellucid.concepts.estimators import Ridge
from pellucid.errors import PellucidError
from pellucid.storage import encode_tensors

CONCEPT = (
    torch.randn(12, 4, 3, 5, generator=torch.Generator().manual_seed(1)) + torch.tensor([1.0, 0, 0, 0])[:, None, None]
)
NEGATIVES = torch.randn(12, 4, 3, 5, generator=torch.Generator().manual_seed(2))


def _same(one: CAV, other: CAV) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return (
            torch.equal(a, b)
            if isinstance(a, Tensor)
            else (list(a) == list(b) if isinstance(a, tuple | list) else a == b)
        )

    return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(CAV))


def test_a_saved_cav_loads_as_it_was(tmp_path: Path) -> None:
    cav = fit_cav(curved_view(), CONCEPT, NEGATIVES, Ridge(penalty=0.5), name="zäh")
    cav.save(tmp_path / "deep" / "cav.safetensors")
    assert _same(CAV.load(tmp_path / "deep" / "cav.safetensors"), cav)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["cav.safetensors"]


def test_a_summary_is_plain_json() -> None:
    summary = json.loads(json.dumps(make_cav(torch.ones(3)).summary()))
    assert summary["emblems"] == {"low": 0.1, "high": 1.0}
    assert "concept_features" not in summary


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cav.safetensors"
    make_cav(torch.ones(3), name="old").save(path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PellucidError, match=r"cannot be written \(Permission denied\)"):
        make_cav(torch.ones(3), name="new").save(path)
    assert CAV.load(path).name == "old"
    assert [result.name for result in tmp_path.iterdir()] == ["cav.safetensors"]


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", None])
def test_a_damaged_or_missing_file_is_an_error_that_names_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "cav.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PellucidError, match=r"cav\.safetensors: missing or damaged"):
        CAV.load(path)


def test_a_file_that_was_cut_short_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cav.safetensors"
    make_cav(torch.ones(3)).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PellucidError, match="missing or damaged"):
        CAV.load(path)


def test_other_tensors_and_other_formats_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.ones(2)}, path)
    with pytest.raises(PellucidError, match="no checksum in it"):
        CAV.load(path)
    path.write_bytes(encode_tensors({"x": torch.ones(2)}))
    with pytest.raises(PellucidError, match="CAV format None, this version reads 1"):
        CAV.load(path)
    for cav in ("{}", "[]", "[" * 100_000, "no JSON"):
        path.write_bytes(encode_tensors({"x": torch.ones(2)}, {"format": "1", "cav": cav}))
        with pytest.raises(PellucidError, match=r"other\.safetensors.*missing or damaged"):
            CAV.load(path)


def _spied(view: LayerView, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts of the images that go through the view from now on."""
    counts: list[int] = []
    inner = view.activation

    def activation(images: Tensor) -> Any:
        counts.append(len(images))
        return inner(images)

    monkeypatch.setattr(view, "activation", activation)
    return counts


def test_the_same_fit_is_answered_from_the_cache_without_running_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = curved_view()
    first = fit_cav(view, CONCEPT, NEGATIVES, cache=tmp_path)
    counts = _spied(view, monkeypatch)
    again = fit_cav(view, CONCEPT.clone(), NEGATIVES.clone(), cache=tmp_path)
    assert counts == []
    assert _same(first, again)


def test_a_cached_cav_takes_the_name_that_it_is_asked_for_by(tmp_path: Path) -> None:
    view = curved_view()
    fit_cav(view, CONCEPT, NEGATIVES, cache=tmp_path, name="old")
    result = fit_cav(view, CONCEPT, NEGATIVES, cache=tmp_path, name="new")
    assert result.name == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_of_several_concepts_only_the_changed_one_is_fitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = curved_view()
    fit_cavs(view, {"one": CONCEPT, "two": CONCEPT + 1}, NEGATIVES, cache=tmp_path)
    counts = _spied(view, monkeypatch)
    one, two = fit_cavs(view, {"one": CONCEPT, "two": CONCEPT + 2}, NEGATIVES, cache=tmp_path)
    assert sum(counts) == 12 + 12
    assert (one.name, two.name) == ("one", "two")
    torch.testing.assert_close(two.direction - one.direction, torch.full((4,), 2.0))


def _changed_image() -> Tensor:
    changed = NEGATIVES.clone()
    changed[7, 2, 1, 1] += 1e-3
    return changed


def _salted(salt: float) -> LayerView:
    return view_of(nn.Sequential(Function(lambda x: x, salt), Function(lambda x: x.mean((2, 3)))), (4, 3, 5), "input")


@pytest.mark.parametrize(
    ("view", "negatives", "options"),
    [
        (_salted(0.0), _changed_image(), {}),
        (_salted(0.0), NEGATIVES.flip(0), {}),
        (_salted(0.5), NEGATIVES, {}),
        (_salted(0.0).classifier.at("0"), NEGATIVES, {}),
        (_salted(0.0), NEGATIVES, {"estimator": "ridge"}),
        (_salted(0.0), NEGATIVES, {"estimator": Ridge(penalty=0.2)}),
        (_salted(0.0), NEGATIVES, {"options": FitOptions(seed=1)}),
        (_salted(0.0), NEGATIVES, {"options": FitOptions(resamples=5)}),
        (_salted(0.0), NEGATIVES, {"options": FitOptions(features="flattened")}),
        (
            pl.Classifier(_salted(0.0).classifier._module, input_size=(4, 3, 5), autocast=torch.bfloat16).at("input"),
            NEGATIVES,
            {},
        ),
    ],
    ids=["image", "order", "weights", "layer", "estimator", "penalty", "seed", "resamples", "features", "precision"],
)
def test_whatever_changes_the_numbers_is_fitted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: LayerView, negatives: Tensor, options: dict[str, Any]
) -> None:
    fit_cav(_salted(0.0), CONCEPT, NEGATIVES, cache=tmp_path)
    counts = _spied(view, monkeypatch)
    fit_cav(view, CONCEPT, negatives, cache=tmp_path, **options)
    assert sum(counts) >= 24
    assert len(list(tmp_path.iterdir())) == 2


def test_another_transform_of_the_same_files_is_fitted_anew(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = [generator.integers(0, 255, (9, 9, 3), dtype=np.uint8) // (1 + index // 11) for index in range(22)]
    images = [Image.fromarray(one) for one in pixels]
    net = Function(lambda x: x.mean((2, 3))[:, :2])
    result = []
    for size in (8, 6):
        preprocess = pl.data.Preprocess((8, 8), crop_fraction=size / 9)
        view = pl.Classifier(net.eval(), preprocess=preprocess).at("input")
        result.append(fit_cav(view, images[:11], images[11:], cache=tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert not torch.equal(result[0].direction, result[1].direction)


def test_a_corrupt_cache_file_is_told_of_and_replaced(tmp_path: Path) -> None:
    view = curved_view()
    cav = fit_cav(view, CONCEPT, NEGATIVES, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"rubbish")
    with pytest.warns(ConceptWarning, match="cache: .*missing or damaged"):
        again = fit_cav(view, CONCEPT, NEGATIVES, cache=tmp_path)
    assert _same(again, cav)
    assert _same(CAV.load(path), cav)


def test_a_cache_folder_that_cannot_be_written_to_is_told_of_and_changes_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    with pytest.warns(ConceptWarning, match="cache: CAV 'concept' was computed but not kept"):
        cav = fit_cav(curved_view(), CONCEPT, NEGATIVES, cache=blocked)
    assert _same(cav, fit_cav(curved_view(), CONCEPT, NEGATIVES))


@pytest.mark.parametrize("null", ["relabel", "centered"])
def test_null_directions_come_from_relabelled_images_and_have_the_length_of_the_cav(null: Null) -> None:
    cav = fit_cav(curved_view(), CONCEPT, NEGATIVES)
    nulls = null_directions(cav, 20, seed=3, null=null)
    torch.testing.assert_close(nulls.norm(dim=1), cav.direction.norm().expand(20))
    generator = torch.Generator().manual_seed(3)
    sides = [side.mean((2, 3)) for side in (CONCEPT, NEGATIVES)]
    pooled = torch.cat([side - side.mean(0) for side in sides] if null == "centered" else sides)
    for direction in nulls:
        order = torch.randperm(24, generator=generator)
        expected = pooled[order[:12]].mean(0) - pooled[order[12:]].mean(0)
        assert float(torch.nn.functional.cosine_similarity(direction, expected, dim=0)) == pytest.approx(1, abs=1e-5)
    assert torch.equal(nulls, null_directions(cav, 20, seed=3, null=null))


def test_a_concept_that_stands_out_is_in_relabelled_directions_and_not_in_centred_ones() -> None:
    cav = fit_cav(curved_view(), CONCEPT, NEGATIVES)
    along = torch.nn.functional.normalize(cav.direction, dim=0)
    far = dataclasses.replace(cav, concept_features=cav.concept_features + 100 * along)
    spread = {}
    for null in ("relabel", "centered"):
        cosines = torch.nn.functional.cosine_similarity(null_directions(far, 50, null=null), far.direction[None])
        spread[null] = float(cosines.abs().mean())
    assert spread["relabel"] > 0.7
    assert spread["centered"] < 0.6


def test_null_directions_are_found_by_the_estimator_of_the_cav() -> None:
    ridge = fit_cav(curved_view(), CONCEPT, NEGATIVES, Ridge(penalty=1e-4))
    plain = fit_cav(curved_view(), CONCEPT, NEGATIVES)
    cosines = torch.nn.functional.cosine_similarity(null_directions(ridge, 9), null_directions(plain, 9))
    assert float(cosines.max()) < 0.9999
