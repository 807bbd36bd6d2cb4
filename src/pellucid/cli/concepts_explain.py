"""`pellucid concepts explain`: which concepts are in images, and how much they counted."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pellucid.cli.common import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Images,
    MaxBatch,
    MaxBytes,
    Model,
    Targets,
    Weights,
    image_folders,
    load_classifier,
    print_json,
    progress_bar,
    screen,
)
from pellucid.cli.concepts_common import (
    Builtin,
    Cache,
    ConceptLayers,
    ConceptRequest,
    Concepts,
    Count,
    EstimatorName,
    Negatives,
    Permutations,
    Seed,
    about,
    cavs_by_layer,
    check_baseline,
    concept_targets,
    readable_images,
)
from pellucid.errors import PellucidError

if TYPE_CHECKING:
    from pellucid.classifiers import Classifier
    from pellucid.concepts import CAV, ConceptExplanation, VisualTCAV
    from pellucid.workflows import ImageConcepts


PAGE_SUFFIXES = (".html", ".htm")

Outputs = Annotated[
    list[Path] | None,
    typer.Option("--out", help="What to write: x.html, x.json, x.parquet, or a folder with all; repeat for several."),
]
Baseline = Annotated[str, typer.Option(help="Where integrated gradients start: zero, or negatives for their mean.")]


def explain(
    images: Images,
    concepts: Concepts = None,
    builtin: Builtin = "",
    negatives: Negatives = None,
    layers: ConceptLayers = None,
    target: Targets = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    estimator: EstimatorName = "difference",
    baseline: Baseline = "zero",
    permutations: Permutations = 999,
    count: Count = None,
    seed: Seed = 0,
    out: Outputs = None,
    cache: Cache = "",
    device: Device = None,
    max_batch: MaxBatch = 16,
    max_bytes: MaxBytes = None,
    as_json: AsJson = False,
) -> None:
    """Explain images by concepts (Visual-TCAV): where they are seen, and how much they counted for each class.

    Classes are the three most likely ones unless --target names others.
    """
    check_baseline(baseline)
    files, skipped = readable_images(images)
    wanted_files = outputs(out, Path("pellucid-out"), several_pages=len(files) > 1)
    classifier = load_classifier(model, weights, device)
    targets = concept_targets(classifier, target)
    wanted = ConceptRequest(
        concepts=concepts, builtin=builtin, negatives=negatives, layers=layers, estimator=estimator,
        count=count, seed=seed, cache=cache, max_batch=max_batch,
    )  # fmt: skip
    found = cavs_by_layer(classifier, wanted, as_json)
    made = explainers(
        classifier,
        found,
        baseline=baseline,
        permutations=permutations,
        seed=seed,
        max_batch=max_batch,
        max_bytes=max_bytes,
    )
    reports = _explained(classifier, files, made, targets, as_json)
    whole = local_result(classifier, found, reports, skipped)
    written = write_outputs(wanted_files, whole, lambda place: pages_of(reports, place))
    if as_json:
        print_json(whole | {"files": [str(file) for file in written]})
    else:
        for report in reports:
            print_report(report)
        print_files(written)


def explainers(classifier: "Classifier", found: "dict[str, list[CAV]]", **options: Any) -> "list[VisualTCAV]":
    """Visual-TCAV at each layer."""
    from pellucid.concepts import VisualTCAV

    return [VisualTCAV(classifier.at(layer), cavs, **options) for layer, cavs in found.items()]


def _explained(
    classifier: "Classifier", files: Sequence[Path], made: "Sequence[VisualTCAV]", targets: Any, quiet: bool
) -> "list[ImageConcepts]":
    """A report on each image."""
    from pellucid.workflows import explain_image_by_concepts

    reports = []
    with progress_bar(quiet) as progress:
        task = progress.add_task("", total=len(files))
        for file in files:
            progress.update(task, description=f"concepts in {file.name}")
            reports.append(explain_image_by_concepts(classifier, file, made, targets))
            progress.update(task, advance=1)
    return reports


def local_result(
    classifier: "Classifier",
    found: "dict[str, list[CAV]]",
    reports: "Sequence[ImageConcepts]",
    skipped: Sequence[dict[str, str]],
) -> dict[str, Any]:
    """All numbers of local reports: what made them, and tidy rows."""
    from pellucid.concepts.concept_table import cav_rows, plain

    options = reports[0].explanations[0].options
    told = about(classifier, found, options=options, skipped=skipped, images=[_image(each) for each in reports])
    rows = [row for cavs in found.values() for row in cav_rows(cavs)]
    for report in reports:
        rows += report_rows(report)
    result: dict[str, Any] = plain({"about": told, "rows": rows})
    return result


def report_rows(report: "ImageConcepts") -> list[dict[str, Any]]:
    """The tidy rows of one image, plainly typed."""
    from pellucid.concepts.concept_table import local_rows, plain

    rows: list[dict[str, Any]] = plain(list(local_rows(report.explanations, [str(report.path)])))
    return rows


def _image(report: "ImageConcepts") -> dict[str, object]:
    return {
        "file": str(report.path),
        "predictions": [vars(prediction) for prediction in report.predictions],
        "notes": list(dict.fromkeys(note for found in report.explanations for note in found.notes)),
        "passes": {found.layer: vars(found.passes) for found in report.explanations},
    }


def outputs(out: Sequence[Path] | None, default: Path, *, several_pages: bool = False) -> list[Path]:
    """The places to write to, refused before anything long is computed."""
    from pellucid.concepts.concept_table import TABLE_SUFFIXES

    places = list(out) if out else [default]
    for place in places:
        if place.suffix and place.suffix not in (*TABLE_SUFFIXES, *PAGE_SUFFIXES):
            raise PellucidError(f"--out {place}: wanted a folder, or a file .html, .json or .parquet")
        if several_pages and place.suffix in PAGE_SUFFIXES:
            raise PellucidError(f"--out {place}: several images need a page each; give a folder")
    return places


def write_outputs(places: Sequence[Path], whole: dict[str, Any], pages: Any) -> list[Path]:
    """Write tables and pages; a folder gets all of them.

    Args:
        places: files or folders.
        whole: "about" and "rows".
        pages: given a place, writes the pages that belong there and returns their files.
    """
    from pellucid.concepts.concept_table import TABLE_SUFFIXES, write_table

    written = []
    for place in places:
        if place.suffix not in TABLE_SUFFIXES:
            written += pages(place)
        tables = [place] if place.suffix in TABLE_SUFFIXES else []
        if not place.suffix:
            tables = [place / f"concepts{suffix}" for suffix in TABLE_SUFFIXES]
        for table in tables:
            write_table(table, whole["rows"], whole["about"])
        written += tables
    return written


def pages_of(reports: "Sequence[ImageConcepts]", place: Path) -> list[Path]:
    """Write a page per image: into the file, or into a folder per image."""
    from pellucid.reports import write_concept_page

    folders = image_folders([report.path for report in reports], place)
    files = [place] if place.suffix else [folder / "concepts.html" for folder in folders]
    for report, file in zip(reports, files, strict=True):
        write_concept_page(file, report)
    return files


def print_report(report: "ImageConcepts") -> None:
    """A table per class: concepts by layers."""
    from pellucid.concepts import adjust_over_layers

    tested = all(found.nulls is not None for found in report.explanations)
    adjusted = adjust_over_layers(report.explanations) if tested else None
    for t, target in enumerate(report.explanations[0].targets[0]):
        table = Table(
            "concept",
            *(escape(report.layers[found.layer]) for found in report.explanations),
            title=escape(f"{report.path.name}: evidence for {target}, in logits"),
            title_justify="left",
            caption="[95 %] over resampled concept images; * significant; (reference score)",
            caption_justify="left",
        )
        names = dict.fromkeys(name for found in report.explanations for name in found.concepts)
        for name in names:
            cells = [
                _cell(found, name, t, None if adjusted is None else adjusted[i])
                for i, found in enumerate(report.explanations)
            ]
            table.add_row(escape(name), *cells)
        screen.print(table)


def _cell(found: "ConceptExplanation", name: str, t: int, adjusted: Any) -> str:
    from pellucid.concepts import Status

    if name not in found.concepts:
        return ""
    d = found.concepts.index(name)
    status, interval = found.signed_status[0, d, t], found.interval()
    if status not in (Status.OK, Status.CAV_WEAK, Status.NOT_CONVERGED):
        return str(status)
    star = "*" if adjusted is not None and float(adjusted[0, d, t]) < 0.05 else ""
    doubt = "" if status is Status.OK else f" {status}"
    low, high = (float("nan"), float("nan")) if interval is None else interval[:, 0, d, t].tolist()
    score = float(found.reference[0, d, t])
    return escape(f"{float(found.signed[0, d, t]):+.3f}{star} [{low:+.3f}, {high:+.3f}] ({score:.3f}){doubt}")


def print_files(written: Sequence[Path]) -> None:
    """Where the results are."""
    for file in written:
        screen.print(f"wrote {file}", highlight=False, markup=False, soft_wrap=True)
