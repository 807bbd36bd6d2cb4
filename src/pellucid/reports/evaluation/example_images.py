"""The grid images of a run, read again from its data set, small enough for a page."""

from __future__ import annotations

import ast

import numpy as np
from PIL import Image

from pellucid.data import Preprocess, read_image
from pellucid.errors import PellucidError
from pellucid.evaluation import GridSet
from pellucid.evaluation.sweep import PlannedModel, Run
from pellucid.reports.shared.html import data_uri

_LONG_SIDE = 144  # pixels
_MOST = 400  # images on a page
_QUALITY = 80


class GridImages:
    """Grid images as data URIs, each read once; what cannot be read is remembered with the reason.

    Args:
        run: whose manifests and data set are read.

    Attributes:
        uris: (number, data URI) of every requested image that could be read.
        failures: reasons by file, of images that could not be read.
        left_out: how many were requested beyond what a page holds.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._sets: dict[tuple[str, bool], GridSet] = {}
        self._numbers: dict[tuple[tuple[str, ...], str], int | None] = {}
        self.uris: dict[int, str] = {}
        self.failures: dict[str, str] = {}
        self.left_out = 0

    @property
    def aspect(self) -> str:
        """Width to height, as style sheets write it."""
        rows, columns = self._run.plan.options.grid
        _, height, width = self._run.plan.models[0].input_shape
        return f"{columns * width} / {rows * height}"

    def number(self, model: str, setting: str, grid: int) -> int | None:
        """The number of a grid's image on the page; None if it cannot be read, or there is no more room.

        Args:
            model: name of the model, whose preprocessing crops the cells.
            setting: name of the grid setting.
            grid: number of the grid.
        """
        key = (model, setting != "GridPG")
        if key not in self._sets:
            self._sets[key] = self._run.grid_set(setting, model=model)
        planned = self._run.plan.models[self._run.plan.model_index(model)]
        paths = tuple(cell.path for cell in self._sets[key].cells[grid])
        if (paths, planned.preprocess) not in self._numbers:
            self._numbers[paths, planned.preprocess] = self._add(paths, planned)
        return self._numbers[paths, planned.preprocess]

    def _add(self, paths: tuple[str, ...], model: PlannedModel) -> int | None:
        if len(self.uris) >= _MOST:
            self.left_out += 1
            return None
        cells = [self._cell(path, model) for path in paths]
        if None in cells:
            return None
        number = len(self.uris)
        whole = _joined([cell for cell in cells if cell is not None], self._run.plan.options.grid)
        self.uris[number] = data_uri(whole, "JPEG", quality=_QUALITY)
        return number

    def _cell(self, path: str, model: PlannedModel) -> Image.Image | None:
        """What the network saw of an image, or, where its preprocessing is not known, the middle of it."""
        if path in self.failures:
            return None
        try:
            image = read_image(self._run.root / path).convert("RGB")
        except (PellucidError, OSError) as error:
            self.failures[path] = str(error)
            return None
        _, height, width = model.input_shape
        rows, columns = self._run.plan.options.grid
        side = _LONG_SIDE / max(rows * height, columns * width)
        size = max(1, round(width * side)), max(1, round(height * side))
        preprocess = preprocess_of(model.preprocess) or Preprocess((height, width), resize=max(height, width))
        return image.resize(size, Image.Resampling.BICUBIC, preprocess.geometry(*image.size).box)


def preprocess_of(text: str) -> Preprocess | None:
    """The preprocessing that a plan describes; None if it is somebody's own function.

    >>> preprocess_of(repr(Preprocess((8, 8), resize=8))) == Preprocess((8, 8), resize=8)
    True
    >>> preprocess_of("<function squash at 0x7f>") is None
    True
    """
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != Preprocess.__name__:
            return None
        return Preprocess(**{keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg})
    except (SyntaxError, TypeError, ValueError):
        return None


def _joined(cells: list[Image.Image], grid: tuple[int, int]) -> Image.Image:
    arrays = [np.asarray(cell) for cell in cells]
    rows = [np.concatenate(arrays[row * grid[1] : (row + 1) * grid[1]], axis=1) for row in range(grid[0])]
    return Image.fromarray(np.concatenate(rows))
