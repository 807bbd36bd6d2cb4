"""`pellucid demo`: every question, on photographs that come with scikit-image and on digits that pellucid draws."""

from itertools import chain
from pathlib import Path

from pellucid.cli.classifier_commands import explain_files, sweep_progress
from pellucid.cli.parsing import AsJson
from pellucid.cli.printing import noted_stage, print_line, print_result, show
from pellucid.evaluation import SweepOptions
from pellucid.reports import write_evaluation
from pellucid.reports.surrogate import write_explained_images
from pellucid.reports.text import explained_image_texts, run_texts
from pellucid.workflows import (
    EXPLAINED_PHOTOGRAPHS,
    ClassifierOptions,
    ConceptOptions,
    EvaluateOptions,
    ExplainOptions,
    RunClassifierOptions,
    describe_run,
    describe_surrogate,
    evaluate,
    explain_images_by_surrogate,
    find_photographs,
    gather_cavs,
    list_photographs,
    load_classifier,
    open_any_surrogate,
    write_digits,
)

METHODS = ("Gradient", "InputXGradient", "IntegratedGradients", "GradCAM", "LayerCAM", "LRP")
CONCEPTS = ("striped", "dotted", "chequered", "zigzagged")
_THRESHOLD = 0.4  # the network is 41 % sure of the cat


def demo(*, out: Path = Path("pellucid-demo"), device: str | None = None, as_json: AsJson = False) -> None:
    """`pellucid demo`.

    Args:
        out: folder to write into, one folder per image.
        device: where to run, such as cpu or cuda.
        as_json: print JSON for machines.
    """
    folder = find_photographs()
    classifier = load_classifier(ClassifierOptions(device=device))
    with noted_stage(as_json) as on_stage:
        cavs = gather_cavs(classifier, ConceptOptions(builtin=CONCEPTS, layers=("final",)), on_stage=on_stage)
    files = [folder / name for name in EXPLAINED_PHOTOGRAPHS]
    record = explain_files(classifier, files, ExplainOptions(), out, as_json, cavs)
    _announce("Are such maps true? Photographs in grids, in which the place of each class is known:", as_json)
    with sweep_progress(as_json) as advance:
        run = evaluate(
            list_photographs(classifier, folder, out),
            out / "evaluation",
            EvaluateOptions(device=device, methods=METHODS),
            SweepOptions(grids=1, threshold=_THRESHOLD),
            on_progress=advance,
        )
    page = write_evaluation(run)
    if not as_json:
        show(run_texts(run, page))
    _announce("Why does it decide so? Drawn digits, a small classifier, and the surrogate of it:", as_json)
    surrogate = open_any_surrogate(Path("digits"), RunClassifierOptions(device=device))
    explained = explain_images_by_surrogate(surrogate, write_digits(out / "digits"))
    why = write_explained_images([out / "digits" / "why.html"], describe_surrogate(surrogate), explained, run="digits")
    whole = record | {"evaluation": describe_run(run, page), "why": why}
    print_result(whole if as_json else why, chain.from_iterable(map(explained_image_texts, explained)), as_json)


def _announce(text: str, quiet: bool) -> None:
    if not quiet:
        print_line(f"\n{text}")
