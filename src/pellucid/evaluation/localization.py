"""Where the positive evidence of a map lies on a grid: localization score, what it can reach, and the mirror share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.attribution import smooth
from pellucid.errors import PellucidError
from pellucid.shapes import Float

Grid = int | tuple[int, int]
"""n for n x n cells, or (rows, columns)."""

_BLOCK_PIXELS = 2**20  # 8 MB of float64: larger blocks only cost page faults
# Positive mass below the rounding of a float32 sum of the whole map is none: rounding alone makes it.
NEGLIGIBLE = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Localization:
    """The positive mass of N maps in every cell of a grid, from one pass over the maps.

    Attributes:
        mass: (N, rows * columns) float64, >= 0, cells row by row; sums of the positive part over pixels. NaN for a map
            that holds NaN or infinite values; zero for one whose positive part is rounding.
        grid: (rows, columns).
    """

    mass: Float[Tensor, "N cells"]
    grid: tuple[int, int]

    @property
    def finite(self) -> Tensor:
        """(N,) bool: False for maps that cannot be scored; report how many there are."""
        return self.mass.isfinite().all(1)

    @property
    def shares(self) -> Float[Tensor, "N cells"]:
        """(N, cells) in [0, 1]: the localization score of every cell; rows sum to 1, or to 0 without positive mass."""
        total = self.mass.sum(1, keepdim=True)
        return torch.where(total == 0, 0.0, self.mass / total)

    def score(self, cell: int | Sequence[int] = 0) -> Tensor:
        """Localization score: (N,) in [0, 1] for one cell, (N, c) for several; NaN for non-finite maps."""
        return self.shares[:, _cell_index(cell, self.grid)]

    def target_scores(self, cells: Sequence[int] | Tensor) -> Float[Tensor, " N"]:
        """(N,) the score of map i in its own cell `cells[i]`, as in GridPG, where every map has another target."""
        indices = [int(cell) for cell in cells]
        _cell_index(indices, self.grid)
        if len(indices) != len(self.mass):
            raise PellucidError(f"{len(indices)} cells were given for {len(self.mass)} maps; give one cell per map")
        return self.shares.gather(1, torch.tensor(indices, device=self.mass.device)[:, None])[:, 0]

    def mirror_share(self, cell: int, partner: int) -> Float[Tensor, " N"]:
        """Share of the positive mass outside `cell` that lies in the other cell of the same class.

        High: the method answers to the class wherever it is. At chance, 1 / (cells - 1): what leaves the cell is noise.

        Args:
            cell: the cell that is explained.
            partner: the other cell of its class.

        Returns:
            (N,) in [0, 1]; NaN where nothing lies outside the cell, and for non-finite maps.
        """
        _cell_index([cell, partner], self.grid)
        if cell == partner:
            raise PellucidError(f"cell and partner are both {cell}; the partner is another cell of the grid")
        outside = self.mass.clone()
        outside[:, cell] = 0
        total = outside.sum(1)
        nothing = total <= NEGLIGIBLE * self.mass.sum(1)
        return torch.where(nothing, torch.nan, outside[:, partner] / total)


def localization_score(
    values: Float[Tensor, "... h w"], n: Grid = 2, cell: int | Sequence[int] = 0, size: tuple[int, int] | None = None
) -> Tensor:
    """Share of a map's positive evidence that lies in a grid cell: up-sample, clip at zero, sum.

    L_k = (sum of A+ over cell k) / (sum of A+), A+ = max(up-sampled A, 0), bilinear with align_corners=False. Chance is
    1 / cells. Source: Rao et al., Towards Better Understanding Attribution Methods, CVPR 2022, section 3.

    Args:
        values: (N, 1, h, w) or (N, h, w), signed, already summed over channels.
        n: n for n x n cells, or (rows, columns).
        cell: index of the cell, row by row; or several.
        size: (H, W) of the grid image; None scores at the maps' own resolution.

    Returns:
        (N,) float64 in [0, 1] for one cell, (N, c) for several. 0 for a map without positive evidence (measured
        against the map's own absolute mass); NaN for a map with NaN or infinite values.

    Raises:
        PellucidError: the grid does not divide the maps or the image, or has no such cell.

    >>> values = torch.tensor([[[3.0, 1.0], [-2.0, 0.0]]])  # one map of 2 x 2 pixels, one for each cell
    >>> localization_score(values, n=2, cell=0)
    tensor([0.7500], dtype=torch.float64)
    """
    return localize(values, n, size).score(cell)


def localize(values: Float[Tensor, "... h w"], n: Grid = 2, size: tuple[int, int] | None = None) -> Localization:
    """Measure the positive mass of maps in all cells at once.

    Maps without negative values are never up-sampled: their mass is r^T A c, with r and c the column sums of the
    one-dimensional interpolation matrices over the rows and columns of a cell. Others are up-sampled a few at a time.

    Args:
        values: (N, 1, h, w) or (N, h, w), signed, already summed over channels.
        n: n for n x n cells, or (rows, columns).
        size: (H, W) of the grid image; None measures at the maps' own resolution.

    Returns:
        `Localization`, mass (N, cells).

    Raises:
        PellucidError: the grid does not divide the maps or the image.

    >>> result = localize(torch.tensor([[[3.0, 1.0], [-2.0, 0.0]]]), n=2)
    >>> result.shares
    tensor([[0.7500, 0.2500, 0.0000, 0.0000]], dtype=torch.float64)
    """
    maps = as_maps(values)
    grid = grid_shape(n)
    size = size or (maps.shape[1], maps.shape[2])
    _check_divides(grid, (maps.shape[1], maps.shape[2]), "map")
    _check_divides(grid, size, "grid image")
    sums = [_cell_sums(m, s, cells).to(maps.device) for m, s, cells in zip(maps.shape[1:], size, grid, strict=True)]

    def separable(part: Tensor) -> Tensor:  # (B, h, w) -> (B, cells)
        return (sums[0] @ part.double() @ sums[1].T).flatten(1)

    mass = maps.new_full((len(maps), grid[0] * grid[1]), torch.nan, dtype=torch.float64)
    finite = maps.isfinite().flatten(1).all(1)
    positive = (maps >= 0).flatten(1).all(1)
    for rows in row_batches(torch.nonzero(finite & positive)[:, 0], maps.shape[1:]):
        mass[rows] = separable(maps[rows])
    for rows in row_batches(torch.nonzero(finite & ~positive)[:, 0], size):
        large = upsample(maps[rows], size).clamp_(min=0)
        in_cells = large.view(len(rows), grid[0], size[0] // grid[0], grid[1], -1).sum((2, 4)).flatten(1)
        whole = separable(maps[rows].abs()).sum(1, keepdim=True)
        mass[rows] = torch.where(in_cells.sum(1, keepdim=True) <= NEGLIGIBLE * whole, 0.0, in_cells)
    return Localization(mass, grid)


def attainable_score(
    map_size: tuple[int, int],
    n: Grid = 2,
    cell: int = 0,
    size: tuple[int, int] | None = None,
    kernel_size: int = 1,
) -> float:
    """Localization score of a map that is uniform in the cell and zero elsewhere: what up-sampling leaves of it.

    Bilinear up-sampling by an even factor leaks over inner borders: a map of side m per cell keeps 1 - b / (8m) along
    an axis with b inner borders. Smoothing with a Gaussian leaks more.

    Args:
        map_size: (h, w) of the map of the whole grid at the layer.
        n: as in `localization_score`.
        cell: as in `localization_score`.
        size: as in `localization_score`.
        kernel_size: of the Gaussian that smooths the map before it is up-sampled (see `smooth`); 1 for none.

    Returns:
        In (0, 1].

    >>> attainable_score((14, 14), n=2, cell=0, size=(448, 448))  # (1 - 1 / 56) squared
    0.964...
    """
    kept = 1.0
    parts, positions = cell_slices(cell, n, map_size), divmod(cell, grid_shape(n)[1])
    for part, position, cells, source, target in zip(
        parts, positions, grid_shape(n), map_size, size or map_size, strict=True
    ):
        uniform = torch.zeros(1, 1, source, dtype=torch.float64)
        uniform[:, :, part] = 1
        kept *= float(localization_score(smooth(uniform, kernel_size), (1, cells), position, (1, target)))
    return kept


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) at `size`, bilinear with align_corners=False: a new tensor (N, H, W) float64."""
    maps = maps.to(torch.float64, copy=True)
    if maps.shape[1:] == size:
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def row_batches(rows: Tensor, size: Sequence[int]) -> Iterator[Tensor]:
    """Indices of maps, a few at a time, so that their maps at `size` (H, W) stay small in memory."""
    step = max(1, _BLOCK_PIXELS // (size[0] * size[1]))
    return (rows[start : start + step] for start in range(0, len(rows), step))


def interpolation_matrix(source: int, target: int) -> Tensor:
    """The matrix (target, source) float64 of linear interpolation along one axis, align_corners=False.

    >>> interpolation_matrix(2, 4)
    tensor([[1.0000, 0.0000],
            [0.7500, 0.2500],
            [0.2500, 0.7500],
            [0.0000, 1.0000]], dtype=torch.float64)
    """
    unit = torch.eye(source, dtype=torch.float64)
    return F.interpolate(unit[None], size=target, mode="linear", align_corners=False)[0].T.contiguous()


def as_maps(values: Tensor) -> Tensor:
    """Maps (N, 1, h, w) or (N, h, w) as (N, h, w), detached and floating.

    Raises:
        PellucidError: another shape, for instance several targets or channels.
    """
    if not isinstance(values, Tensor):
        raise PellucidError(f"maps are a {type(values).__name__}; expected a tensor, see torch.as_tensor")
    maps = values.detach()
    if maps.ndim == 4 and maps.shape[1] == 1:
        maps = maps[:, 0]
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise PellucidError(
            f"maps of shape {tuple(values.shape)} were given; expected (N, 1, h, w) or (N, h, w): "
            "sum over channels first, and join targets with images by values.flatten(0, 1)"
        )
    return maps if maps.is_floating_point() else maps.float()


def grid_shape(n: Grid) -> tuple[int, int]:
    """(rows, columns) of a grid given as n or as (rows, columns).

    >>> grid_shape(2), grid_shape((2, 3))
    ((2, 2), (2, 3))
    """
    rows, columns = (n, n) if isinstance(n, int) else n
    if rows < 1 or columns < 1:
        raise PellucidError(f"a grid of {rows} x {columns} cells was asked for; it needs at least one row and column")
    return rows, columns


def cell_slices(cell: int, n: Grid, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a cell in an image or map of `size` (H, W).

    Args:
        cell: number of the cell, row by row.
        n: n for n x n cells, or (rows, columns).
        size: (H, W), divided by the grid.

    Raises:
        PellucidError: no such cell, or the grid does not divide the size.

    >>> cell_slices(3, 2, (8, 8))
    (slice(4, 8, None), slice(4, 8, None))
    """
    grid = grid_shape(n)
    _cell_index(cell, grid)
    _check_divides(grid, size, "grid")
    height, width = size[0] // grid[0], size[1] // grid[1]
    row, column = divmod(cell, grid[1])
    return slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)


def join_cells(cells: Tensor, n: Grid = 2) -> Tensor:
    """Lay cells out row by row: (N, rows * columns, C, h, w) -> grid images (N, C, rows * h, columns * w).

    >>> join_cells(torch.arange(4.0).view(1, 4, 1, 1, 1), n=2)[0, 0]
    tensor([[0., 1.],
            [2., 3.]])
    """
    rows, columns = grid_shape(n)
    if cells.ndim != 5 or cells.shape[1] != rows * columns:
        raise PellucidError(
            f"cells {tuple(cells.shape)}; expected (N, {rows * columns}, C, h, w) for {rows} x {columns}"
        )
    count, _, channels, height, width = cells.shape
    laid = cells.reshape(count, rows, columns, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return laid.reshape(count, channels, rows * height, columns * width)


def split_cells(images: Tensor, n: Grid = 2) -> Tensor:
    """Cut grid images or maps into their cells: (N, C, rows * h, columns * w) -> (N, rows * columns, C, h, w).

    >>> split_cells(torch.arange(4.0).view(1, 1, 2, 2), n=2).flatten()
    tensor([0., 1., 2., 3.])
    """
    rows, columns = grid_shape(n)
    if images.ndim != 4 or images.shape[2] % rows or images.shape[3] % columns:
        raise PellucidError(f"images {tuple(images.shape)} are not (N, C, H, W) divided by {rows} x {columns} cells")
    count, channels, height, width = images.shape
    cut = images.reshape(count, channels, rows, height // rows, columns, width // columns).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(count, rows * columns, channels, height // rows, width // columns)


def _cell_sums(source: int, target: int, cells: int) -> Tensor:
    """(cells, source): how much of each source pixel lands in each of `cells` equal parts of the target axis."""
    return interpolation_matrix(source, target).view(cells, target // cells, source).sum(1)


def _cell_index(cell: int | Sequence[int], grid: tuple[int, int]) -> int | list[int]:
    cells = [cell] if isinstance(cell, int) else list(cell)
    wrong = [index for index in cells if not 0 <= index < grid[0] * grid[1]]
    if wrong:
        raise PellucidError(
            f"cell {wrong[0]} is not in a grid of {grid[0]} x {grid[1]}; its cells are 0 to {grid[0] * grid[1] - 1}"
        )
    return cell if isinstance(cell, int) else cells


def _check_divides(grid: tuple[int, int], size: Sequence[int], what: str) -> None:
    if size[0] % grid[0] or size[1] % grid[1]:
        raise PellucidError(
            f"a {what} of {size[0]} x {size[1]} is not divided by {grid[0]} x {grid[1]} cells; "
            "choose another layer or cell size so that every cell has whole pixels"
        )
