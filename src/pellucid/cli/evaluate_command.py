"""`pellucid evaluate` and `pellucid report`."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from rich.markup import escape
from rich.table import Table

from pellucid.cli.parsing import AsJson, Options, options_named
from pellucid.cli.printing import print_json, print_line, progress_bar, resumable, screen, warn, warn_skipped
from pellucid.errors import PellucidError
from pellucid.evaluation import Run, SweepOptions
from pellucid.evaluation.sweep import MetricLine, SummaryLine, SweepProgress
from pellucid.reports import write_evaluation
from pellucid.statistics import Interval
from pellucid.workflows import EvaluateOptions
from pellucid.workflows import evaluate as evaluate_models

_SHOWN = 5
_SWEEP = options_named(kernel_sizes="smooth", keep_maps="maps", output="explained", shard_size="shard")


def evaluate(
    data: str,
    /,
    *,
    out: Path,
    options: Options[EvaluateOptions] = EvaluateOptions(),
    sweep: Annotated[SweepOptions, _SWEEP] = SweepOptions(),
    report: bool = True,
    as_json: AsJson = False,
) -> None:
    """`pellucid evaluate`.

    Args:
        data: folder with one folder of images per class, or a CSV or TSV list of them.
        out: folder of the run; give it again to continue a run that was stopped.
        options: models and methods.
        sweep: grids, layers and controls.
        report: whether to write report.html at the end.
        as_json: print JSON for machines.
    """
    with resumable(lambda: _how_to_continue(out)), sweep_progress(as_json) as show:
        run = evaluate_models(data, out, options, sweep, on_progress=show)
    page = write_evaluation(run) if report else None
    if as_json:
        print_json(run_record(run, page))
    else:
        print_run(run, page)
    _warn_losses(run.skipped, run.summary())


def report(run: Path, /, *, out: Path | None = None, as_json: AsJson = False) -> None:
    """`pellucid report`.

    Args:
        run: folder of a run, finished or not.
        out: the page; none for report.html in the folder of the run.
        as_json: print JSON for machines.
    """
    finished = Run(run)
    page = write_evaluation(finished, out)
    if as_json:
        print_json(run_record(finished, page))
    else:
        print_line(f"report: {page}")


def _how_to_continue(out: Path) -> str:
    return (
        f"stopped; what is finished is in {out}: give the same command again to continue, or see it with "
        f"pellucid report {out}"
    )


@contextmanager
def sweep_progress(quiet: bool) -> Iterator[Callable[[SweepProgress], None]]:
    """A progress bar for each stage; each thing that cannot be explained is named once."""
    with progress_bar(quiet) as bar:
        tasks: dict[str, Any] = {}
        known: set[str] = set()

        def show(progress: SweepProgress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=progress.total)
            bar.update(tasks[progress.stage], completed=progress.done)
            for problem in progress.problems:
                if problem not in known:
                    known.add(problem)
                    warn(f"not explained: {problem}")

        yield show


def run_record(run: Run, page: Path | None) -> dict[str, Any]:
    """What `--json` prints of a run: what was written, and the median of each method at each layer.

    Args:
        run: finished or not.
        page: its page, if one was written.
    """
    return {
        "run": str(run.folder),
        "table": str(run.folder / "table.parquet"),
        "report": None if page is None else str(page),
        "skipped": run.skipped,
        "summary": [{**vars(line), "name": line.name} for line in run.summary()],
        "metrics": [vars(line) for line in run.metric_summary()],
    }


def print_run(run: Run, page: Path | None) -> None:
    """The medians of a run, and where its table and its page are."""
    titles: dict[str, list[SummaryLine]] = {}
    for line in run.summary():
        state = "" if line.variant == "trained" else f", {line.variant}"
        titles.setdefault(f"{line.setting} of {line.model}{state}", []).append(line)
    for title, lines in titles.items():
        screen.print(_medians(title, lines, run.plan.options.layers))
    quantities: dict[tuple[str, str, str], list[MetricLine]] = {}
    for metric_line in run.metric_summary():
        key = (metric_line.model, metric_line.metric, metric_line.quantity)
        quantities.setdefault(key, []).append(metric_line)
    for metric_lines in quantities.values():
        screen.print(_means(metric_lines[0], metric_lines, run.plan.options.layers))
    if quantities:
        print_line(f"metrics: {run.folder / 'metrics.parquet'}")
    print_line(f"table: {run.folder / 'table.parquet'}")
    if page is not None:
        print_line(f"report: {page}")


def _medians(title: str, lines: Sequence[SummaryLine], layers: Sequence[str]) -> Table:
    """Medians with their intervals, a row for each method and a column for each layer."""
    table = Table(
        "method",
        *map(escape, layers),
        title=escape(title),
        title_justify="left",
        caption="median localization score [95 %]",
    )
    cells = {(line.name, line.layer): line.median for line in lines}
    for name, control in dict.fromkeys((line.name, line.control) for line in lines):
        medians = [_interval(cells.get((name, layer))) for layer in layers]
        table.add_row(escape(f"({name})" if control else name), *medians)
    return table


def _means(line: MetricLine, lines: Sequence[MetricLine], layers: Sequence[str]) -> Table:
    """Means of the quantity of `line` with their intervals, a row for each method and a column for each layer."""
    better = "higher is better" if line.higher_is_better else "lower is better"
    without = "" if all(math.isnan(own.chance) for own in lines) else "; after the slash: without information"
    table = Table(
        "method",
        *map(escape, layers),
        title=escape(f"{line.metric} of {line.model}: {line.quantity}"),
        title_justify="left",
        caption=f"mean [95 %] over images; {better}{without}",
    )
    cells = {(own.method, own.layer): own for own in lines}
    for method, control in dict.fromkeys((own.method, own.control) for own in lines):
        table.add_row(escape(f"({method})" if control else method), *(_mean(cells.get((method, at))) for at in layers))
    return table


def _mean(line: MetricLine | None) -> str:
    if line is None or math.isnan(line.chance):
        return _interval(None if line is None else line.mean)
    return f"{_interval(line.mean)} / {line.chance:.3f}"


def _interval(median: Interval | None) -> str:
    if median is None:
        return ""
    if not median.scores:
        return "no score"
    interval = "" if math.isnan(median.low) else f" [{median.low:.3f}, {median.high:.3f}]"
    return escape(f"{median.estimate:.3f}{interval}")


def _warn_losses(skipped: Mapping[str, str], summary: Sequence[SummaryLine]) -> None:
    """Count what could not be read, explained or scored."""
    for path, reason in list(skipped.items())[:_SHOWN]:
        warn_skipped(Path(path), reason)
    if skipped:
        warn(f"images of the data set that could not be used: {len(skipped)}")
    for status, what in (("non-finite", "hold NaN or infinite values"), ("refused", "could not be made")):
        lines = [line for line in summary if line.status.get(status)]
        count = sum(line.status[status] for line in lines)
        if count:
            where = ", ".join(dict.fromkeys(f"{line.name} at {line.layer}" for line in lines))
            warn(f"maps that {what} and have no score: {count} ({where})")
    methods = [line for line in summary if not line.control]
    if methods and all(set(line.status) <= {"refused", "non-finite"} for line in methods):
        reasons = "; ".join(dict.fromkeys(line.note for line in methods if line.note)) or "no map is finite"
        raise PellucidError(f"no method could be scored: {reasons}")
