"""Sets of digits with a known context, made from real digits."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.data import ContextTable
from pellucid.errors import PellucidError
from pellucid.synthetic.morphomnist.measures import measure
from pellucid.synthetic.morphomnist.morphology import check_images
from pellucid.synthetic.morphomnist.redrawing import SETTABLE, redraw


@dataclass(frozen=True)
class Rendering:
    """Digits redrawn to a context.

    Attributes:
        images: (N, H, W) uint8.
        requested: the context they were to have.
        measured: the same features, measured on the images.
    """

    images: Tensor
    requested: ContextTable
    measured: ContextTable

    def within(self, tolerances: Mapping[str, float]) -> Tensor:
        """Which images (N,) came within these distances of what was requested; other features do not count."""
        close = [
            (self.measured.column(name) - self.requested.column(name)).abs() <= tolerance
            for name, tolerance in tolerances.items()
        ]
        return torch.stack(close).all(0) if close else torch.ones(len(self.requested), dtype=torch.bool)


def render(
    digits: Tensor, context: ContextTable, *, size: int | None = None, scale: int = 4, batch: int = 256
) -> Rendering:
    """Redraw digits to a context, one row each, and measure what came out.

    Not every digit can take every context (a 1 cannot be 20 pixels wide and thin): see `Rendering.reached`.

    Args:
        digits: (N, H, W) bright on dark, any number type.
        context: N rows; of its columns thickness, slant, width and intensity are set, others refused.
        size: of the images, at least that of the digits, which are put in the middle; by default the digits' own
            longer side.
        scale: of the fine grid that digits are drawn on.
        batch: most digits to draw at once; bounds the memory.

    Raises:
        PellucidError: not one row per digit, a column that cannot be set, or a size below the digits'.

    >>> from pellucid.synthetic import draw_digits
    >>> rendering = render(draw_digits(torch.tensor([3])), ContextTable.from_columns({"thickness": [4.0]}))
    >>> rendering.images.dtype, rendering.within({"thickness": 0.3}).tolist()
    (torch.uint8, [True])
    """
    unknown = [name for name in context.names if name not in SETTABLE]
    if unknown:
        raise PellucidError(f"context column {unknown[0]!r} cannot be drawn; these can: {', '.join(SETTABLE)}")
    digits = check_images(digits)
    if len(digits) != len(context):
        raise PellucidError(f"{len(digits)} digits for {len(context)} rows of context; give one each")
    thickness, slant, width, intensity = (context.column(n) if n in context.names else None for n in SETTABLE)
    images = redraw(
        _pad_to_center(digits, size),
        thickness=thickness,
        slant=slant,
        width=width,
        intensity=intensity,
        scale=scale,
        batch=batch,
    )
    images = images.round().to(torch.uint8)
    return Rendering(images, context, measure(images, scale=scale, batch=batch).table(*context.names))


def _pad_to_center(digits: Tensor, size: int | None) -> Tensor:
    height, width = digits.shape[1:]
    size = size or max(height, width)
    if size < max(height, width):
        raise PellucidError(
            f"digits of {height} x {width} do not fit into {size} x {size}; give a size at least as large"
        )
    top, left = (size - height) // 2, (size - width) // 2
    return torch.nn.functional.pad(digits, (left, size - width - left, top, size - height - top))
