"""What a table says: medians with intervals over grids, paired comparisons, and rank correlations."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import PellucidError
from pellucid.evaluation.sweep.run_tables import arrow
from pellucid.statistics import (
    Comparison,
    Interval,
    cluster_interval,
    compare_methods,
    spearman_matrix,
)

if TYPE_CHECKING:
    import pyarrow as pa


_KEYS = ("model", "variant", "setting", "layer", "method", "kernel_size")
_METRIC_KEYS = ("model", "layer", "method", "control", "metric", "quantity", "higher_is_better")


@dataclass(frozen=True)
class SummaryLine:
    """One method, or control, at one layer in one setting.

    Attributes:
        model, variant, setting, layer, method, kernel_size, control: as in the table.
        median: of the localization scores, with the interval of a cluster bootstrap over grids; maps that could not be
            scored are left out and counted in `median.excluded`.
        quartiles: 25 % and 75 % of the scores.
        native: median of the scores at the map's own resolution.
        attainable: median of what a map that is uniform in the cell scores.
        mirror: median mirror share; None without same-class pairs.
        by_cell: median score of each cell.
        status: how many maps have each status ("ok", "zero", "non-finite", "refused").
        note: the commonest reason why maps were refused; empty if none was.
        passes: mean number of passes for one attribution, there and back, beyond what methods share; in images of the
            size of a cell.
        seconds: mean time of one attribution beyond what methods share.
    """

    model: str
    variant: str
    setting: str
    layer: str
    method: str
    kernel_size: int
    control: bool
    median: Interval
    quartiles: tuple[float, float]
    native: float
    attainable: float
    mirror: float | None
    by_cell: Mapping[int, float]
    status: Mapping[str, int]
    note: str
    passes: float
    seconds: float

    @property
    def name(self) -> str:
        """The method, with the kernel if there is one."""
        return _name(self.method, self.kernel_size)


@dataclass(frozen=True)
class Correlations:
    """Spearman's rank correlations of scores on the same attributions.

    Attributes:
        names: (method, layer) of every column.
        matrix: (C, C) in [-1, 1]; NaN where none is defined.
    """

    names: tuple[tuple[str, str], ...]
    matrix: NDArray[np.float64]


@dataclass(frozen=True)
class MetricLine:
    """One quantity of a metric of single images, for one method, or control, at one layer.

    Attributes:
        model, layer, method, control, metric, quantity, higher_is_better: as in the table.
        mean: of the images' scores, with an interval over images; images without a score are left out and
            counted in `mean.excluded`.
        chance: mean of what a map without information reaches on the same images; NaN where that is not known.
        status: how many images have each status ("ok", "undefined", "refused").
        note: the commonest reason why images were refused; empty if none was.
    """

    model: str
    layer: str
    method: str
    control: bool
    metric: str
    quantity: str
    higher_is_better: bool
    mean: Interval
    chance: float
    status: Mapping[str, int]
    note: str


def summarize_metrics(table: "pa.Table") -> tuple[MetricLine, ...]:
    """A line for each quantity of each metric, method and layer, in the order of the table.

    Args:
        table: of metrics (`Run.metrics`).
    """
    return tuple(_metric_line(key, table.take(rows)) for key, rows in _group_rows(table, _METRIC_KEYS).items())


def summarize(table: "pa.Table") -> tuple[SummaryLine, ...]:
    """A line for each method at each layer in each setting, in the order of the table.

    Args:
        table: of a run, or of `evaluate_maps`, or several of them joined.
    """
    return tuple(_line(key, table.take(rows)) for key, rows in _group_rows(table, _KEYS).items())


def compare_scores(
    table: "pa.Table",
    *,
    setting: str,
    layer: str,
    model: str,
    variant: str = "trained",
    permutations: int = 10_000,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compare every pair of methods, controls and kernels on the same attributions (see `compare_methods`).

    Args:
        table: of a run.
        setting: of the rows to compare.
        layer: of these rows.
        model: of these rows.
        variant: of these rows.
        permutations: of the sign-flip test.
        seed: of the sign-flip test.

    Raises:
        PellucidError: the table has no such rows.
    """
    chosen = _select(table, {"setting": setting, "layer": layer, "model": model, "variant": variant})
    positions, columns = _columns(chosen, with_layer=False)
    named = {name: values for (name, _), values in columns.items()}
    return compare_methods(named, [grid for grid, _ in positions], permutations=permutations, seed=seed)


def correlate_scores(table: "pa.Table", *, setting: str, model: str, variant: str = "trained") -> Correlations:
    """Rank correlations between all methods, without controls, at all layers of a setting.

    Args:
        table: of a run.
        setting: of the rows to correlate.
        model: of these rows.
        variant: of these rows.

    Raises:
        PellucidError: the table has no such rows.
    """
    chosen = _select(table, {"setting": setting, "model": model, "variant": variant, "control": False})
    _, columns = _columns(chosen, with_layer=True)
    named = {f"{name} at {layer}": values for (name, layer), values in columns.items()}
    return Correlations(tuple(columns), spearman_matrix(named))


def _group_rows(table: "pa.Table", names: Sequence[str]) -> dict[tuple[Any, ...], list[int]]:
    """The rows of each combination of values of these columns, in the order of the table."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, key in enumerate(zip(*(table[name].to_pylist() for name in names), strict=True)):
        groups.setdefault(key, []).append(row)
    return groups


def _metric_line(key: tuple[Any, ...], rows: "pa.Table") -> MetricLine:
    scores, chance = rows["score"].to_numpy(), rows["chance"].to_numpy()
    images = {image: number for number, image in enumerate(dict.fromkeys(rows["image"].to_pylist()))}
    clusters = [images[image] for image in rows["image"].to_pylist()]
    notes = Counter(note for note in rows["note"].to_pylist() if note)
    known = np.isfinite(scores) & np.isfinite(chance)
    return MetricLine(
        **dict(zip(_METRIC_KEYS, key, strict=True)),
        mean=cluster_interval(scores, clusters, "mean"),
        chance=float(chance[known].mean()) if known.any() else float("nan"),
        status=dict(Counter(rows["status"].to_pylist())),
        note=notes.most_common(1)[0][0] if notes else "",
    )


def _line(key: tuple[Any, ...], rows: "pa.Table") -> SummaryLine:
    columns = {name: rows[name].to_numpy() for name in ("score", "grid", "cell", "score_native", "attainable")}
    scores, cells = columns["score"], columns["cell"]
    mirror = None if rows["mirror_share"].null_count else _median(rows["mirror_share"].to_numpy())
    notes = Counter(note for note in rows["note"].to_pylist() if note)
    quartiles = np.quantile(finite, [0.25, 0.75]) if len(finite := scores[np.isfinite(scores)]) else (np.nan, np.nan)
    passes = sum(rows[name].to_numpy() for name in ("suffix_forward", "suffix_backward", "network_forward"))
    return SummaryLine(
        **dict(zip(_KEYS, key, strict=True)),
        control=rows["control"][0].as_py(),
        median=cluster_interval(scores, columns["grid"]),
        quartiles=(float(quartiles[0]), float(quartiles[1])),
        native=_median(columns["score_native"]),
        attainable=_median(columns["attainable"]),
        mirror=mirror,
        by_cell={int(cell): _median(scores[cells == cell]) for cell in np.unique(cells)},
        status=dict(Counter(rows["status"].to_pylist())),
        note=notes.most_common(1)[0][0] if notes else "",
        passes=float(np.mean(passes)),
        seconds=float(np.mean(rows["seconds"].to_numpy())),
    )


def _median(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _select(table: "pa.Table", values: Mapping[str, object]) -> "pa.Table":
    pa = arrow()
    keep = np.ones(len(table), dtype=bool)
    for name, value in values.items():
        keep &= np.array([stored == value for stored in table[name].to_pylist()], dtype=bool)
    if not keep.any():
        requested = ", ".join(f"{name} {value!r}" for name, value in values.items())
        raise PellucidError(f"the table has no rows with {requested}")
    return table.filter(pa.array(keep))


def _columns(
    table: "pa.Table", *, with_layer: bool
) -> tuple[list[tuple[int, int]], dict[tuple[str, str], NDArray[np.float64]]]:
    """Scores as columns: the (grid, cell) of each row, and (method, layer) -> scores, NaN where there is none."""
    names = ("method", "kernel_size", "layer", "grid", "cell", "score")
    rows = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    positions = {
        position: row for row, position in enumerate(dict.fromkeys((grid, cell) for *_, grid, cell, _ in rows))
    }
    columns: dict[tuple[str, str], NDArray[np.float64]] = {}
    for method, kernel, layer, grid, cell, score in rows:
        key = (_name(method, kernel), layer if with_layer else "")
        columns.setdefault(key, np.full(len(positions), np.nan))[positions[grid, cell]] = score
    return list(positions), columns


def _name(method: str, kernel_size: int) -> str:
    return method if kernel_size == 1 else f"{method} smoothed over {kernel_size}"
