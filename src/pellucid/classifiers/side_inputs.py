"""What crosses a cut besides the activation, and which part of it belongs to which image."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.shapes import Int


class BatchPatternError(Exception):
    """A value depends on the batch in a way that does not say what belongs to which image.

    >>> find_batch_pattern(torch.zeros(2), torch.zeros(4))
    Traceback (most recent call last):
        ...
    pellucid.classifiers.side_inputs.BatchPatternError: has shape (2,) for two images and (4,) for three
    """


@dataclass(frozen=True)
class PerImage:
    """A value that grows with the batch.

    Attributes:
        axis: the axis along which the images follow each other, each with as many entries as the next; None for a
            number, a multiple of the images.

    >>> find_batch_pattern(torch.zeros(4, 2), torch.zeros(4, 3))
    PerImage(axis=1)
    """

    axis: int | None = None


Pattern = PerImage | tuple[Any, ...] | dict[Any, Any] | None
"""How a value follows the batch: None for one that does not, a tuple or dictionary of patterns for one of values."""


def find_batch_pattern(two: Any, three: Any) -> Pattern:
    """The pattern of a value that was computed once for two images and once for three.

    Raises:
        BatchPatternError: it does not grow by half along exactly one axis, nor stay as it is.

    >>> find_batch_pattern((torch.zeros(2, 5), 2, "a"), (torch.zeros(3, 5), 3, "a"))
    (PerImage(axis=0), PerImage(axis=None), None)
    """
    kind = type(two)
    if isinstance(two, Tensor) and isinstance(three, Tensor):
        return _axis_of(tuple(two.shape), tuple(three.shape))
    if kind is type(three) and kind in (tuple, list, torch.Size) and len(two) == len(three):
        return tuple(map(find_batch_pattern, two, three))
    if kind is type(three) is dict and two.keys() == three.keys():
        return {key: find_batch_pattern(two[key], three[key]) for key in two}
    if kind is int and _grows(two, three):
        return PerImage()
    if kind in _CONSTANTS and two == three:
        return None
    raise BatchPatternError(f"is {_short(two)} for two images and {_short(three)} for three")


_CONSTANTS = (int, float, bool, str, type(None), slice, torch.dtype, torch.device, torch.layout, torch.memory_format)


def _axis_of(two: tuple[int, ...], three: tuple[int, ...]) -> PerImage | None:
    if two == three:
        return None
    grown = [axis for axis, sizes in enumerate(zip(two, three, strict=False)) if sizes[0] != sizes[1]]
    if len(two) != len(three) or len(grown) != 1 or not _grows(two[grown[0]], three[grown[0]]):
        raise BatchPatternError(f"has shape {two} for two images and {three} for three")
    return PerImage(grown[0])


def _grows(two: int, three: int) -> bool:
    return two != 0 and two * 3 == three * 2


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, int | float | str) else f"a {type(value).__name__}"


@dataclass(frozen=True)
class SideInputs:
    """Values other than the activation that cross the cut; they belong to the images that made them.

    Attributes:
        values: tensors, numbers, and tuples and dictionaries of them, as the part after the layer expects them.
        names: what each value is the output of, in the user's words.
        images: how many images (rows) the values were computed for.
        patterns: how each value follows the images.

    >>> side_inputs = SideInputs(images=2).append(torch.tensor([[1.0], [2.0]]), "shortcut", PerImage(0))
    >>> side_inputs.rows(torch.tensor([1, 1, 0])).values
    (tensor([[2.],
            [2.],
            [1.]]),)
    """

    values: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    images: int = 0
    patterns: tuple[Pattern, ...] = ()

    def rows(self, index: Int[Tensor, " R"]) -> "SideInputs":
        """The values for the images `index` (R,), which may repeat: the i-th row then belongs to image index[i]."""
        values = tuple(
            _select(value, pattern, index, self.images)
            for value, pattern in zip(self.values, self.patterns, strict=True)
        )
        return replace(self, values=values, images=len(index))

    def append(self, value: Any, name: str, pattern: Pattern) -> "SideInputs":
        """The same with one more value.

        Args:
            value: as the part after the layer expects it.
            name: what it is the output of.
            pattern: how it follows the images.
        """
        return SideInputs((*self.values, value), (*self.names, name), self.images, (*self.patterns, pattern))

    def without_last(self) -> "SideInputs":
        """The same without the last value."""
        return SideInputs(self.values[:-1], self.names[:-1], self.images, self.patterns[:-1])


def _select(value: Any, pattern: Pattern, index: Tensor, images: int) -> Any:
    if pattern is None:
        return value
    if isinstance(pattern, tuple):
        parts = [_select(part, how, index, images) for part, how in zip(value, pattern, strict=True)]
        return torch.Size(parts) if isinstance(value, torch.Size) else type(value)(parts)
    if isinstance(pattern, dict):
        return {key: _select(value[key], how, index, images) for key, how in pattern.items()}
    if pattern.axis is None:
        return value // images * len(index)
    index = index.to(value.device)
    if value.shape[pattern.axis] == images:
        return value.index_select(pattern.axis, index)
    blocks = value.unflatten(pattern.axis, (images, -1))
    return blocks.index_select(pattern.axis, index).flatten(pattern.axis, pattern.axis + 1)
