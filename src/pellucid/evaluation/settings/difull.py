"""DiFull: every head sees its own cell and nothing else."""

from typing import Any

import torch
from torch import Tensor, fx

from pellucid.classifiers import (
    Activation,
    Classifier,
    LayerView,
    Layout,
    SideInputs,
)
from pellucid.errors import LayerError
from pellucid.evaluation.localization import Grid, join_cells, split_cells
from pellucid.evaluation.settings.blocks import block_masks, blocks, select_blocks
from pellucid.evaluation.settings.cell_cache import CellCache, CellSideInputs
from pellucid.evaluation.settings.check import check_cell_by_cell
from pellucid.evaluation.settings.composition import Composition
from pellucid.evaluation.settings.grid_setting import GridSetting, GridSettingView


class DiFull(GridSetting):
    """Head k classifies cell k, cropped from the grid image before the network: f(cell k).

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


class _DiFullView(GridSettingView):
    def __init__(self, setting: GridSetting, base: LayerView) -> None:
        super().__init__(setting, base)
        self.suffix_rows = setting.heads

    @property
    def layout(self) -> Layout:
        return Layout("NCHW")

    def head_masks(self, height: int, width: int) -> Tensor | None:
        return block_masks(self.classifier.grid, self.classifier.head_numbers, height, width)

    def activation(self, grids: Tensor) -> Activation:
        grid = self.classifier.grid
        cells = self.base.activation(split_cells(self.classifier.check_images(grids), grid).flatten(0, 1))
        joined = join_cells(torch.unflatten(cells.as_subclass(Tensor), 0, (len(grids), -1)), grid)
        # A copy: whoever changes the activation in place must not change what it was.
        memory = CellCache(joined.clone(), grid, self.classifier.num_classes)
        return Activation.of(joined, CellSideInputs.of(cells.side_inputs, memory))

    def logits_with_cost(self, activation: Tensor, side_inputs: SideInputs | None = None) -> tuple[Tensor, int]:
        """The logits, and how many cells were run for them: those that changed, are not known or are differentiated."""
        grid, heads = self.classifier.grid, self.classifier.head_numbers
        if (side_inputs := self._side_inputs_for(activation, side_inputs)) is None:
            crops = blocks(activation, grid, heads)
            return torch.unflatten(self.base.logits(crops), 0, (-1, len(heads))), len(crops)
        memory, (images, cells) = side_inputs.memory, side_inputs.places(heads)
        states, run = self._to_run(activation, side_inputs)
        if bool(run.any()):
            rows = torch.arange(len(activation)).repeat_interleave(len(heads))
            crops = select_blocks(activation, grid, (rows[run], cells[run]))
            found = self.base.logits(crops, side_inputs.select_crops(images[run], cells[run]))
            memory.store(states[run], images[run], cells[run], found.detach())
        if not bool(run.all()):
            known = memory.logits[states.clamp(min=0), images, cells]
            found = known.index_put((run.nonzero().flatten(),), found) if bool(run.any()) else known
        return torch.unflatten(found, 0, (-1, len(heads))), int(run.sum())

    def _to_run(self, activation: Tensor, side_inputs: CellSideInputs) -> tuple[Tensor, Tensor]:
        """The state of each of the R * heads crops, and which of them must be run."""
        heads, memory = self.classifier.head_numbers, side_inputs.memory
        images, cells = side_inputs.places(heads)
        if not (torch.is_grad_enabled() and activation.requires_grad):
            states = memory.states(activation, side_inputs.index, heads)
            return states, memory.missing(states, images, cells)
        everything = torch.ones_like(cells, dtype=torch.bool)
        if bool(memory.known[memory.UNCHANGED, images, cells].all()):
            # To compare pays only while there is something to remember.
            return torch.full_like(cells, memory.CHANGED), everything
        return memory.states(activation, side_inputs.index, heads), everything

    def suffix_inputs(self, activation: Tensor, side_inputs: SideInputs | None = None) -> tuple[Any, ...]:
        side_inputs = self._side_inputs_for(activation, side_inputs)
        activation = self.classifier.precision.prepare(activation)
        if side_inputs is None:
            return (activation,)
        return activation, *side_inputs.select_crops(*side_inputs.places(self.classifier.head_numbers)).values

    def _side_inputs_for(self, activation: Tensor, side_inputs: SideInputs | None) -> CellSideInputs | None:
        """The memory of the activation's images; None where nothing crosses the cut and nothing is remembered."""
        if side_inputs is None:
            side_inputs = activation.side_inputs if isinstance(activation, Activation) else None
        if side_inputs is None and not self.side_input_names:
            return None
        if not isinstance(side_inputs, CellSideInputs) or side_inputs.images != len(activation):
            raise LayerError(
                f"{len(activation)} rows of activation at {self.layer!r} need what was carried for them in every cell: "
                "pass carried=a.carried.rows(index) of the activation a that the rows were computed from"
            )
        return side_inputs

    def _compose(self) -> fx.GraphModule:
        made, base = Composition(), self.base
        assert base.suffix is not None
        activation = made.input("activation")
        side_inputs = [made.input(f"carried_{index}") for index in range(len(self.side_input_names))]
        leading: Any = side_inputs.pop() if base.layout.tokens else None
        crops = blocks(activation, self.classifier.grid, self.classifier.head_numbers)
        logits = made.run(base.suffix, base.layout.unfold(crops, leading), *side_inputs)
        return made.finish(logits.unflatten(0, (-1, self.classifier.heads)))
