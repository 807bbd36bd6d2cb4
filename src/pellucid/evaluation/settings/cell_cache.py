"""What DiFull remembers of the cells of grid images, so that an unchanged cell is not run again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pellucid.classifiers import SideInputs
from pellucid.evaluation.settings.blocks import blocks


class CellCache:
    """The cells of N grid images at a layer, and the logits of two states of each: as it was, and empty (all zero).

    Attributes:
        activation: (N, C, rows * h, columns * w), as it was before anything was changed.
        grid: (rows, columns).
        logits: (2, N, cells, K), where known.
        known: (2, N, cells) bool.
    """

    UNCHANGED, EMPTY, CHANGED = 0, 1, -1

    def __init__(self, activation: Tensor, grid: tuple[int, int], classes: int) -> None:
        self.activation, self.grid = activation, grid
        self.logits = activation.new_zeros(2, len(activation), grid[0] * grid[1], classes)
        self.known = torch.zeros(self.logits.shape[:3], dtype=torch.bool)

    def states(self, activation: Tensor, images: Tensor, cells: Sequence[int]) -> Tensor:
        """The state of each of the cells in R rows that belong to `images` (R,): (R * len(cells),)."""
        values = activation.detach()
        originals = self.activation[images[:1] if bool((images == images[0]).all()) else images]
        states = torch.full((len(activation) * len(cells),), self.CHANGED)
        states[self._everywhere(values == 0, cells)] = self.EMPTY
        states[self._everywhere(values == originals, cells)] = self.UNCHANGED
        return states

    def missing(self, states: Tensor, images: Tensor, cells: Tensor) -> Tensor:
        """Which of M cells must be run: changed ones, and of those in one unknown state the first; (M,) bool."""
        missing = states == self.CHANGED
        unknown = ~missing & ~self.known[states, images, cells]
        first = {
            (int(states[place]), int(images[place]), int(cells[place])): place
            for place in reversed(unknown.nonzero().flatten().tolist())
        }
        missing[list(first.values())] = True
        return missing

    def store(self, states: Tensor, images: Tensor, cells: Tensor, logits: Tensor) -> None:
        """Remember logits (M, K) of M cells, unless they are changed ones."""
        same = states != self.CHANGED
        places = (states[same], images[same], cells[same])
        self.logits[places] = logits[same.to(logits.device)]
        self.known[places] = True

    def _everywhere(self, holds: Tensor, cells: Sequence[int]) -> Tensor:
        return blocks(holds, self.grid, cells).flatten(1).all(1).cpu()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class CellSideInputs(SideInputs):
    """What crosses the cut in every cell, and the memory of the cells, by reference: rows are selected when they run.

    Attributes:
        cells: of the N * cells rows that went through the part before the layer.
        memory: of the N images.
        index: (R,) which of the N images each row belongs to.
    """

    cells: SideInputs = field(kw_only=True)
    memory: CellCache = field(kw_only=True, compare=False)
    index: Tensor = field(kw_only=True, compare=False)

    @staticmethod
    def of(cells: SideInputs, memory: CellCache) -> "CellSideInputs":
        """For the N images of a memory in their order."""
        count = len(memory.activation)
        return CellSideInputs(names=cells.names, images=count, cells=cells, memory=memory, index=torch.arange(count))

    def rows(self, index: Tensor) -> "CellSideInputs":
        """For the images `index` (R,) among those that this belongs to."""
        return replace(self, images=len(index), index=self.index[index.to(self.index.device)])

    def places(self, cells: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The image and the cell of each of the R * len(cells) crops."""
        return self.index.repeat_interleave(len(cells)), torch.tensor(cells).repeat(len(self.index))

    def select_crops(self, images: Tensor, cells: Tensor) -> SideInputs:
        """What crosses the cut for crops of these images and cells, (R,) each."""
        return self.cells.rows(images * self.memory.known.shape[2] + cells)
