"""What crosses a cut besides the activation, and which part of it belongs to which picture."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


class UnfollowableError(Exception):
    """A value depends on the batch in a way that does not say what belongs to which picture."""


@dataclass(frozen=True)
class PerPicture:
    """A value that grows with the batch.

    Attributes:
        axis: the axis along which the pictures follow each other, each with as many entries as the next; None for a
            number, a multiple of the pictures.
    """

    axis: int | None = None


Pattern = PerPicture | tuple[Any, ...] | dict[Any, Any] | None
"""How a value follows the batch: None for one that does not, a tuple or dictionary of patterns for one of values."""


def pattern_of(two: Any, three: Any) -> Pattern:
    """The pattern of a value that was computed once for two pictures and once for three.

    Raises:
        UnfollowableError: it does not grow by half along exactly one axis, nor stay as it is.
    """
    kind = type(two)
    if isinstance(two, Tensor) and isinstance(three, Tensor):
        return _axis_of(tuple(two.shape), tuple(three.shape))
    if kind is type(three) and kind in (tuple, list, torch.Size) and len(two) == len(three):
        return tuple(map(pattern_of, two, three))
    if kind is type(three) is dict and two.keys() == three.keys():
        return {key: pattern_of(two[key], three[key]) for key in two}
    if kind is int and _grows(two, three):
        return PerPicture()
    if kind in _CONSTANTS and two == three:
        return None
    raise UnfollowableError(f"is {_short(two)} for two pictures and {_short(three)} for three")


_CONSTANTS = (int, float, bool, str, type(None), slice, torch.dtype, torch.device, torch.layout, torch.memory_format)


def _axis_of(two: tuple[int, ...], three: tuple[int, ...]) -> PerPicture | None:
    if two == three:
        return None
    grown = [axis for axis, sizes in enumerate(zip(two, three, strict=False)) if sizes[0] != sizes[1]]
    if len(two) != len(three) or len(grown) != 1 or not _grows(two[grown[0]], three[grown[0]]):
        raise UnfollowableError(f"has shape {two} for two pictures and {three} for three")
    return PerPicture(grown[0])


def _grows(two: int, three: int) -> bool:
    return two != 0 and two * 3 == three * 2


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, int | float | str) else f"a {type(value).__name__}"


@dataclass(frozen=True)
class Carried:
    """Values other than the activation that cross the cut; they belong to the pictures that made them.

    Attributes:
        values: tensors, numbers, and tuples and dictionaries of them, as the part after the layer expects them.
        names: what each value is the output of, in the user's words.
        pictures: how many pictures (rows) the values were computed for.
        patterns: how each value follows the pictures.
    """

    values: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    pictures: int = 0
    patterns: tuple[Pattern, ...] = ()

    def rows(self, index: Tensor) -> "Carried":
        """The values for the pictures `index` (R,), which may repeat: the i-th row then belongs to picture index[i]."""
        values = tuple(
            _select(value, pattern, index, self.pictures)
            for value, pattern in zip(self.values, self.patterns, strict=True)
        )
        return replace(self, values=values, pictures=len(index))

    def and_also(self, value: Any, name: str, pattern: Pattern) -> "Carried":
        """The same with one more value."""
        return Carried((*self.values, value), (*self.names, name), self.pictures, (*self.patterns, pattern))

    def without_last(self) -> "Carried":
        """The same without the last value."""
        return Carried(self.values[:-1], self.names[:-1], self.pictures, self.patterns[:-1])


def _select(value: Any, pattern: Pattern, index: Tensor, pictures: int) -> Any:
    if pattern is None:
        return value
    if isinstance(pattern, tuple):
        parts = [_select(part, how, index, pictures) for part, how in zip(value, pattern, strict=True)]
        return torch.Size(parts) if isinstance(value, torch.Size) else type(value)(parts)
    if isinstance(pattern, dict):
        return {key: _select(value[key], how, index, pictures) for key, how in pattern.items()}
    if pattern.axis is None:
        return value // pictures * len(index)
    index = index.to(value.device)
    if value.shape[pattern.axis] == pictures:
        return value.index_select(pattern.axis, index)
    blocks = value.unflatten(pattern.axis, (pictures, -1))
    return blocks.index_select(pattern.axis, index).flatten(pattern.axis, pattern.axis + 1)
