"""From texts and files to what workflows work with: a classifier, methods, classes, images, and values by name."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from pellucid.attribution import METHODS, Method, Smoothed, make_methods
from pellucid.classifiers import Classifier, Prediction, imagenet_class_names, load, names_factory
from pellucid.data import (
    Geometry,
    ImageFailure,
    find_images,
    read_image,
    read_images,
    read_text,
)
from pellucid.errors import ImageError, PellucidError
from pellucid.workflows.options import ClassifierOptions


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageFacts:
    """What every result for one image says of it.

    Attributes:
        path: the image's file.
        image: the original image, upright RGB.
        sha256: digest of the file.
        geometry: which part of it the classifier saw.
        predictions: the most probable classes.
        classifier: name, fingerprint of the weights and device.
        layers: what each layer is called on a page, with the alias it was requested by.
    """

    path: Path
    image: Image.Image
    sha256: str
    geometry: Geometry
    predictions: Sequence[Prediction]
    classifier: Mapping[str, str]
    layers: Mapping[str, str]


def load_classifier(options: ClassifierOptions) -> Classifier:
    """Load the classifier that options name; the module of a factory may lie in the current folder.

    >>> load_classifier(ClassifierOptions(model="digit_cnn")).num_classes
    10
    """
    allow_current_folder([options.model])
    names = None if options.class_names is None else read_class_names(options.class_names)
    return load(options.model, weights=options.weights, device=options.device, class_names=names)


def read_class_names(source: str | Path) -> Sequence[str] | Mapping[Any, Any]:
    """Class names in the order of the logits, as `--class-names` takes them.

    Args:
        source: a text file with a name per line; a JSON file with a list, or with a mapping by index such as the
            `id2label` of a configuration; a folder with one folder per class, which torchvision's ImageFolder sorts;
            or "imagenet".

    Raises:
        PellucidError: nothing of these.

    >>> read_class_names("imagenet")[340]
    'zebra'
    """
    path = Path(source)
    if str(source) == "imagenet":
        return imagenet_class_names()
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        if not names:
            raise PellucidError(f"{path}: no folders in this folder; expected one per class")
        return names
    try:
        text = read_text(path)
        return json.loads(text) if path.suffix.lower() == ".json" else [line for line in text.splitlines() if line]
    except (PellucidError, json.JSONDecodeError) as error:
        raise PellucidError(f"{path}: {error}") from error


def allow_current_folder(models: Iterable[str]) -> None:
    """Let Python find the user's own factories in the current folder, after everything that is installed.

    For other models nothing in the current folder is ever imported.

    Args:
        models: names that `pellucid.load` takes.
    """
    if any(map(names_factory, models)) and "" not in sys.path:
        sys.path.append("")


def select_methods(
    names: Sequence[str],
    options: Sequence[str] = (),
    *,
    smooth: int | None = None,
    max_batch: int = 16,
    max_bytes: int | None = None,
) -> list[Method]:
    """Create attribution methods from their names.

    Args:
        names: of methods, or "all".
        options: options of methods, as in "IntegratedGradients.steps=50".
        smooth: also smooth all maps with a Gaussian of this many cells (odd).
        max_batch: most images, steps or masks in one pass.
        max_bytes: most bytes that the tensors of one pass may take.

    Raises:
        PellucidError: an unknown method or option.

    >>> [method.label for method in select_methods(["GradCAM", "LRP"])]
    ['GradCAM', 'LRP']
    """
    requested = list(METHODS) if [name.lower() for name in names] == ["all"] else list(names)
    methods = make_methods(requested, options, METHODS, max_batch=max_batch, max_bytes=max_bytes)
    return methods if smooth is None else [Smoothed(method=method, kernel_size=smooth) for method in methods]


def class_indices(classifier: Classifier, texts: Sequence[str]) -> list[int] | None:
    """Look up class names or indices written as texts; None if there are none.

    >>> class_indices(load("digit_cnn"), ["3", "7"])
    [3, 7]
    """
    return [classifier.class_index(text) for text in texts] or None


def read_input(classifier: Classifier, path: str | Path, *, top: int) -> tuple[Tensor, dict[str, Any]]:
    """Read an image file for the classifier.

    Args:
        classifier: made with `preprocess`.
        path: image file.
        top: how many predictions to keep.

    Returns:
        The image (1, C, H, W) in the classifier's input space, and the fields of `ImageFacts` but `layers`.

    Raises:
        ImageError: the file is not an image.
    """
    path = Path(path)
    image = read_image(path)
    images = classifier.read(image)
    return images, {
        "path": path,
        "image": image,
        "sha256": sha256(path.read_bytes()).hexdigest(),
        "geometry": classifier.geometry(*image.size),
        "predictions": classifier.predict(images, top=top)[0],
        "classifier": classifier_facts(classifier),
    }


def classifier_facts(classifier: Classifier) -> dict[str, str]:
    """Name, fingerprint of the weights, and device.

    >>> sorted(classifier_facts(load("digit_cnn")))
    ['device', 'name', 'weights']
    """
    return {"name": classifier.name, "weights": classifier.fingerprint(), "device": str(classifier.device)}


def layer_labels(classifier: Classifier, layers: Iterable[str]) -> dict[str, str]:
    """What layers are called on a page, with the alias where there is one.

    >>> layer_labels(load("digit_cnn"), [load("digit_cnn").resolve("final")])
    {'10': 'final: 10'}
    """
    aliases = {classifier.resolve(alias): alias for alias in ("final", "middle", "input")}
    return {layer: f"{aliases[layer]}: {layer}" if aliases.get(layer, layer) != layer else layer for layer in layers}


def readable_images(
    images: Sequence[str | Path], on_failure: Callable[[Path, str], None] = lambda file, reason: None
) -> tuple[list[Path], list[dict[str, str]]]:
    """Find the image files that can be read, before anything long is computed.

    Args:
        images: files, or folders of them.
        on_failure: called with each other file and the reason.

    Returns:
        The readable files, and file and reason of each other one.

    Raises:
        ImageError: there is one file only, or none that can be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (8, 8)).save(f"{folder}/gray.png")
    ...     _ = Path(folder, "note.png").write_text("no image")
    ...     files, skipped = readable_images([folder])
    >>> [file.name for file in files], len(skipped)
    (['gray.png'], 1)
    """
    files = find_images(images)
    if len(files) == 1:
        read_image(files[0])
    failures = {file: image.reason for file, image in read_images(files) if isinstance(image, ImageFailure)}
    for file, reason in failures.items():
        on_failure(file, reason)
    if len(failures) == len(files):
        raise ImageError(f"none of the {len(files)} images could be read")
    skipped = [{"file": str(file), "reason": reason} for file, reason in failures.items()]
    return [file for file in files if file not in failures], skipped


def assignments(texts: Sequence[str], option: str) -> dict[str, str]:
    """Name -> value from texts such as "thickness=4".

    Args:
        texts: each NAME=VALUE.
        option: that they were given for, for the message.

    Raises:
        PellucidError: a text has no "=", or a name comes twice.

    >>> assignments(["thickness=4", "slant = 0.1"], "--set")
    {'thickness': '4', 'slant': '0.1'}
    """
    values: dict[str, str] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (name and sign and value):
            raise PellucidError(f"{option} {text!r} is not NAME=VALUE")
        if name in values:
            raise PellucidError(f"{option} sets {name!r} twice")
        values[name] = value
    return values


def numbers(texts: Sequence[str], option: str) -> dict[str, float]:
    """Name -> finite number from texts such as "thickness=4".

    Raises:
        PellucidError: as `assignments`, or a value is not a number.

    >>> numbers(["thickness=4"], "--set")
    {'thickness': 4.0}
    """
    values = {}
    for name, text in assignments(texts, option).items():
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = float("nan")
        if not abs(values[name]) < float("inf"):
            raise PellucidError(f"{option}: {text!r} is not a number")
    return values


def whole_numbers(texts: Sequence[str], option: str) -> dict[str, int]:
    """Name -> whole number, 0 or more, from texts such as "thickness=0".

    Raises:
        PellucidError: as `assignments`, or a value is not a whole number.

    >>> whole_numbers(["thickness=0"], "--tier")
    {'thickness': 0}
    """
    values = {}
    for name, text in assignments(texts, option).items():
        if not text.isdecimal() or len(text) > 18:
            raise PellucidError(f"{option} {name}={text}: expected a whole number, 0 or more")
        values[name] = int(text)
    return values


def arrows(texts: Sequence[str], option: str) -> tuple[tuple[str, str], ...]:
    """(cause, effect) pairs from texts such as "thickness->intensity".

    Raises:
        PellucidError: a text is of another form.

    >>> arrows(["thickness -> intensity"], "--required")
    (('thickness', 'intensity'),)
    """
    pairs = []
    for text in texts:
        cause, arrow, effect = (part.strip() for part in text.partition("->"))
        if not (cause and arrow and effect):
            raise PellucidError(f"{option} {text!r} is not CAUSE->EFFECT (quote it: the shell takes > for itself)")
        pairs.append((cause, effect))
    return tuple(pairs)
