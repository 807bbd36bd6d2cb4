"""The images of the demo: photographs that come with scikit-image, and drawn digits."""

import csv
import io
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

from pellucid.classifiers import Classifier
from pellucid.errors import MissingExtraError
from pellucid.storage import write_atomically
from pellucid.synthetic import draw_digits

EXPLAINED_PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg")
GRID_PHOTOGRAPHS = ("coffee.png", "camera.png", "chelsea.png", "motorcycle_left.png", "motorcycle_right.png")
"""Five photographs of four classes, the two mopeds for the same-class pairs of DiFull and DiPart."""

# digit, thickness, intensity, slant, seed of its shape
DIGITS = ((3, 2.2, 132.0, 0.1, 1), (4, 3.0, 204.0, -0.1, 2), (9, 2.6, 168.0, 0.0, 3))
_JITTER = 0.6
_MARGIN = 2  # around MNIST's 28 pixels


def find_photographs() -> Path:
    """The folder of the photographs that come with scikit-image.

    Raises:
        MissingExtraError: it is not installed.
    """
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingExtraError("scikit-image", "demo", "the demo")
    return Path(spec.origin).parent / "data"


def list_photographs(classifier: Classifier, folder: Path, out: Path) -> Path:
    """Write a list of the photographs of the grids with what the classifier takes them for.

    Args:
        classifier: that names them.
        folder: of the photographs.
        out: folder of the list.

    Returns:
        The list.
    """
    rows: list[list[object]] = [["file", "label"]]
    for name in GRID_PHOTOGRAPHS:
        prediction = classifier.predict(classifier.read(folder / name), top=1)[0][0]
        rows.append([folder / name, prediction.name])
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path = out / "photographs.csv"
    write_atomically(path, text.getvalue().encode())
    return path


def write_digits(out: Path) -> list[Path]:
    """Draw digits into a folder; returns their files."""
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
