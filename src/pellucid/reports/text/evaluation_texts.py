"""The scores of an evaluation's run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from pellucid.evaluation import Run
from pellucid.evaluation.sweep import MetricLine, SummaryLine
from pellucid.reports.text.blocks import Block, Line, format_range, make_table
from pellucid.statistics import Interval


def run_texts(run: Run, page: Path | None) -> Iterator[Block]:
    """The medians of a run and the means of its metrics, and where its tables and its page are."""
    layers = run.plan.options.layers
    titles: dict[str, list[SummaryLine]] = {}
    for line in run.summary():
        state = "" if line.variant == "trained" else f", {line.variant}"
        titles.setdefault(f"{line.setting} of {line.model}{state}", []).append(line)
    for title, lines in titles.items():
        yield _medians(title, lines, layers)
    quantities: dict[tuple[str, str, str], list[MetricLine]] = {}
    for metric_line in run.metric_summary():
        key = (metric_line.model, metric_line.metric, metric_line.quantity)
        quantities.setdefault(key, []).append(metric_line)
    for metric_lines in quantities.values():
        yield _means(metric_lines, layers)
    if quantities:
        yield Line(f"metrics: {run.folder / 'metrics.parquet'}")
    yield Line(f"table: {run.folder / 'table.parquet'}")
    if page is not None:
        yield Line(f"report: {page}")


def _medians(title: str, lines: Sequence[SummaryLine], layers: Sequence[str]) -> Table:
    """Medians with their intervals, a row for each method and a column for each layer."""
    cells = {(line.name, line.layer): _interval(line.median) for line in lines}
    rows = dict.fromkeys((line.name, line.control) for line in lines)
    return make_table(
        ("method", *layers),
        [(_label(*row), *(cells.get((row[0], layer), "") for layer in layers)) for row in rows],
        title,
        caption="median localization score [95 %]",
        centered=True,
    )


def _means(lines: Sequence[MetricLine], layers: Sequence[str]) -> Table:
    """Means of a quantity with their intervals, a row for each method and a column for each layer."""
    line = lines[0]
    better = "higher is better" if line.higher_is_better else "lower is better"
    without = "" if all(own.chance != own.chance for own in lines) else "; after the slash: without information"
    cells = {(own.method, own.layer): _mean(own) for own in lines}
    rows = dict.fromkeys((own.method, own.control) for own in lines)
    return make_table(
        ("method", *layers),
        [(_label(*row), *(cells.get((row[0], layer), "") for layer in layers)) for row in rows],
        f"{line.metric} of {line.model}: {line.quantity}",
        caption=f"mean [95 %] over images; {better}{without}",
        centered=True,
    )


def _label(method: str, control: bool) -> str:
    return f"({method})" if control else method


def _mean(line: MetricLine) -> str:
    return _interval(line.mean) + ("" if line.chance != line.chance else f" / {line.chance:.3f}")


def _interval(interval: Interval) -> str:
    if not interval.scores:
        return "no score"
    return f"{interval.estimate:.3f}{format_range(interval.low, interval.high)}"
