"""`pellucid explain`."""

from collections.abc import Sequence
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
    image_folders,
    load_classifier,
    messages,
    print_json,
    progress_bar,
    screen,
    split_names,
)
from pellucid.cli.concepts_common import (
    Builtin,
    Cache,
    ConceptRequest,
    Concepts,
    cavs_by_layer,
)
from pellucid.cli.concepts_explain import (
    explainers,
    pages_of,
    print_report,
    report_rows,
)
from pellucid.errors import ImageError, PellucidError

if TYPE_CHECKING:
    from pellucid.attribution import Method
    from pellucid.classifiers import Classifier
    from pellucid.concepts import CAV, VisualTCAV
    from pellucid.workflows import ImageExplanation


DEFAULT_METHODS = "GradCAM,IntegratedGradients,LRP"


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
    concepts: Concepts = None,
    builtin: Builtin = "",
    cache: Cache = "",
    as_json: AsJson = False,
) -> None:
    """Explain images: predictions, an overlay per method and layer, and one HTML page each.

    With --concepts or --builtin also by concepts (Visual-TCAV), on a second page: fitted CAVs at their own layers,
    folders of images at the layers named here but the input. More options: `pellucid concepts explain`.
    """
    from pellucid.data import find_images

    classifier = load_classifier(model, weights, device)
    chosen = chosen_methods(methods, option or [], smooth, max_batch, max_bytes)
    names = split_names(layers)
    files = find_images(images)
    indices = class_indices(classifier, target)
    found = concepts_at(classifier, concepts, builtin, names, cache, max_batch, as_json)
    by_concepts = explainers(classifier, found, max_batch=max_batch, max_bytes=max_bytes)
    told = explain_files(classifier, files, chosen, names, indices, top, out, as_json, by_concepts)
    if as_json:
        print_json(told)
    if not told["images"]:
        raise PellucidError(f"none of the {len(files)} images could be read")
    if told["skipped"]:
        skipped = len(told["skipped"])
        messages.print(f"{skipped} of {len(files)} images were skipped (named above)", style="yellow")


def concepts_at(
    classifier: "Classifier",
    folder: Path | None,
    builtin: str,
    layers: Sequence[str],
    cache: str,
    max_batch: int,
    quiet: bool,
) -> "dict[str, list[CAV]]":
    """CAVs at each layer, none if none were asked for."""
    if folder is None and not builtin:
        return {}
    from pellucid.concepts.cav_store import cav_files

    fitted = folder is not None and bool(cav_files(folder))
    inner = [layer for layer in layers if classifier.resolve(layer) != "input"] or list(layers)
    wanted = ConceptRequest(
        concepts=folder, builtin=builtin, layers=None if fitted else ",".join(inner), cache=cache, max_batch=max_batch
    )
    return cavs_by_layer(classifier, wanted, quiet)


def explain_files(
    classifier: "Classifier",
    files: Sequence[Path],
    methods: "Sequence[Method]",
    layers: Sequence[str],
    target: Any,
    top: int,
    out: Path,
    as_json: bool,
    by_concepts: "Sequence[VisualTCAV]" = (),
) -> dict[str, Any]:
    """Explain images by maps, and by concepts where there are some: a folder for each, and what `--json` prints."""
    from pellucid.reports import write_image_report
    from pellucid.workflows import explain_image

    distinct = {classifier.resolve(layer) for layer in layers}
    done, skipped = [], []
    with progress_bar(as_json) as progress:
        task = progress.add_task("", total=len(files) * len(distinct) * len(methods))
        for file, folder in zip(files, image_folders(files, out), strict=True):

            def show(layer: str, method: str, file: Path = file) -> None:
                progress.update(task, advance=1, description=f"{file.name}: {method} at {layer}")

            try:
                report = explain_image(classifier, file, methods, layers, target, top=top, on_map=show)
            except ImageError as error:
                if len(files) == 1:
                    raise
                skipped.append({"file": str(file), "reason": str(error)})
                messages.print(f"skipped: {error}", style="yellow", highlight=False, markup=False)
                continue
            written = write_image_report(report, folder)
            done.append(_summary(report, written))
            if by_concepts:
                done[-1]["concepts"] = _explain_by_concepts(classifier, file, by_concepts, target, top, folder, as_json)
            if not as_json:
                progress.console.print(_predictions(report, written[0]))
    return {"images": done, "skipped": skipped}


def _explain_by_concepts(
    classifier: "Classifier",
    file: Path,
    by_concepts: "Sequence[VisualTCAV]",
    target: Any,
    top: int,
    folder: Path,
    quiet: bool,
) -> dict[str, Any]:
    """Write the concept page beside the other, and return its numbers."""
    from pellucid.workflows import explain_image_by_concepts

    found = explain_image_by_concepts(classifier, file, by_concepts, target, top=top)
    (page,) = pages_of([found], folder / "concepts.html")
    if not quiet:
        print_report(found)
        screen.print(f"page: {page}", highlight=False, markup=False, soft_wrap=True)
    return {"page": str(page), "rows": report_rows(found)}


def _predictions(report: "ImageExplanation", page: Path) -> Table:
    table = Table("class", "probability", title=report.path.name, title_justify="left", caption=f"page: {page}")
    for prediction in report.predictions:
        table.add_row(prediction.name, f"{prediction.probability:.1%}")
    return table


def _summary(report: "ImageExplanation", written: Sequence[Path]) -> dict[str, Any]:
    return {
        **report.to_dict(),
        "page": str(written[0]),
        "overlays": [str(path) for path in written[1:-1]],
        "maps": str(written[-1]),
    }
