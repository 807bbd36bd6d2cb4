"""`pellucid evaluate` and `pellucid report`."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pellucid.cli.common import (
    DEFAULT_LAYERS,
    DEFAULT_MODEL,
    AsJson,
    Device,
    Layers,
    MaxBatch,
    Options,
    Weights,
    chosen_methods,
    messages,
    print_json,
    progress_bar,
    screen,
    split_names,
)
from pellucid.errors import PellucidError

if TYPE_CHECKING:
    from pellucid.evaluation.sweep import (
        ModelSource,
        Run,
        SummaryLine,
        SweepProgress,
    )
    from pellucid.statistics import Interval


DEFAULT_METHODS = "Gradient,InputXGradient,IntegratedGradients,GradCAM,LayerCAM"
_INTERRUPTED = 130  # what shells say of a command that was stopped with Ctrl-C
_SHOWN = 5

Data = Annotated[str, typer.Argument(help="Folder with one folder of images per class, or a CSV or TSV list of them.")]
Out = Annotated[Path, typer.Option(help="Folder of the run; give it again to go on with a run that was stopped.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help=f"Name that `pellucid models` lists; repeat. [default: {DEFAULT_MODEL}]"),
]
Settings = Annotated[str, typer.Option(help="Grid settings, separated by commas: GridPG, DiFull, DiPart.")]
Methods = Annotated[str, typer.Option(help="Attribution methods, separated by commas; 'all' for every one.")]
Cells = Annotated[str, typer.Option("--n", help="Cells of a grid: 2 for 2 x 2, or rows x columns as in 2x3.")]
Grids = Annotated[int, typer.Option(help="Grids of GridPG; the paper has 500.")]
TwinGrids = Annotated[
    int | None, typer.Option(help="Grids of DiFull and DiPart; the paper has 1000. [default: as many as of GridPG]")
]
Threshold = Annotated[float, typer.Option(help="Least probability of the true class for an image to be used.")]
Pool = Annotated[str, typer.Option(help="With several models: 'common' or 'own' images for each.")]
Reuse = Annotated[bool, typer.Option("--reuse", help="Let images between the twins recur in other grids.")]
Smooth = Annotated[str, typer.Option(help="Also smooth all maps with Gaussians of so many cells (odd), as in 9,17,33.")]
Randomize = Annotated[
    str, typer.Option(help="Also evaluate randomized networks: in so many steps, or down to each of these layers.")
]
Maps = Annotated[str, typer.Option(help="Which cells' maps to keep for AggAtt: none, first or all.")]
Order = Annotated[str, typer.Option(help="GridPG with a non-linear head: pool_first or classify_first.")]
Head = Annotated[str | None, typer.Option(help="Layer with the last spatial map. [default: it is looked for]")]
Explained = Annotated[
    str, typer.Option(help="What of a class is explained: logit, centered, log_probability, probability or margin.")
]
Seed = Annotated[int, typer.Option(help="Of the grids, the random control and the randomized weights.")]
Shard = Annotated[int, typer.Option(help="Grids in a unit of work, the most that is lost when a run is killed.")]
InputSize = Annotated[int | None, typer.Option(help="Side of one cell. [default: what the model was trained with]")]
ReportOption = Annotated[bool, typer.Option("--report/--no-report", help="Whether to write report.html at the end.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, finished or not.")]
ReportOut = Annotated[Path | None, typer.Option(help="The page. [default: report.html in the folder of the run]")]
BackendOption = Annotated[str, typer.Option(help="'local', or 'ray' for the workers of a Ray cluster.")]


def evaluate(
    data: Data,
    out: Out,
    model: Models = None,
    weights: Weights = None,
    settings: Settings = "GridPG,DiFull,DiPart",
    layers: Layers = DEFAULT_LAYERS,
    methods: Methods = DEFAULT_METHODS,
    option: Options = None,
    n: Cells = "2",
    grids: Grids = 100,
    same_class_grids: TwinGrids = None,
    threshold: Threshold = 0.99,
    pool: Pool = "common",
    reuse: Reuse = False,
    smooth: Smooth = "",
    randomize: Randomize = "",
    maps: Maps = "first",
    order: Order = "auto",
    head: Head = None,
    input_size: InputSize = None,
    explained: Explained = "logit",
    seed: Seed = 0,
    shard: Shard = 4,
    backend: BackendOption = "local",
    device: Device = None,
    max_batch: MaxBatch = 16,
    write_report: ReportOption = True,
    as_json: AsJson = False,
) -> None:
    """Measure which attribution methods are true of a model: grids of known truth, at every layer."""
    from pellucid.evaluation.sweep import SweepOptions
    from pellucid.evaluation.sweep import evaluate as run_sweep

    chosen: Any = {"pool": pool, "keep_maps": maps, "order": order, "output": explained}  # checked by SweepOptions
    options = SweepOptions(
        settings=tuple(split_names(settings)),
        layers=tuple(split_names(layers)),
        n=_grid(n),
        grids=grids,
        same_class_grids=same_class_grids,
        threshold=threshold,
        reuse=reuse,
        kernel_sizes=tuple(_whole(text, "--smooth") for text in split_names(smooth)),
        randomize=int(randomize or 0) if (randomize or "0").isdecimal() else tuple(split_names(randomize)),
        head=head,
        seed=seed,
        shard_size=shard,
        max_batch=max_batch,
        **chosen,
    )
    sources = _sources(model or [DEFAULT_MODEL], weights, device, input_size)
    made = chosen_methods(methods, option or [], None, max_batch)
    name: Any = backend
    with _resumable(out), sweep_progress(as_json) as tell:
        run = run_sweep(data, sources, made, out, options, backend=name, on_progress=tell)
    page = _page(run) if write_report else None
    if as_json:
        print_json(run_record(run, page))
    else:
        print_run(run, page)
    _tell_losses(run.skipped, run.summary())


def report(run: RunArgument, out: ReportOut = None) -> None:
    """Write the page of a run again, finished or not; nothing is computed anew."""
    from pellucid.evaluation.sweep import Run

    page = _page(Run(run), out)
    screen.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)


def _page(run: "Run", out: Path | None = None) -> Path:
    from pellucid.reports import write_evaluation

    return write_evaluation(run, out)


def _sources(names: Sequence[str], weights: str | None, device: str | None, size: int | None) -> "list[ModelSource]":
    from pellucid.evaluation.sweep import ModelSource

    if weights is not None and len(names) > 1:
        raise PellucidError(f"--weights is for one model; {len(names)} were given")
    if "" not in sys.path:  # for modules beside the user
        sys.path.insert(0, "")
    return [ModelSource(name, weights, device, size) for name in names]


def _grid(text: str) -> int | tuple[int, int]:
    sides = [_whole(side, "--n") for side in text.lower().split("x")]
    if len(sides) > 2:
        raise PellucidError(f"--n {text!r} is neither a number nor rows x columns, as in 2 or 2x3")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _whole(text: str, option: str) -> int:
    if not text.strip().isdecimal():
        raise PellucidError(f"{option}: {text!r} is not a whole number")
    return int(text)


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        messages.print(
            f"stopped; what is finished is in {out}: give the same command again to go on, or see it with "
            f"pellucid report {out}",
            style="yellow",
            soft_wrap=True,
        )
        raise typer.Exit(_INTERRUPTED) from None


@contextmanager
def sweep_progress(quiet: bool) -> "Iterator[Callable[[SweepProgress], None]]":
    """A progress bar for each stage; what cannot be explained is told once."""
    with progress_bar(quiet) as bar:
        tasks: dict[str, Any] = {}
        known: set[str] = set()

        def tell(progress: "SweepProgress") -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=progress.total)
            bar.update(tasks[progress.stage], completed=progress.done)
            for problem in progress.problems:
                if problem not in known:
                    known.add(problem)
                    messages.print(
                        f"not explained: {problem}", style="yellow", highlight=False, markup=False, soft_wrap=True
                    )

        yield tell


def run_record(run: "Run", page: Path | None) -> dict[str, Any]:
    """What `--json` prints of a run."""
    return {
        "run": str(run.folder),
        "table": str(run.folder / "table.parquet"),
        "report": None if page is None else str(page),
        "skipped": run.skipped,
        "summary": [_plain(line) for line in run.summary()],
    }


def print_run(run: "Run", page: Path | None) -> None:
    """The medians of a run, and where its table and its page are."""
    for title, lines in _by_title(run.summary()).items():
        screen.print(_shown(title, lines, run.plan.options.layers))
    screen.print(f"table: {run.folder / 'table.parquet'}", highlight=False, markup=False, soft_wrap=True)
    if page is not None:
        screen.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)


def _by_title(summary: "Sequence[SummaryLine]") -> "dict[str, list[SummaryLine]]":
    titles: dict[str, list[SummaryLine]] = {}
    for line in summary:
        state = "" if line.variant == "trained" else f", {line.variant}"
        titles.setdefault(f"{line.setting} of {line.model}{state}", []).append(line)
    return titles


def _shown(title: str, lines: "Sequence[SummaryLine]", layers: Sequence[str]) -> Table:
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
        found = [cells.get((name, layer)) for layer in layers]
        table.add_row(escape(f"({name})" if control else name), *map(_median, found))
    return table


def _median(found: "Interval | None") -> str:
    if found is None:
        return ""
    if not found.scores:
        return "no score"
    interval = "" if math.isnan(found.low) else f" [{found.low:.3f}, {found.high:.3f}]"
    return escape(f"{found.estimate:.3f}{interval}")


def _plain(line: "SummaryLine") -> dict[str, Any]:
    """A line as JSON values; what is not a number is null."""
    values = {**vars(line), "name": line.name, "median": vars(line.median)}
    return {key: _json(value) for key, value in values.items()}


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_json(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _tell_losses(skipped: Mapping[str, str], summary: "Sequence[SummaryLine]") -> None:
    """Count what could not be read, explained or scored."""
    for path, reason in list(skipped.items())[:_SHOWN]:
        messages.print(f"skipped: {path}: {reason}", style="yellow", highlight=False, markup=False)
    if skipped:
        messages.print(f"images of the data set that could not be used: {len(skipped)}", style="yellow")
    for status, what in (("non-finite", "hold NaN or infinite values"), ("refused", "could not be made")):
        lines = [line for line in summary if line.status.get(status)]
        count = sum(line.status[status] for line in lines)
        if count:
            where = ", ".join(dict.fromkeys(f"{line.name} at {line.layer}" for line in lines))
            messages.print(
                f"maps that {what} and have no score: {count} ({where})", style="yellow", highlight=False, markup=False
            )
    methods = [line for line in summary if not line.control]
    if all(set(line.status) <= {"refused", "non-finite"} for line in methods):
        reasons = "; ".join(dict.fromkeys(line.note for line in methods if line.note)) or "no map is finite"
        raise PellucidError(f"no method could be scored: {reasons}")
