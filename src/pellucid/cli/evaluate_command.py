"""`pellucid evaluate` and `pellucid report`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pellucid.cli.parsing import AsJson, Options, options_named
from pellucid.cli.printing import print_json, print_line, progress_bar, resumable, show, warn, warn_skipped
from pellucid.errors import PellucidError
from pellucid.evaluation import Run, SweepOptions
from pellucid.evaluation.sweep import SummaryLine, SweepProgress
from pellucid.reports import write_evaluation
from pellucid.reports.text import run_texts
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
    with resumable(lambda: _how_to_continue(out)), sweep_progress(as_json) as advance:
        run = evaluate_models(data, out, options, sweep, on_progress=advance)
    page = write_evaluation(run) if report else None
    if as_json:
        print_json(run_record(run, page))
    else:
        show(run_texts(run, page))
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

        def advance(progress: SweepProgress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=progress.total)
            bar.update(tasks[progress.stage], completed=progress.done)
            for problem in progress.problems:
                if problem not in known:
                    known.add(problem)
                    warn(f"not explained: {problem}")

        yield advance


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
