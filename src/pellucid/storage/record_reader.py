"""Reading records: JSON values back into dataclasses by their annotations, with errors that name the field."""

import math
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache, partial
from inspect import isabstract
from pathlib import PurePath
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import PellucidError

TENSOR = "tensor"  # the key of a record that stands for a tensor in another file
_SCALARS = frozenset({bool, int, float, str})
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class RecordError(PellucidError):
    """A value that cannot be a record, or a record that is not of the class it is read as."""


class RecordReader:
    """Reads records of one source.

    Args:
        source: what error messages begin with.
        tensors: by name.
    """

    def __init__(self, source: str, tensors: Mapping[str, Tensor]) -> None:
        self.source = source
        self.tensors = tensors

    def read(self, annotation: Any, value: Any, path: str) -> Any:
        """The value of an annotated type that a record stands for.

        Args:
            annotation: the type that is expected.
            value: JSON values.
            path: dotted name of the value within the record, for error messages.

        Raises:
            RecordError: the value does not fit the annotation.
        """
        if annotation is type(value) and annotation in _SCALARS:
            return value
        annotation = getattr(annotation, "array_type", annotation)  # a tensor whose shape is written down
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
        if isinstance(value, dict) and set(value) == {TENSOR}:
            if value[TENSOR] not in self.tensors:
                raise RecordError(f"{self.source}: the tensor {value[TENSOR]!r} of {path or 'the record'} is missing")
            tensor = self.tensors[value[TENSOR]]
            return tensor.numpy() if is_array else tensor
        dtype = (*get_args(get_args(annotation)[1]), None)[0] if is_array and get_args(annotation) else None
        make = partial(np.array, dtype=dtype if isinstance(dtype, type) else None) if is_array else torch.tensor
        return self._convert(lambda numbers: make(_with_nan(numbers)), value, path, "nested lists of numbers")

    def _dataclass(self, cls: type, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            self._refuse(value, path, f"an object with the fields of {cls.__name__}")
        known, required = _fields_of(cls)
        for problem, names in (
            ("lacks", required - value.keys()),
            ("has unknown", value.keys() - known.keys()),
        ):
            if names:
                plural = "fields" if len(names) > 1 else "field"
                raise RecordError(
                    f"{self.source}: {path or 'the record'} {problem} {plural} {', '.join(sorted(names))}; "
                    f"a {cls.__name__} has {', '.join(known)}"
                )
        values = {name: self.read(known[name], item, join_path(path, name)) for name, item in value.items()}
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
            else key: self.read(item_type, item, join_path(path, key))
            for key, item in value.items()
        }
        return content if kind is dict or isabstract(kind) else kind(content)

    def _items(self, kind: type, args: tuple[Any, ...], value: Any, path: str) -> Any:
        if not isinstance(value, list):
            self._refuse(value, path, "a list")
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            args = tuple(annotations_of(kind).values())
        if issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
            if len(value) != len(args):
                self._refuse(value, path, f"a list of {len(args)}")
            item_types: Sequence[Any] = args
        else:
            item_types = (args[0] if args else Any,) * len(value)
        items = [self.read(t, v, join_path(path, i)) for i, (t, v) in enumerate(zip(item_types, value, strict=True))]
        if kind is list:
            return items
        if issubclass(kind, tuple) and kind is not tuple:
            return kind(*items)
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
def annotations_of(cls: type) -> dict[str, Any]:
    """The annotated type of each field."""
    return get_type_hints(cls, include_extras=True)


@cache
def _fields_of(cls: type) -> tuple[Mapping[str, Any], frozenset[str]]:
    """The annotated types of the fields that a class is created from, and the names of those without a default."""
    known = [field for field in fields(cls) if field.init]
    hints = annotations_of(cls)
    required = (field.name for field in known if field.default is MISSING and field.default_factory is MISSING)
    return {field.name: hints[field.name] for field in known}, frozenset(required)


def join_path(path: str, name: str | int) -> str:
    """The dotted name of a field or item within a value."""
    return f"{path}.{name}" if path else str(name)


def _with_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    if value is None or isinstance(value, str):
        return _NON_FINITE[value or "nan"]
    return value
