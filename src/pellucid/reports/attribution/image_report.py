"""Everything about one explained image in a folder: the page, an overlay for each map, and the maps themselves."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from pellucid.attribution import Explanation
from pellucid.reports.attribution.maps_page import PageInput, Panel, write_page
from pellucid.reports.concepts import write_concept_page
from pellucid.reports.shared.overlays import display_size, resize_geometry, save_overlay
from pellucid.results import library_versions
from pellucid.storage import encode_tensors, write_atomically
from pellucid.workflows import ImageExplanation


def write_image_report(report: ImageExplanation, folder: str | Path) -> list[Path]:
    """Write the page, one PNG overlay per map, and the maps themselves at the layers' own resolution.

    Args:
        report: what `pellucid.workflows.explain_images` returns for an image.
        folder: created if missing.

    Returns:
        The files: index.html first, then the overlays, then maps.safetensors.

    Raises:
        OSError: the folder cannot be written.

    >>> import tempfile, pellucid as pl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (28, 28), 200).save(f"{folder}/gray.png")
    ...     options = pl.workflows.ExplainOptions(methods=("GradCAM",), layers=("final",))
    ...     (report,) = pl.workflows.explain_images(pl.load("digit_cnn"), [f"{folder}/gray.png"], options)
    ...     [file.name for file in write_image_report(report, folder)][::2]
    ['index.html', 'maps.safetensors']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # At the size in which the image is shown, so that maps of large photographs stay small.
    geometry = resize_geometry(report.geometry, display_size(report.image))
    panels, files, maps = [], [], {}
    for explanation in report.explanations:
        layer, method = explanation.layer, explanation.method
        maps[f"{layer}/{method}"] = explanation.values.contiguous()
        for index, target in enumerate(explanation.targets[0]):
            values = geometry.place(explanation.values[0, index])
            file = folder / f"{_slug(layer)}-{_slug(method)}-{_slug(target)}.png"
            save_overlay(file, report.image, values, signed=explanation.signed)
            files.append(file)
            panels.append(_panel(explanation.target(index), values, report.layers))
    page = folder / "index.html"
    write_page(page, _page(report, panels))
    saved = folder / "maps.safetensors"
    write_atomically(saved, _saved_maps(report, maps))
    return [page, *files, saved]


def write_image_files(report: ImageExplanation, folder: str | Path) -> dict[str, Any]:
    """Write what `write_image_report` does, and the page of the concepts if the image was explained by some.

    Args:
        report: what `pellucid.workflows.explain_images` returns for an image.
        folder: created if missing.

    Returns:
        The numbers of the image and the files, as plain JSON.
    """
    page, *overlays, maps = write_image_report(report, folder)
    files = {"page": str(page), "overlays": [str(file) for file in overlays], "maps": str(maps)}
    record = report.to_dict() | files
    if report.concepts is not None:
        concept_page = Path(folder) / "concepts.html"
        write_concept_page(concept_page, report.concepts)
        record["concepts"] = {"page": str(concept_page), "rows": report.concepts.rows()}
    return record


def _panel(explanation: Explanation, values: Tensor, layers: Mapping[str, str]) -> Panel:
    """The panel of an explanation with one target; `values` lie on the image."""
    return Panel(
        method=explanation.method,
        layer=layers.get(explanation.layer, explanation.layer),
        target=explanation.targets[0][0],
        values=values,
        signed=explanation.signed,
        score=float(explanation.scores[0, 0]),
        delta=None if explanation.delta is None else float(explanation.delta[0, 0]),
        gap=None if explanation.gap is None else float(explanation.gap[0]),
        seconds=explanation.receipt.seconds,
        passes=asdict(explanation.passes),
        notes=explanation.notes[0],
        options=explanation.options,
    )


def _page(report: ImageExplanation, panels: Sequence[Panel]) -> PageInput:
    shapes = {layer: " x ".join(map(str, shape)) for layer, shape in report.layer_shapes.items()}
    return PageInput(
        title=report.path.name,
        image=report.image,
        model=report.classifier["name"],
        predictions=[(prediction.name, prediction.probability) for prediction in report.predictions],
        panels=panels,
        crop=report.geometry.box,
        provenance={
            "image": {"file": report.path.name, "sha256": report.sha256, "pixels": _pixels(report.image)},
            "classifier": report.classifier,
            "layers (channels x rows x columns)": shapes,
            "versions": library_versions(),
        },
    )


def _saved_maps(report: ImageExplanation, maps: Mapping[str, Tensor]) -> bytes:
    metadata = {
        "image": report.path.name,
        "targets": "\n".join(report.explanations[0].targets[0]),
        **{f"classifier.{key}": value for key, value in report.classifier.items()},
        **{
            f"{explanation.layer}/{explanation.method}": repr(dict(explanation.options))
            for explanation in report.explanations
        },
    }
    return encode_tensors(maps, {name: text.encode("utf-8", "replace").decode() for name, text in metadata.items()})


def _pixels(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+]+", "_", text).strip("_") or "unnamed"
