"""What the surrogate commands share: what a run was begun with, its twin, its images, and progress."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.common import load_classifier, messages, progress_bar
from pellucid.errors import PellucidError

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.classifiers import Classifier
    from pellucid.data import ContextTable
    from pellucid.surrogate import SurrogateExplainer

COMMAND = "command.json"
MIN_HELD_OUT = 50
INTERRUPTED = 130  # what shells say of a command that was stopped with Ctrl-C

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training.")]
RunModel = Annotated[
    str | None, typer.Option("--model", "-m", help="The classifier. \\[default: that of the training]")
]
RunImages = Annotated[
    Path | None, typer.Option("--images", help="Folder of other images. \\[default: those held out in training]")
]
RunContext = Annotated[
    Path | None, typer.Option("--context", help="CSV with the context of --images, as for `surrogate train`.")
]
Transferred = Annotated[
    bool,
    typer.Option(
        "--transferred",
        help="Measure effects with the changes laid on the images. \\[default: on the twin's own drawings]",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of everything drawn.")]


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """What a training was begun with: the options of these names, and the `listing_of` its images."""

    data: str
    context: str | None
    columns: list[str] | None
    model: str
    weights: str | None
    preset: str
    steps: int | None
    layers: str
    held_out: float
    seed: int
    measure: str
    rerender: str
    option: list[str]
    listing: str = ""

    def save(self, run: Path) -> None:
        """Write it into the run's folder."""
        from pellucid.storage import write_atomically

        write_atomically(run / COMMAND, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, run: Path) -> "TrainCommand":
        """Read what `save` wrote.

        Raises:
            PellucidError: there is none, or it is damaged.
        """
        if not run.is_dir():
            raise PellucidError(f"there is no run {run}: give the folder of a training; 'digits' is for explain only")
        try:
            return cls(**json.loads((run / COMMAND).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise PellucidError(
                f"{run} has no {COMMAND}, so it was not begun by `pellucid surrogate train`; "
                "give --model, and --images with --context, or begin a training there"
            ) from None
        except (ValueError, TypeError) as error:
            raise PellucidError(f"{run / COMMAND} is damaged ({error}); give the train command again") from error


@dataclass(frozen=True)
class Sample:
    """Images (N, C, H, W) in the classifier's input space, their files, and their context if it is known."""

    files: Sequence[Path]
    images: "Tensor"
    context: "ContextTable | None"


def load_run(run: Path, model: str | None, weights: str | None, device: str | None) -> "SurrogateExplainer":
    """The twin of a run with its classifier."""
    from pellucid.surrogate import load

    if model is None:
        command = TrainCommand.load(run)
        model, weights = command.model, command.weights if weights is None else weights
    return load(run, classifier=load_classifier(model, weights, device))


def class_of(explainer: "SurrogateExplainer", text: str | None) -> int | None:
    """The class of a name, or of an index in digits; None for none."""
    if text is None:
        return None
    return explainer.class_index(int(text) if text.isdecimal() else text)


def sample_of(run: Path, explainer: "SurrogateExplainer", images: Path | None, context: Path | None) -> Sample:
    """The images that a command asks for: a folder with its table, or those that the training held out."""
    names = list(explainer.context_names) or None
    if context is not None and names is None:
        raise PellucidError(
            "the twin was trained without context, so there is nothing to take from --context: leave it out"
        )
    if images is not None:
        files, table = find_data(images, context, names)
        return Sample(files, read_images(explainer.classifier, files), table)
    if context is not None:
        raise PellucidError("--context is the table of --images; give both, or neither for the held-out images")
    command = TrainCommand.load(run)
    files, table = find_data(Path(command.data), None if command.context is None else Path(command.context), names)
    if command.listing != listing_of(files):
        raise PellucidError(
            f"{command.data} no longer holds the images that the training began with, so those held out cannot be "
            "told from the others: give --images (and --context) with some that it has not seen"
        )
    _, held = split_rows(len(files), command.held_out, command.seed)
    chosen = [files[row] for row in held]
    return Sample(chosen, read_images(explainer.classifier, chosen), None if table is None else table.subset(held))


def find_data(
    folder: Path, context: Path | None, columns: Sequence[str] | None
) -> "tuple[list[Path], ContextTable | None]":
    """The images below a folder and, if there is a table, their rows in the same order."""
    from pellucid.data import find_images, read_context

    if not folder.is_dir():
        raise PellucidError(f"{folder} is no folder of images")
    if context is None:
        return find_images(folder, recursive=True), None
    table = read_context(context, folder, columns=columns)
    return list(table.files or ()), table


def listing_of(files: Sequence[Path]) -> str:
    """Says which images were found, in which order: with others, other rows would be held out."""
    from hashlib import sha256

    return sha256("\n".join(map(str, files)).encode()).hexdigest()


def split_rows(count: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows held out, drawn at random; both in order.

    Raises:
        PellucidError: a share outside ]0, 1[, or too few images held out.
    """
    import torch

    if not 0 < held_out < 1:
        raise PellucidError(f"--held-out is the share of images kept from training, between 0 and 1, not {held_out:g}")
    kept = round(held_out * count)
    if kept < MIN_HELD_OUT:
        raise PellucidError(
            f"{count} images are too few: --held-out {held_out:g} of them are {kept}, and at least {MIN_HELD_OUT} "
            "are needed to measure the twin and to explain against"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[kept:]), sorted(order[:kept])


def read_images(classifier: "Classifier", files: Sequence[Path]) -> "Tensor":
    """Image files in the classifier's input space (N, C, H, W).

    Raises:
        PellucidError: a file is no image, or the classifier's preprocessing leaves them at different sizes.
    """
    import torch

    read = [classifier.read(file) for file in files]
    if sizes := {tuple(one.shape[1:]) for one in read[1:]} - {tuple(read[0].shape[1:])}:
        raise PellucidError(
            f"images differ in size once read: {tuple(read[0].shape[1:])} and {sizes.pop()}; bring them to one size, "
            "or give the classifier a preprocessing that does"
        )
    return classifier.check_images(torch.cat(read))


@contextmanager
def stages(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each stage that is told of."""
    with progress_bar(quiet) as bar:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield tell


def say(text: str) -> None:
    """One remark on stderr."""
    messages.print(f"note: {' '.join(text.split())}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def number(text: str, option: str) -> float:
    """A finite number from the text of an option."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise PellucidError(f"{option}: {text!r} is no number")
    return value


def assignments(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """name -> value from texts such as "thickness=4".

    Raises:
        PellucidError: a text has no "=", or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (name and sign and value):
            raise PellucidError(f"{option} {text!r} is not NAME=VALUE")
        if name in found:
            raise PellucidError(f"{option} sets {name!r} twice")
        found[name] = value
    return found


def tidy(value: object) -> Any:
    """A value as JSON has it: NaN and infinity are null."""
    if isinstance(value, Mapping):
        return {str(key): tidy(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(each) for each in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value if isinstance(value, int | str | bool | type(None)) else str(value)
