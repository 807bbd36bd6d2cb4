"""The numbers of a map in a table: score, what it can reach, mirror share and mass."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pellucid.evaluation.localization import attainable_score, localize

_attainable = lru_cache(maxsize=4096)(attainable_score)


@dataclass(frozen=True)
class MapScores:
    """Numbers of N grids with T maps each; (N, T) float64, NaN for maps with NaN or infinite values.

    Attributes:
        score: localization score in the map's own cell.
        native: the same at the map's own resolution.
        attainable: (T,) the score of a map that is uniform in the cell and zero elsewhere.
        mirror: share of the mass outside the cell that lies in the twin's; None without twins.
        mass: positive mass of the whole map, up-sampled.
        cell_mass: positive mass in the cell.
    """

    score: Tensor
    native: Tensor
    attainable: Tensor
    mirror: Tensor | None
    mass: Tensor
    cell_mass: Tensor

    def status(self, grid: int, target: int) -> str:
        """Why a score is what it is: "ok", "zero" without positive evidence, "non-finite"."""
        if not bool(self.mass[grid, target].isfinite()):
            return "non-finite"
        return "zero" if float(self.mass[grid, target]) == 0 else "ok"


def score_maps(
    values: Tensor,
    grid: tuple[int, int],
    cells: Sequence[int],
    size: tuple[int, int],
    *,
    same_class: bool,
    kernel_size: int = 1,
) -> MapScores:
    """Score maps (N, T, h, w) of N grids, map t in cell `cells[t]`.

    Args:
        values: signed.
        grid: (rows, columns).
        cells: T cells; with twins two, each the twin's cell of the other.
        size: (H, W) of the grid image.
        twins: whether the grids have twins.
        kernel_size: of the Gaussian that the maps were smoothed with.
    """
    count, targets, *map_size = values.shape
    flat, own = values.flatten(0, 1), torch.tensor(list(cells)).repeat(count)
    shape = (count, targets)
    found = localize(flat, grid, size)
    native = found if tuple(map_size) == tuple(size) else localize(flat, grid)
    mirror = None
    if same_class:
        both = torch.stack([found.mirror_share(cells[0], cells[1]), found.mirror_share(cells[1], cells[0])], dim=1)
        mirror = both.view(count, targets, 2)[:, [0, 1], [0, 1]]
    attainable = [_attainable((map_size[0], map_size[1]), grid, cell, tuple(size), kernel_size) for cell in cells]
    return MapScores(
        score=found.target_scores(own).view(shape),
        native=native.target_scores(own).view(shape),
        attainable=torch.tensor(attainable, dtype=torch.float64),
        mirror=mirror,
        mass=found.mass.sum(1).view(shape),
        cell_mass=found.mass.gather(1, own[:, None])[:, 0].view(shape),
    )
