"""Maps made by somebody else, scored like those of a run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.attribution import Passes
from pellucid.classifiers import Classifier
from pellucid.errors import PellucidError
from pellucid.evaluation.grids import GridSet
from pellucid.evaluation.sweep.labeled_images import grid_images
from pellucid.evaluation.sweep.run_tables import Cost, ScoreRows, score_maps

if TYPE_CHECKING:
    import pyarrow as pa


Explain = Callable[[Tensor, Tensor], Tensor | NDArray[np.generic]]
"""Grid images (B, C, H, W) and class indices (B, T), one for each evaluated cell -> maps (B, T, h, w)."""

_GRIDS_PER_BATCH = 16


def evaluate_maps(
    maps: str | Path | Tensor | NDArray[np.generic] | Explain,
    grids: GridSet,
    *,
    size: tuple[int, int] | None = None,
    classifier: Classifier | None = None,
    root: str | Path = ".",
    method: str = "maps",
    setting: str = "",
    layer: str = "",
    model: str = "",
) -> "pa.Table":
    """Score maps that were made elsewhere; the table has the columns of a run's, and can be joined and summarized.

    Args:
        maps: (N, T, h, w) for the N grids and the T evaluated cells (`grids.evaluated_cells`), signed, summed over
            channels; an array, a .npy file (read piece by piece), or a callable that makes them from images.
        grids: the manifest, such as `run.grid_set("DiFull")`.
        size: (H, W) of the grid image, to which maps are up-sampled; None scores arrays at their own resolution. A
            callable's images say it.
        classifier: whose preprocessing makes the images for a callable.
        root: folder that the manifest's paths are relative to, such as `run.root`.
        method: its name in the table.
        setting: its name in the table.
        layer: its name in the table.
        model: its name in the table.

    Raises:
        PellucidError: the maps do not fit the grids, or the file is not an array.
    """
    rows = ScoreRows(model=model, variant="trained", setting=setting, layer=layer, layer_name=layer)
    cells, labels = grids.evaluated_cells, grids.labels[:, list(grids.evaluated_cells)]
    nothing = Cost(Passes(), float("nan"))
    columns = {"method": method, "kernel_size": 1, "options": "{}", "control": False}
    for numbers, values, own_size in _batches(maps, grids, classifier, root):
        scores = score_maps(values, grids.grid, cells, size or own_size, same_class=grids.same_class)
        classes = labels[numbers.start : numbers.stop].tolist()
        rows.add(scores, numbers, cells, classes, **columns, **nothing.columns(1), **nothing.shared_columns(1))
    return rows.table()


def _batches(
    maps: Any, grids: GridSet, classifier: Classifier | None, root: str | Path
) -> Iterator[tuple[range, Tensor, tuple[int, int]]]:
    """Numbers of some grids, their maps (B, T, h, w), and the size to score them at."""
    array = None if callable(maps) else _as_array(maps, (len(grids), len(grids.evaluated_cells)))
    for start in range(0, len(grids), _GRIDS_PER_BATCH):
        numbers = range(start, min(start + _GRIDS_PER_BATCH, len(grids)))
        if array is None:
            values, size = _explain(maps, grids, numbers, classifier, root)
        else:
            values = torch.as_tensor(np.array(array[numbers.start : numbers.stop]))
            size = (values.shape[2], values.shape[3])
        yield numbers, values if values.is_floating_point() else values.float(), size


def _as_array(maps: Any, expected: tuple[int, int]) -> NDArray[np.generic]:
    if isinstance(maps, str | Path):
        try:
            maps = np.load(maps, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise PellucidError(f"{maps} cannot be read as an array ({error}); save it with numpy.save") from error
    array: NDArray[np.generic] = maps.detach().cpu().numpy() if isinstance(maps, Tensor) else np.asarray(maps)
    if array.ndim != 4 or array.shape[:2] != expected or array.dtype.kind not in "fiu":
        raise PellucidError(
            f"maps of shape {array.shape} {array.dtype} were given; expected numbers for "
            f"({expected[0]} grids, {expected[1]} cells, h, w)"
        )
    return array


def _explain(
    explain: Explain, grids: GridSet, numbers: range, classifier: Classifier | None, root: str | Path
) -> tuple[Tensor, tuple[int, int]]:
    if classifier is None:
        raise PellucidError("a callable needs images: give classifier=, whose preprocessing makes them, and root=")
    images = grid_images(classifier, grids, numbers, root)
    classes = grids.labels[numbers.start : numbers.stop][:, list(grids.evaluated_cells)]
    values = torch.as_tensor(explain(images, classes)).detach().cpu()
    if values.ndim != 4 or values.shape[:2] != classes.shape:
        raise PellucidError(
            f"the callable gave maps {tuple(values.shape)}; expected {tuple(classes.shape)} and then (h, w)"
        )
    return values, (images.shape[2], images.shape[3])
