"""`pellucid surrogate`: train and resume; graph, explain and evaluate are in modules of those names."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.common import (
    AsJson,
    Device,
    Weights,
    load_classifier,
    messages,
    print_json,
    progress_bar,
    screen,
    split_names,
)
from pellucid.cli.surrogate_common import (
    COMMAND,
    INTERRUPTED,
    RunFolder,
    Sample,
    Seed,
    TrainCommand,
    assignments,
    find_data,
    listing_of,
    read_images,
    say,
    split_rows,
    stages,
    tidy,
)
from pellucid.cli.surrogate_evaluate import evaluate, print_assessment
from pellucid.cli.surrogate_explain import explain
from pellucid.cli.surrogate_graph import graph
from pellucid.cli.surrogate_measures import (
    DESCRIPTIONS,
    JUDGES,
    MeasureName,
    RerenderName,
    check_names,
    measure_named,
    rerender_named,
)
from pellucid.errors import PellucidError

if TYPE_CHECKING:
    from pellucid.data import ContextTable
    from pellucid.surrogate import SurrogateExplainer, TrainingOptions
    from pellucid.surrogate.training import TrainingProgress


app = typer.Typer(
    no_args_is_help=True,
    help="Why does it decide so? A twin of the classifier, a causal graph, counterfactual images.",
)

Data = Annotated[Path, typer.Argument(help="Folder of images, searched with all its folders.")]
Context = Annotated[
    Path | None,
    typer.Option(help="CSV with a row per image: its path below DATA in the column 'file', and its features."),
]
Columns = Annotated[str, typer.Option(help="Context columns to use, separated by commas. \\[default: all]")]
ModelName = Annotated[str, typer.Option("--model", "-m", help="Name that `pellucid models` lists.")]
Out = Annotated[Path, typer.Option(help="Folder of the run.")]
Preset = Annotated[str, typer.Option(help="ci-16, cpu-32, gpu-128 or gpu-256.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps. \\[default: of the preset]")]
Layers = Annotated[
    str,
    typer.Option(
        help="Where the classifier is seen, separated by commas; 'logits' for a black box. "
        "\\[default: one for each of its last resolutions]"
    ),
]
HeldOut = Annotated[float, typer.Option(help="Share of the images that the twin is measured on, not trained.")]
Option = Annotated[
    list[str] | None,
    typer.Option(help="Another training option or loss weight, as in latent_dim=4; repeatable."),
]


@app.command()
def train(
    data: Data,
    model: ModelName,
    out: Out,
    context: Context = None,
    columns: Columns = "",
    weights: Weights = None,
    preset: Preset = "cpu-32",
    steps: Steps = None,
    layers: Layers = "",
    held_out: HeldOut = 0.15,
    measure: MeasureName = JUDGES,
    rerender: RerenderName = "none",
    option: Option = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Train the twin of a classifier on images, then measure it on images held out."""
    command = TrainCommand(
        data=str(data.resolve()), context=None if context is None else str(context.resolve()),
        columns=split_names(columns) or None, model=model, weights=weights, preset=preset, steps=steps, layers=layers,
        held_out=held_out, seed=seed, measure=measure, rerender=rerender, option=option or [],
    )  # fmt: skip
    _run(command, out, device, as_json)


@app.command()
def resume(run: RunFolder, device: Device = None, as_json: AsJson = False) -> None:
    """Go on with a training that was stopped, as if it had not been."""
    _run(TrainCommand.load(run), run, device, as_json)


def _run(command: TrainCommand, out: Path, device: str | None, as_json: bool) -> None:
    from pellucid.surrogate import train as train_twin
    from pellucid.surrogate.training import is_main_process, join_processes

    join_processes()
    options = _options(command)
    files, table = find_data(Path(command.data), Path(command.context) if command.context else None, command.columns)
    command = replace(command, listing=listing_of(files))
    check_names(command.measure, command.rerender, table.names if table else ())
    learnt, held = split_rows(len(files), command.held_out, command.seed)
    own = None if table is None else table.subset(learnt)
    _tell_constants(own)
    classifier = load_classifier(command.model, command.weights, device)
    examples = read_images(classifier, [files[row] for row in learnt[:64]])
    black_box = command.layers.strip() == "logits"
    with _resumable(out), _told() as tell:
        explainer = train_twin(
            classifier,
            [files[row] for row in learnt],
            own,
            options,
            out,
            layers="logits" if black_box else split_names(command.layers) or None,
            rerender=rerender_named(command.rerender, classifier, own, examples),
            on_progress=_remembering(command, out, tell),
        )
    if is_main_process():
        with _resumable(out):
            kept = [files[row] for row in held]
            known = None if table is None else table.subset(held)
            _measured(explainer, command, out, Sample(kept, read_images(classifier, kept), known), as_json)
        _report(explainer, out, as_json)


def _options(command: TrainCommand) -> "TrainingOptions":
    """The preset with what was asked for changed; fewer steps have a shorter warm-up."""
    from dataclasses import fields

    from pellucid.surrogate.training_options import LossWeights, get_preset

    options = get_preset(command.preset).replace(seed=command.seed)
    if command.steps is not None:
        options = options.replace(steps=command.steps, warmup_steps=min(options.warmup_steps, command.steps // 6))
    present = asdict(options.loss_weights) | {each.name: getattr(options, each.name) for each in fields(options)}
    changes: dict[str, object] = {}
    for name, text in assignments(command.option, "--option").items():
        if name not in present or name == "loss_weights":
            known = sorted({each.name for each in fields(options)} - {"loss_weights"} | set(asdict(LossWeights())))
            raise PellucidError(f"no training option {name!r}; there are {', '.join(known)}")
        changes[name] = _like(present[name], text, name)
    return options.replace(**changes)


def _like(present: object, text: str, name: str) -> object:
    """A text as a value of the same kind as the present one."""
    if isinstance(present, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
    elif isinstance(present, int | float):
        try:
            return type(present)(text)
        except ValueError:
            pass
    else:
        return None if text == "none" else text
    raise PellucidError(f"--option {name}={text}: wanted a value such as {present}")


def _tell_constants(table: "ContextTable | None") -> None:
    if table is None:
        say("no --context: the twin has unexplained latents only, and no concept gets a name")
        return
    table.check()


def _measured(
    explainer: "SurrogateExplainer",
    command: TrainCommand,
    out: Path,
    sample: Sample,
    quiet: bool,
) -> None:
    """Remember the held-out images, measure the twin on them and keep both."""
    measure = measure_named(command.measure, explainer, sample)
    with stages(quiet) as tell:
        explainer.set_reference(sample.images)
        explainer.assess(
            sample.images,
            measure,
            measured_by=DESCRIPTIONS[command.measure],
            seed=command.seed,
            on_progress=lambda done, total: tell("measuring control", done, total),
        )
    explainer.save_state(out)


def _report(explainer: "SurrogateExplainer", out: Path, as_json: bool) -> None:
    assert explainer.assessment is not None
    if as_json:
        print_json({"run": str(out), "steps": explainer.steps, "assessment": tidy(asdict(explainer.assessment))})
        return
    print_assessment(explainer)
    for line in (f"twin: {out}", f"next: pellucid surrogate graph {out} --out graph.html"):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)


def _remembering(
    command: TrainCommand, out: Path, tell: "Callable[[TrainingProgress], None]"
) -> "Callable[[TrainingProgress], None]":
    """Write the command beside the run as soon as the training has adopted the folder."""
    written = False

    def report(progress: "TrainingProgress") -> None:
        nonlocal written
        if not written:
            command.save(out)
            written = True
        tell(progress)

    return report


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Say after Ctrl-C how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (out / COMMAND).exists()
        text = f"stopped; go on with: pellucid surrogate resume {out}" if kept else "stopped before anything was kept"
        messages.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _told() -> "Iterator[Callable[[TrainingProgress], None]]":
    """A bar with losses and throughput on a terminal, lines elsewhere; always on stderr."""
    from pellucid.surrogate.training import print_progress

    if not messages.is_terminal:
        yield print_progress
        return
    with progress_bar(True) as bar:
        task = bar.add_task("preparing", total=None)

        def tell(progress: "TrainingProgress") -> None:
            if progress.note:
                bar.console.print(progress.note, style="dim", highlight=False, markup=False)
                return
            shown = "  ".join(
                f"{name} {value:.3g}" for name, value in progress.losses.items() if "gradient" not in name
            )
            told = f"{progress.speed:.0f} images/s  {shown}"
            bar.update(task, completed=progress.step, total=progress.steps, description=told)

        yield tell


for each in (graph, explain, evaluate):
    app.command()(each)
