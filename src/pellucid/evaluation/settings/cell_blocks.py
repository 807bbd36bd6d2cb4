"""The blocks of a map that belong to the cells of a grid, and the windows that slide over a map."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import LayerError
from pellucid.evaluation.localization import cell_slices


def divides(grid: tuple[int, int], maps: Tensor) -> bool:
    """Whether a grid of (rows, columns) divides maps (N, C, h, w) along both axes."""
    return maps.shape[2] % grid[0] == 0 and maps.shape[3] % grid[1] == 0


def check_divides(grid: tuple[int, int], maps: Tensor, layer: str) -> None:
    """Check that a grid divides the maps of a layer.

    Args:
        grid: (rows, columns).
        maps: (N, C, H, W).
        layer: its name, for the message.

    Raises:
        LayerError: it does not; the message has the sizes.
    """
    if not divides(grid, maps):
        raise LayerError(
            f"the map of {layer!r} is {maps.shape[2]} x {maps.shape[3]}, which {grid[0]} x {grid[1]} cells do not "
            "divide; choose another layer or cell size"
        )


def cut_blocks(maps: Any, grid: tuple[int, int], cells: Sequence[int]) -> Any:
    """Cut the blocks of some cells out of maps, or out of an fx.Proxy of maps.

    Args:
        maps: (N, C, rows * h, columns * w).
        grid: (rows, columns).
        cells: which cells, numbered row by row.

    Returns:
        (N * len(cells), C, h, w), the blocks of one map after the other.
    """
    rows, columns = zip(*(divmod(cell, grid[1]) for cell in cells), strict=True)
    return _view_as_blocks(maps, grid)[:, list(rows), list(columns)].flatten(0, 1).contiguous()


def select_blocks(maps: Tensor, grid: tuple[int, int], pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Cut one block for each pair of a map and a cell.

    Args:
        maps: (N, C, rows * h, columns * w).
        grid: (rows, columns).
        pairs: the map and the cell of each block, (M,) and (M,).

    Returns:
        (M, C, h, w).
    """
    rows, cells = pairs
    selected: Tensor = _view_as_blocks(maps, grid)[rows, cells // grid[1], cells % grid[1]]
    return selected.contiguous()


def _view_as_blocks(maps: Any, grid: tuple[int, int]) -> Any:
    """(N, C, rows * h, columns * w) -> (N, rows, columns, C, h, w), not copied."""
    return maps.unflatten(2, (grid[0], -1)).unflatten(4, (grid[1], -1)).permute(0, 2, 4, 1, 3, 5)


def block_masks(grid: tuple[int, int], cells: Sequence[int], height: int, width: int) -> Tensor:
    """Mark the block of each cell.

    Args:
        grid: (rows, columns).
        cells: which cells, numbered row by row.
        height: of the masks.
        width: of the masks.

    Returns:
        (len(cells), height, width) bool.

    >>> block_masks((1, 2), [1], 1, 4).int()
    tensor([[[0, 0, 1, 1]]], dtype=torch.int32)
    """
    masks = torch.zeros(len(cells), height, width, dtype=torch.bool)
    for mask, cell in zip(masks, cells, strict=True):
        mask[cell_slices(cell, grid, (height, width))] = True
    return masks


def slide_windows(maps: Any, height: Any, width: Any) -> Any:
    """Cut all windows out of maps, or out of an fx.Proxy of maps, with stride 1.

    Args:
        maps: (N, C, H, W).
        height: of a window.
        width: of a window.

    Returns:
        (N * L, C, height, width), the L windows of one map after the other.

    >>> slide_windows(torch.arange(3.0).view(1, 1, 1, 3), 1, 2).flatten(1)
    tensor([[0., 1.],
            [1., 2.]])
    """
    return maps.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).contiguous()
