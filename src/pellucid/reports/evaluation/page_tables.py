"""The tables of an evaluation page: every line of a run, what methods cost, and how they compare in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import TYPE_CHECKING

from pellucid.evaluation.sweep import MetricLine, SummaryLine, compare_scores
from pellucid.reports.shared.html import distinct, percent
from pellucid.reports.shared.scales import format_number
from pellucid.statistics import Comparison

if TYPE_CHECKING:
    import pyarrow as pa


_PERMUTATIONS = 2000  # there may be thousands of pairs; p-values go down to 0.0005 before the correction
_COSTS = ("suffix_forward", "suffix_backward", "network_forward", "seconds")
_SHARED = ("shared_prefix_forward", "shared_suffix_forward", "shared_suffix_backward", "shared_seconds")
_WHERE = ("model", "setting", "layer")
_KINDS = ("methods", "controls", "smoothed", "random weights")


@dataclass(frozen=True)
class Column:
    """A column: its head, what the head says when pointed at, and whether it holds numbers."""

    title: str
    hint: str = ""
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """What a cell shows and what it is sorted by; `span` draws a median and its interval on a line from 0 to 1."""

    text: str
    key: float | str | None
    span: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Row:
    """A row, the groups by which it is filtered, and a word beside its first cell where it is no method's."""

    cells: tuple[Cell, ...]
    groups: Mapping[str, str] = field(default_factory=dict)
    tag: str = ""


@dataclass(frozen=True)
class Filter:
    """A choice of rows by one of their groups: one value or all, or with `several` those that are ticked."""

    group: str
    values: tuple[str, ...]
    several: bool = False
    ticked: tuple[str, ...] = ()


@dataclass(frozen=True)
class SortableTable:
    """A table that a reader can sort and filter."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    filters: tuple[Filter, ...] = ()


def results(lines: Sequence[SummaryLine], layer_names: Mapping[tuple[str, str], str]) -> SortableTable:
    """Every line of the summary; `layer_names` are the layers' own names by (model, layer as requested)."""
    columns = (
        *_where_columns(lines, Column("Method", number=False)),
        Column("Median", "localization score"),
        Column("95 % interval", "of the median: sign test of whole grids; none with fewer than 5"),
        Column("25 %", "lower quartile"),
        Column("75 %", "upper quartile"),
        Column("Native", "median at the map's own resolution, before up-sampling"),
        Column("Attainable", "what a map scores that is even in the cell and zero elsewhere"),
        Column("Mirror", "share of the evidence outside the cell that lies in the cell of the same class"),
        Column("Maps", "attributions with a score"),
        Column("Grids", "that these come from"),
        Column("Zero", "maps without positive evidence; they score 0"),
        Column("No score", "maps with NaN or infinite values, or refused by the method"),
        Column("Passes", "per map, beyond what methods share; in images of the size of a cell"),
        Column("Seconds", "per map, beyond what methods share"),
    )
    rows = [Row((*_where(line, lines), *_numbers(line)), _groups(line), "control" * line.control) for line in lines]
    filters = _filters(rows, ("model", "setting", "layer"))
    kinds = tuple(kind for kind in _KINDS if any(row.groups["kind"] == kind for row in rows))
    filters += (Filter("kind", kinds, several=True, ticked=kinds[:2]),) if len(kinds) > 1 else ()
    named = "; ".join(f"{layer} of {model} is {name}" for (model, layer), name in layer_names.items() if name != layer)
    return SortableTable("results", f"Localization scores. {named}." if named else "", columns, tuple(rows), filters)


def metrics(lines: Sequence[MetricLine], descriptions: Mapping[str, str]) -> SortableTable | None:
    """Every quantity of the metrics of single images; None without any.

    Args:
        lines: of `Run.metric_summary`.
        descriptions: what each metric measures, for the caption.
    """
    if not lines:
        return None
    quantities = list(dict.fromkeys((line.metric, line.quantity) for line in lines))
    lines = sorted(lines, key=lambda line: quantities.index((line.metric, line.quantity)))
    several = len({line.model for line in lines}) > 1
    columns = (
        *(Column(name, number=False) for name in ("Method", *["Model"] * several, "Layer", "Metric", "Quantity")),
        Column("Mean", "over images"),
        Column("95 % interval", "of the mean, over images; none with fewer than 5"),
        Column("Chance", "mean of what a map without information reaches on the same images"),
        Column("Better", "which way is better for the method", number=False),
        Column("Images", "with a number"),
        Column("No number", "images whose map or metric gave none"),
    )
    rows = []
    for line in lines:
        mean, names = line.mean, [line.method, *[line.model] * several, line.layer, line.metric, line.quantity]
        interval = f"{mean.low:.3f} – {mean.high:.3f}".replace("-", "−") if isfinite(mean.low) else "–"
        cells = (
            *map(_text, names),
            _number(mean.estimate),
            Cell(interval, _key(mean.high - mean.low)),
            _number(line.chance),
            _text("higher" if line.higher_is_better else "lower"),
            _count(mean.scores),
            _count(sum(count for status, count in line.status.items() if status != "ok")),
        )
        groups = {"model": line.model, "layer": line.layer, "metric": line.metric}
        rows.append(Row(cells, groups, "control" * line.control))
    caption = " ".join(f"{name}: {descriptions[name]}" for name in distinct(line.metric for line in lines))
    return SortableTable("metrics", caption, columns, tuple(rows), _filters(rows, ("model", "layer", "metric")))


def sanity(lines: Sequence[SummaryLine]) -> SortableTable | None:
    """Medians on GridPG beside those of the same network with random weights; None without such."""
    variants = distinct(line.variant for line in lines if line.variant != "trained")
    of = {(line.variant, line.model, line.layer, line.name): line for line in lines if line.setting == "GridPG"}
    trained = [line for (variant, *_), line in of.items() if variant == "trained" and _kind(line) == "methods"]
    if not variants or not trained:
        return None
    columns = (*_where_columns(trained, Column("Method", number=False), setting=False), Column("Trained"))
    rows = []
    for line in trained:
        others = [of.get((variant, line.model, line.layer, line.name)) for variant in variants]
        medians = [line.median.estimate, *(other.median.estimate if other else nan for other in others)]
        rows.append(Row((*_where(line, trained, setting=False), *map(_number, medians)), _groups(line)))
    heads = (Column(variant[0].upper() + variant[1:]) for variant in variants)
    return SortableTable("sanity", "", (*columns, *heads), tuple(rows), _filters(rows, ("model", "layer")))


def comparisons(table: pa.Table, lines: Sequence[SummaryLine]) -> SortableTable | None:
    """Every pair of methods, as they are without smoothing, at every layer in every setting; None without pairs."""
    places = dict.fromkeys((line.model, line.setting, line.layer) for line in lines if line.variant == "trained")
    own, several = _plain(table), len({model for model, *_ in places}) > 1
    rows = []
    for model, setting, layer in places:
        where = {"model": model, "setting": setting, "layer": layer}
        for pair in _pairs(own, where) if _has(lines, where) else ():
            numbers = [pair.median, pair.wilcoxon_holm, pair.permutation_holm, pair.rank_biserial, pair.cliffs_delta]
            texts = [_signed(numbers[0]), *map(_p_text, numbers[1:3]), *map(_signed, numbers[3:])]
            cells = [_text(name) for name in (pair.first, pair.second, *[model] * several, setting, layer)]
            cells += [Cell(text, _key(value)) for text, value in zip(texts, numbers, strict=True)]
            rows.append(Row((*cells, _count(pair.grids)), where))
    if not rows:
        return None
    columns = (
        *(Column(name, number=False) for name in ("First", "Second", *["Model"] * several, "Setting", "Layer")),
        Column("Difference", "median over grids of first minus second, averaged within each grid"),
        Column("Wilcoxon p", "signed-rank test, two-sided, Holm over all pairs of the setting and layer"),
        Column(
            "Sign-flip p", f"permutation test of the mean ({_PERMUTATIONS} flips), two-sided, Holm over the same pairs"
        ),
        Column("Rank-biserial", "effect size in [-1, 1]; 0 is none"),
        Column("Cliff's δ", "P(first > second) - P(first < second)"),
        Column("Grids"),
    )
    return SortableTable("pairs", "", columns, tuple(rows), _filters(rows, _WHERE))


def costs(table: pa.Table) -> SortableTable:
    """Passes and seconds of one grid, all its cells together; what methods share is a row of its own."""
    trained = _plain(table, controls=True)
    keys = [*_WHERE, "method", "control"]
    sums = [(name, "sum") for name in (*_COSTS, *_SHARED)]
    totals = trained.group_by(keys, use_threads=False).aggregate([*sums, ("grid", "count_distinct")]).to_pylist()
    rows, shared, several = [], set(), len({row["model"] for row in totals}) > 1
    for total in totals:
        cell_key = {name: total[name] for name in _WHERE}
        grids, scored = total["grid_count_distinct"], sum(total[f"{name}_sum"] for name in _SHARED)
        if tuple(cell_key.values()) not in shared and scored:
            shared.add(tuple(cell_key.values()))
            forward = total["shared_prefix_forward_sum"], total["shared_suffix_forward_sum"]
            numbers = (forward[1], total["shared_suffix_backward_sum"], forward[0], total["shared_seconds_sum"])
            rows.append(_cost(cell_key, several, "by all methods", numbers, grids, "shared"))
        numbers = tuple(total[f"{name}_sum"] for name in _COSTS)
        rows.append(_cost(cell_key, several, total["method"], numbers, grids, "control" * total["control"]))
    columns = (
        *(Column(name, number=False) for name in ("Method", *["Model"] * several, "Setting", "Layer")),
        Column("Forward", "passes from the layer on, for one grid"),
        Column("Backward", "passes back to the layer, for one grid"),
        Column("Network", "passes through the whole network; in the shared row those up to the layer"),
        Column("Seconds", "for one grid"),
    )
    return SortableTable("costs", "", columns, tuple(rows), _filters(rows, _WHERE))


def _plain(table: pa.Table, *, controls: bool = False) -> pa.Table:
    """The rows of the trained networks without smoothing."""
    names = ("variant", "kernel_size", "control")
    columns = zip(*(table[name].to_pylist() for name in names), strict=True)
    import pyarrow

    keep = [variant == "trained" and kernel == 1 and (controls or not control) for variant, kernel, control in columns]
    return table.filter(pyarrow.array(keep, pyarrow.bool_()))


def _pairs(table: pa.Table, where: Mapping[str, str]) -> tuple[Comparison, ...]:
    setting, layer, model = where["setting"], where["layer"], where["model"]
    return compare_scores(table, setting=setting, layer=layer, model=model, permutations=_PERMUTATIONS)


def _has(lines: Sequence[SummaryLine], where: Mapping[str, str]) -> bool:
    return any(
        all(getattr(line, name) == value for name, value in where.items())
        and (line.variant, line.kernel_size, line.control) == ("trained", 1, False)
        for line in lines
    )


def _cost(cell_key: Mapping[str, str], several: bool, method: str, sums: Sequence[float], grids: int, tag: str) -> Row:
    *passes, seconds = (total / grids for total in sums)
    names = [value for name, value in cell_key.items() if several or name != "model"]
    cells = [_text(name) for name in (method, *names)]
    return Row((*cells, *(Cell(_passes(count), count) for count in passes), _seconds(seconds)), cell_key, tag)


def _where_columns(lines: Sequence[SummaryLine], method: Column, *, setting: bool = True) -> tuple[Column, ...]:
    """Method first, so that it stays in sight; the model only where there are several."""
    models = len({line.model for line in lines}) > 1
    names = [*["Model"] * models, *["Setting"] * setting, "Layer"]
    return (method, *(Column(name, number=False) for name in names))


def _where(line: SummaryLine, lines: Sequence[SummaryLine], *, setting: bool = True) -> tuple[Cell, ...]:
    models = len({line.model for line in lines}) > 1
    state = "" if line.variant == "trained" else f", {line.variant}"
    names = [line.name + state, *[line.model] * models, *[line.setting] * setting, line.layer]
    return tuple(map(_text, names))


def _numbers(line: SummaryLine) -> tuple[Cell, ...]:
    median, total = line.median, sum(line.status.values())
    bounds = (median.low, median.high) if isfinite(median.low) else (median.estimate, median.estimate)
    span = (bounds[0], median.estimate, bounds[1]) if median.scores else None
    lost = line.status.get("non-finite", 0) + line.status.get("refused", 0)
    interval = f"{median.low:.3f} – {median.high:.3f}" if isfinite(median.low) else "–"
    return (
        _number(median.estimate),
        Cell(interval, _key(median.high - median.low), span),
        *map(_number, line.quartiles),
        _number(line.native),
        _number(line.attainable),
        _number(nan if line.mirror is None else line.mirror),
        _count(median.scores),
        _count(median.grids),
        *(
            Cell(percent(count / total) if count else "0", count / total)
            for count in (line.status.get("zero", 0), lost)
        ),
        Cell(_passes(line.passes), _key(line.passes)),
        _seconds(line.seconds),
    )


def _groups(line: SummaryLine) -> dict[str, str]:
    return {"model": line.model, "setting": line.setting, "layer": line.layer, "kind": _kind(line)}


def _kind(line: SummaryLine) -> str:
    """Which of `_KINDS` a line is."""
    if line.variant != "trained":
        return "random weights"
    return "controls" if line.control else "methods" if line.kernel_size == 1 else "smoothed"


def _filters(rows: Sequence[Row], groups: Sequence[str]) -> tuple[Filter, ...]:
    """A choice for every group in which the rows differ."""
    values = {group: tuple(distinct(row.groups[group] for row in rows)) for group in groups}
    return tuple(Filter(group, choices) for group, choices in values.items() if len(choices) > 1)


def _text(value: str) -> Cell:
    return Cell(value, value.lower())


def _count(value: int) -> Cell:
    return Cell(f"{value}", value)


def _number(value: float) -> Cell:
    return Cell(f"{value:.3f}" if isfinite(value) else "–", _key(value))


def _seconds(value: float) -> Cell:
    return Cell(f"{value:.3f}" if value < 10 else f"{value:.1f}" if isfinite(value) else "–", _key(value))


def _passes(value: float) -> str:
    return "0" if not value else f"{value:.1f}" if isfinite(value) and value < 1000 else format_number(value)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if isfinite(value) else "–"


def _p_text(value: float) -> str:
    return "–" if not isfinite(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _key(value: float) -> float | None:
    return value if isfinite(value) else None
