"""`pellucid surrogate`: train and resume, graph, explain, evaluate."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pellucid.cli.parsing import AsJson, Images, Options, check_suffixes, options_named
from pellucid.cli.printing import (
    image_folders,
    messages,
    note,
    print_files,
    print_json,
    print_line,
    progress_bar,
    resumable,
    show,
    stage_bars,
    warn_skipped,
)
from pellucid.reports.surrogate import traversal_png, write_surrogate_page
from pellucid.reports.text import assessment_texts, explained_image_texts, global_explanation_texts
from pellucid.storage import to_json, to_record, write_atomically, write_json
from pellucid.surrogate import SurrogateExplainer
from pellucid.surrogate.training import TrainingProgress, print_progress
from pellucid.workflows import (
    TRAIN_COMMAND,
    AssessOptions,
    DiscoverOptions,
    ExplainedImage,
    ExplainSurrogateOptions,
    RunClassifierOptions,
    RunOptions,
    SurrogateFacts,
    TrainSurrogateOptions,
    assess_surrogate,
    describe_surrogate,
    discover_graph,
    explain_images_by_surrogate,
    open_any_surrogate,
    readable_images,
    resume_surrogate,
    train_surrogate,
)


def train(
    options: Options[TrainSurrogateOptions],
    *,
    out: Path,
    device: str | None = None,
    as_json: AsJson = False,
) -> None:
    """`pellucid surrogate train`.

    Args:
        options: of the data, the classifier and the training.
        out: folder of the run.
        device: where to run, such as cpu or cuda.
        as_json: print JSON for machines.
    """
    with resumable(lambda: _how_to_resume(out)), _training_progress() as on_progress, stage_bars(as_json) as on_stage:
        explainer = train_surrogate(
            out, options, device=device, on_progress=on_progress, on_stage=on_stage, on_note=note
        )
    _report(explainer, out, as_json)


def resume(run: Path, /, *, device: str | None = None, as_json: AsJson = False) -> None:
    """`pellucid surrogate resume`.

    Args:
        run: folder of a training.
        device: where to run, such as cpu or cuda.
        as_json: print JSON for machines.
    """
    with resumable(lambda: _how_to_resume(run)), _training_progress() as on_progress, stage_bars(as_json) as on_stage:
        explainer = resume_surrogate(run, device=device, on_progress=on_progress, on_stage=on_stage, on_note=note)
    _report(explainer, run, as_json)


def _report(explainer: SurrogateExplainer | None, out: Path, as_json: bool) -> None:
    if explainer is None or explainer.assessment is None:  # another than the first of several processes
        return
    if as_json:
        print_json({"run": str(out), "steps": explainer.surrogate.steps, "assessment": explainer.assessment})
        return
    show(assessment_texts(explainer.assessment))
    print_line(f"surrogate: {out}")
    print_line(f"next: pellucid surrogate graph {out} --out graph.html")


def _how_to_resume(out: Path) -> str:

    if (out / TRAIN_COMMAND).exists():
        return f"stopped; continue with: pellucid surrogate resume {out}"
    return "stopped before anything was kept"


@contextmanager
def _training_progress() -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar with losses and throughput on a terminal, lines elsewhere; always on stderr."""
    if not messages.is_terminal:
        yield print_progress
        return
    with progress_bar(quiet=True) as bar:
        task = bar.add_task("preparing", total=None)

        def advance(progress: TrainingProgress) -> None:
            if progress.note:
                print_line(progress.note, bar.console, style="dim")
            else:
                losses = "  ".join(
                    f"{key} {value:.3g}" for key, value in progress.losses.items() if "gradient" not in key
                )
                text = f"{progress.speed:.0f} images/s  {losses}"
                bar.update(task, completed=progress.step, total=progress.steps, description=text)

        yield advance


def graph(
    run: Path,
    /,
    *,
    run_options: Options[RunOptions] = RunOptions(),
    options: Options[DiscoverOptions] = DiscoverOptions(),
    out: list[Path] | None = None,
    as_json: AsJson = False,
) -> None:
    """`pellucid surrogate graph`.

    Args:
        run: folder of a training.
        run_options: the classifier and the images.
        options: of the search.
        out: x.json, x.graphml or x.html; repeat for several.
        as_json: print JSON for machines.
    """
    files = check_suffixes(out, (".json", ".graphml", ".html"), "the name must end in .json, .graphml, .html")
    with stage_bars(as_json) as on_stage:
        explainer = discover_graph(run, run_options, options, on_stage=on_stage)
    explanation = explainer.global_explanation
    assert explanation is not None
    for file in files:
        if file.suffix.lower() == ".html":
            write_surrogate_page(file, describe_surrogate(explainer))
        elif file.suffix.lower() == ".graphml":
            write_atomically(file, explanation.perceived.to_graphml().encode())
        else:
            write_json(file, to_record(explanation))
    if as_json:
        print_json({**to_record(explanation), "files": [str(file) for file in files]})
        return
    show(global_explanation_texts(explanation, explainer.class_names))
    print_files(files)


def explain(
    run: Path,
    /,
    *images: Images,
    classifier: Options[RunClassifierOptions] = RunClassifierOptions(),
    options: Annotated[ExplainSurrogateOptions, options_named(do="set")] = ExplainSurrogateOptions(),
    out: list[Path] | None = None,
    as_json: AsJson = False,
) -> None:
    """`pellucid surrogate explain`.

    Args:
        run: folder of a training; or digits, the pretrained surrogate of digit_cnn.
        images: image files, or folders of them.
        classifier: if not that of the training.
        options: classes, interventions and effort.
        out: x.html, x.json, or a folder for both with the latent traversals as PNG files; repeat for several.
        as_json: print JSON for machines.
    """
    files, skipped = readable_images(images, warn_skipped)
    outputs = check_suffixes(out, ("", ".html", ".json"), "give x.html, x.json or a folder")
    explainer = open_any_surrogate(run, classifier)
    with stage_bars(as_json) as on_stage:
        explained = explain_images_by_surrogate(
            explainer, files, options, on_image=lambda done, total: on_stage("explaining", done, total)
        )
    record = print_explained_images(explainer, explained, outputs, {"run": str(run), "skipped": skipped}, as_json)
    if as_json:
        print_json(record)


def print_explained_images(
    explainer: SurrogateExplainer,
    explained: Sequence[ExplainedImage],
    outputs: Sequence[Path],
    facts: dict[str, object],
    quiet: bool,
) -> dict[str, object]:
    """Write explanations to files and folders, and print them.

    Args:
        explainer: that explains.
        explained: the images.
        outputs: x.html, x.json, or folders for both and the latent traversals.
        facts: what else belongs to the record.
        quiet: do not print.

    Returns:
        All numbers, and the files that were written, as JSON has them.
    """
    surrogate = describe_surrogate(explainer)
    record = {**facts, "images": [image.to_dict(surrogate) for image in explained]}
    written = [file for output in outputs for file in _write(output, surrogate, explained, record)]
    if not quiet:
        for image in explained:
            show(explained_image_texts(image))
        print_files(written)
    return {**record, "files": [str(file) for file in written]}


def _write(
    output: Path, surrogate: SurrogateFacts, explained: Sequence[ExplainedImage], record: dict[str, object]
) -> list[Path]:

    files = [output] if output.suffix else [output / "explanation.html", output / "explanation.json"]
    for file in files:
        if file.suffix.lower() == ".html":
            write_surrogate_page(file, surrogate, explained)
        else:
            write_json(file, to_json(record))
    if not output.suffix:
        folders = image_folders([Path(image.name) for image in explained], output)
        for image, folder in zip(explained, folders, strict=True):
            for traversal in image.explanation.traversals:
                files.append(folder / f"{traversal.concept.replace('/', '-')}.png")
                write_atomically(files[-1], traversal_png(surrogate.space, traversal.images))
    return files


def evaluate(
    run: Path,
    /,
    *,
    run_options: Options[RunOptions] = RunOptions(),
    options: Options[AssessOptions] = AssessOptions(),
    out: Path | None = None,
    as_json: AsJson = False,
) -> None:
    """`pellucid surrogate evaluate`.

    Args:
        run: folder of a training.
        run_options: the classifier and the images.
        options: of the assessment.
        out: also write the assessment as a page, x.html.
        as_json: print JSON for machines.
    """
    with stage_bars(as_json) as on_stage:
        result = assess_surrogate(run, run_options, options, on_stage=on_stage)
    assessment = result.explainer.assessment
    assert assessment is not None
    files = [] if out is None else [out]
    for file in files:
        write_surrogate_page(file, describe_surrogate(result.explainer))
    if as_json:
        print_json({"run": run, "assessment": assessment, **result.context_r2, "files": files})
        return
    show(assessment_texts(assessment, result.context_r2))
    print_files(files)
