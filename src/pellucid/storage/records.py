"""The one codec between values and JSON: dataclasses are written and read by their annotations.

A record is what `json` reads and writes: objects, arrays, texts, numbers, true, false and null. Nothing in it names a
class, so that a file is read by whoever knows the class, and reading never runs code.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from os import PathLike, fspath
from pathlib import PurePath
from typing import Any, Literal, TypeVar, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from pellucid.storage.json_files import read_json, write_json
from pellucid.storage.record_reader import TENSOR, RecordError, RecordReader, annotations_of, join_path

T = TypeVar("T")

_ENVELOPE = ("format", "version")


def to_record(value: object, tensors: dict[str, Tensor] | None = None) -> Any:
    """Turn a value into what `json.dumps(..., allow_nan=False)` takes.

    Dataclasses become objects of their fields. NaN becomes null in a field that has no other use for null, else "nan";
    infinities become "inf" and "-inf". Tensors and arrays become nested lists, which keep neither dtype nor device,
    unless `tensors` collects them.

    Args:
        value: a dataclass, mapping, sequence, set, tensor, array, enum, path, dtype, number, text, or None.
        tensors: takes each tensor and array under the name of its field (such as "cavs.0.direction"), to be written
            with `write_tensors`; the record then has that name.

    Raises:
        RecordError: something in the value is of another type; the message names its field.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Score:
    ...     values: tuple[float, ...]
    ...     method: str = "GradCAM"
    >>> to_record(Score((0.5, float("nan"))))
    {'values': [0.5, None], 'method': 'GradCAM'}
    """
    return _encode(value, "", tensors, nullable=True)


def from_record(
    cls: type[T], record: object, *, tensors: Mapping[str, Tensor] | None = None, source: str | PathLike[str]
) -> T:
    """Read what `to_record` wrote.

    Args:
        cls: what to read, mostly a dataclass; any type whose values can be records, such as `tuple[Score, ...]`.
        record: as `json.loads` returns it.
        tensors: of the same name as when it was written, if they were collected.
        source: the file, or whatever the record comes from; error messages begin with it.

    Returns:
        The value. Fields that the record lacks take their defaults.

    Raises:
        RecordError: a field is missing, unknown or of another type, or the class refuses the values. The message names
            the source, the field and what was expected there.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Score:
    ...     values: tuple[float, ...]
    ...     method: str = "GradCAM"
    >>> from_record(Score, {"values": [0.5, 1]}, source="score.json")
    Score(values=(0.5, 1.0), method='GradCAM')
    >>> from_record(Score, {"values": [0.5, "high"]}, source="score.json")
    Traceback (most recent call last):
    pellucid.storage.record_reader.RecordError: score.json: values.1 is 'high', not a number
    """
    value: T = RecordReader(fspath(source), tensors or {}).read(cls, record, "")
    return value


def to_json(value: object) -> Any:
    """Turn a value into JSON that is only shown, not read back: what `to_record` refuses becomes text.

    Args:
        value: anything; NaN and infinities become null everywhere.

    >>> to_json({"score": float("nan"), "page": PurePath("a.html"), "shape": (2, 3), "classifier": object})
    {'score': None, 'page': 'a.html', 'shape': [2, 3], 'classifier': "<class 'object'>"}
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str | type(None)) else str(value)


def write_record(
    path: str | PathLike[str],
    value: object,
    *,
    kind: str,
    version: int,
    tensors: dict[str, Tensor] | None = None,
) -> None:
    """Write a value as a JSON file, whole or not at all.

    Args:
        path: the file; it is replaced if it exists.
        value: a dataclass or mapping.
        kind: what the file is, such as "pellucid explanation"; `read_record` refuses files of another kind.
        version: of the format, 1 or more; raise it when a field changes its name or meaning.
        tensors: as in `to_record`. Write them before the record, so that a record never lacks its tensors.

    Raises:
        RecordError: the value cannot be a record.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Score:
    ...     value: float
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_record(f"{folder}/score.json", Score(0.5), kind="my score", version=1)
    ...     read_record(f"{folder}/score.json", Score, kind="my score", version=1)
    Score(value=0.5)
    """
    record = to_record(value, tensors)
    if not isinstance(record, dict) or set(_ENVELOPE) & set(record):
        raise RecordError(f"{path}: a record file holds a dataclass or mapping without {' or '.join(_ENVELOPE)}")
    write_json(path, {"format": kind, "version": version, **record})


def read_record(
    path: str | PathLike[str],
    cls: type[T],
    *,
    kind: str,
    version: int,
    migrate: Callable[[dict[str, Any], int], dict[str, Any]] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> T:
    """Read what `write_record` wrote.

    Args:
        path: the file.
        cls: the dataclass that was written.
        kind: what the file must be.
        version: that this program writes.
        migrate: turns a record of an older version, given as (record, version), into one of this version; without it
            older files are refused.
        tensors: as in `from_record`.

    Raises:
        RecordError: the file is missing, damaged, of another kind or version, or its fields are not those of `cls`.
    """
    record = read_json(path)
    form = record.get("format") if isinstance(record, dict) else None
    if form != kind:
        raise RecordError(f"{path} is not a {kind}: its format is {form!r}; give a file that pellucid has written")
    stored = record.get("version")
    content = {key: value for key, value in record.items() if key not in _ENVELOPE}
    if stored != version:
        if not isinstance(stored, int) or stored > version or migrate is None:
            raise RecordError(f"{path} is of version {stored}; this pellucid reads version {version}: create it again")
        content = migrate(content, stored)
    return from_record(cls, content, tensors=tensors, source=path)


def _encode(value: Any, path: str, tensors: dict[str, Tensor] | None, *, nullable: bool) -> Any:
    """`nullable`: whether null would be read as None, not as NaN."""
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Enum):
        return _encode(value.value, path, tensors, nullable=nullable)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) and not nullable else str(value)
    if isinstance(value, Tensor) and tensors is not None:
        name = path or TENSOR
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, Tensor):
        return _encode(value.tolist(), path, tensors, nullable=False)
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if is_dataclass(value) and not isinstance(value, type):
        items: Any = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        allow_none = _fields_with_none(type(value))
    elif isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str | int)]:
            raise RecordError(f"{path or 'the value'} has a key {strange[0]!r}, which is neither text nor whole number")
        items, allow_none = {str(key): item for key, item in value.items()}, {}
    elif isinstance(value, list | tuple | AbstractSet):
        items = sorted(value) if isinstance(value, AbstractSet) else value
        return [_encode(item, join_path(path, index), tensors, nullable=nullable) for index, item in enumerate(items)]
    else:
        raise RecordError(f"{path or 'the value'} is a {type(value).__name__}, which cannot be written as JSON")
    return {
        name: _encode(item, join_path(path, name), tensors, nullable=allow_none.get(name, nullable))
        for name, item in items.items()
    }


@cache
def _fields_with_none(cls: type) -> Mapping[str, bool]:
    return {name: _allows_none(hint) for name, hint in annotations_of(cls).items()}


def _allows_none(annotation: Any) -> bool:
    """Whether None, or anything at all, can be somewhere in a value of this type."""
    if annotation in (None, type(None), Any, object):
        return True
    return get_origin(annotation) is not Literal and any(map(_allows_none, get_args(annotation)))
