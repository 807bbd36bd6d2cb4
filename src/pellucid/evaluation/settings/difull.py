"""DiFull: every head sees its own cell and nothing else."""

from typing import Any

import torch
from torch import Tensor, fx

from pellucid.classifiers import (
    Activation,
    Carried,
    Classifier,
    LayerView,
)
from pellucid.classifiers.layout import Layout
from pellucid.errors import LayerError
from pellucid.evaluation.localization import Grid, join_cells, split_cells
from pellucid.evaluation.settings.blocks import block_masks, blocks, chosen_blocks
from pellucid.evaluation.settings.cell_cache import CellCarried, CellMemory
from pellucid.evaluation.settings.check import check_cell_by_cell
from pellucid.evaluation.settings.composition import Composition
from pellucid.evaluation.settings.grid_setting import Setting, SettingView


class DiFull(Setting):
    """Head k classifies cell k, cropped from the grid picture before the network: f(cell k).

    Other cells cannot influence it, so whatever a map shows there is wrong. At inner layers the part before the layer
    is run cell by cell and the maps are joined. Defined for any network. Source: Rao et al., Towards Better
    Understanding Attribution Methods, CVPR 2022, section 3.1.

    Nothing is run twice: a cell of an activation that is as it was in `view.activation(grids)` keeps the logits that it
    had, and one that is zero everywhere is run once.

    Args:
        classifier: of the cells.
        n: n for n x n cells, or (rows, columns).
        cell_size: (h, w) of the cells for the self-test; by default the classifier's input size.

    Raises:
        ModelError: the self-test fails: head k does not give f(cell k), or another cell changes it.
    """

    def __init__(self, classifier: Classifier, n: Grid = 2, *, cell_size: tuple[int, int] | None = None) -> None:
        super().__init__(classifier, n, cell_size)
        self.head_numbers = tuple(range(self.grid[0] * self.grid[1]))
        check_cell_by_cell(self)

    def _view(self, base: LayerView) -> "_DiFullView":
        return _DiFullView(self, base)


class _DiFullView(SettingView):
    def __init__(self, setting: Setting, base: LayerView) -> None:
        super().__init__(setting, base)
        self.suffix_rows = setting.heads

    @property
    def layout(self) -> Layout:
        return Layout("NCHW")

    def head_masks(self, height: int, width: int) -> Tensor | None:
        return block_masks(self.classifier.grid, self.classifier.head_numbers, height, width)

    def activation(self, grids: Tensor) -> Activation:
        grid = self.classifier.grid
        cells = self.base.activation(split_cells(self.classifier.check_pictures(grids), grid).flatten(0, 1))
        joined = join_cells(torch.unflatten(cells.as_subclass(Tensor), 0, (len(grids), -1)), grid)
        # A copy: whoever changes the activation in place must not change what it was.
        memory = CellMemory(joined.clone(), grid, self.classifier.num_classes)
        return Activation.of(joined, CellCarried.of(cells.carried, memory))

    def counted_logits(self, activation: Tensor, carried: Carried | None = None) -> tuple[Tensor, int]:
        """The logits, and how many cells were run for them: those that changed, are not known or are differentiated."""
        grid, heads = self.classifier.grid, self.classifier.head_numbers
        if (carried := self._carried_for(activation, carried)) is None:
            crops = blocks(activation, grid, heads)
            return torch.unflatten(self.base.logits(crops), 0, (-1, len(heads))), len(crops)
        memory, (pictures, cells) = carried.memory, carried.places(heads)
        states, run = self._to_run(activation, carried)
        if bool(run.any()):
            rows = torch.arange(len(activation)).repeat_interleave(len(heads))
            crops = chosen_blocks(activation, grid, (rows[run], cells[run]))
            found = self.base.logits(crops, carried.of_crops(pictures[run], cells[run]))
            memory.keep(states[run], pictures[run], cells[run], found.detach())
        if not bool(run.all()):
            known = memory.logits[states.clamp(min=0), pictures, cells]
            found = known.index_put((run.nonzero().flatten(),), found) if bool(run.any()) else known
        return torch.unflatten(found, 0, (-1, len(heads))), int(run.sum())

    def _to_run(self, activation: Tensor, carried: CellCarried) -> tuple[Tensor, Tensor]:
        """The state of each of the R * heads crops, and which of them must be run."""
        heads, memory = self.classifier.head_numbers, carried.memory
        pictures, cells = carried.places(heads)
        if not (torch.is_grad_enabled() and activation.requires_grad):
            states = memory.states(activation, carried.index, heads)
            return states, memory.missing(states, pictures, cells)
        everything = torch.ones_like(cells, dtype=torch.bool)
        if bool(memory.known[memory.AS_IT_WAS, pictures, cells].all()):
            # To compare pays only while there is something to remember.
            return torch.full_like(cells, memory.CHANGED), everything
        return memory.states(activation, carried.index, heads), everything

    def suffix_inputs(self, activation: Tensor, carried: Carried | None = None) -> tuple[Any, ...]:
        carried = self._carried_for(activation, carried)
        activation = self.classifier.precision.prepare(activation)
        if carried is None:
            return (activation,)
        return activation, *carried.of_crops(*carried.places(self.classifier.head_numbers)).values

    def _carried_for(self, activation: Tensor, carried: Carried | None) -> CellCarried | None:
        """The memory of the activation's pictures; None where nothing crosses the cut and nothing is remembered."""
        if carried is None:
            carried = activation.carried if isinstance(activation, Activation) else None
        if carried is None and not self.carried_names:
            return None
        if not isinstance(carried, CellCarried) or carried.pictures != len(activation):
            raise LayerError(
                f"{len(activation)} rows of activation at {self.layer!r} need what was carried for them in every cell: "
                "pass carried=a.carried.rows(index) of the activation a that the rows were computed from"
            )
        return carried

    def _compose(self) -> fx.GraphModule:
        made, base = Composition(), self.base
        assert base.suffix is not None
        activation = made.input("activation")
        carried = [made.input(f"carried_{index}") for index in range(len(self.carried_names))]
        leading: Any = carried.pop() if base.layout.tokens else None
        crops = blocks(activation, self.classifier.grid, self.classifier.head_numbers)
        logits = made.run(base.suffix, base.layout.unfold(crops, leading), *carried)
        return made.finish(logits.unflatten(0, (-1, self.classifier.heads)))
