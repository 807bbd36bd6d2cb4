"""`pellucid explain` and `pellucid demo`."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pellucid.cli.common import (
    DEFAULT_LAYERS,
    DEFAULT_MODEL,
    AsJson,
    Device,
    Images,
    Layers,
    MaxBatch,
    MaxBytes,
    Methods,
    Model,
    Options,
    Out,
    Smooth,
    Targets,
    Top,
    Weights,
    chosen_methods,
    class_indices,
    load_classifier,
    messages,
    plain,
    print_json,
    progress_bar,
    split_names,
)
from pellucid.errors import MissingExtraError, PellucidError, PictureError

if TYPE_CHECKING:
    from pellucid.attribution import Method
    from pellucid.classifiers import Classifier
    from pellucid.reports.local import LocalReport

__all__ = ["demo", "explain"]

DEFAULT_METHODS = "GradCAM,IntegratedGradients,LRP"
DEMO_PICTURES = ("chelsea.png", "coffee.png", "rocket.jpg")


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
    max_bytes: MaxBytes = None,
    as_json: AsJson = False,
) -> None:
    """Explain pictures: predictions, an overlay per method and layer, and one HTML page each."""
    from pellucid.data import find_pictures

    classifier = load_classifier(model, weights, device)
    chosen = chosen_methods(methods, option or [], smooth, max_batch, max_bytes)
    names = split_names(layers)
    files = find_pictures(images)
    _explain_files(classifier, files, chosen, names, class_indices(classifier, target), top, out, as_json)


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
    classifier = load_classifier(DEFAULT_MODEL, None, device)
    chosen = chosen_methods(DEFAULT_METHODS, [])
    files = [folder / name for name in DEMO_PICTURES]
    _explain_files(classifier, files, chosen, DEFAULT_LAYERS.split(","), None, 5, out, as_json)


def _explain_files(
    classifier: "Classifier",
    files: Sequence[Path],
    methods: "Sequence[Method]",
    layers: Sequence[str],
    target: Any,
    top: int,
    out: Path,
    as_json: bool,
) -> None:
    from pellucid.reports.local import explain_picture, write_report

    distinct = {classifier.resolve(layer) for layer in layers}
    done, skipped = [], []
    with progress_bar(as_json) as progress:
        task = progress.add_task("", total=len(files) * len(distinct) * len(methods))
        for file, folder in zip(files, _folders(files, out), strict=True):

            def show(layer: str, method: str, file: Path = file) -> None:
                progress.update(task, advance=1, description=f"{file.name}: {method} at {layer}")

            try:
                report = explain_picture(classifier, file, methods, layers, target, top=top, on_map=show)
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
        print_json({"pictures": done, "skipped": skipped})
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
                "options": {key: plain(value) for key, value in timed.explanation.options.items()},
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
