"""The one codec between values and JSON: dataclasses are written and read by their annotations.

A record is what `json` reads and writes: objects, arrays, texts, numbers, true, false and null. Nothing in it names a
class, so that a file is read by whoever knows the class, and reading never runs code.
"""

import json
import math
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache, partial
from inspect import isabstract
from os import PathLike, fspath
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.storage.files import write_atomically

T = TypeVar("T")

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_TENSOR = "tensor"  # the key of a record that stands for a tensor in another file
_ENVELOPE = ("format", "version")


class RecordError(PellucidError):
    """A value that cannot be a record, or a record that is not of the class it is read as."""


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
    pellucid.storage.records.RecordError: score.json: values.1 is 'high', not a number
    """
    value: T = _Reader(fspath(source), tensors or {}).read(cls, record, "")
    return value


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
    if not isinstance(record, dict) or record.get("format") != kind:
        raise RecordError(f"{path} is not a file of {kind}; give one that pellucid has written")
    stored = record.get("version")
    content = {key: value for key, value in record.items() if key not in _ENVELOPE}
    if stored != version:
        if not isinstance(stored, int) or stored > version or migrate is None:
            raise RecordError(f"{path} is of version {stored}; this pellucid reads version {version}: create it again")
        content = migrate(content, stored)
    return from_record(cls, content, tensors=tensors, source=path)


def write_json(path: str | PathLike[str], record: object) -> None:
    """Write a record as a JSON file, whole or not at all."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text.encode())


def read_json(path: str | PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        RecordError: it is missing or damaged.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{path} does not exist") from error
    except ValueError as error:
        raise RecordError(f"{path} is damaged ({error}); it has to be created again") from error


def _encode(value: Any, path: str, tensors: dict[str, Tensor] | None, *, nullable: bool) -> Any:
    """`nullable`: whether null would be read as None, not as NaN."""
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
        name = path or _TENSOR
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Tensor):
        return _encode(value.tolist(), path, tensors, nullable=False)
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if is_dataclass(value) and not isinstance(value, type):
        hints = _annotations(type(value))
        return {
            field.name: _encode(
                getattr(value, field.name), _join(path, field.name), tensors, nullable=_allows_none(hints[field.name])
            )
            for field in fields(value)
            if field.init
        }
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str | int)]:
            raise RecordError(f"{path or 'the value'} has a key {strange[0]!r}, which is neither text nor whole number")
        return {str(key): _encode(item, _join(path, key), tensors, nullable=nullable) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return [_encode(item, _join(path, index), tensors, nullable=nullable) for index, item in enumerate(value)]
    raise RecordError(f"{path or 'the value'} is a {type(value).__name__}, which cannot be written as JSON")


class _Reader:
    """Reads records of one source.

    Args:
        source: what error messages begin with.
        tensors: by name.
    """

    def __init__(self, source: str, tensors: Mapping[str, Tensor]) -> None:
        self.source = source
        self.tensors = tensors

    def read(self, annotation: Any, value: Any, path: str) -> Any:
        """The value of an annotated type that a record stands for."""
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self.read(args[0], value, path)
        if origin in (Union, types.UnionType):
            return self._union(args, value, path)
        if origin is Literal:
            if value not in args or type(value) not in map(type, args):
                self._refuse(value, path, " or ".join(map(repr, args)))
            return value
        kind = origin or annotation
        if kind is Any or kind is object or isinstance(kind, TypeVar):
            return value
        if not isinstance(kind, type):
            raise RecordError(
                f"{self.source}: {path or 'the record'} has the type {annotation}, which no record can be"
            )
        if kind in (bool, int, float, str, type(None)):
            return self._scalar(kind, value, path)
        if issubclass(kind, Enum):
            return self._convert(kind, value, path, " or ".join(repr(member.value) for member in kind))
        if issubclass(kind, PurePath):
            return kind(self._scalar(str, value, path))
        if kind is torch.dtype:
            dtype = getattr(torch, value, None) if isinstance(value, str) else None
            return dtype if isinstance(dtype, torch.dtype) else self._refuse(value, path, "a dtype of torch")
        if issubclass(kind, Tensor | np.ndarray):
            return self._tensor(annotation, value, path)
        if is_dataclass(kind):
            return self._dataclass(kind, value, path)
        if issubclass(kind, Mapping):
            return self._mapping(kind, args, value, path)
        if issubclass(kind, Collection):
            return self._items(kind, args, value, path)
        raise RecordError(f"{self.source}: {path or 'the record'} has the type {kind.__name__}, which no record can be")

    def _scalar(self, kind: type, value: Any, path: str) -> Any:
        if kind is float:
            if value is None or (isinstance(value, str) and value in _NON_FINITE):
                return _NON_FINITE[value or "nan"]
            if isinstance(value, int) and not isinstance(value, bool):
                return float(value)
        if type(value) is not kind:
            names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
            self._refuse(value, path, names.get(kind, "null"))
        return value

    def _union(self, members: tuple[Any, ...], value: Any, path: str) -> Any:
        """The first member that fits; null is None where that is a member."""
        if value is None and type(None) in members:
            return None
        reasons = []
        for member in members:
            if member is not type(None):
                try:
                    return self.read(member, value, path)
                except RecordError as error:
                    reasons.append(error)
        if len(reasons) == 1:
            raise reasons[0]
        return self._refuse(value, path, " or ".join(getattr(member, "__name__", str(member)) for member in members))

    def _tensor(self, annotation: Any, value: Any, path: str) -> Any:
        is_array = (get_origin(annotation) or annotation) is np.ndarray
        if isinstance(value, dict) and set(value) == {_TENSOR}:
            if value[_TENSOR] not in self.tensors:
                raise RecordError(f"{self.source}: the tensor {value[_TENSOR]!r} of {path or 'the record'} is missing")
            tensor = self.tensors[value[_TENSOR]]
            return tensor.numpy() if is_array else tensor
        dtype = (*get_args(get_args(annotation)[1]), None)[0] if is_array and get_args(annotation) else None
        make = partial(np.array, dtype=dtype if isinstance(dtype, type) else None) if is_array else torch.tensor
        return self._convert(lambda numbers: make(_with_nan(numbers)), value, path, "nested lists of numbers")

    def _dataclass(self, cls: type, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            self._refuse(value, path, f"an object with the fields of {cls.__name__}")
        known: dict[str, Field[Any]] = {field.name: field for field in fields(cls) if field.init}
        optional = {name for name, f in known.items() if f.default is not MISSING or f.default_factory is not MISSING}
        for problem, names in (
            ("lacks", known.keys() - optional - value.keys()),
            ("has unknown", value.keys() - known),
        ):
            if names:
                plural = "fields" if len(names) > 1 else "field"
                raise RecordError(
                    f"{self.source}: {path or 'the record'} {problem} {plural} {', '.join(sorted(names))}; "
                    f"a {cls.__name__} has {', '.join(known)}"
                )
        hints = _annotations(cls)
        values = {name: self.read(hints[name], item, _join(path, name)) for name, item in value.items()}
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:  # what the class itself refuses
            raise RecordError(f"{self.source}: {path + ': ' if path else ''}{error}") from error

    def _mapping(self, kind: type, args: tuple[Any, ...], value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            self._refuse(value, path, "an object")
        key_type, item_type = args or (str, Any)
        content = {
            self._convert(int, key, path, "an object with whole numbers as keys")
            if key_type is int
            else key: self.read(item_type, item, _join(path, key))
            for key, item in value.items()
        }
        return content if kind is dict or isabstract(kind) else kind(content)

    def _items(self, kind: type, args: tuple[Any, ...], value: Any, path: str) -> Any:
        if not isinstance(value, list):
            self._refuse(value, path, "a list")
        if kind is tuple and args and args[-1] is not Ellipsis:
            if len(value) != len(args):
                self._refuse(value, path, f"a list of {len(args)}")
            item_types: Sequence[Any] = args
        else:
            item_types = (args[0] if args else Any,) * len(value)
        items = [self.read(t, v, _join(path, i)) for i, (t, v) in enumerate(zip(item_types, value, strict=True))]
        if kind is list:
            return items
        if issubclass(kind, AbstractSet):
            return set(items) if kind is set else frozenset(items)
        return tuple(items)

    def _convert(self, convert: Callable[[Any], Any], value: Any, path: str, expected: str) -> Any:
        try:
            return convert(value)
        except (KeyError, TypeError, ValueError, RuntimeError):
            self._refuse(value, path, expected)

    def _refuse(self, value: Any, path: str, expected: str) -> NoReturn:
        text = repr(value)
        short = text if len(text) <= 60 else f"{text[:57]}..."
        raise RecordError(f"{self.source}: {path or 'the record'} is {short}, not {expected}")


@cache
def _annotations(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _allows_none(annotation: Any) -> bool:
    """Whether None, or anything at all, can be somewhere in a value of this type."""
    if annotation in (None, type(None), Any, object):
        return True
    return get_origin(annotation) is not Literal and any(map(_allows_none, get_args(annotation)))


def _with_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    if value is None or isinstance(value, str):
        return _NON_FINITE[value or "nan"]
    return value


def _join(path: str, name: str | int) -> str:
    return f"{path}.{name}" if path else str(name)
