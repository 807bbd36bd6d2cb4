"""`pellucid demo`: every question, on photographs that come with scikit-image and on digits that pellucid draws."""

import csv
import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.cli.common import (
    DEFAULT_LAYERS,
    DEFAULT_MODEL,
    AsJson,
    Device,
    Out,
    chosen_methods,
    load_classifier,
    print_json,
    screen,
)
from pellucid.cli.concepts_explain import explainers
from pellucid.cli.evaluate import print_run, run_record, sweep_progress
from pellucid.cli.explain import DEFAULT_METHODS, concepts_at, explain_files
from pellucid.cli.surrogate_explain import write_and_print
from pellucid.errors import MissingExtraError

if TYPE_CHECKING:
    from pellucid.classifiers import Classifier
    from pellucid.evaluation import Run


EXPLAINED = ("chelsea.png", "coffee.png", "rocket.jpg")
GRID = ("coffee.png", "camera.png", "chelsea.png", "motorcycle_left.png", "motorcycle_right.png")
"""Five photographs of four classes, the two mopeds for the twin corners of DiFull and DiPart."""
EVALUATED = "Gradient,InputXGradient,IntegratedGradients,GradCAM,LayerCAM,LRP"
CONCEPTS = "striped,dotted,chequered,zigzagged"
_SURE = 0.4  # the network is 41 % sure of the cat

# digit, thickness, intensity, slant, seed of its shape
DIGITS = ((3, 2.2, 132.0, 0.1, 1), (4, 3.0, 204.0, -0.1, 2), (9, 1.8, 102.0, 0.3, 3))
_JITTER = 0.6
_MARGIN = 2  # around MNIST's 28 pixels


def demo(
    out: Out = Path("pellucid-demo"),
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Explain photographs with a real ImageNet classifier, and test the explanations; nothing is downloaded."""
    from pellucid.reports import write_evaluation

    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingExtraError("scikit-image", "demo", "the demo")
    folder = Path(spec.origin).parent / "data"
    classifier = load_classifier(DEFAULT_MODEL, None, device)
    found = concepts_at(classifier, None, CONCEPTS, ["final"], "", 16, as_json)
    told = explain_files(
        classifier,
        [folder / name for name in EXPLAINED],
        chosen_methods(DEFAULT_METHODS, []),
        DEFAULT_LAYERS.split(","),
        None,
        5,
        out,
        as_json,
        explainers(classifier, found),
    )
    if not as_json:
        screen.print("\nAre such maps true? Photographs in grids, in which the place of each class is known:")
    run = _evaluated(_labeled(classifier, folder, out), out / "evaluation", device, as_json)
    page = write_evaluation(run)
    if not as_json:
        print_run(run, page)
        screen.print(
            "\nWhy does it decide so? Drawn digits, a small classifier, and the twin that was distilled from it:"
        )
    why = _why(out / "digits", device, as_json)
    if as_json:
        print_json(told | {"evaluation": run_record(run, page), "why": why})


def _why(out: Path, device: str | None, quiet: bool) -> dict[str, object]:
    """Digits explained by the twin that comes with pellucid."""
    from pellucid.reports.surrogate.why_page import ExplainedImage
    from pellucid.surrogate.pretrained import digit_surrogate

    explainer = digit_surrogate(device)
    files = _drawn_digits(out)
    explained = [
        ExplainedImage(file.name, explainer.explain(explainer.classifier.read(file)), None, explainer.class_names)
        for file in files
    ]
    return write_and_print(explainer, explained, [out / "why.html"], {"run": "digits"}, quiet)


def _drawn_digits(out: Path) -> list[Path]:
    import torch
    from PIL import Image

    from pellucid.synthetic import draw_digits

    out.mkdir(parents=True, exist_ok=True)
    files = []
    for digit, thickness, intensity, slant, seed in DIGITS:
        gray = draw_digits(
            torch.tensor([digit]), thickness=thickness, intensity=intensity, slant=slant, jitter=_JITTER, seed=seed
        )
        whole = torch.nn.functional.pad(gray[0], (_MARGIN,) * 4).round().to(torch.uint8)
        files.append(out / f"{digit}.png")
        Image.fromarray(whole.numpy()).save(files[-1])
    return files


def _evaluated(images: Path, out: Path, device: str | None, quiet: bool) -> "Run":
    from pellucid.evaluation import ModelSource, SweepOptions, evaluate

    with sweep_progress(quiet) as tell:
        return evaluate(
            images,
            [ModelSource(DEFAULT_MODEL, None, device, None)],
            chosen_methods(EVALUATED, []),
            out,
            SweepOptions(grids=1, threshold=_SURE),
            on_progress=tell,
        )


def _labeled(classifier: "Classifier", folder: Path, out: Path) -> Path:
    """A list of the photographs with what the classifier takes them for."""
    from pellucid.storage import write_atomically

    rows: list[list[Any]] = [["file", "label"]]
    for name in GRID:
        prediction = classifier.predict(classifier.read(folder / name), top=1)[0][0]
        rows.append([folder / name, prediction.name])
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path = out / "photographs.csv"
    write_atomically(path, text.getvalue().encode())
    return path
