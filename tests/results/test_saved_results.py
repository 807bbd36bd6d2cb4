"""Saving, loading and tabulating results of whatever kind."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from pellucid.results import KINDS, Measurement, Passes, Provenance, Receipt, Result, ResultError, load, plot_maps
from pellucid.storage import read_json


@dataclass(frozen=True, eq=False, kw_only=True)
class Maps(Result):
    """The smallest result there can be."""

    kind: ClassVar[str] = "maps"
    values: Tensor
    scores: Tensor
    targets: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    extra: Tensor | None
    provenance: Provenance
    receipt: Receipt

    def rows(self) -> list[Mapping[str, object]]:
        return [
            {"image": n, "target": label, "score": float(self.scores[n, t]), "gap": None}
            for n, labels in enumerate(self.targets)
            for t, label in enumerate(labels)
        ]


def some_maps() -> Maps:
    return Maps(
        values=torch.arange(16.0).reshape(2, 2, 2, 2),
        scores=torch.tensor([[1.0, 2.0], [3.0, float("nan")]]),
        targets=(("cat", "dog"), ("cat", "dog")),
        notes=("a remark",),
        extra=None,
        provenance=Provenance(
            model="tiny",
            layers=("conv",),
            method="Maps",
            options={"steps": 5, "sides": (1, 2), "scale": float("inf"), "inner": {"seed": 3}, "none": None},
            seeds={"options.seed": 3},
            versions={"pellucid": "0"},
        ),
        receipt=Receipt(
            passes=Passes(suffix_forward=4),
            gap=0.01,
            localization=Measurement(test="grids", value=0.9, chance=0.25, count=100),
        ),
    )


@pytest.fixture(autouse=True)
def known_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "maps", f"{__name__}:Maps")


def test_a_saved_result_is_loaded_equal(tmp_path: Path) -> None:
    saved = some_maps()
    assert saved.save(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    loaded = load(tmp_path / "a" / "b")
    assert isinstance(loaded, Maps)
    assert torch.equal(loaded.values, saved.values)
    assert torch.equal(loaded.scores.nan_to_num(-7), saved.scores.nan_to_num(-7))
    assert (loaded.targets, loaded.notes, loaded.extra) == (saved.targets, saved.notes, None)
    assert loaded.receipt == saved.receipt
    assert loaded.provenance.layers == ("conv",)
    assert loaded.provenance.options == {
        "steps": 5,
        "sides": [1, 2],
        "scale": "inf",
        "inner": {"seed": 3},
        "none": None,
    }
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["result.json", "tensors.safetensors"]


def test_saving_again_replaces_the_result_and_keeps_other_files(tmp_path: Path) -> None:
    (tmp_path / "overlay.png").write_bytes(b"an image")
    some_maps().save(tmp_path)
    replace(some_maps(), values=torch.zeros(1, 1, 3, 3)).save(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, Maps)
    assert loaded.values.shape == (1, 1, 3, 3)
    assert (tmp_path / "overlay.png").read_bytes() == b"an image"


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_maps().save(tmp_path)

    def full(path: Path, tensors: object) -> None:
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pellucid.results.saved.write_tensors", full)
    with pytest.raises(OSError, match="No space"):
        replace(some_maps(), values=torch.zeros(1, 1, 3, 3)).save(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, Maps)
    assert loaded.values.shape == (2, 2, 2, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "tensors.safetensors"]


def test_loading_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"holds no result: there is no result\.json"):
        load(tmp_path)


def test_an_unknown_kind_names_the_known_ones(tmp_path: Path) -> None:
    some_maps().save(tmp_path)
    edit(tmp_path, kind="dreams")
    with pytest.raises(ResultError, match=r"unknown kind of result 'dreams'.*attribution"):
        load(tmp_path)


def test_a_result_of_a_newer_pellucid_asks_for_an_update(tmp_path: Path) -> None:
    some_maps().save(tmp_path)
    edit(tmp_path, schema_version=99)
    with pytest.raises(ResultError, match=r"schema version 99.*update pellucid"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", b"{"),
        ("result.json", b"[]"),
        ("result.json", b"{}"),
        ("result.json", b"\xff\xfe"),
        ("tensors.safetensors", b"no tensors"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    some_maps().save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ResultError, match=f"{name} is damaged"):
        load(tmp_path)


def test_a_record_that_lacks_a_field_is_damaged(tmp_path: Path) -> None:
    some_maps().save(tmp_path)
    whole = read_json(tmp_path / "result.json")
    del whole["record"]["targets"]
    (tmp_path / "result.json").write_text(json.dumps(whole))
    with pytest.raises(ResultError, match=r"result\.json"):
        load(tmp_path)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    some_maps().save(tmp_path)
    (tmp_path / "tensors.safetensors").unlink()
    with pytest.raises(ResultError, match="is missing"):
        load(tmp_path)


def test_an_unregistered_kind_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(KINDS, "maps")
    with pytest.raises(ResultError, match="unknown kind of result 'maps'"):
        some_maps().save(tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_to_dict_is_plain_json() -> None:
    whole = some_maps().to_dict()
    assert (whole["kind"], whole["schema_version"]) == ("maps", 1)
    again = json.loads(json.dumps(whole, allow_nan=False))
    assert again["record"]["targets"] == [["cat", "dog"], ["cat", "dog"]]


def test_the_table_has_a_row_per_number_with_the_options() -> None:
    table = some_maps().to_table().to_pylist()
    assert len(table) == 8
    first = table[0]
    assert (first["kind"], first["model"], first["layer"], first["method"]) == ("maps", "tiny", "conv", "Maps")
    assert (first["image"], first["target"], first["quantity"], first["value"]) == (0, "cat", "score", 1.0)
    assert json.loads(first["options"])["steps"] == 5
    assert table[-2]["value"] is None  # the score that is not a number
    assert table[1]["quantity"] == "gap"


def test_every_registered_kind_can_be_imported_and_names_itself() -> None:
    from pellucid.results.saved import class_of_kind

    for kind in set(KINDS) - {"maps"}:
        result = class_of_kind(kind, "here")
        assert getattr(result, "kind", kind) == kind


def test_maps_are_plotted_on_one_scale() -> None:
    pytest.importorskip("matplotlib")
    figure = plot_maps(
        torch.randn(2, 3, 4, 5), rows=["a", "b"], columns=["x", "y", "z"], images=torch.rand(2, 3, 8, 10)
    )
    assert len(figure.axes) == 2 * 3 + 1
    with pytest.raises(ValueError, match="expected"):
        plot_maps(torch.zeros(3, 3))


def edit(folder: Path, **changes: object) -> None:
    file = folder / "result.json"
    file.write_text(json.dumps(read_json(file) | changes))
