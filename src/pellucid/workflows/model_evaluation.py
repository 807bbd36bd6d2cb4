"""Evaluate which attribution methods are true of classifiers, on grids of known truth."""

from collections.abc import Callable
from pathlib import Path

from pellucid.errors import PellucidError
from pellucid.evaluation import ModelSource, Run, SweepOptions
from pellucid.evaluation import evaluate as run_sweep
from pellucid.evaluation.sweep import SweepProgress
from pellucid.workflows.options import EvaluateOptions
from pellucid.workflows.reading_inputs import allow_current_folder, read_class_names, select_methods


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
