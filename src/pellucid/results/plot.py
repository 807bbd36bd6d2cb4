"""Maps as a figure for notebooks; matplotlib (the extra `plot`) is imported only when it is called."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pellucid.errors import MissingExtraError, PellucidError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = 2.4


def plot_maps(
    maps: Tensor,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    signed: bool = True,
    images: Tensor | None = None,
    title: str = "",
) -> "Figure":
    """Draw maps in a grid, all on one scale, with a color bar.

    Args:
        maps: (R, C, h, w): a row for each image, say, and a column for each target.
        rows: R labels, or none.
        columns: C labels, or none.
        signed: True draws around zero (red for, blue against); False from zero up.
        images: (R, 3, H, W) or (R, 1, H, W) in [0, 1], shown in gray below the maps; none by default.
        title: of the whole figure.

    Returns:
        A matplotlib figure; in a notebook it shows itself.

    Raises:
        PellucidError: the shapes do not fit.
        MissingExtraError: matplotlib is not installed.
    """
    _check(maps, rows, columns, images)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "plotting maps") from error
    values = maps.detach().float().cpu()
    finite = values[values.isfinite()].abs()
    limit = float(finite.max()) if finite.numel() and bool(finite.any()) else 1.0
    height, width = values.shape[2:]
    size = (_INCHES * values.shape[1] + 1, _INCHES * len(values) * height / width + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(values), values.shape[1], squeeze=False)
    common: dict[str, Any] = {"extent": (0, 1, 0, 1), "aspect": height / width}
    scale: dict[str, Any] = {"cmap": "bwr" if signed else "viridis", "vmin": -limit if signed else 0.0, "vmax": limit}
    for (r, c), axis in np.ndenumerate(axes):
        axis.set(xticks=[], yticks=[])
        if images is not None:
            gray = images[r].detach().float().cpu().mean(0).clamp(0, 1)
            axis.imshow(gray.numpy(), cmap="gray", vmin=0, vmax=1, **common)
        drawn = axis.imshow(values[r, c].numpy(), alpha=1.0 if images is None else 0.6, **scale, **common)
        if r == 0 and columns:
            axis.set_title(columns[c], fontsize="medium")
        if c == 0 and rows:
            axis.set_ylabel(rows[r])
    figure.colorbar(drawn, ax=axes.ravel().tolist(), shrink=0.8)
    figure.suptitle(title)
    return figure


def _check(maps: Tensor, rows: Sequence[str], columns: Sequence[str], images: Tensor | None) -> None:
    if maps.ndim != 4 or (rows and len(rows) != len(maps)) or (columns and len(columns) != maps.shape[1]):
        raise PellucidError(
            f"maps have shape {tuple(maps.shape)} with {len(rows)} row and {len(columns)} column labels; expected "
            "(rows, columns, height, width) and a label for each row and column, or none"
        )
    if images is not None and len(images) != len(maps):
        raise PellucidError(f"{len(images)} images for {len(maps)} rows of maps; expected one for each row")
