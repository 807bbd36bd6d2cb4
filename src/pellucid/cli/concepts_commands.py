"""`pellucid concepts`: fit and list CAVs, explain images and classes by them, TCAV."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from pellucid.classifiers import Classifier
from pellucid.cli.parsing import AsJson, Images, Options, check_suffixes
from pellucid.cli.printing import (
    note,
    noted_stage,
    print_json,
    print_line,
    print_result,
    progress_bar,
    show,
    warn_skipped,
)
from pellucid.concepts import CAV, cav_files, save_cavs
from pellucid.errors import PellucidError
from pellucid.reports import write_concept_files
from pellucid.reports.text import cav_texts, image_concept_texts, make_table, ranking_texts, tcav_texts
from pellucid.synthetic import COLORS, NEGATIVES, TEXTURES
from pellucid.workflows import (
    ClassifierOptions,
    ConceptOptions,
    ExplainClassOptions,
    ExplainConceptsOptions,
    FitConceptsOptions,
    TCAVOptions,
    compare_cavs,
    describe_cavs,
    explain_class,
    explain_images_by_concepts,
    gather_cavs,
    load_classifier,
    read_cav_folder,
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
    cavs = _gather(model, options, as_json)
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
    cavs = _gather(model, options, as_json)
    with progress_bar(as_json) as progress:
        task = progress.add_task("", total=len(files))
        report = explain_images_by_concepts(
            model,
            files,
            options,
            cavs=cavs,
            on_image=lambda file: progress.update(task, advance=1, description=f"concepts in {file.name}"),
        )
    record = write_concept_files(report, outputs, skipped=skipped)
    print_result(record, chain.from_iterable(map(image_concept_texts, report.images)), as_json)


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
    cavs = _gather(model, options, as_json)
    with progress_bar(as_json) as progress:
        task = progress.add_task(f"{', '.join(options.target)} in {len(files)} images", total=len(files))
        result = explain_class(
            model, files, options, cavs=cavs, on_images=lambda number: progress.update(task, advance=number)
        )
    print_result(write_concept_files(result, outputs, skipped=skipped), ranking_texts(result), as_json)


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
    cavs = _gather(model, options, as_json)
    with progress_bar(as_json) as progress:
        task = progress.add_task(f"{options.target} in {len(files)} images", total=len(cavs))
        scores = score_tcav(model, files, options, cavs=cavs, on_layer=lambda: progress.update(task, advance=1))
    print_result(write_concept_files(scores, outputs, skipped=skipped), tcav_texts(scores), as_json)


def list_concepts(folder: Path | None = None, /, *, as_json: AsJson = False) -> None:
    """`pellucid concepts list`.

    Args:
        folder: folder of fitted CAVs; without it the concepts that can be drawn.
        as_json: print JSON for machines.
    """
    if folder is None:
        if as_json:
            print_json({"textures": list(TEXTURES), "colors": list(COLORS), "negatives": NEGATIVES})
            return
        rows = (("textures", ", ".join(TEXTURES)), ("colors", ", ".join(COLORS)))
        show([make_table(("kind", "names for --builtin"), rows)])
        return
    fitted = read_cav_folder(folder)
    if as_json:
        print_json(fitted.to_dict())
    else:
        show(cav_texts(fitted.by_layer()))
    for name, reason in fitted.damaged.items():
        note(f"{name}: {reason}")
    if not fitted.cavs:
        raise PellucidError(f"none of the {len(fitted.damaged)} files in {folder} can be read")


def _check_outputs(outputs: Sequence[Path], *, several_pages: bool = False) -> list[Path]:
    """The outputs to write to, refused before anything long is computed."""
    check_suffixes(outputs, ("", *_TABLES, *_PAGES), "expected a folder, or a file .html, .json or .parquet")
    for output in outputs:
        if several_pages and output.suffix in _PAGES:
            raise PellucidError(f"--out {output}: several images need a page each; give a folder")
    return list(outputs)


def _gather(model: Classifier, options: ConceptOptions, quiet: bool) -> dict[str, list[CAV]]:
    with noted_stage(quiet) as on_stage:
        return gather_cavs(model, options, on_stage=on_stage)
