"""`pellucid concepts`: fit CAVs, explain images and classes by them, TCAV."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pellucid.classifiers import Classifier
from pellucid.cli.parsing import AsJson, Images, Options, check_suffixes
from pellucid.cli.printing import (
    image_folders,
    note,
    print_files,
    print_json,
    print_line,
    progress_bar,
    show,
    warn_skipped,
)
from pellucid.concepts import CAV, ConceptWarning, cav_files, save_cavs, write_table
from pellucid.errors import PellucidError
from pellucid.reports import write_class_page, write_concept_page
from pellucid.reports.text import cav_texts, image_concept_texts, ranking_texts, tcav_texts
from pellucid.workflows import (
    ClassifierOptions,
    ConceptOptions,
    ExplainClassOptions,
    ExplainConceptsOptions,
    FitConceptsOptions,
    ImageConcepts,
    TCAVOptions,
    compare_cavs,
    concept_targets,
    describe_cavs,
    explain_class,
    explain_images_by_concepts,
    gather_cavs,
    load_classifier,
    readable_images,
    score_tcav,
)

_TABLES, _PAGES = (".json", ".parquet"), (".html", ".htm")


def fit(
    *,
    classifier: Options[ClassifierOptions] = ClassifierOptions(),
    options: Options[FitConceptsOptions] = FitConceptsOptions(),
    out: Path = Path("pellucid-cavs"),
    as_json: AsJson = False,
) -> None:
    """`pellucid concepts fit`.

    Args:
        classifier: the classifier.
        options: of the concepts and the fit.
        out: folder for the fitted CAVs, LAYER/CONCEPT.safetensors.
        as_json: print JSON for machines.
    """
    if options.concepts is not None and cav_files(options.concepts):
        raise PellucidError(f"{options.concepts} holds fitted CAVs; fit needs folders of images")
    model = load_classifier(classifier)
    cavs = gather(model, options, as_json, features=options.features)
    files = save_cavs([cav for at_layer in cavs.values() for cav in at_layer], out)
    if as_json:
        record = describe_cavs(model, cavs, cosines=compare_cavs(cavs))
        print_json({**record, "files": [str(file) for file in files]})
        return
    show(cav_texts(cavs))
    print_line(f"{len(files)} CAVs: {out}")


def explain(
    *images: Images,
    classifier: Options[ClassifierOptions] = ClassifierOptions(),
    options: Options[ExplainConceptsOptions] = ExplainConceptsOptions(),
    out: list[Path] | None = None,
    as_json: AsJson = False,
) -> None:
    """`pellucid concepts explain`.

    Args:
        images: image files, or folders of them.
        classifier: the classifier.
        options: of the concepts and the explanation.
        out: what to write: x.html, x.json, x.parquet, or a folder with all; repeat for several. None for pellucid-out.
        as_json: print JSON for machines.
    """
    files, skipped = readable_images(images, warn_skipped)
    outputs = _check_outputs(out or [Path("pellucid-out")], several_pages=len(files) > 1)
    model = load_classifier(classifier)
    cavs = gather(model, options, as_json, options.target)
    with progress_bar(as_json) as progress:
        task = progress.add_task("", total=len(files))
        report = explain_images_by_concepts(
            model,
            files,
            options,
            cavs=cavs,
            on_image=lambda file: progress.update(task, advance=1, description=f"concepts in {file.name}"),
        )
    record = report.to_dict(skipped=skipped)
    written = _write(outputs, record, lambda output: write_pages(report.images, output))
    if as_json:
        print_json(record | {"files": [str(file) for file in written]})
        return
    for image in report.images:
        show(image_concept_texts(image))
    print_files(written)


def rank(
    *images: Images,
    classifier: Options[ClassifierOptions] = ClassifierOptions(),
    options: Options[ExplainClassOptions] = ExplainClassOptions(),
    out: list[Path] | None = None,
    as_json: AsJson = False,
) -> None:
    """`pellucid concepts rank`.

    Args:
        images: image files, or folders of them.
        classifier: the classifier.
        options: of the concepts and the explanation.
        out: what to write: x.html, x.json, x.parquet, or a folder with all; repeat for several. None for
            pellucid-out/class.
        as_json: print JSON for machines.
    """
    if not options.target:
        raise PellucidError("no class given: --target CLASS, by name or index")
    files, skipped = readable_images(images, warn_skipped)
    outputs = _check_outputs(out or [Path("pellucid-out") / "class"])
    model = load_classifier(classifier)
    cavs = gather(model, options, as_json, options.target)
    with progress_bar(as_json) as progress:
        task = progress.add_task(f"{', '.join(options.target)} in {len(files)} images", total=len(files))
        result = explain_class(
            model, files, options, cavs=cavs, on_images=lambda number: progress.update(task, advance=number)
        )
    record = result.to_dict(skipped=skipped)

    def write_page(output: Path) -> list[Path]:
        file = output if output.suffix else output / "concepts.html"
        write_class_page(file, result)
        return [file]

    written = _write(outputs, record, write_page)
    if as_json:
        print_json(record | {"files": [str(file) for file in written]})
        return
    show(ranking_texts(result))
    print_files(written)


def tcav(
    *images: Images,
    classifier: Options[ClassifierOptions] = ClassifierOptions(),
    options: Options[TCAVOptions],
    out: list[Path] | None = None,
    as_json: AsJson = False,
) -> None:
    """`pellucid concepts tcav`.

    Args:
        images: image files, or folders of them.
        classifier: the classifier.
        options: of the concepts and the test.
        out: tables to write: x.json or x.parquet; repeat for several.
        as_json: print JSON for machines.
    """
    files, skipped = readable_images(images, warn_skipped)
    outputs = check_suffixes(out, _TABLES, "TCAV has tables only; give a file .json or .parquet")
    model = load_classifier(classifier)
    cavs = gather(model, options, as_json, (options.target,), features=options.features)
    with progress_bar(as_json) as progress:
        task = progress.add_task(f"{options.target} in {len(files)} images", total=len(cavs))
        scores = score_tcav(model, files, options, cavs=cavs, on_layer=lambda: progress.update(task, advance=1))
    record = scores.to_dict(skipped=skipped)
    written = _write(outputs, record, lambda output: [])
    if as_json:
        print_json(record | {"files": [str(file) for file in written]})
        return
    show(tcav_texts(scores))
    print_files(written)


def gather(
    classifier: Classifier, options: ConceptOptions, quiet: bool, target: Sequence[str] = (), **more: Any
) -> dict[str, list[CAV]]:
    """The CAVs at each layer, read or fitted, with progress and remarks; unknown classes are refused before.

    Args:
        classifier: whose activations they are directions of.
        options: which concepts, at which layers.
        quiet: whether stdout is for machines.
        target: classes that will be explained.
        more: for `gather_cavs`.
    """
    concept_targets(classifier, target)
    with _remarks(), progress_bar(quiet) as progress:
        task = progress.add_task("", total=None)
        return gather_cavs(classifier, options, on_stage=lambda stage: progress.update(task, description=stage), **more)


@contextmanager
def _remarks() -> Iterator[None]:
    """Each remark on concepts as one line on stderr; of those on the cache the first, and how many there are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConceptWarning)
        try:
            yield
        finally:
            remarks = [str(warning.message) for warning in caught if issubclass(warning.category, ConceptWarning)]
    for warning in caught:
        if not issubclass(warning.category, ConceptWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    of_cache = [text for text in remarks if text.startswith("cache: ")]
    more = f" (and {len(of_cache) - 1} more like this)" if len(of_cache) > 1 else ""
    for text in [*(text + more for text in of_cache[:1]), *(text for text in remarks if text not in of_cache)]:
        note(text)


def _check_outputs(outputs: Sequence[Path], *, several_pages: bool = False) -> list[Path]:
    """The outputs to write to, refused before anything long is computed."""
    check_suffixes(outputs, ("", *_TABLES, *_PAGES), "expected a folder, or a file .html, .json or .parquet")
    for output in outputs:
        if several_pages and output.suffix in _PAGES:
            raise PellucidError(f"--out {output}: several images need a page each; give a folder")
    return list(outputs)


def _write(outputs: Sequence[Path], record: dict[str, Any], write_pages: Callable[[Path], list[Path]]) -> list[Path]:
    """Write tables and pages; a folder gets all of them.

    Args:
        outputs: files or folders.
        record: about and "rows".
        write_pages: writes the pages that belong to an output and returns their files.
    """
    written = []
    for output in outputs:
        if output.suffix not in _TABLES:
            written += write_pages(output)
        tables = [output] if output.suffix in _TABLES else []
        if not output.suffix:
            tables = [output / f"concepts{suffix}" for suffix in _TABLES]
        for table in tables:
            write_table(table, record["rows"], record["about"])
        written += tables
    return written


def write_pages(images: Sequence[ImageConcepts], output: Path) -> list[Path]:
    """Write a page per image: into the file, or into a folder per image."""
    folders = image_folders([image.path for image in images], output)
    files = [output] if output.suffix else [folder / "concepts.html" for folder in folders]
    for image, file in zip(images, files, strict=True):
        write_concept_page(file, image)
    return files
