"""DiFull: every head sees its own cell and nothing else, and an unchanged cell is not run again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from pellucid.classifiers import Activation, Classifier, LayerView, Layout, SideInputs
from pellucid.errors import LayerError
from pellucid.evaluation.localization import Grid, join_cells, split_cells
from pellucid.evaluation.settings.cell_blocks import block_masks, cut_blocks, select_blocks
from pellucid.evaluation.settings.grid_setting import Composition, GridSetting, GridSettingView
from pellucid.evaluation.settings.heads import check_cell_by_cell


class CellCache:
    """The cells of N grid images at a layer, and the logits of two states of each: unchanged, and empty (all zero).

    Args:
        activation: (N, C, rows * h, columns * w).
        grid: (rows, columns).
        classes: K.

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
        """Compare cells with what they were.

        Args:
            activation: (R, C, rows * h, columns * w).
            images: (R,) which of the N images each row belongs to.
            cells: which cells, numbered row by row.

        Returns:
            (R * len(cells),) UNCHANGED, EMPTY or CHANGED.
        """
        values = activation.detach()
        originals = self.activation[images[:1] if bool((images == images[0]).all()) else images]
        states = torch.full((len(activation) * len(cells),), self.CHANGED)
        states[self._holds_everywhere(values == 0, cells)] = self.EMPTY
        states[self._holds_everywhere(values == originals, cells)] = self.UNCHANGED
        return states

    def missing(self, states: Tensor, images: Tensor, cells: Tensor) -> Tensor:
        """Which of M cells must be run: changed ones, and of those in one unknown state the first.

        Args:
            states: (M,) from `states`.
            images: (M,) the image of each.
            cells: (M,) the cell of each, numbered row by row.

        Returns:
            (M,) bool.
        """
        missing = states == self.CHANGED
        unknown = ~missing & ~self.known[states, images, cells]
        first = {
            (int(states[row]), int(images[row]), int(cells[row])): row
            for row in reversed(unknown.nonzero().flatten().tolist())
        }
        missing[list(first.values())] = True
        return missing

    def store(self, states: Tensor, images: Tensor, cells: Tensor, logits: Tensor) -> None:
        """Remember the logits of M cells, unless they are changed ones.

        Args:
            states: (M,) from `states`.
            images: (M,) the image of each.
            cells: (M,) the cell of each, numbered row by row.
            logits: (M, K).
        """
        same = states != self.CHANGED
        position = (states[same], images[same], cells[same])
        self.logits[position] = logits[same.to(logits.device)]
        self.known[position] = True

    def _holds_everywhere(self, holds: Tensor, cells: Sequence[int]) -> Tensor:
        return cut_blocks(holds, self.grid, cells).flatten(1).all(1).cpu()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class CellSideInputs(SideInputs):
    """What crosses the cut in every cell, and the cache of the cells, by reference: rows are selected when they run.

    Attributes:
        cells: of the N * cells rows that went through the part before the layer.
        cache: of the N images.
        index: (R,) which of the N images each row belongs to.
    """

    cells: SideInputs = field(kw_only=True)
    cache: CellCache = field(kw_only=True, compare=False)
    index: Tensor = field(kw_only=True, compare=False)

    @staticmethod
    def of(cells: SideInputs, cache: CellCache) -> "CellSideInputs":
        """For the N images of a cache in their order."""
        count = len(cache.activation)
        return CellSideInputs(names=cells.names, images=count, cells=cells, cache=cache, index=torch.arange(count))

    def rows(self, index: Tensor) -> "CellSideInputs":
        """For the images `index` (R,) among those that this belongs to."""
        return replace(self, images=len(index), index=self.index[index.to(self.index.device)])

    def images_and_cells(self, cells: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The image and the cell of each of the R * len(cells) crops."""
        return self.index.repeat_interleave(len(cells)), torch.tensor(cells).repeat(len(self.index))

    def select_crops(self, images: Tensor, cells: Tensor) -> SideInputs:
        """What crosses the cut for crops of these images and cells, (R,) each."""
        return self.cells.rows(images * self.cache.known.shape[2] + cells)


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

    >>> import pellucid as pl
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), *head)
    >>> classifier = pl.Classifier(network.eval(), input_size=8)
    >>> cells = torch.randn(1, 4, 3, 8, 8)
    >>> logits = DiFull(classifier, n=2).logits(join_cells(cells, 2))
    >>> logits.shape, torch.allclose(logits[:, 3], classifier.logits(cells[:, 3]), atol=1e-5)
    (torch.Size([1, 4, 2]), True)
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
        cache = CellCache(joined.clone(), grid, self.classifier.num_classes)
        return Activation.of(joined, CellSideInputs.of(cells.side_inputs, cache))

    def logits_with_cost(self, activation: Tensor, side_inputs: SideInputs | None = None) -> tuple[Tensor, int]:
        """The logits, and how many cells were run for them: those that changed, are not known or are differentiated."""
        grid, heads = self.classifier.grid, self.classifier.head_numbers
        if (side_inputs := self._side_inputs_for(activation, side_inputs)) is None:
            crops = cut_blocks(activation, grid, heads)
            return torch.unflatten(self.base.logits(crops), 0, (-1, len(heads))), len(crops)
        cache, (images, cells) = side_inputs.cache, side_inputs.images_and_cells(heads)
        states, run = self._to_run(activation, side_inputs)
        if bool(run.any()):
            rows = torch.arange(len(activation)).repeat_interleave(len(heads))
            crops = select_blocks(activation, grid, (rows[run], cells[run]))
            logits = self.base.logits(crops, side_inputs.select_crops(images[run], cells[run]))
            cache.store(states[run], images[run], cells[run], logits.detach())
        if not bool(run.all()):
            known = cache.logits[states.clamp(min=0), images, cells]
            logits = known.index_put((run.nonzero().flatten(),), logits) if bool(run.any()) else known
        return torch.unflatten(logits, 0, (-1, len(heads))), int(run.sum())

    def _to_run(self, activation: Tensor, side_inputs: CellSideInputs) -> tuple[Tensor, Tensor]:
        """The state of each of the R * heads crops, and which of them must be run."""
        heads, cache = self.classifier.head_numbers, side_inputs.cache
        images, cells = side_inputs.images_and_cells(heads)
        if not (torch.is_grad_enabled() and activation.requires_grad):
            states = cache.states(activation, side_inputs.index, heads)
            return states, cache.missing(states, images, cells)
        everything = torch.ones_like(cells, dtype=torch.bool)
        if bool(cache.known[cache.UNCHANGED, images, cells].all()):
            # To compare pays only while there is something to remember.
            return torch.full_like(cells, cache.CHANGED), everything
        return cache.states(activation, side_inputs.index, heads), everything

    def suffix_inputs(self, activation: Tensor, side_inputs: SideInputs | None = None) -> tuple[Any, ...]:
        side_inputs = self._side_inputs_for(activation, side_inputs)
        activation = self.classifier.precision.prepare(activation)
        if side_inputs is None:
            return (activation,)
        return activation, *side_inputs.select_crops(*side_inputs.images_and_cells(self.classifier.head_numbers)).values

    def _side_inputs_for(self, activation: Tensor, side_inputs: SideInputs | None) -> CellSideInputs | None:
        """The cache of the activation's images; None where nothing crosses the cut and nothing is remembered."""
        if side_inputs is None:
            side_inputs = activation.side_inputs if isinstance(activation, Activation) else None
        if side_inputs is None and not self.side_input_names:
            return None
        if not isinstance(side_inputs, CellSideInputs) or side_inputs.images != len(activation):
            raise LayerError(
                f"{len(activation)} rows of activation at {self.layer!r} need their side inputs of every cell: "
                "pass side_inputs=a.side_inputs.rows(index) of the activation a that the rows were computed from"
            )
        return side_inputs

    def _compose(self) -> fx.GraphModule:
        composition, base = Composition(), self.base
        assert base.suffix is not None
        activation = composition.input("activation")
        side_inputs = [composition.input(f"side_input_{index}") for index in range(len(self.side_input_names))]
        leading: Any = side_inputs.pop() if base.layout.tokens else None
        crops = cut_blocks(activation, self.classifier.grid, self.classifier.head_numbers)
        logits = composition.run(base.suffix, base.layout.unfold(crops, leading), *side_inputs)
        return composition.finish(logits.unflatten(0, (-1, self.classifier.heads)))
