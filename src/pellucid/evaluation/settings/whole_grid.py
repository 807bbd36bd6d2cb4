"""GridPG and DiPart: the spatial part of the network is run on whole grid images; they differ in what a head reads."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, fx

from pellucid.classifiers import (
    Activation,
    Classifier,
    LayerView,
    Segment,
    SideInputs,
)
from pellucid.errors import ModelError, PellucidError
from pellucid.evaluation.localization import Grid
from pellucid.evaluation.settings.cell_blocks import block_masks, check_divides, cut_blocks
from pellucid.evaluation.settings.grid_setting import Composition, GridSetting, GridSettingView
from pellucid.evaluation.settings.heads import (
    check_whole_grid,
    find_head,
    logits_match,
    mean_over_windows,
    probe_images,
    probe_maps,
)

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


Order = Literal["auto", "pool_first", "classify_first"]


class GridPG(WholeGridSetting):
    """The whole network sees the whole grid image, and everything may influence its one head.

    "pool_first" pools the last map of the whole grid to one vector and classifies that: the network as it is, run on
    the grid image. "classify_first" classifies every position of the map, or every window as large as a cell's map
    where the head flattens it (its fully connected layers then are convolutions), and averages the logits. With global
    average pooling and a linear layer both are the same; with a non-linear head after pooling they are not, and "auto"
    asks to choose. Source: Rao et al., Towards Better Understanding Attribution Methods, CVPR 2022, section 3.1.

    On one cell this is the classifier itself, except for a non-linear head after pooling with "classify_first".

    Args:
        classifier: of the cells; it must have a last spatial map followed by pooling and a head.
        n: n for n x n cells, or (rows, columns).
        order: "pool_first", "classify_first", or "auto" where there is no choice to make.
        head: name of the layer whose output is the last spatial map; by default the last with several positions in a
            cell, so a map of one position must be named.
        cell_size: (h, w) of the cells for the self-test; by default the classifier's input size.

    Attributes:
        order: the one in use.

    Raises:
        ModelError: the setting is undefined for this classifier, the order must be chosen, or a self-test fails; the
            message says why.

    >>> import pellucid as pl
    >>> pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), *pooled)
    >>> setting = GridPG(pl.Classifier(network.eval(), input_size=8), n=2)
    >>> setting.logits(torch.randn(1, 3, 16, 16)).shape, setting.order
    (torch.Size([1, 1, 2]), 'pool_first')
    """

    names_heads = False

    def __init__(
        self,
        classifier: Classifier,
        n: Grid = 2,
        *,
        order: Order = "auto",
        head: str | None = None,
        cell_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(classifier, n, cell_size, head)
        if order not in ("auto", "pool_first", "classify_first"):
            raise PellucidError(f"unknown order {order!r}: auto, pool_first or classify_first")
        self.order: Order = self._choose_order(order)
        check_whole_grid(self)

    @property
    def reads_blocks(self) -> bool:
        return not self.head.is_global

    @property
    def is_classifier_on_one_cell(self) -> bool:
        return self.order == "pool_first" or self.head.is_linear_average or not self.head.is_global

    def _read(self, maps: Any, head: HeadFunction) -> Any:
        logits = self._pool_first if self.order == "pool_first" else self._classify_first
        return logits(maps, head).unsqueeze(1)

    def _pool_first(self, maps: Any, head: HeadFunction) -> Any:
        return head(self.head.resize(maps))

    def _classify_first(self, maps: Any, head: HeadFunction) -> Any:
        if self.head.is_global:
            return mean_over_windows(lambda window: head(self.head.resize(window)), maps, 1, 1)
        return mean_over_windows(head, maps, maps.shape[2] // self.grid[0], maps.shape[3] // self.grid[1])

    def _choose_order(self, order: Order) -> Order:
        head, name = self.head, self.classifier.name
        if not head.is_global:
            if order == "pool_first":
                raise ModelError(
                    f"{name} does not pool its last map {head.view.layer!r} to one vector, so it cannot be classified "
                    "after pooling; use order='classify_first'"
                )
            return "classify_first"
        if order == "pool_first" and not (head.takes_any_size or head.averages):
            raise ModelError(
                f"{name} pools maps of {head.size[0]} x {head.size[1]} at {head.view.layer!r} only, and not to their "
                "mean, so the map of a whole grid cannot be pooled; use order='classify_first'"
            )
        if order != "auto":
            return order
        if not self._orders_agree():
            raise ModelError(
                f"{name} has a non-linear head after pooling {head.view.layer!r}: pooling the grid's map first and "
                "classifying its positions first give different logits; choose order='pool_first' (the network as it "
                "is, run on the grid image) or order='classify_first'"
            )
        return "pool_first"

    def _orders_agree(self) -> bool:
        if not (self.head.takes_any_size or self.head.averages):
            return False
        maps = probe_maps(self.head.view, probe_images(self.classifier, self.cell_size, 2))
        with torch.no_grad():
            classified, pooled = self._classify_first(maps, self.head), self._pool_first(maps, self.head)
        return logits_match(classified, pooled, self.precision.tolerance)


class DiPart(WholeGridSetting):
    """The spatial part of the network sees the whole grid image; head k reads block k of the last map.

    Other cells can influence a head only as far as receptive fields reach over the border. Undefined where tokens
    attend to the whole image, and where the grid does not divide the last map. Source: Rao et al., Towards Better
    Understanding Attribution Methods, CVPR 2022, section 3.1.

    Args:
        classifier: of the cells; it must have a last spatial map followed by pooling and a head.
        n: n for n x n cells, or (rows, columns).
        head: name of the layer whose output is the last spatial map; by default the last with several positions in a
            cell, so a map of one position must be named.
        cell_size: (h, w) of the cells for the self-test; by default the classifier's input size.

    Raises:
        ModelError: the setting is undefined for this classifier, or a self-test fails; the message says why.
        LayerError: the grid does not divide the last map.

    >>> import pellucid as pl, torch
    >>> pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), *pooled)
    >>> DiPart(pl.Classifier(network.eval(), input_size=8), n=2).logits(torch.randn(1, 3, 16, 16)).shape
    torch.Size([1, 4, 2])
    """

    def __init__(
        self,
        classifier: Classifier,
        n: Grid = 2,
        *,
        head: str | None = None,
        cell_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(classifier, n, cell_size, head)
        self.head_numbers = tuple(range(self.grid[0] * self.grid[1]))
        check_whole_grid(self)

    def block_masks(self, height: int, width: int) -> Tensor:
        """Masks (heads, height, width) of the block of the last map that each head reads."""
        return block_masks(self.grid, self.head_numbers, height, width)

    def _read(self, maps: Any, head: HeadFunction) -> Any:
        return head(cut_blocks(maps, self.grid, self.head_numbers)).unflatten(0, (-1, self.heads))
