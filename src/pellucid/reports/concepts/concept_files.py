"""What is written of images and classes explained by concepts: pages and tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.concepts import write_table
from pellucid.reports.concepts.class_page import write_class_page
from pellucid.reports.concepts.image_page import write_concept_page
from pellucid.reports.shared.output_folders import image_folders
from pellucid.workflows import ClassConcepts, ConceptReport, TCAVScores

TABLE_SUFFIXES = (".json", ".parquet")


def write_concept_files(
    result: ConceptReport | ClassConcepts | TCAVScores, outputs: Sequence[Path], **about: object
) -> dict[str, Any]:
    """Write tables and pages; a folder gets all of them.

    Args:
        result: TCAV scores have no pages.
        outputs: files .html, .json or .parquet, or folders.
        about: what else is to be said of the result in the tables.

    Returns:
        The result and the "files" as plain JSON.
    """
    record = result.to_dict(**about)
    written: list[Path] = []
    for output in outputs:
        if output.suffix in TABLE_SUFFIXES:
            tables = [output]
        else:
            written += _write_pages(result, output)
            tables = [] if output.suffix else [output / f"concepts{suffix}" for suffix in TABLE_SUFFIXES]
        for table in tables:
            write_table(table, record["rows"], record["about"])
        written += tables
    return record | {"files": [str(file) for file in written]}


def _write_pages(result: ConceptReport | ClassConcepts | TCAVScores, output: Path) -> list[Path]:
    """A page of a class, or a page per image: into the file, or into a folder per image."""
    if isinstance(result, TCAVScores):
        return []
    if isinstance(result, ClassConcepts):
        files = [output if output.suffix else output / "concepts.html"]
        write_class_page(files[0], result)
        return files
    folders = image_folders([image.path for image in result.images], output)
    files = [output] if output.suffix else [folder / "concepts.html" for folder in folders]
    for image, file in zip(result.images, files, strict=True):
        write_concept_page(file, image)
    return files
