"""What the commands share: options, how a classifier and methods are made from text, progress and printing."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from pellucid.attribution import Method
    from pellucid.classifiers import Classifier

screen, messages = Console(), Console(stderr=True)

DEFAULT_MODEL = "efficientnet_lite0"
DEFAULT_LAYERS = "input,middle,final"

Images = Annotated[list[str], typer.Argument(help="Image files, or folders of them.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Name that `pellucid models` lists.")]
Weights = Annotated[str | None, typer.Option(help="Weights file (safetensors or a torch state dict), or 'random'.")]
Device = Annotated[str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1, ...")]
Methods = Annotated[str, typer.Option(help="Attribution methods, separated by commas; 'all' for every one.")]
Layers = Annotated[str, typer.Option(help="Layers, separated by commas: input, middle, final or any name.")]
Targets = Annotated[
    list[str] | None, typer.Option(help="Class name or index; repeat for several. \\[default: the predicted class]")
]
Options = Annotated[
    list[str] | None, typer.Option(help="Option of a method, as in IntegratedGradients.steps=50; repeat for several.")
]
Smooth = Annotated[int | None, typer.Option(help="Smooth all maps with a Gaussian of so many cells (odd).")]
Top = Annotated[int, typer.Option(min=1, help="How many predictions to show.")]
Out = Annotated[Path, typer.Option(help="Folder to write into, one folder per image.")]
MaxBatch = Annotated[int, typer.Option(min=1, help="Most images, steps or masks in one pass: bounds the memory.")]
MaxBytes = Annotated[int | None, typer.Option(min=1, help="Most bytes that the tensors of one pass may take.")]
Clean = Annotated[bool, typer.Option(help="Only clean cuts.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def load_classifier(model: str, weights: str | None, device: str | None) -> "Classifier":
    """`pellucid.load`, which also finds modules beside the user."""
    from pellucid.classifiers import load

    if "" not in sys.path:
        sys.path.insert(0, "")
    return load(model, weights=weights, device=device)


def split_names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def chosen_methods(
    names: str,
    options: Sequence[str],
    smooth: int | None = None,
    max_batch: int = 16,
    max_bytes: int | None = None,
) -> "list[Method]":
    """Attribution methods from the text of the options."""
    from pellucid.attribution import METHODS, Smoothed, make_methods

    wanted = list(METHODS) if names.strip().lower() == "all" else split_names(names)
    made = make_methods(wanted, options, METHODS, max_batch=max_batch, max_bytes=max_bytes)
    return made if smooth is None else [Smoothed(method=method, kernel_size=smooth) for method in made]


def class_indices(classifier: "Classifier", texts: Sequence[str] | None) -> list[int] | None:
    """Class indices from names or indices; None if none are given."""
    if not texts:
        return None
    return [classifier.class_index(int(text) if text.isdecimal() else text) for text in texts]


def image_folders(files: Sequence[Path], out: Path) -> Iterator[Path]:
    """One folder per image, named after it; equal names are told apart by a number."""
    taken: set[str] = set()
    for file in files:
        name, number = file.stem, 2
        while name in taken:
            name, number = f"{file.stem}-{number}", number + 1
        taken.add(name)
        yield out / name


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A bar that leaves nothing behind; on stderr where stdout is for machines."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=messages if quiet else screen, transient=True) as progress:
        yield progress


def plain(value: object) -> object:
    """A value that JSON knows."""
    return value if isinstance(value, int | float | str | bool | type(None)) else str(value)


def print_json(value: object) -> None:
    """Print for machines, and nothing else on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
