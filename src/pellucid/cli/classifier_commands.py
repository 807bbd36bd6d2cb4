"""`pellucid explain`, `evaluate`, `report`, `layers`, `classes`, `models`: classifiers and maps of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pellucid.classifiers import Classifier, available
from pellucid.cli.parsing import AsJson, Images, Options, options_named
from pellucid.cli.printing import (
    noted_stage,
    print_json,
    print_line,
    progress_bar,
    resumable,
    show,
    warn,
)
from pellucid.concepts import CAV
from pellucid.data import find_images
from pellucid.errors import ImageError, PellucidError
from pellucid.evaluation import Run, SweepOptions
from pellucid.evaluation.sweep import SweepProgress
from pellucid.reports import image_folders, write_evaluation, write_image_files
from pellucid.reports.text import image_concept_texts, make_table, run_texts
from pellucid.workflows import (
    ClassifierOptions,
    ConceptSourceOptions,
    EvaluateOptions,
    ExplainOptions,
    check_scored,
    describe_run,
    explain_images,
    gather_cavs_for_maps,
    load_classifier,
    make_map_methods,
    name_losses,
)
from pellucid.workflows import evaluate as evaluate_models

_SWEEP = options_named(kernel_sizes="smooth", keep_maps="maps", output="explained", shard_size="shard")


def explain(
    *images: Images,
    classifier: Options[ClassifierOptions] = ClassifierOptions(),
    options: Options[ExplainOptions] = ExplainOptions(),
    concepts: Options[ConceptSourceOptions] = ConceptSourceOptions(),
    out: Path = Path("pellucid-out"),
    as_json: AsJson = False,
) -> None:
    """`pellucid explain`.

    Args:
        images: image files, or folders of them.
        classifier: the classifier.
        options: methods, layers and targets.
        concepts: to explain the images by, too.
        out: folder to write into, one folder per image.
        as_json: print JSON for machines.
    """
    model = load_classifier(classifier)
    files = find_images(images)
    cavs = {}
    if concepts.are_named:
        with noted_stage(as_json) as on_stage:
            cavs = gather_cavs_for_maps(model, concepts, options, on_stage=on_stage)
    record = explain_files(model, files, options, out, as_json, cavs)
    if as_json:
        print_json(record)
    if not record["images"]:
        raise PellucidError(f"none of the {len(files)} images could be read")
    if record["skipped"]:
        warn(f"{len(record['skipped'])} of {len(files)} images were skipped (named above)")


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
    record: dict[str, Any] = {"images": [], "skipped": []}

    def skip(file: Path, error: ImageError) -> None:
        record["skipped"].append({"file": str(file), "reason": str(error)})
        warn(f"skipped: {error}")

    methods = make_map_methods(options)
    folders = dict(zip(files, image_folders(files, out), strict=True))
    maps = len(files) * len({classifier.resolve(layer) for layer in options.layers}) * len(methods)
    with progress_bar(quiet) as progress:
        task = progress.add_task("", total=maps)
        for image in explain_images(
            classifier,
            files,
            options,
            methods=methods,
            cavs=cavs,
            on_map=lambda file, layer, method: progress.update(
                task, advance=1, description=f"{file.name}: {method} at {layer}"
            ),
            on_failure=skip if len(files) > 1 else None,
        ):
            written = write_image_files(image, folders[image.path])
            record["images"].append(written)
            if quiet:
                continue
            if image.concepts is not None:
                show(image_concept_texts(image.concepts))
                print_line(f"page: {written['concepts']['page']}")
            predictions = [(each.name, f"{each.probability:.1%}") for each in image.predictions]
            show([make_table(("class", "probability"), predictions, image.path.name)])
            print_line(f"page: {written['page']}")
    return record


def evaluate(
    data: str,
    /,
    *,
    out: Path,
    options: Options[EvaluateOptions] = EvaluateOptions(),
    sweep: Annotated[SweepOptions, _SWEEP] = SweepOptions(),
    report: bool = True,
    as_json: AsJson = False,
) -> None:
    """`pellucid evaluate`.

    Args:
        data: folder with one folder of images per class, or a CSV or TSV list of them.
        out: folder of the run; give it again to continue a run that was stopped.
        options: models and methods.
        sweep: grids, layers and controls.
        report: whether to write report.html at the end.
        as_json: print JSON for machines.
    """
    stopped = (
        f"stopped; what is finished is in {out}: give the same command again to continue, or see it with "
        f"pellucid report {out}"
    )
    with resumable(lambda: stopped), sweep_progress(as_json) as on_progress:
        run = evaluate_models(data, out, options, sweep, on_progress=on_progress)
    page = write_evaluation(run) if report else None
    if as_json:
        print_json(describe_run(run, page))
    else:
        show(run_texts(run, page))
    for text in name_losses(run):
        warn(text)
    check_scored(run)


def report(run: Path, /, *, out: Path | None = None, as_json: AsJson = False) -> None:
    """`pellucid report`.

    Args:
        run: folder of a run, finished or not.
        out: the page; none for report.html in the folder of the run.
        as_json: print JSON for machines.
    """
    finished = Run(run)
    page = write_evaluation(finished, out)
    if as_json:
        print_json(describe_run(finished, page))
    else:
        print_line(f"report: {page}")


@contextmanager
def sweep_progress(quiet: bool) -> Iterator[Callable[[SweepProgress], None]]:
    """A progress bar for each stage; each thing that cannot be explained is named once."""
    with progress_bar(quiet) as bar:
        tasks: dict[str, Any] = {}
        known: set[str] = set()

        def advance(progress: SweepProgress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=progress.total)
            bar.update(tasks[progress.stage], completed=progress.done)
            for problem in progress.problems:
                if problem not in known:
                    known.add(problem)
                    warn(f"not explained: {problem}")

        yield advance


def layers(
    *,
    classifier: Options[ClassifierOptions] = ClassifierOptions(),
    clean: bool = False,
    as_json: AsJson = False,
) -> None:
    """`pellucid layers`.

    Args:
        classifier: the classifier.
        clean: only clean cuts.
        as_json: print JSON for machines.
    """
    model = load_classifier(classifier)
    aliases = {model.resolve(alias): alias for alias in ("middle", "final")}
    infos = [info for info in model.layers() if info.clean or not clean]
    if as_json:
        keys = ("name", "kind", "shape", "clean")
        print_json([{key: getattr(i, key) for key in keys} | {"alias": aliases.get(i.name)} for i in infos])
        return
    rows = [
        (i.name, i.kind, " x ".join(map(str, i.shape)), "yes" if i.clean else "", aliases.get(i.name, ""))
        for i in infos
    ]
    show([make_table(("layer", "kind", "channels x rows x columns", "clean cut", "alias"), rows)])


def classes(
    text: str = "",
    /,
    *,
    classifier: Options[ClassifierOptions] = ClassifierOptions(),
    as_json: AsJson = False,
) -> None:
    """`pellucid classes`.

    Args:
        text: part of a name; without it every class is listed.
        classifier: the classifier.
        as_json: print JSON for machines.
    """
    model = load_classifier(classifier)
    matching = [(index, name) for index, name in enumerate(model.class_names) if text.casefold() in name.casefold()]
    if not matching:
        raise PellucidError(f"none of the {model.num_classes} classes of {model.name} has {text!r} in its name")
    if as_json:
        print_json([{"index": index, "name": name} for index, name in matching])
        return
    for index, name in matching:
        print_line(f"{index}  {name}")


def models(*, as_json: AsJson = False) -> None:
    """`pellucid models`.

    Args:
        as_json: print JSON for machines.
    """
    entries = available()
    if as_json:
        print_json([vars(entry) for entry in entries])
        return
    rows = [(entry.name, entry.source, entry.needs, "yes" if entry.installed else "no") for entry in entries]
    show([make_table(("name", "from", "extra", "installed"), rows)])
