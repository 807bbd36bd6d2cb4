"""`pellucid surrogate`: train and resume, graph, explain, evaluate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated

from pellucid.cli.parsing import AsJson, Images, Options, check_suffixes, options_named
from pellucid.cli.printing import (
    messages,
    note,
    print_json,
    print_line,
    print_result,
    progress_bar,
    resumable,
    show,
    stage_bars,
    warn_skipped,
)
from pellucid.reports.surrogate import write_explained_images, write_graph, write_surrogate_page
from pellucid.reports.text import assessment_texts, explained_image_texts, global_explanation_texts
from pellucid.storage import to_record
from pellucid.surrogate import SurrogateExplainer
from pellucid.surrogate.training import TrainingProgress, print_progress
from pellucid.workflows import (
    TRAIN_COMMAND,
    AssessOptions,
    DiscoverOptions,
    ExplainSurrogateOptions,
    RunClassifierOptions,
    RunOptions,
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
        write_graph(file, describe_surrogate(explainer))
    texts = global_explanation_texts(explanation, explainer.class_names)
    print_result({**to_record(explanation), "files": files}, texts, as_json)


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
    surrogate = describe_surrogate(explainer)
    record = write_explained_images(outputs, surrogate, explained, run=str(run), skipped=skipped)
    print_result(record, chain.from_iterable(map(explained_image_texts, explained)), as_json)


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
    files = [] if out is None else [out]
    for file in files:
        write_surrogate_page(file, describe_surrogate(result.explainer))
    texts = assessment_texts(result.assessment, result.context_r2)
    print_result({**result.to_dict(run=run), "files": files}, texts, as_json)
