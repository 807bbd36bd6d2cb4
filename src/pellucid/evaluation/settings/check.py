"""The self-tests that every setting passes on the user's own classifier when it is made."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.classifiers import logits_agree
from pellucid.errors import LayerError, ModelError
from pellucid.evaluation.localization import join_cells
from pellucid.evaluation.settings.blocks import cut_blocks, divides
from pellucid.evaluation.settings.heads import probe_images

if TYPE_CHECKING:
    from pellucid.evaluation.settings.grid_setting import GridSetting
    from pellucid.evaluation.settings.whole_grid import WholeGridSetting


@torch.no_grad()
def check_cell_by_cell(setting: "GridSetting") -> None:
    """Head k is f(cell k), whatever the other cells are, at the input and at the final layer.

    Raises:
        ModelError: it is not.
    """
    cells = probe_images(setting.classifier, setting.cell_size, setting.heads)
    alone = setting.classifier.logits(cells)
    for shift, layer in enumerate(["input", "final"] if _has_final_layer(setting) else ["input"]):
        # Moved on by one, every cell has another place and other neighbors.
        view, grid = setting.at(layer), join_cells(cells.roll(shift, 0)[None], setting.grid)
        logits = view.logits(view.activation(grid))[0]
        _require(setting, logits, alone.roll(shift, 0), f"each head at {layer!r} is the classifier of its cell alone")


def _has_final_layer(setting: "GridSetting") -> bool:
    try:
        setting.resolve("final")
    except LayerError:
        return False
    return True


@torch.no_grad()
def check_whole_grid(setting: "WholeGridSetting") -> None:
    """On one cell the setting is the classifier; with a linear head, cells average to the whole grid.

    Raises:
        ModelError: that does not hold, or the network cannot be run on grid images.
    """
    (rows, columns), head = setting.grid, setting.head
    cells = probe_images(setting.classifier, setting.cell_size, rows * columns)
    grid = join_cells(cells[None], setting.grid)
    mean = setting.logits(grid).mean(1)
    if setting.is_classifier_on_one_cell:
        logits, expected = setting.on_one_cell().logits(cells[:1])[:, 0], setting.classifier.logits(cells[:1])
        _require(setting, logits, expected, "on one cell it is the classifier")
    if not head.is_linear_average:
        return
    maps = head.view.activation(grid)
    if head.takes_any_size:
        _require(setting, mean, setting.classifier.logits(grid), "the heads' mean is the network on the grid image")
    if divides(setting.grid, maps) and head.takes(maps.shape[2] // rows, maps.shape[3] // columns):
        parts = head(cut_blocks(maps, setting.grid, range(rows * columns)))
        _require(setting, mean, parts.mean(0, keepdim=True), "the mean over DiPart's heads is GridPG's head")


def _require(setting: "GridSetting", logits: Tensor, expected: Tensor, claim: str) -> None:
    if not logits_agree(logits, expected, setting.precision.tolerance):
        error = float((logits - expected).abs().max())
        raise ModelError(
            f"{setting.name} fails its self-test ({claim}): logits differ by up to {error:.2g} where the largest is "
            f"{float(expected.abs().max()):.2g}; find out whether the network's output for an image depends on the "
            "rest of the batch or on the image's size"
        )
