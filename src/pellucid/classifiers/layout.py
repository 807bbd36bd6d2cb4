"""One shape for every layer: an activation is a map (N, C, h, w), whatever order the network keeps it in."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import LayerError

LAYOUTS = ("NCHW", "NHWC", "NTC", "NC")


@dataclass(frozen=True)
class Layout:
    """How a layer's native output becomes a map.

    Attributes:
        order: "NCHW"; "NHWC" (Swin); "NTC", tokens of a transformer, folded into a grid; "NC", no spatial extent.
        tokens: for NTC, how many leading tokens (class, distillation, registers) are not part of the image. They do
            not belong to the map; they are carried along.

    >>> patches, class_token = Layout("NTC", tokens=1).fold(torch.zeros(2, 17, 8), 32, 32)
    >>> patches.shape, class_token.shape
    (torch.Size([2, 8, 4, 4]), torch.Size([2, 1, 8]))
    """

    order: str
    tokens: int = 0

    def fold(self, native: Tensor, height: int, width: int) -> tuple[Tensor, Tensor | None]:
        """Native activation of images of `height` x `width` -> map (N, C, h, w), leading tokens (N, t, C) or None.

        Args:
            native: (N, ...) in this order.
            height: of the images, which tells the grid of tokens.
            width: of the images.
        """
        if self.order == "NCHW":
            return native, None
        if self.order == "NHWC":
            return native.permute(0, 3, 1, 2), None
        if self.order == "NC":
            return native[:, :, None, None], None
        grid = find_token_grid(native.shape[1] - self.tokens, height, width)
        if grid is None:
            raise LayerError(
                f"{native.shape[1] - self.tokens} image tokens do not form a grid for {height} x {width} images"
            )
        patches = torch.unflatten(native[:, self.tokens :].transpose(1, 2), 2, grid)
        return patches, native[:, : self.tokens] if self.tokens else None

    def unfold(self, folded: Tensor, leading: Tensor | None) -> Tensor:
        """The inverse of `fold`."""
        if self.order == "NCHW":
            return folded
        if self.order == "NHWC":
            return folded.permute(0, 2, 3, 1)
        if self.order == "NC":
            return folded.flatten(1)
        patches = folded.flatten(2).transpose(1, 2)
        return patches if leading is None else torch.cat([leading.to(patches.dtype), patches], dim=1)


def find_layout(shape: tuple[int, ...], height: int, width: int, order: str | None = None) -> Layout | None:
    """The layout of an output of `shape` (batch included) for images of `height` x `width`; None if there is none.

    Four dimensions are read as NCHW unless only NHWC fits the images' aspect ratio. Three are tokens if they form a
    grid once up to eight leading tokens are set aside: the fewest that leave patches which tile the image without a
    rest, else the fewest that leave a grid. A tensor with the images' own height and width is one channel of them.

    Args:
        shape: of the output for a batch of images.
        height: of the images.
        width: of the images.
        order: where it is not what the shape suggests.

    >>> find_layout((2, 197, 768), 224, 224)
    Layout(order='NTC', tokens=1)
    """
    if order is not None and order not in LAYOUTS:
        raise LayerError(f"unknown layout {order!r}; choose one of {', '.join(LAYOUTS)}")
    if len(shape) == 2 and order in (None, "NC"):
        return Layout("NC")
    if len(shape) == 4 and order in (None, "NCHW", "NHWC"):
        fits_last = _fits(shape[1], shape[2], height, width) and not _fits(shape[2], shape[3], height, width)
        return Layout(order or ("NHWC" if fits_last else "NCHW"))
    if len(shape) == 3 and order in (None, "NTC") and shape[1:] != (height, width):
        ways = ((tiles, count) for tiles in (True, False) for count in range(9))
        tokens = (count for tiles, count in ways if find_token_grid(shape[1] - count, height, width, tiles=tiles))
        return next((Layout("NTC", count) for count in tokens), None)
    return None


def _fits(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether rows x columns can be a sub-sampling of height x width: both axes shrink alike, up to rounding."""
    if rows > height or columns > width:
        return False
    return abs(rows - columns * height / width) <= 1.0


def find_token_grid(count: int, height: int, width: int, *, tiles: bool = False) -> tuple[int, int] | None:
    """Rows and columns of `count` > 1 square patches over an image of `height` x `width`, or None.

    Patches may stick out of the image, or leave a rest of it, unless the grid `tiles` it.

    Args:
        count: of tokens.
        height: of the image.
        width: of the image.
        tiles: patches may neither stick out nor leave a rest.

    >>> find_token_grid(196, 224, 224), find_token_grid(197, 224, 224)
    ((14, 14), None)
    """
    if count < 2:
        return None
    rows = round(math.sqrt(count * height / width))
    if rows < 1 or count % rows:
        return None
    grid = (rows, count // rows)
    if tiles:
        return grid if height % grid[0] == 0 and height * grid[1] == width * grid[0] else None
    sides = range(height // (rows + 1), -(-height // max(rows - 1, 1)) + 1)
    tilings = (tiling for side in sides if side for tiling in _tilings(height, width, side))
    return grid if grid in tilings else None


def _tilings(height: int, width: int, side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of patches, without and with those that stick out of the image."""
    return (height // side, width // side), (-(-height // side), -(-width // side))
