"""Train the surrogate of a classifier on a folder of images, and measure it on images held out."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pellucid.errors import PellucidError
from pellucid.storage import RecordError, from_record, read_json, to_record, write_json
from pellucid.surrogate import LOGITS_ONLY, DisplaySpace, SurrogateExplainer, TrainingOptions, get_preset, train
from pellucid.surrogate.training import TrainingProgress, is_main_process, join_processes
from pellucid.workflows.options import ClassifierOptions, TrainSurrogateOptions
from pellucid.workflows.reading_inputs import assignments, load_classifier
from pellucid.workflows.surrogate_images import (
    MEASURE_DESCRIPTIONS,
    MORPHOMNIST,
    check_measures,
    check_table,
    digest_of_files,
    find_images_with_context,
    find_measure,
    find_rerender,
    read_sample,
    split_rows,
)

TRAIN_COMMAND = "command.json"
_EXAMPLES = 256  # training images on which a table is checked before anything long

OnProgress = Callable[[TrainingProgress], None]
OnStage = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class TrainCommand(TrainSurrogateOptions):
    """What a training was started with.

    Attributes:
        listing: identifies the images that were found, in their order.
    """

    listing: str = ""

    def save(self, run: Path) -> None:
        """Write it into the run's folder."""
        write_json(run / TRAIN_COMMAND, to_record(self))

    @classmethod
    def load(cls, run: Path) -> "TrainCommand":
        """Read what `save` wrote.

        Raises:
            PellucidError: there is none, or it is damaged.
        """
        if not run.is_dir():
            raise PellucidError(f"there is no run {run}: give the folder of a training; 'digits' is for explain only")
        path = run / TRAIN_COMMAND
        if not path.exists():
            raise PellucidError(
                f"{run} has no {TRAIN_COMMAND}, so it was not started by `pellucid surrogate train`; "
                "give --model, and --images with --context, or start a training there"
            )
        try:
            return from_record(cls, _migrate(read_json(path)), source=path)
        except RecordError as error:
            raise PellucidError(f"{error}; give the train command again") from error


def _migrate(record: Any) -> Any:
    """A record whose lists of names were texts, as they were before version 0.2."""
    if not isinstance(record, dict):
        return record
    layers, columns = record.get("layers", []), record.get("columns", [])
    return record | {
        "layers": [name.strip() for name in layers.split(",") if name.strip()] if isinstance(layers, str) else layers,
        "columns": columns or [],
        "measure": "predictors" if record.get("measure") == "judges" else record.get("measure", "predictors"),
    }


def train_surrogate(
    out: Path,
    options: TrainSurrogateOptions,
    *,
    device: str | None = None,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
    on_note: Callable[[str], None] | None = None,
) -> SurrogateExplainer | None:
    """Train a surrogate, or continue the training that `out` holds, and measure it on the images held out.

    The training can be interrupted with Ctrl-C and continued with `resume_surrogate`.

    Args:
        out: folder of the run.
        options: of the data, the classifier and the training.
        device: where to run.
        on_progress: called after some steps with losses and throughput.
        on_stage: called with (stage, done, in all) while the surrogate is measured.
        on_note: called with a remark on the data.

    Returns:
        The surrogate with its reference and its assessment, which are in `out` too; None in all but the first of
        several processes.

    Raises:
        PellucidError: images, context, classifier and options do not fit each other, or `out` holds another training.
        KeyboardInterrupt: on Ctrl-C.
    """
    context = None if options.context is None else options.context.resolve()
    command = TrainCommand(**{**_shallow(options), "data": options.data.resolve(), "context": context})
    return _train(out, command, device, on_progress, on_stage, on_note)


def resume_surrogate(
    run: Path,
    *,
    device: str | None = None,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
    on_note: Callable[[str], None] | None = None,
) -> SurrogateExplainer | None:
    """Continue a training that was interrupted, as if it had not been.

    Args:
        run: its folder.
        device: where to run.
        on_progress: as in `train_surrogate`.
        on_stage: as in `train_surrogate`.
        on_note: as in `train_surrogate`.

    Returns:
        As `train_surrogate`.

    Raises:
        PellucidError: the folder was not written by `train_surrogate`, or its images have changed.
        KeyboardInterrupt: on Ctrl-C.
    """
    return _train(run, TrainCommand.load(run), device, on_progress, on_stage, on_note)


def _train(
    out: Path,
    command: TrainCommand,
    device: str | None,
    on_progress: OnProgress | None,
    on_stage: OnStage | None,
    on_note: Callable[[str], None] | None,
) -> SurrogateExplainer | None:
    join_processes()
    training = make_training_options(command)
    files, table = find_images_with_context(command.data, command.context, command.columns)
    command = replace(command, listing=digest_of_files(files))
    check_measures(command.measure, command.rerender, table.names if table else ())
    rows, held_out = split_rows(len(files), command.held_out, command.seed)
    context = None if table is None else table.subset(rows)
    if context is not None:
        context.check()
    elif on_note is not None:
        on_note("no --context: the surrogate has unexplained latents only, and no concept gets a name")
    classifier = load_classifier(ClassifierOptions(model=command.model, weights=command.weights, device=device))
    examples = read_sample(classifier, files, table, rows[:_EXAMPLES])
    space = DisplaySpace.of(classifier, examples.images[:64])
    sample = read_sample(classifier, files, table, held_out) if is_main_process() else None
    for name, option in ((command.rerender, "--rerender"), (command.measure, "--measure")):
        if name == MORPHOMNIST and examples.context is not None:
            check_table(examples.images, examples.context, space, option)
            if sample is not None and sample.context is not None:
                check_table(sample.images, sample.context, space, option)
    explainer = train(
        classifier,
        [files[row] for row in rows],
        context,
        training,
        out,
        layers=LOGITS_ONLY if command.layers == (LOGITS_ONLY,) else command.layers or None,
        rerender=find_rerender(command.rerender, classifier, context, examples.images[:64]),
        on_progress=on_progress,
        on_start=lambda: command.save(out),
    )
    if sample is None:  # all but the first of several processes
        return None
    explainer.set_reference(sample.images)
    explainer.assess(
        sample.images,
        find_measure(command.measure, explainer, sample),
        measured_by=MEASURE_DESCRIPTIONS[command.measure],
        seed=command.seed,
        on_progress=None if on_stage is None else lambda done, total: on_stage("measuring control", done, total),
    )
    explainer.save_state(out)
    return explainer


def make_training_options(options: TrainSurrogateOptions) -> TrainingOptions:
    """The preset with what was given changed; fewer steps have a shorter warm-up.

    Args:
        options: preset, steps, seed, and others as texts such as "latent_dim=4".

    Raises:
        PellucidError: no such preset or option, or a value of another kind.

    >>> from pathlib import Path
    >>> options = TrainSurrogateOptions(Path("images"), model="digit_cnn", steps=600, option=("latent_dim=4", "r1=0.1"))
    >>> training = make_training_options(options)
    >>> training.steps, training.warmup_steps, training.latent_dim, training.loss_weights.r1
    (600, 100, 4, 0.1)
    """
    training = get_preset(options.preset).replace(seed=options.seed)
    if options.steps is not None:
        training = training.replace(steps=options.steps, warmup_steps=min(training.warmup_steps, options.steps // 6))
    present = {**_shallow(training.loss_weights), **_shallow(training)}
    del present["loss_weights"]
    changes: dict[str, object] = {}
    for name, text in assignments(options.option, "--option").items():
        if name not in present:
            raise PellucidError(f"no training option {name!r}; there are {', '.join(sorted(present))}")
        changes[name] = _parse_like(present[name], text, name)
    return training.replace(**changes)


def _shallow(options: Any) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(options)}


def _parse_like(present: object, text: str, name: str) -> object:
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
    raise PellucidError(f"--option {name}={text}: expected a value such as {present}")
