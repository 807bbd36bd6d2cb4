"""Records: every type that results are made of comes back as it was, and errors name the file and the field."""

import enum
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.storage import from_record, read_record, to_record, write_record


class Status(enum.Enum):
    OK = "ok"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Score:
    value: float
    method: str = "GradCAM"


class Ends(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Everything:
    scores: tuple[Score, ...]
    pair: tuple[int, str]
    ends: Ends
    by_name: Mapping[str, Sequence[float]]
    by_number: dict[int, bool]
    names: frozenset[str]
    status: Status
    correction: Literal["holm", "none"]
    best: Score | None
    limit: float | None
    target: int | str
    folder: Path
    dtype: torch.dtype
    notes: list[str] = field(default_factory=list)
    extra: Any = None


EVERYTHING = Everything(
    scores=(Score(math.nan), Score(-math.inf, "LRP")),
    pair=(3, "three"),
    ends=Ends(0.0, math.nan),
    by_name={"a": (1.0, math.nan)},
    by_number={1: True, 2: False},
    names=frozenset({"b"}),
    status=Status.SKIPPED,
    correction="holm",
    best=None,
    limit=math.nan,
    target="tabby",
    folder=Path("some/folder"),
    dtype=torch.float64,
    notes=["note"],
    extra={"free": [1, "two", None]},
)


def through_text(value: object) -> Any:
    return json.loads(json.dumps(to_record(value), allow_nan=False))


def test_every_type_comes_back_as_it_was() -> None:
    record = through_text(EVERYTHING)
    again = from_record(Everything, record, source="file")
    assert repr(again) == repr(EVERYTHING)
    assert again.extra == EVERYTHING.extra
    assert to_record({"b", "a"}) == ["a", "b"]


def test_nan_is_null_where_null_means_nothing_else() -> None:
    assert to_record(Score(math.nan)) == {"value": None, "method": "GradCAM"}
    assert to_record(EVERYTHING)["limit"] == "nan"
    assert to_record(Score(math.inf))["value"] == "inf"


def test_numbers_of_numpy_are_numbers() -> None:
    assert to_record({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True)}) == {"a": 0.5, "b": 3, "c": True}


def test_whole_numbers_are_read_as_floats_where_floats_are_expected() -> None:
    score = from_record(Score, {"value": 1}, source="file")
    assert isinstance(score.value, float)


def test_missing_fields_with_a_default_take_it() -> None:
    assert from_record(Score, {"value": 0.5}, source="file") == Score(0.5)


@dataclass(frozen=True, eq=False)
class Maps:
    values: Tensor
    parts: tuple[Tensor, ...]
    table: NDArray[np.float64]


def maps() -> Maps:
    return Maps(torch.tensor([[1.0, math.nan]]), (torch.tensor([1, 2]),), np.array([0.1, math.inf]))


def test_tensors_become_lists_without_a_place_to_collect_them() -> None:
    record = through_text(maps())
    assert record == {"values": [[1.0, None]], "parts": [[1, 2]], "table": [0.1, "inf"]}
    again = from_record(Maps, record, source="file")
    assert torch.equal(again.values.isnan(), torch.tensor([[False, True]]))
    assert again.parts[0].dtype == torch.int64
    assert again.table.dtype == np.float64
    assert again.table.tolist() == [0.1, math.inf]


def test_collected_tensors_come_back_with_their_dtype() -> None:
    tensors: dict[str, Tensor] = {}
    record = to_record(Maps(torch.zeros(0, 3, dtype=torch.float16), (torch.ones(1),), np.ones(2)), tensors)
    assert set(tensors) == {"values", "parts.0", "table"}
    again = from_record(Maps, json.loads(json.dumps(record)), tensors=tensors, source="file")
    assert again.values.dtype == torch.float16
    assert again.values.shape == (0, 3)
    assert again.table.tolist() == [1, 1]


def test_a_collected_tensor_that_is_missing_is_named() -> None:
    record = to_record(maps(), {})
    with pytest.raises(PellucidError, match=r"file: the tensor 'values' of values is missing"):
        from_record(Maps, record, source="file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [{"value": "high"}]}, r"file: scores\.0\.value is 'high', not a number"),
        ({"scores": [{}]}, r"file: scores\.0 lacks field value; a Score has value, method"),
        ({"scores": [{"value": 1, "worth": 2}]}, r"file: scores\.0 has unknown field worth"),
        ({"scores": 3}, r"file: scores is 3, not a list"),
        ({"scores": [3]}, r"file: scores\.0 is 3, not an object with the fields of Score"),
        ({"pair": [1]}, r"file: pair is \[1\], not a list of 2"),
        ({"pair": [True, "a"]}, r"file: pair\.0 is True, not a whole number"),
        ({"ends": [0, 1, 2]}, r"file: ends is \[0, 1, 2\], not a list of 2"),
        ({"by_name": {"a": [None, "x"]}}, r"file: by_name\.a\.1 is 'x', not a number"),
        ({"by_number": {"one": True}}, r"file: by_number is 'one', not an object with whole numbers as keys"),
        ({"status": "lost"}, r"file: status is 'lost', not 'ok' or 'skipped'"),
        ({"correction": "fdr"}, r"file: correction is 'fdr', not 'holm' or 'none'"),
        ({"best": {"value": "x"}}, r"file: best\.value is 'x', not a number"),
        ({"target": 1.5}, r"file: target is 1\.5, not int or str"),
        ({"dtype": "float31"}, r"file: dtype is 'float31', not a dtype of torch"),
        ({"folder": None}, r"file: folder is None, not a text"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        from_record(Everything, through_text(EVERYTHING) | change, source="file")


@dataclass(frozen=True)
class Proportion:
    part: float

    def __post_init__(self) -> None:
        if not 0 <= self.part <= 1:
            raise PellucidError(f"part {self.part} is not between 0 and 1")


def test_what_a_class_refuses_is_reported_with_the_source() -> None:
    with pytest.raises(PellucidError, match=r"file: 0: part 2\.0 is not between 0 and 1"):
        from_record(tuple[Proportion, ...], [{"part": 2}], source="file")


def test_a_value_that_cannot_be_written_is_named() -> None:
    with pytest.raises(PellucidError, match=r"score\.method is a function, which cannot be written as JSON"):
        to_record({"score": Score(1.0, lambda: 0)})  # type: ignore[arg-type]
    with pytest.raises(PellucidError, match=r"score has a key \(1, 2\)"):
        to_record({"score": {(1, 2): 3}})


def test_a_record_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    write_record(path, Score(0.5), kind="score", version=2)
    written = json.loads(path.read_text())
    assert written.pop("checksum").startswith("pellucid-sha256:")
    assert written == {"format": "score", "version": 2, "value": 0.5, "method": "GradCAM"}
    assert read_record(path, Score, kind="score", version=2) == Score(0.5)
    with pytest.raises(PellucidError, match=r"score\.json is not a plan: its format is 'score'"):
        read_record(path, Score, kind="plan", version=2)
    with pytest.raises(PellucidError, match="version 2; this pellucid reads version 1"):
        read_record(path, Score, kind="score", version=1)
    with pytest.raises(PellucidError, match="version 2; this pellucid reads version 3"):
        read_record(path, Score, kind="score", version=3)


def test_an_older_record_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    write_record(path, {"worth": 0.5}, kind="score", version=1)

    def migrate(record: dict[str, Any], version: int) -> dict[str, Any]:
        assert version == 1
        return {"value": record["worth"]}

    assert read_record(path, Score, kind="score", version=2, migrate=migrate) == Score(0.5)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PellucidError, match=r"none\.json does not exist"):
        read_record(tmp_path / "none.json", Score, kind="score", version=1)
    (tmp_path / "half.json").write_text('{"format": "sco')
    with pytest.raises(PellucidError, match=r"half\.json is damaged"):
        read_record(tmp_path / "half.json", Score, kind="score", version=1)


def test_the_names_of_the_envelope_are_kept_free(tmp_path: Path) -> None:
    with pytest.raises(PellucidError, match="without format or version"):
        write_record(tmp_path / "a.json", {"version": 3}, kind="score", version=1)
    assert not (tmp_path / "a.json").exists()
