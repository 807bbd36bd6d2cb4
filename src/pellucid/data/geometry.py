"""Where the classifier's input lies on the original image, and how maps find their way back there."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pellucid.errors import PellucidError

PlaceMode = Literal["bilinear", "nearest"]


@dataclass(frozen=True)
class Geometry:
    """Which part of an image a classifier's input window shows: an axis-aligned affine map.

    Input position (x, y), in fractions of the window, lies at left + x (right - left), top + y (bottom - top)
    of the image. Positions are edges, not centers: pixel i covers i to i + 1.

    Attributes:
        width: of the original image, in pixels.
        height: of the original image, in pixels.
        box: (left, top, right, bottom) of the window, in pixels of the original image, with fractions. It
            reaches beyond the image where the preprocessing pads.

    >>> geometry = Geometry(width=4, height=2, box=(1.0, 0.0, 3.0, 2.0))
    >>> geometry.place(torch.tensor([[1.0]]))
    tensor([[nan, 1., 1., nan],
            [nan, 1., 1., nan]])
    """

    width: int
    height: int
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        if min(self.width, self.height) < 1 or not (left < right and top < bottom):
            raise PellucidError(
                f"no window of an image: {self.width} x {self.height} pixels, box {self.box}; "
                "a box is (left, top, right, bottom) with left < right and top < bottom"
            )

    def place(self, values: Tensor, *, mode: PlaceMode = "bilinear") -> Tensor:
        """Lay a map of the window where it belongs on the original image.

        The map may have any resolution; its cells tile the window (align_corners=False: values sit at the
        centers of cells). Finer than the image, cells are averaged with the widened triangle of an
        antialiased resize.

        It costs 4 bytes per pixel of the image and map (8 for float64), up to twice that while it is made:
        one map on 4000 x 3000 pixels becomes 48 MB, whatever its resolution was.

        Args:
            values: (..., h, w), any scale and sign, finite: bilinear placing spreads a NaN over its row and
                column.
            mode: "bilinear", or "nearest" to show the cells as they are.

        Returns:
            (..., height, width), float32 (float64 for float64), in the scale and sign of `values`; NaN at the
            pixels whose center lies outside the box, which the classifier did not see.

        Raises:
            PellucidError: `values` has fewer than two axes or no cells, or the mode is unknown.
        """
        if values.ndim < 2 or 0 in values.shape[-2:]:
            raise PellucidError(f"a map to place has shape (..., h, w) with h, w >= 1, not {tuple(values.shape)}")
        if mode not in get_args(PlaceMode):
            raise PellucidError(f"unknown place mode {mode!r}; choose one of {', '.join(get_args(PlaceMode))}")
        cells = values if values.dtype == torch.float64 else values.float()
        left, top, right, bottom = self.box
        rows, vertical = _sampling(cells.shape[-2], top, bottom, self.height, mode)
        columns, horizontal = _sampling(cells.shape[-1], left, right, self.width, mode)
        placed = cells.new_full((*cells.shape[:-2], self.height, self.width), math.nan)
        placed[..., rows, columns] = vertical.to(cells) @ cells @ horizontal.to(cells).T
        return placed


def _sampling(cells: int, start: float, stop: float, length: int, mode: PlaceMode) -> tuple[slice, Tensor]:
    """The pixels of an axis whose centers lie in start..stop, and their weights (pixels, cells)."""
    first, last = (min(max(math.ceil(edge - 0.5), 0), length) for edge in (start, stop))
    per_pixel = cells / (stop - start)
    position = (torch.arange(first, last, dtype=torch.float64) + 0.5 - start) * per_pixel
    if mode == "nearest":
        nearest = position.floor().clamp(0, cells - 1)
        return slice(first, last), (nearest[:, None] == torch.arange(cells)).double()
    distance = position[:, None] - (torch.arange(cells) + 0.5)
    weights = (1 - distance.abs() / max(1.0, per_pixel)).clamp(min=0)
    # At the edges, part of the triangle has no cells: the outermost cells fill in.
    return slice(first, last), weights / weights.sum(1, keepdim=True)
