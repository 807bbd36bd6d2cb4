"""Explain one image with several methods at several layers, and write everything about it into a folder."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from pellucid.attribution import Explanation, Method, TargetLike, cases, explain_case
from pellucid.classifiers import Classifier, Prediction
from pellucid.data import (
    Geometry,
    Preprocess,
    probe_geometry,
    read_image,
)
from pellucid.errors import PellucidError
from pellucid.reports.attribution.page import PageInput, Panel, write_page
from pellucid.reports.shared.overlays import display_size, save_overlay
from pellucid.results import library_versions
from pellucid.storage import write_atomically


@dataclass(frozen=True)
class TimedExplanation:
    """The explanation of one image by one method at one layer, and how long it took.

    The activation and the first forward are shared by the methods at a layer; `shared_seconds` is their time.
    """

    explanation: Explanation
    seconds: float
    shared_seconds: float


@dataclass(frozen=True)
class LocalReport:
    """Everything found out about one image.

    Attributes:
        path: the image's file.
        image: the original image, upright RGB.
        geometry: which part of it the classifier saw.
        predictions: the most probable classes.
        explanations: one for every method and layer.
        classifier: name, fingerprint of the weights and device.
        layers: what each layer is called on the page, with the alias it was asked for by.
        layer_shapes: (C, h, w) of each layer's activation.
    """

    path: Path
    image: Image.Image
    geometry: Geometry
    predictions: Sequence[Prediction]
    explanations: Sequence[TimedExplanation]
    classifier: Mapping[str, str]
    layers: Mapping[str, str] = field(default_factory=dict)
    layer_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def explain_image(
    classifier: Classifier,
    path: str | Path,
    methods: Sequence[Method],
    layers: Sequence[str],
    target: TargetLike = None,
    *,
    top: int = 5,
    on_map: Callable[[str, str], None] = lambda layer, method: None,
) -> LocalReport:
    """Explain one image file with every method at every layer.

    Args:
        classifier: made with `preprocess`.
        path: image file.
        methods: all explain the same prepared case of a layer.
        layers: names or aliases.
        target: as methods take it; None for the predicted class.
        top: how many predictions to keep.
        on_map: called with layer and method before each explanation.

    Raises:
        ImageError: the file is no image.
        PellucidError: bad target, layer or classifier.
    """
    if not layers:
        raise PellucidError("no layers given; name some, such as input, middle or final")
    path = Path(path)
    image = read_image(path)
    images = classifier.read(image)
    explanations = []
    names = {classifier.resolve(layer): layer for layer in reversed(layers)}
    for layer in reversed(names):
        view = classifier.at(layer)
        started = time.perf_counter()
        (case,) = cases(view, images, target, methods)
        shared = time.perf_counter() - started
        for method in methods:
            on_map(layer, method.label)
            started = time.perf_counter()
            explanation = explain_case(case, method)
            explanations.append(TimedExplanation(explanation, time.perf_counter() - started, shared))
    return LocalReport(
        path,
        image,
        geometry_of(classifier, image),
        classifier.predict(images, top=top)[0],
        explanations,
        {"name": classifier.name, "weights": classifier.fingerprint(), "device": str(classifier.device)},
        {name: name if asked == name else f"{asked}: {name}" for name, asked in names.items()},
        {info.name: info.shape for info in classifier.layers() if info.name in names},
    )


def geometry_of(classifier: Classifier, image: Image.Image) -> Geometry:
    """Which part of an image the classifier sees; measured where its preprocessing is someone else's callable."""
    preprocess = classifier.preprocess
    if isinstance(preprocess, Preprocess):
        return preprocess.geometry(*image.size)
    if preprocess is None:
        raise PellucidError(f"classifier {classifier.name!r} was made without preprocess=")
    return probe_geometry(preprocess, *image.size)


def write_report(report: LocalReport, folder: str | Path) -> list[Path]:
    """Write the page, one PNG overlay per map, and the maps themselves at the layers' own resolution.

    Returns:
        The files: index.html first, then the overlays, then maps.safetensors.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = _displayed(report.geometry, report.image)
    panels, files, maps = [], [], {}
    for timed in report.explanations:
        found = timed.explanation
        maps[f"{found.layer}/{found.method}"] = found.values.contiguous()
        for index, target in enumerate(found.targets[0]):
            values = place.place(found.values[0, index])
            file = folder / f"{_slug(found.layer)}-{_slug(found.method)}-{_slug(target)}.png"
            save_overlay(file, report.image, values, signed=found.signed)
            files.append(file)
            panels.append(_panel(timed, index, values, report.layers))
    page = folder / "index.html"
    write_page(page, _page(report, panels))
    saved = folder / "maps.safetensors"
    write_atomically(saved, _saved_maps(report, maps))
    return [page, *files, saved]


def _displayed(geometry: Geometry, image: Image.Image) -> Geometry:
    """The geometry at the size in which the image is shown, so that maps of large photographs stay small."""
    width, height = display_size(image)
    x, y = width / geometry.width, height / geometry.height
    left, top, right, bottom = geometry.box
    return replace(geometry, width=width, height=height, box=(left * x, top * y, right * x, bottom * y))


def _panel(timed: TimedExplanation, index: int, values: Tensor, layers: Mapping[str, str]) -> Panel:
    found = timed.explanation.target(index)
    return Panel(
        method=found.method,
        layer=layers.get(found.layer, found.layer),
        target=found.targets[0][0],
        values=values,
        signed=found.signed,
        score=float(found.scores[0, 0]),
        delta=None if found.delta is None else float(found.delta[0, 0]),
        gap=None if found.gap is None else float(found.gap[0]),
        seconds=timed.seconds,
        passes=asdict(found.passes),
        notes=found.notes[0],
        options=found.options,
    )


def _page(report: LocalReport, panels: Sequence[Panel]) -> PageInput:
    shapes = {layer: " x ".join(map(str, shape)) for layer, shape in report.layer_shapes.items()}
    return PageInput(
        title=report.path.name,
        image=report.image,
        model=report.classifier["name"],
        predictions=[(prediction.name, prediction.probability) for prediction in report.predictions],
        panels=panels,
        crop=report.geometry.box,
        provenance={
            "image": {"file": report.path.name, "sha256": _digest(report.path), "pixels": _pixels(report.image)},
            "classifier": report.classifier,
            "layers (channels x rows x columns)": shapes,
            "versions": library_versions(),
        },
    )


def _saved_maps(report: LocalReport, maps: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    metadata = {
        "image": report.path.name,
        "targets": "\n".join(report.explanations[0].explanation.targets[0]),
        **{f"classifier.{key}": value for key, value in report.classifier.items()},
        **{
            f"{t.explanation.layer}/{t.explanation.method}": repr(dict(t.explanation.options))
            for t in report.explanations
        },
    }
    return save(dict(maps), metadata)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _pixels(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+]+", "_", text).strip("_") or "unnamed"
