"""The command line: parses, calls, prints. Bad input is one line on stderr and exit code 2."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pellucid.errors import MissingExtraError, PellucidError, PictureError

if TYPE_CHECKING:
    from pellucid.attribution import Method
    from pellucid.classifiers import Classifier
    from pellucid.reports.local import LocalReport

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Explain image classifiers, and prove the explanations."
)
screen, messages = Console(), Console(stderr=True)

DEFAULT_MODEL = "efficientnet_lite0"
DEFAULT_METHODS = "GradCAM,IntegratedGradients,GuidedBackprop"
DEFAULT_LAYERS = "input,middle,final"
DEMO_PICTURES = ("chelsea.png", "coffee.png", "rocket.jpg")

Images = Annotated[list[str], typer.Argument(help="Picture files, or folders of them.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Name that `pellucid models` lists.")]
Weights = Annotated[str | None, typer.Option(help="Weights file (safetensors or a torch state dict), or 'random'.")]
Device = Annotated[str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1, ...")]
Methods = Annotated[str, typer.Option(help="Attribution methods, separated by commas; 'all' for every one.")]
Layers = Annotated[str, typer.Option(help="Layers, separated by commas: input, middle, final or any name.")]
Targets = Annotated[
    list[str] | None, typer.Option(help="Class name or index; repeat for several. [default: the predicted class]")
]
Options = Annotated[
    list[str] | None, typer.Option(help="Option of a method, as in IntegratedGradients.steps=50; repeat for several.")
]
Smooth = Annotated[int | None, typer.Option(help="Smooth all maps with a Gaussian of so many cells (odd).")]
Top = Annotated[int, typer.Option(min=1, help="How many predictions to show.")]
Out = Annotated[Path, typer.Option(help="Folder to write into, one folder per picture.")]
MaxBatch = Annotated[int, typer.Option(min=1, help="Most pictures, steps or masks in one pass: bounds the memory.")]
Clean = Annotated[bool, typer.Option(help="Only clean cuts.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def explain(
    images: Images,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    methods: Methods = DEFAULT_METHODS,
    layers: Layers = DEFAULT_LAYERS,
    target: Targets = None,
    option: Options = None,
    smooth: Smooth = None,
    top: Top = 5,
    out: Out = Path("pellucid-out"),
    device: Device = None,
    max_batch: MaxBatch = 16,
    as_json: AsJson = False,
) -> None:
    """Explain pictures: predictions, an overlay per method and layer, and one HTML page each."""
    from pellucid.data import find_pictures

    classifier = _load(model, weights, device)
    chosen = _methods(methods, option or [], smooth, max_batch)
    names = [name.strip() for name in layers.split(",") if name.strip()]
    files = find_pictures(images)
    _explain_files(classifier, files, chosen, names, _targets(classifier, target), top, out, max_batch, as_json)


@app.command()
def layers(
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    clean: Clean = False,
    as_json: AsJson = False,
) -> None:
    """List the layers at which a classifier can be explained."""
    classifier = _load(model, weights, None)
    aliases = {classifier.resolve(alias): alias for alias in ("middle", "final")}
    infos = [info for info in classifier.layers() if info.clean or not clean]
    if as_json:
        _print_json(
            [
                {"name": i.name, "kind": i.kind, "shape": list(i.shape), "clean": i.clean, "alias": aliases.get(i.name)}
                for i in infos
            ]
        )
        return
    table = Table("layer", "kind", "channels x rows x columns", "clean cut", "alias")
    for info in infos:
        shape = " x ".join(map(str, info.shape))
        table.add_row(info.name, info.kind, shape, "yes" if info.clean else "", aliases.get(info.name, ""))
    screen.print(table)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the classifiers that can be loaded by name."""
    from pellucid.classifiers import available

    entries = available()
    if as_json:
        _print_json([vars(entry) for entry in entries])
        return
    table = Table("name", "from", "extra", "installed")
    for entry in entries:
        table.add_row(entry.name, entry.source, entry.needs, "yes" if entry.installed else "no")
    screen.print(table)


@app.command()
def demo(
    out: Out = Path("pellucid-demo"),
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Explain three photographs with a real ImageNet classifier; nothing is downloaded."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingExtraError("scikit-image", "demo", "the demo")
    folder = Path(spec.origin).parent / "data"
    classifier = _load(DEFAULT_MODEL, None, device)
    chosen = _methods(DEFAULT_METHODS, [], None, 16)
    files = [folder / name for name in DEMO_PICTURES]
    _explain_files(classifier, files, chosen, DEFAULT_LAYERS.split(","), None, 5, out, 16, as_json)


def _load(model: str, weights: str | None, device: str | None) -> "Classifier":
    from pellucid.classifiers import load

    if "" not in sys.path:  # so that `mynet:build` beside the user is found
        sys.path.insert(0, "")
    return load(model, weights=weights, device=device)


def _methods(names: str, options: Sequence[str], smooth: int | None, max_batch: int) -> "list[Method]":
    from pellucid.attribution import METHODS, Smoothed, make_methods

    wanted = list(METHODS) if names.strip().lower() == "all" else [name for name in names.split(",") if name.strip()]
    made = make_methods([name.strip() for name in wanted], options, METHODS, max_batch=max_batch)
    return made if smooth is None else [Smoothed(method=method, kernel_size=smooth) for method in made]


def _targets(classifier: "Classifier", texts: Sequence[str] | None) -> list[int] | None:
    if not texts:
        return None
    return [classifier.class_index(int(text) if text.isdecimal() else text) for text in texts]


def _explain_files(
    classifier: "Classifier",
    files: Sequence[Path],
    methods: "Sequence[Method]",
    layers: Sequence[str],
    target: Any,
    top: int,
    out: Path,
    max_batch: int,
    as_json: bool,
) -> None:
    from pellucid.reports.local import explain_picture, write_report

    names = [classifier.resolve(layer) for layer in layers]
    done, skipped = [], []
    with _progress(as_json) as progress:
        task = progress.add_task("", total=len(files) * len(dict.fromkeys(names)) * len(methods))
        for file, folder in zip(files, _folders(files, out), strict=True):

            def show(layer: str, method: str, file: Path = file) -> None:
                progress.update(task, advance=1, description=f"{file.name}: {method} at {layer}")

            try:
                report = explain_picture(
                    classifier, file, methods, names, target, top=top, max_batch=max_batch, on_map=show
                )
            except PictureError as error:
                if len(files) == 1:
                    raise
                skipped.append({"file": str(file), "reason": str(error)})
                messages.print(f"skipped: {error}", style="yellow", highlight=False, markup=False)
                continue
            written = write_report(report, folder)
            done.append(_summary(report, written))
            if not as_json:
                progress.console.print(_predictions(report, written[0]))
    if as_json:
        _print_json({"pictures": done, "skipped": skipped})
    if not done:
        raise PellucidError(f"none of the {len(files)} pictures could be read")
    if skipped:
        messages.print(f"{len(skipped)} of {len(files)} pictures were skipped (named above)", style="yellow")


def _folders(files: Sequence[Path], out: Path) -> Iterator[Path]:
    """One folder per picture, named after it; equal names are told apart by a number."""
    taken: set[str] = set()
    for file in files:
        name, number = file.stem, 2
        while name in taken:
            name, number = f"{file.stem}-{number}", number + 1
        taken.add(name)
        yield out / name


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=messages if quiet else screen, transient=True) as progress:
        yield progress


def _predictions(report: "LocalReport", page: Path) -> Table:
    table = Table("class", "probability", title=report.path.name, title_justify="left", caption=f"page: {page}")
    for prediction in report.predictions:
        table.add_row(prediction.name, f"{prediction.probability:.1%}")
    return table


def _summary(report: "LocalReport", written: Sequence[Path]) -> dict[str, Any]:
    return {
        "file": str(report.path),
        "classifier": dict(report.classifier),
        "predictions": [vars(prediction) for prediction in report.predictions],
        "explanations": [
            {
                "method": timed.explanation.method,
                "layer": timed.explanation.layer,
                "targets": list(timed.explanation.targets[0]),
                "scores": timed.explanation.scores[0].tolist(),
                "gap": None if timed.explanation.gap is None else timed.explanation.gap.flatten().tolist(),
                "options": {key: _plain(value) for key, value in timed.explanation.options.items()},
                "notes": list(timed.explanation.notes[0]),
                "passes": vars(timed.explanation.passes),
                "seconds": round(timed.seconds, 4),
            }
            for timed in report.explanations
        ],
        "page": str(written[0]),
        "overlays": [str(path) for path in written[1:-1]],
        "maps": str(written[-1]),
    }


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str | bool | type(None)) else str(value)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def main() -> None:
    """Run the command line."""
    try:
        app(standalone_mode=True)
    except PellucidError as error:
        _fail(str(error))
    except (OSError, MemoryError) as error:
        _fail(f"{type(error).__name__}: {error}")
    except RuntimeError as error:
        if "memory" not in str(error).lower():
            raise
        _fail(f"too little memory ({str(error).splitlines()[0]}); lower --max-batch")


def _fail(message: str) -> None:
    messages.print(f"error: {' '.join(message.split())}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
