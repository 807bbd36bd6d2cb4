"""From a manifest to grid images and targets."""

from pathlib import Path

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.evaluation.grids import GridSet
from pellucid.evaluation.localization import join_cells


def grid_images(classifier: Classifier, grids: GridSet, rows: range, root: str | Path) -> Tensor:
    """Some grid images of a set, in the classifier's own input space.

    Args:
        classifier: whose preprocessing makes the cells.
        grids: the manifest.
        rows: which of its grids.
        root: folder that the manifest's paths are relative to.

    Returns:
        (len(rows), C, rows * h, columns * w).

    Raises:
        ImageError: an image is no longer there.
    """
    cells = [classifier.read([Path(root) / cell.path for cell in grids.cells[row]]) for row in rows]
    return join_cells(torch.stack(cells), grids.grid)


def grid_targets(grids: GridSet, rows: range, *, single_head: bool) -> Tensor:
    """The (head, class) pairs that are explained: (len(rows), T, 2), one for each evaluated cell.

    Args:
        grids: the manifest.
        rows: which of its grids.
        single_head: GridPG, whose only head is 0; elsewhere the head of a cell has its number.
    """
    cells = torch.tensor(grids.evaluated_cells)
    classes = grids.labels[rows.start : rows.stop][:, cells]  # (N, T)
    heads = torch.zeros_like(classes) if single_head else cells.expand_as(classes)
    return torch.stack([heads, classes], dim=-1)
