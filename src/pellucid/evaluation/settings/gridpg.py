"""GridPG, the grid pointing game: one head sees the whole grid image."""

from typing import Any, Literal

import torch

from pellucid.classifiers import Classifier
from pellucid.errors import ModelError, PellucidError
from pellucid.evaluation.localization import Grid
from pellucid.evaluation.settings.check import check_whole_grid
from pellucid.evaluation.settings.heads import (
    logits_match,
    mean_over_windows,
    probe_images,
    probe_maps,
)
from pellucid.evaluation.settings.whole_grid import HeadFunction, WholeGridSetting

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
