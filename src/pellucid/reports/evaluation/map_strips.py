"""AggAtt on a page: six mean maps in a row on one scale, and an example of each bin beside its grid image."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.data import Preprocess, read_image
from pellucid.errors import PellucidError
from pellucid.evaluation import (
    PERCENTILES,
    AggAtt,
    Bins,
    GridSet,
    agg_att_batches,
    cell_slices,
    rank_bins,
    rank_scale,
    upsample,
)
from pellucid.evaluation.sweep import PlannedModel, Run, StoredMap
from pellucid.reports.shared.html import data_uri

if TYPE_CHECKING:
    import pyarrow as pa


BIN_NAMES = tuple(f"{low}–{high} %" for low, high in pairwise(PERCENTILES))
"""The bins, best maps first."""

_SIDE, _GAP = 112, 6  # pixels of one map in a strip, and between two
_LEVELS = 48  # colors of a map: the eye tells fewer, and the page stays small
_CELL = 0
_FRAME, _EMPTY, _EDGE, _CLEAR = range(_LEVELS, _LEVELS + 4)
_GREEN = ((255, 255, 255), (199, 233, 192), (116, 196, 118), (35, 139, 69), (0, 68, 27))
_BLUE = (31, 90, 230)
_GREYS = ((228, 230, 235), (200, 204, 212), (200, 204, 212))


@dataclass(frozen=True)
class Place:
    """Where maps come from: model, setting, layer as requested, and method as the table calls it."""

    model: str
    setting: str
    layer: str
    method: str


@dataclass(frozen=True)
class Example:
    """The map of median rank of a bin: data URI, grid, score, and number of the grid's image."""

    uri: str
    grid: int
    score: float
    image: int | None


@dataclass(frozen=True)
class MapStrip:
    """AggAtt of one method: the strip as data URI, sizes and median scores of the bins, and an example of each.

    `sizes` are how many maps each bin holds; an empty bin has no score (None) and no example (None).
    """

    place: Place
    uri: str
    width: int
    height: int
    sizes: tuple[int, ...]
    scores: tuple[float | None, ...]
    examples: tuple[Example | None, ...]
    excluded: int


def make_strip(run: Run, table: pa.Table, place: Place, images: GridImages) -> MapStrip | None:
    """Aggregate a method's maps of the first cell over the finished grids; None where there is no map.

    The maps are read once, one after the other. They are averaged at the size at which large maps are kept.

    Args:
        run: with maps of the first cell.
        table: its rows for this place, of the first cell, without smoothing.
        place: model, setting, layer and method.
        images: of the grids, to which those of the examples are added.
    """
    scores, mass = _by_grid(table)
    bins = rank_bins(scores, mass)
    if not sum(bins.sizes):
        return None
    size = _display_size(run, place.model)
    chosen = [grids[0] if grids else None for grids in bins.examples()]
    kept: dict[int, Tensor] = {}
    maps = run.maps(place.setting, place.layer, place.method, model=place.model)
    aggregate = agg_att_batches(_batches(maps, len(scores), size, set(chosen), kept), scores, mass, size=size)
    strip = _strip_image(aggregate, run.plan.options.grid)
    examples = tuple(
        None if grid is None else _example(run, place, grid, float(scores[grid]), kept[grid], images) for grid in chosen
    )
    medians = tuple(float(scores[members].median()) if len(members) else None for members in bins.members)
    return MapStrip(
        place, data_uri(strip, "PNG", optimize=True), *strip.size, bins.sizes, medians, examples, _lost(bins)
    )


def _by_grid(table: pa.Table) -> tuple[Tensor, Tensor]:
    """Scores and masses (grids,) up to the first grid that is not done; NaN where a map could not be scored."""
    rows = {row["grid"]: row for row in table.select(["grid", "score", "cell_mass"]).to_pylist()}
    done = next(grid for grid in range(len(rows) + 1) if grid not in rows)
    columns = [[rows[grid][name] for grid in range(done)] for name in ("score", "cell_mass")]
    return torch.tensor(columns[0], dtype=torch.float64), torch.tensor(columns[1], dtype=torch.float64)


def _batches(
    maps: Iterator[StoredMap], count: int, size: tuple[int, int], chosen: set[int | None], kept: dict[int, Tensor]
) -> Iterator[Tensor]:
    """The positive parts (1, h, w) in the order of the grids, zeros where there is none; the chosen ones are kept."""
    following = 0
    for stored in maps:
        if stored.grid >= count:  # finished after the table was read
            break
        positive = (stored.values if stored.positive is None else stored.positive)[None]
        positive = upsample(positive, size).clamp(min=0)
        if stored.grid in chosen:
            kept[stored.grid] = positive[0]
        yield torch.zeros(stored.grid - following, *size)
        yield positive
        following = stored.grid + 1
    yield torch.zeros(count - following, *size)


def _display_size(run: Run, model: str) -> tuple[int, int]:
    """The size at which the maps of a grid image are kept when they are large."""
    _, height, width = run.plan.models[run.plan.model_index(model)].input_shape
    rows, columns = run.plan.options.grid
    factor = -(-max(rows * height, columns * width) // _SIDE)
    return -(-rows * height // factor), -(-columns * width // factor)


def _example(run: Run, place: Place, grid: int, score: float, values: Tensor, images: GridImages) -> Example:
    scale = rank_scale(values)
    shown = (values / scale).clamp(0, 1) if scale > 0 else values.sign()
    image = _colored(_framed(_levels(shown), run.plan.options.grid))
    number = images.number(place.model, place.setting, grid)
    return Example(data_uri(image, "PNG", optimize=True), grid, score, number)


def _strip_image(aggregate: AggAtt, grid: tuple[int, int]) -> Image.Image:
    """The six mean maps side by side, each with the cell framed; empty bins are gray."""
    tiles = [
        _framed(_levels(stored), grid) if size else np.full_like(_levels(stored.nan_to_num()), _EMPTY)
        for stored, size in zip(aggregate.maps, aggregate.bins.sizes, strict=True)
    ]
    gap = np.full((len(tiles[0]), _GAP), _CLEAR, np.uint8)
    parts = [part for tile in tiles for part in (gap, tile)]
    return _colored(np.concatenate(parts[1:], axis=1))


def _levels(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Palette indices of a map in [0, 1], at about `_SIDE` pixels."""
    levels = (values * (_LEVELS - 1)).round().to(torch.uint8).numpy()
    enlarge = max(1, _SIDE // max(levels.shape))
    return levels.repeat(enlarge, axis=0).repeat(enlarge, axis=1)


def _framed(
    levels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], grid: tuple[int, int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The map with a thin edge, and a frame around the first cell."""
    height, width = levels.shape
    rows, columns = cell_slices(_CELL, grid, (height - height % grid[0], width - width % grid[1]))
    framed = np.full_like(levels, _EDGE)
    framed[1:-1, 1:-1] = levels[1:-1, 1:-1]
    inner = framed[rows, columns][2:-2, 2:-2].copy()
    framed[rows, columns] = _FRAME
    framed[rows, columns][2:-2, 2:-2] = inner
    return framed


def _colored(levels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Image.Image:
    """Indices as an image: white for nothing to dark green for the end of the scale."""
    ends = np.linspace(0, 1, len(_GREEN))
    ramp = [np.interp(np.linspace(0, 1, _LEVELS), ends, channel) for channel in zip(*_GREEN, strict=True)]
    colors = np.concatenate([np.stack(ramp, axis=1).round(), [_BLUE], _GREYS]).astype(np.uint8)
    image = Image.fromarray(levels)
    image.putpalette(colors.tobytes())
    image.info["transparency"] = _CLEAR
    return image


def _lost(bins: Bins) -> int:
    return len(bins.excluded)


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
