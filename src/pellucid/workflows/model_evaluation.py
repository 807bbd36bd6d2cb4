"""Evaluate which attribution methods are true of classifiers, on grids of known truth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pellucid.errors import PellucidError
from pellucid.evaluation import ModelSource, Run, SweepOptions
from pellucid.evaluation import evaluate as run_sweep
from pellucid.evaluation.sweep import SweepProgress
from pellucid.workflows.options import EvaluateOptions
from pellucid.workflows.reading_inputs import allow_current_folder, read_class_names, select_methods

_SHOWN = 5  # images that could not be used


def evaluate(
    data: str | Path,
    out: str | Path,
    options: EvaluateOptions = EvaluateOptions(),
    sweep: SweepOptions = SweepOptions(),
    *,
    on_progress: Callable[[SweepProgress], None] = lambda progress: None,
) -> Run:
    """Evaluate attribution methods at every layer, or continue the run that `out` holds.

    Args:
        data: folder with one folder of images per class, or a CSV or TSV list of them.
        out: folder of the run.
        options: models and methods.
        sweep: grids, layers and controls.
        on_progress: called after each unit of work.

    Raises:
        PellucidError: no such model, method, option or layer; too few images; or `out` holds another run.
        KeyboardInterrupt: on Ctrl-C; what is finished is kept.
    """
    if options.weights is not None and len(options.model) > 1:
        raise PellucidError(f"--weights is for one model; {len(options.model)} were given")
    allow_current_folder(options.model)
    names = None if options.class_names is None else read_class_names(options.class_names)
    sources = [
        ModelSource(name, options.weights, options.device, options.input_size, class_names=names)
        for name in options.model
    ]
    methods = select_methods(options.methods, options.option, max_batch=sweep.max_batch)
    return run_sweep(data, sources, methods, out, sweep, backend=options.backend, on_progress=on_progress)


def describe_run(run: Run, page: Path | None) -> dict[str, Any]:
    """A run as plain JSON: what was written, and the median of each method at each layer.

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


def name_losses(run: Run) -> list[str]:
    """What of a run could not be read, explained or scored, one line each."""
    lines = [f"skipped: {path}: {reason}" for path, reason in list(run.skipped.items())[:_SHOWN]]
    if run.skipped:
        lines.append(f"images of the data set that could not be used: {len(run.skipped)}")
    for status, what in (("non-finite", "hold NaN or infinite values"), ("refused", "could not be made")):
        lost = [line for line in run.summary() if line.status.get(status)]
        count = sum(line.status[status] for line in lost)
        if count:
            where = ", ".join(dict.fromkeys(f"{line.name} at {line.layer}" for line in lost))
            lines.append(f"maps that {what} and have no score: {count} ({where})")
    return lines


def check_scored(run: Run) -> None:
    """Refuse a run without any score.

    Raises:
        PellucidError: no map of any method could be scored, and why.
    """
    methods = [line for line in run.summary() if not line.control]
    if methods and all(set(line.status) <= {"refused", "non-finite"} for line in methods):
        reasons = "; ".join(dict.fromkeys(line.note for line in methods if line.note)) or "no map is finite"
        raise PellucidError(f"no method could be scored: {reasons}")
