"""`pellucid explain`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pellucid.classifiers import Classifier
from pellucid.cli.concepts_commands import gather, write_pages
from pellucid.cli.parsing import AsJson, Images, Options
from pellucid.cli.printing import image_folders, print_json, print_line, progress_bar, show, warn
from pellucid.concepts import CAV, VisualTCAV, cav_files
from pellucid.data import find_images
from pellucid.errors import ImageError, PellucidError
from pellucid.reports import write_image_report
from pellucid.reports.text import image_concept_texts, make_table
from pellucid.workflows import (
    ClassifierOptions,
    ConceptOptions,
    ExplainConceptsOptions,
    ExplainOptions,
    ImageExplanation,
    class_indices,
    explain_image_by_concepts,
    explain_images,
    load_classifier,
    make_explainers,
    select_methods,
)


def explain(
    *images: Images,
    classifier: Options[ClassifierOptions] = ClassifierOptions(),
    options: Options[ExplainOptions] = ExplainOptions(),
    concepts: Path | None = None,
    builtin: tuple[str, ...] = (),
    cache: str = "",
    out: Path = Path("pellucid-out"),
    as_json: AsJson = False,
) -> None:
    """`pellucid explain`.

    Args:
        images: image files, or folders of them.
        classifier: the classifier.
        options: methods, layers and targets.
        concepts: folder with a folder of images per concept (and one named "negatives"), or with fitted CAVs.
        builtin: concepts to draw (see `pellucid concepts list`); "textures" for all textures.
        cache: folder that keeps CAVs by content; "none" for none; empty for the user's cache folder.
        out: folder to write into, one folder per image.
        as_json: print JSON for machines.
    """
    model = load_classifier(classifier)
    files = find_images(images)
    sources = ConceptOptions(concepts=concepts, builtin=builtin, cache=cache, max_batch=options.max_batch)
    record = explain_files(model, files, options, out, as_json, gather_at(model, sources, options.layers, as_json))
    if as_json:
        print_json(record)
    if not record["images"]:
        raise PellucidError(f"none of the {len(files)} images could be read")
    if record["skipped"]:
        warn(f"{len(record['skipped'])} of {len(files)} images were skipped (named above)")


def gather_at(
    classifier: Classifier, options: ConceptOptions, layers: Sequence[str], quiet: bool
) -> dict[str, list[CAV]]:
    """Fitted CAVs at their own layers, folders and drawings at those named but the input; none if none are named.

    Args:
        classifier: whose activations they are directions of.
        options: which concepts.
        layers: that are explained.
        quiet: whether stdout is for machines.
    """

    if options.concepts is None and not options.builtin:
        return {}
    if options.concepts is not None and cav_files(options.concepts):
        return gather(classifier, options, quiet)
    inner = tuple(layer for layer in layers if classifier.resolve(layer) != "input") or tuple(layers)
    return gather(classifier, replace(options, layers=inner), quiet)


def explain_files(
    classifier: Classifier,
    files: Sequence[Path],
    options: ExplainOptions,
    out: Path,
    quiet: bool,
    cavs: Mapping[str, Sequence[CAV]],
) -> dict[str, Any]:
    """Explain images by maps, and by concepts where there are some: write a folder for each, and print.

    Args:
        classifier: the classifier.
        files: the images.
        options: methods, layers and targets.
        out: the folder of the folders.
        quiet: do not print.
        cavs: layer -> the concepts there; may be empty.

    Returns:
        What `--json` prints.
    """
    methods = select_methods(
        options.methods,
        options.option,
        smooth=options.smooth,
        max_batch=options.max_batch,
        max_bytes=options.max_bytes,
    )
    explainers = make_explainers(
        classifier, cavs, ExplainConceptsOptions(max_batch=options.max_batch, max_bytes=options.max_bytes)
    )
    folders = dict(zip(files, image_folders(files, out), strict=True))
    done: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []

    def skip(file: Path, error: ImageError) -> None:
        if len(files) == 1:
            raise error
        skipped.append({"file": str(file), "reason": str(error)})
        warn(f"skipped: {error}")

    distinct = {classifier.resolve(layer) for layer in options.layers}
    with progress_bar(quiet) as progress:
        task = progress.add_task("", total=len(files) * len(distinct) * len(methods))

        def advance(file: Path, layer: str, method: str) -> None:
            progress.update(task, advance=1, description=f"{file.name}: {method} at {layer}")

        for image in explain_images(classifier, files, options, methods=methods, on_map=advance, on_failure=skip):
            folder = folders[image.path]
            page, *overlays, maps = write_image_report(image, folder)
            record = image.to_dict() | {
                "page": str(page),
                "overlays": [str(file) for file in overlays],
                "maps": str(maps),
            }
            if explainers:
                record["concepts"] = _explain_by_concepts(classifier, image, explainers, options, folder, quiet)
            done.append(record)
            if not quiet:
                predictions = [(each.name, f"{each.probability:.1%}") for each in image.predictions]
                show([make_table(("class", "probability"), predictions, image.path.name)])
                print_line(f"page: {page}")
    return {"images": done, "skipped": skipped}


def _explain_by_concepts(
    classifier: Classifier,
    image: ImageExplanation,
    explainers: Sequence[VisualTCAV],
    options: ExplainOptions,
    folder: Path,
    quiet: bool,
) -> dict[str, Any]:
    """Write the concept page beside the other, and return its numbers."""
    targets = class_indices(classifier, options.target)
    result = explain_image_by_concepts(classifier, image.path, explainers, targets, top=options.top)
    (page,) = write_pages([result], folder / "concepts.html")
    if not quiet:
        show(image_concept_texts(result))
        print_line(f"page: {page}")
    return {"page": str(page), "rows": result.rows()}
