"""`pellucid surrogate explain`: why these images, and what would change the answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.common import (
    AsJson,
    Device,
    Images,
    Weights,
    image_folders,
    messages,
    print_json,
    screen,
)
from pellucid.cli.concepts_common import readable_images
from pellucid.cli.surrogate_common import (
    RunModel,
    Seed,
    Transferred,
    assignments,
    class_of,
    load_run,
    number,
    stages,
)
from pellucid.errors import PellucidError

if TYPE_CHECKING:
    from pellucid.reports.surrogate.why_page import ExplainedImage
    from pellucid.surrogate import SurrogateExplainer


Target = Annotated[str | None, typer.Option(help="Class explained, by name or index. \\[default: the predicted one]")]
FlipTo = Annotated[str | None, typer.Option(help="Class to flip to. \\[default: the runner-up]")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="CONTEXT=VALUE, as in thickness=4.0: also draw the images so; repeat to set several."),
]
Propagate = Annotated[
    bool, typer.Option("--propagate", help="Let the effects of what is --set respond, along the graph.")
]
Permutations = Annotated[int, typer.Option(min=2, help="Behind the importances of each image; even.")]
Values = Annotated[int, typer.Option(min=3, help="Images in a strip.")]
Outputs = Annotated[
    list[Path] | None,
    typer.Option("--out", help="x.html, x.json, or a folder for both with the strips as PNG files; repeat."),
]


Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a training; or digits, the twin of digit_cnn that comes along.")
]


def explain(
    run: Run,
    images: Images,
    target: Target = None,
    flip_to: FlipTo = None,
    set_: Set = None,
    propagate: Propagate = False,
    permutations: Permutations = 64,
    values: Values = 9,
    transferred: Transferred = False,
    model: RunModel = None,
    weights: Weights = None,
    out: Outputs = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Explain images: what counts, along which paths, what would flip the decision, and may it be believed."""
    do = {name: number(text, "--set") for name, text in assignments(set_, "--set").items()}
    files, skipped = readable_images(images)
    places = _checked(out or [])
    explainer = _twin(run, model, weights, device)
    classes = (class_of(explainer, target), class_of(explainer, flip_to))
    explained = []
    with stages(as_json) as tell:
        for done, file in enumerate(files):
            tell("explaining", done, len(files))
            explained.append(
                _explained(explainer, file, classes, do, propagate, permutations, values, transferred, seed)
            )
    told = write_and_print(explainer, explained, places, {"run": str(run), "skipped": skipped}, as_json)
    if as_json:
        print_json(told)


def write_and_print(
    explainer: "SurrogateExplainer",
    explained: "Sequence[ExplainedImage]",
    places: Sequence[Path],
    record: Mapping[str, object],
    quiet: bool,
) -> dict[str, object]:
    """Write explanations where they are wanted, print them unless `quiet`, and give all as JSON has it."""
    from pellucid.reports.surrogate.numbers import explanation_numbers

    whole = {**record, "images": [explanation_numbers(explainer, each) for each in explained]}
    written = [file for place in places for file in _write(place, explainer, explained, whole)]
    if not quiet:
        for each in explained:
            _print(each)
        for file in written:
            screen.print(f"wrote {file}", highlight=False, markup=False, soft_wrap=True)
    return {**whole, "files": [str(file) for file in written]}


def _twin(run: Path, model: str | None, weights: str | None, device: str | None) -> "SurrogateExplainer":
    from pellucid.surrogate.pretrained import DIGITS, digit_surrogate

    if str(run) == DIGITS and not run.exists():
        return digit_surrogate(device)
    return load_run(run, model, weights, device)


def _explained(
    explainer: "SurrogateExplainer",
    file: Path,
    classes: tuple[int | None, int | None],
    do: Mapping[str, float],
    propagate: bool,
    permutations: int,
    values: int,
    transferred: bool,
    seed: int,
) -> "ExplainedImage":
    from pellucid.reports.surrogate.why_page import ExplainedImage

    image = explainer.classifier.read(file)
    found = explainer.explain(
        image,
        classes[0],
        flip_to=classes[1],
        permutations=permutations,
        values=values,
        transferred=transferred,
        seed=seed,
    )
    asked = explainer.counterfactual(image, do, propagate=propagate) if do else None
    return ExplainedImage(file.name, found, asked, explainer.class_names)


def _checked(places: Sequence[Path]) -> list[Path]:
    for place in places:
        if place.suffix.lower() not in ("", ".html", ".json"):
            raise PellucidError(f"--out {place}: give x.html, x.json or a folder")
    return list(places)


def _write(
    place: Path, explainer: "SurrogateExplainer", explained: "Sequence[ExplainedImage]", whole: Mapping[str, object]
) -> list[Path]:
    import json

    from pellucid.reports.surrogate.graph_page import write_surrogate_page
    from pellucid.reports.surrogate.image_parts import traversal_png
    from pellucid.storage import write_atomically

    folder = None if place.suffix else place
    files = [place] if folder is None else [folder / "explanation.html", folder / "explanation.json"]
    for file in files:
        if file.suffix.lower() == ".html":
            write_surrogate_page(file, explainer, explained)
        else:
            write_atomically(file, json.dumps(whole, indent=1).encode())
    if folder is not None:
        names = image_folders([Path(each.name) for each in explained], folder)
        for each, own in zip(explained, names, strict=True):
            for strip in each.explanation.traversals:
                files.append(own / f"{strip.concept.replace('/', '-')}.png")
                write_atomically(files[-1], traversal_png(explainer, strip.images))
    return files


def _print(each: "ExplainedImage") -> None:
    screen.print(each.name, style="bold", highlight=False, markup=False, soft_wrap=True)
    for sentence in each.explanation.sentences:
        if sentence.startswith("Do not rely"):
            messages.print(f"  {sentence}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        else:
            screen.print(f"  {sentence}", highlight=False, markup=False, soft_wrap=True)
    if each.counterfactual is not None:
        found = each.counterfactual
        asked = ", ".join(f"{name} = {value:g}" for name, value in found.do.items())
        names = each.class_names
        before, after = int(found.before[0].argmax()), int(found.after[0].argmax())
        doubt = "" if bool(found.in_distribution[0]) else " (no real images are like that: do not rely on it)"
        screen.print(
            f"  With {asked} it is {names[after]} ({float(found.after[0, after]):.1%}); it was {names[before]} "
            f"({float(found.before[0, before]):.1%}){doubt}.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
