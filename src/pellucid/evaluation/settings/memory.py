"""What DiFull remembers of the cells of grid pictures, so that an unchanged cell is not run again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pellucid.classifiers import Carried
from pellucid.evaluation.settings.blocks import blocks

__all__ = ["CellCarried", "CellMemory"]


class CellMemory:
    """The cells of N grid pictures at a layer, as they were before anything was changed, and their logits where known.

    Attributes:
        activation: (N, C, rows * h, columns * w).
        grid: (rows, columns).
        logits: (N, cells, K), where known.
        known: (N, cells) bool.
    """

    def __init__(self, activation: Tensor, grid: tuple[int, int], classes: int) -> None:
        self.activation, self.grid = activation, grid
        self.logits = activation.new_zeros(len(activation), grid[0] * grid[1], classes)
        self.known = torch.zeros(self.logits.shape[:2], dtype=torch.bool)

    def unchanged(self, activation: Tensor, pictures: Tensor, cells: Sequence[int]) -> Tensor:
        """Whether each of the cells is as it was, (R * len(cells),), in R rows that belong to `pictures` (R,)."""
        originals = self.activation[pictures[:1] if bool((pictures == pictures[0]).all()) else pictures]
        same: Tensor = blocks(activation.detach() == originals, self.grid, cells)
        return same.flatten(1).all(1).cpu()

    def keep(self, pictures: Tensor, cells: Tensor, logits: Tensor) -> None:
        """Remember logits (M, K) of unchanged cells."""
        self.logits[pictures, cells] = logits
        self.known[pictures, cells] = True


@dataclass(frozen=True)
class CellCarried(Carried):
    """What crosses the cut in every cell, and the memory of the cells, by reference: rows are selected when they run.

    Attributes:
        cells: of the N * cells rows that went through the part before the layer.
        memory: of the N pictures.
        index: (R,) which of the N pictures each row belongs to.
    """

    cells: Carried = field(kw_only=True)
    memory: CellMemory = field(kw_only=True, compare=False)
    index: Tensor = field(kw_only=True, compare=False)

    @staticmethod
    def of(cells: Carried, memory: CellMemory) -> "CellCarried":
        """For the N pictures of a memory in their order."""
        count = len(memory.activation)
        return CellCarried(names=cells.names, pictures=count, cells=cells, memory=memory, index=torch.arange(count))

    def rows(self, index: Tensor) -> "CellCarried":
        """For the pictures `index` (R,) among those that this belongs to."""
        return replace(self, pictures=len(index), index=self.index[index.to(self.index.device)])

    def places(self, cells: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The picture and the cell of each of the R * len(cells) crops."""
        return self.index.repeat_interleave(len(cells)), torch.tensor(cells).repeat(len(self.index))

    def of_crops(self, pictures: Tensor, cells: Tensor) -> Carried:
        """What crosses the cut for crops of these pictures and cells, (R,) each."""
        return self.cells.rows(pictures * self.memory.known.shape[1] + cells)
