"""`pellucid demo`: every question, on photographs that come with scikit-image and on digits that pellucid draws."""

import csv
import io
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

from pellucid.classifiers import Classifier
from pellucid.cli.evaluate_command import run_record, sweep_progress
from pellucid.cli.explain_command import explain_files, gather_at
from pellucid.cli.parsing import AsJson
from pellucid.cli.printing import print_json, print_line, show
from pellucid.cli.surrogate_commands import print_explained_images
from pellucid.errors import MissingExtraError
from pellucid.evaluation import SweepOptions
from pellucid.reports import write_evaluation
from pellucid.reports.text import run_texts
from pellucid.storage import write_atomically
from pellucid.synthetic import draw_digits
from pellucid.workflows import (
    ClassifierOptions,
    ConceptOptions,
    EvaluateOptions,
    ExplainOptions,
    RunClassifierOptions,
    evaluate,
    explain_images_by_surrogate,
    load_classifier,
    open_any_surrogate,
)

EXPLAINED = ("chelsea.png", "coffee.png", "rocket.jpg")
GRID = ("coffee.png", "camera.png", "chelsea.png", "motorcycle_left.png", "motorcycle_right.png")
"""Five photographs of four classes, the two mopeds for the same-class pairs of DiFull and DiPart."""
METHODS = ("Gradient", "InputXGradient", "IntegratedGradients", "GradCAM", "LayerCAM", "LRP")
CONCEPTS = ("striped", "dotted", "chequered", "zigzagged")
_THRESHOLD = 0.4  # the network is 41 % sure of the cat

# digit, thickness, intensity, slant, seed of its shape
DIGITS = ((3, 2.2, 132.0, 0.1, 1), (4, 3.0, 204.0, -0.1, 2), (9, 1.8, 102.0, 0.3, 3))
_JITTER = 0.6
_MARGIN = 2  # around MNIST's 28 pixels


def demo(*, out: Path = Path("pellucid-demo"), device: str | None = None, as_json: AsJson = False) -> None:
    """`pellucid demo`.

    Args:
        out: folder to write into, one folder per image.
        device: where to run, such as cpu or cuda.
        as_json: print JSON for machines.
    """
    folder = _photographs()
    classifier = load_classifier(ClassifierOptions(device=device))
    cavs = gather_at(classifier, ConceptOptions(builtin=CONCEPTS), ["final"], as_json)
    files = [folder / name for name in EXPLAINED]
    record = explain_files(classifier, files, ExplainOptions(), out, as_json, cavs)
    _announce("Are such maps true? Photographs in grids, in which the place of each class is known:", as_json)
    with sweep_progress(as_json) as advance:
        run = evaluate(
            _label(classifier, folder, out),
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
    explained = explain_images_by_surrogate(surrogate, _draw_digits(out / "digits"))
    why = print_explained_images(surrogate, explained, [out / "digits" / "why.html"], {"run": "digits"}, as_json)
    if as_json:
        print_json(record | {"evaluation": run_record(run, page), "why": why})


def _announce(text: str, quiet: bool) -> None:
    if not quiet:
        print_line(f"\n{text}")


def _photographs() -> Path:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingExtraError("scikit-image", "demo", "the demo")
    return Path(spec.origin).parent / "data"


def _label(classifier: Classifier, folder: Path, out: Path) -> Path:
    """A list of the photographs with what the classifier takes them for."""
    rows: list[list[object]] = [["file", "label"]]
    for name in GRID:
        prediction = classifier.predict(classifier.read(folder / name), top=1)[0][0]
        rows.append([folder / name, prediction.name])
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path = out / "photographs.csv"
    write_atomically(path, text.getvalue().encode())
    return path


def _draw_digits(out: Path) -> list[Path]:

    out.mkdir(parents=True, exist_ok=True)
    files = []
    for digit, thickness, intensity, slant, seed in DIGITS:
        gray = draw_digits(
            torch.tensor([digit]), thickness=thickness, intensity=intensity, slant=slant, jitter=_JITTER, seed=seed
        )
        padded = torch.nn.functional.pad(gray[0], (_MARGIN,) * 4).round().to(torch.uint8)
        files.append(out / f"{digit}.png")
        Image.fromarray(padded.numpy()).save(files[-1])
    return files
