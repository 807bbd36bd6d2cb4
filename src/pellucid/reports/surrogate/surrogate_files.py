"""What is written of a surrogate: its page, its graph, and images with their explanations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.reports.shared.output_folders import image_folders
from pellucid.reports.surrogate.image_section import traversal_png
from pellucid.reports.surrogate.surrogate_page import write_surrogate_page
from pellucid.storage import to_json, to_record, write_atomically, write_json
from pellucid.workflows import ExplainedImage, SurrogateFacts


def write_graph(file: Path, surrogate: SurrogateFacts) -> None:
    """Write the causal graph of a surrogate as .html, .graphml or .json.

    Args:
        file: its suffix says the format.
        surrogate: with its `global_explanation`.
    """
    explanation = surrogate.global_explanation
    assert explanation is not None
    if file.suffix.lower() == ".html":
        write_surrogate_page(file, surrogate)
    elif file.suffix.lower() == ".graphml":
        write_atomically(file, explanation.perceived.to_graphml().encode())
    else:
        write_json(file, to_record(explanation))


def write_explained_images(
    outputs: Sequence[Path], surrogate: SurrogateFacts, explained: Sequence[ExplainedImage], **facts: object
) -> dict[str, Any]:
    """Write explanations into pages and tables; a folder gets both of them and the latent traversals.

    Args:
        outputs: x.html, x.json, or folders.
        surrogate: that explains.
        explained: the images.
        facts: what else belongs to the numbers.

    Returns:
        All numbers and the "files" as plain JSON.
    """
    record = {**facts, "images": [image.to_dict(surrogate) for image in explained]}
    written = [file for output in outputs for file in _write_explained_images(output, surrogate, explained, record)]
    return {**record, "files": [str(file) for file in written]}


def _write_explained_images(
    output: Path, surrogate: SurrogateFacts, explained: Sequence[ExplainedImage], record: Mapping[str, object]
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
