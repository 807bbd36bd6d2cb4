"""The table of a run, one row per attribution: its columns, how maps are scored into them, and Parquet files.

pyarrow is imported when it is first needed.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.attribution import Passes
from pellucid.errors import PellucidError
from pellucid.evaluation.localization import attainable_score, localize
from pellucid.storage import CHECKSUM, UNSEALED, DamagedFileError, check_file, seal

if TYPE_CHECKING:
    import pyarrow as pa

TAG = "pellucid.tag"
"""Where a file says what its content depends on (see `Plan.tag`)."""

_attainable = lru_cache(maxsize=4096)(attainable_score)


def arrow() -> Any:
    """The module `pyarrow`."""
    return importlib.import_module("pyarrow")


def parquet() -> Any:
    """The module `pyarrow.parquet`."""
    return importlib.import_module("pyarrow.parquet")


def encode_table(table: "pa.Table", tags: Mapping[str, str], rows_per_group: int | None = None) -> bytes:
    """A table as a Parquet file, tagged with what it belongs to; the same table always gives the same bytes.

    Args:
        table: any.
        tags: the file's metadata.
        rows_per_group: rows that are read together; by default all.
    """
    tagged = table.replace_schema_metadata({**tags, CHECKSUM: UNSEALED})
    # Neither a dictionary nor the least and largest value is of use for the bytes of a map.
    indexed = [field.name for field in table.schema if field.type != arrow().binary()]
    sink = arrow().BufferOutputStream()
    parquet().write_table(
        tagged,
        sink,
        compression="zstd",
        use_dictionary=indexed,
        write_statistics=indexed,
        row_group_size=rows_per_group or max(1, len(table)),
    )
    return seal(sink.getvalue().to_pybytes())


def read_table(path: Path, columns: list[str] | None = None, filters: Any = None) -> "pa.Table":
    """Read a Parquet file.

    Args:
        path: the file.
        columns: names of those to read; by default all.
        filters: of rows, as `pyarrow.parquet.read_table` takes them.

    Raises:
        PellucidError: it is missing or damaged.
    """
    try:
        check_file(path)
        if filters is not None:
            return parquet().read_table(path, columns=columns, filters=filters)
        # Neither threads nor a memory map: files are small, and may be replaced while others are read.
        return parquet().ParquetFile(path).read(columns)
    except (arrow().ArrowException, DamagedFileError, OSError, KeyError) as error:
        raise PellucidError(
            f"{path} cannot be read ({error}); start the same command again to create it again"
        ) from error


def read_tag(path: Path) -> str:
    """What a Parquet file says that it depends on; empty if there is no such file or it is damaged."""
    try:
        check_file(path)
        tags = parquet().read_metadata(path).metadata or {}
    except (arrow().ArrowException, DamagedFileError, OSError):
        return ""
    tag: bytes = tags.get(TAG.encode(), b"")
    return tag.decode()


def score_schema() -> "pa.Schema":
    """Columns of the table of a run.

    - model, variant ("trained", or what is random), setting, layer (as requested), layer_name, method, kernel_size (of
      the Gaussian; 1 for none), options (JSON), control (whether the method is one): what was run.
    - grid, cell, label: which grid of the set, which of its cells, the class explained there.
    - score, score_native: localization score in the cell after up-sampling, and at the map's own resolution.
    - attainable: the score of a map that is uniform in the cell and zero elsewhere, up-sampled and smoothed alike.
    - mirror_share: share of the mass outside the cell that lies in the other cell of its class; null where there is
      none.
    - positive_mass, cell_mass: of the up-sampled map and of its cell.
    - status: "ok"; "zero", without positive evidence (score 0); "non-finite", a map with NaN or infinite values, and
      "refused", the method cannot explain this (both without a score: NaN); non_finite; note, the reason.
    - suffix_forward, suffix_backward, network_forward, seconds: what this attribution cost beyond what the methods
      share: passes through the part after the layer there and back and through the whole network, counted in images
      of the size of a cell, and time. The maps of all cells of a grid are made together, and their cost is divided
      among them. Smoothed maps cost no pass.
    - shared_...: what all methods at the layer share, the part before it, one forward and one gradient, likewise.
    """
    pa = arrow()
    texts = ("model", "variant", "setting", "layer", "layer_name", "method", "options", "status", "note")
    whole = ("kernel_size", "grid", "cell", "label")
    flags = ("control", "non_finite")
    kinds = dict.fromkeys(texts, pa.string()) | dict.fromkeys(whole, pa.int32()) | dict.fromkeys(flags, pa.bool_())
    return pa.schema([(name, kinds.get(name, pa.float64())) for name in _COLUMNS])


_COLUMNS = (
    *("model", "variant", "setting", "layer", "layer_name", "method", "kernel_size", "options", "control"),
    *("grid", "cell", "label"),
    *("score", "score_native", "attainable", "mirror_share", "positive_mass", "cell_mass"),
    *("status", "non_finite", "note"),
    *("suffix_forward", "suffix_backward", "network_forward", "seconds"),
    *("shared_prefix_forward", "shared_suffix_forward", "shared_suffix_backward", "shared_seconds"),
)


@dataclass(frozen=True)
class MapScores:
    """Numbers of N grids with T maps each; (N, T) float64, NaN for maps with NaN or infinite values.

    Attributes:
        score: localization score in the map's own cell.
        native: the same at the map's own resolution.
        attainable: (T,) the score of a map that is uniform in the cell and zero elsewhere.
        mirror: share of the mass outside the cell that lies in the other cell of its class; None where there is none.
        mass: positive mass of the whole map, up-sampled.
        cell_mass: positive mass in the cell.
    """

    score: Tensor
    native: Tensor
    attainable: Tensor
    mirror: Tensor | None
    mass: Tensor
    cell_mass: Tensor

    def status(self, grid: int, target: int) -> str:
        """Why a score is what it is: "ok", "zero" without positive evidence, "non-finite"."""
        if not bool(self.mass[grid, target].isfinite()):
            return "non-finite"
        return "zero" if float(self.mass[grid, target]) == 0 else "ok"


def score_maps(
    values: Tensor,
    grid: tuple[int, int],
    cells: Sequence[int],
    size: tuple[int, int],
    *,
    same_class: bool,
    kernel_size: int = 1,
) -> MapScores:
    """Score the maps of grids, map t in cell `cells[t]`.

    Args:
        values: (N, T, h, w) signed maps of N grids.
        grid: (rows, columns).
        cells: T cells; with `same_class` two, each with the class of the other.
        size: (H, W) of the grid image.
        same_class: whether the grids have a same-class pair of cells.
        kernel_size: of the Gaussian that the maps were smoothed with.
    """
    count, targets, *map_size = values.shape
    flat, own_cells = values.flatten(0, 1), torch.tensor(list(cells)).repeat(count)
    shape = (count, targets)
    upsampled = localize(flat, grid, size)
    native = upsampled if tuple(map_size) == tuple(size) else localize(flat, grid)
    mirror = None
    if same_class:
        pairs = [(cells[0], cells[1]), (cells[1], cells[0])]
        both = torch.stack([upsampled.mirror_share(*pair) for pair in pairs], dim=1)
        mirror = both.view(count, targets, 2)[:, [0, 1], [0, 1]]
    attainable = [_attainable((map_size[0], map_size[1]), grid, cell, tuple(size), kernel_size) for cell in cells]
    return MapScores(
        score=upsampled.target_scores(own_cells).view(shape),
        native=native.target_scores(own_cells).view(shape),
        attainable=torch.tensor(attainable, dtype=torch.float64),
        mirror=mirror,
        mass=upsampled.mass.sum(1).view(shape),
        cell_mass=upsampled.mass.gather(1, own_cells[:, None])[:, 0].view(shape),
    )


@dataclass(frozen=True)
class Cost:
    """Passes and seconds of one attribution."""

    passes: Passes
    seconds: float

    def columns(self, share: int) -> dict[str, float]:
        """A method's own columns, when `share` attributions were made together."""
        passes = self.passes
        return {
            "suffix_forward": passes.suffix_forward / share,
            "suffix_backward": passes.suffix_backward / share,
            "network_forward": passes.network_forward / share,
            "seconds": self.seconds / share,
        }

    def shared_columns(self, share: int) -> dict[str, float]:
        """The columns of what methods share."""
        passes = self.passes
        return {
            "shared_prefix_forward": passes.prefix_forward / share,
            "shared_suffix_forward": passes.suffix_forward / share,
            "shared_suffix_backward": passes.suffix_backward / share,
            "shared_seconds": self.seconds / share,
        }


class ScoreRows:
    """Collects the rows of a table of scores.

    Args:
        common: the columns that all of them share.
    """

    def __init__(self, **common: object) -> None:
        self._common = common
        self._rows: list[dict[str, Any]] = []

    def add(self, scores: MapScores, grids: Sequence[int], cells: Sequence[int], labels: Any, **columns: Any) -> None:
        """Add scored maps of some grids.

        Args:
            scores: (N, T).
            grids: N numbers.
            cells: T cells.
            labels: N lists of T class indices.
            columns: the same for all these rows.
        """
        for row, grid in enumerate(grids):
            for target, cell in enumerate(cells):
                status = scores.status(row, target)
                self._rows.append(
                    {
                        **self._common,
                        **columns,
                        "grid": grid,
                        "cell": cell,
                        "label": labels[row][target],
                        "score": float(scores.score[row, target]),
                        "score_native": float(scores.native[row, target]),
                        "attainable": float(scores.attainable[target]),
                        "mirror_share": None if scores.mirror is None else float(scores.mirror[row, target]),
                        "positive_mass": float(scores.mass[row, target]),
                        "cell_mass": float(scores.cell_mass[row, target]),
                        "status": status,
                        "non_finite": status == "non-finite",
                        "note": "",
                    }
                )

    def add_refused(
        self, reason: str, grids: Sequence[int], cells: Sequence[int], labels: Any, *, same_class: bool, **columns: Any
    ) -> None:
        """Add rows without scores: the method cannot explain these grids.

        Args:
            reason: why.
            grids: N numbers.
            cells: T cells.
            labels: N lists of T class indices.
            same_class: whether the grids have a same-class pair of cells.
            columns: the same for all these rows.
        """
        nothing = dict.fromkeys(("score", "score_native", "attainable", "positive_mass", "cell_mass"), float("nan"))
        state = {
            "status": "refused",
            "non_finite": False,
            "note": reason,
            "mirror_share": float("nan") if same_class else None,
        }
        for row, grid in enumerate(grids):
            for target, cell in enumerate(cells):
                where = {"grid": grid, "cell": cell, "label": labels[row][target]}
                self._rows.append({**self._common, **columns, **nothing, **state, **where})

    def table(self) -> "pa.Table":
        """The rows, in the order in which they came."""
        return arrow().Table.from_pylist(self._rows, schema=score_schema())
