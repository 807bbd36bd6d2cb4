"""What GridPG and DiPart share: the spatial part of the network is run on whole grid images."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from pellucid.classifiers import (
    Activation,
    Classifier,
    LayerView,
    Segment,
    SideInputs,
)
from pellucid.evaluation.localization import Grid
from pellucid.evaluation.settings.blocks import check_divides
from pellucid.evaluation.settings.composition import Composition
from pellucid.evaluation.settings.grid_setting import GridSetting, GridSettingView
from pellucid.evaluation.settings.heads import find_head

HeadFunction = Callable[[Any], Any]
"""Maps (R, C, h, w) -> logits (R, K), of tensors or of fx.Proxy objects."""


class WholeGridSetting(GridSetting):
    """A setting whose heads read one map of the whole grid.

    Args:
        classifier: of the cells.
        n: n for n x n cells, or (rows, columns).
        cell_size: (h, w) of the cells that the self-tests are run on; by default the classifier's input size.
        head: name of the layer with the last spatial map; None to find it.

    Attributes:
        head: the part of the classifier after its last spatial map.
    """

    def __init__(self, classifier: Classifier, n: Grid, cell_size: tuple[int, int] | None, head: str | None) -> None:
        super().__init__(classifier, n, cell_size)
        self.head = find_head(classifier, self.cell_size, head)

    @property
    def reads_blocks(self) -> bool:
        """Whether the head is given maps of the size of a cell's."""
        return True

    @property
    def is_classifier_on_one_cell(self) -> bool:
        """Whether the setting is the classifier itself where the grid has one cell."""
        return True

    def read(self, maps: Tensor) -> Tensor:
        """Logits (N, heads, K) of last maps (N, C, h, w) of whole grids.

        Raises:
            LayerError: the grid does not divide the maps, or the head does not take what a cell's part of them is.
        """
        if self.reads_blocks:
            check_divides(self.grid, maps, self.head.view.layer)
            self.head.check_takes(maps.shape[2] // self.grid[0], maps.shape[3] // self.grid[1])
        logits: Tensor = self._read(maps, self.head)
        return logits

    def block_masks(self, height: int, width: int) -> Tensor | None:
        """Masks (heads, height, width) of what each head reads of the last map, if the heads read disjoint parts."""
        return None

    @abstractmethod
    def _read(self, maps: Any, head: HeadFunction) -> Any:
        """`read`, for tensors or an fx.Proxy of them."""

    def _view(self, base: LayerView) -> GridSettingView:
        return _WholeGridView(self, base)


class _WholeGridView(GridSettingView):
    classifier: WholeGridSetting

    def __init__(self, setting: WholeGridSetting, base: LayerView) -> None:
        super().__init__(setting, base)
        self._to_map = Segment(base, setting.head.view)

    def activation(self, grids: Tensor) -> Activation:
        activation = self.base.activation(self.classifier.check_images(grids))
        check_divides(self.classifier.grid, activation, self.layer)
        return activation

    def logits_with_cost(self, activation: Tensor, side_inputs: SideInputs | None = None) -> tuple[Tensor, int]:
        return self.classifier.read(self._to_map(activation, side_inputs)), len(activation) * self.suffix_rows

    def head_masks(self, height: int, width: int) -> Tensor | None:
        is_last_map = all(node.op in ("placeholder", "output") for node in self._to_map.operations.graph.nodes)
        return self.classifier.block_masks(height, width) if is_last_map else None

    def suffix_inputs(self, activation: Tensor, side_inputs: SideInputs | None = None) -> tuple[Any, ...]:
        return self.base.suffix_inputs(activation, side_inputs)

    def _compose(self) -> fx.GraphModule:
        composition, last = Composition(), self.classifier.head
        operations = self._to_map.operations
        native = composition.run(operations, *composition.inputs_of(operations))
        maps, _ = last.view.layout.fold(native, 0, 0)

        def head(blocks: Any) -> Any:
            return composition.run(last.operations, last.view.layout.unfold(blocks, None))

        return composition.finish(self.classifier._read(maps, head))
