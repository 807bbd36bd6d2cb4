"""The images of a run: a list of labeled files, which of them a model is sure of, and the grids made of them."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.classifiers import Classifier, imagenet_class_names, imagenet_synsets, stack_inputs
from pellucid.data import ImageFailure, find_images, read_images, read_rows
from pellucid.errors import ImageError, PellucidError, TargetError
from pellucid.evaluation.grids import Candidate, GridSet
from pellucid.evaluation.localization import join_cells
from pellucid.evaluation.sweep.run_tables import arrow

if TYPE_CHECKING:
    import pyarrow as pa

_NOT_FINITE = "the network gives NaN or infinite logits"

DataSource = str | Path | Sequence[tuple[str | Path, int | str]]
"""A folder, a CSV or TSV file, or pairs of a file and its class."""

_HEADERS = tuple((file, label) for label in ("label", "class") for file in ("path", "file", "filename", "image"))
_EXPECTED = "expected a path and a class in every row; a header names these columns file and label"
_GIVE_NAMES = (
    "give them in the order of the logits (--class-names; for a network that was trained on such a folder by "
    "torchvision's ImageFolder, that folder)"
)


@dataclass(frozen=True)
class DataSet:
    """Labeled image files.

    Attributes:
        root: folder that the files are relative to.
        files: paths relative to `root`, with forward slashes.
        labels: class index of each.
        skipped: images that have no class.
    """

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    skipped: tuple[ImageFailure, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        """SHA-256 of names, labels and sizes: it tells another data set; repainted images are found by content."""
        content = hashlib.sha256()
        for file, label in zip(self.files, self.labels, strict=True):
            path = self.root / file
            content.update(f"{file}\0{label}\0{path.stat().st_size if path.is_file() else -1}\n".encode())
        return content.hexdigest()


def read_data_set(data: DataSource, classifier: Classifier) -> DataSet:
    """List a data set; no image is opened.

    Args:
        data: one of
            - a folder with one folder per class, each named by class name ("tiger_cat" is "tiger cat"), by index where
              no class is named by a number, or for ImageNet's classes by WordNet's number ("n02391049");
            - a CSV or TSV file with a path (relative to the file) and a class (name or index) in each row. A first row
              with the names `path`, `file`, `filename` or `image`, and `label` or `class`, says which columns; else
              they are the first two;
            - pairs (path, class).
        classifier: whose classes they are.

    Raises:
        PellucidError: no such data, or a class that the classifier does not have.
        ImageError: a folder without images, or a file of a list that is not there.
    """
    if not isinstance(data, str | Path):
        rows = [(f"pair {number}", str(path), label) for number, (path, label) in enumerate(data, 1)]
        return _from_rows(rows, Path(), classifier)
    path = Path(data)
    if path.is_dir():
        return _from_folder(path, classifier)
    if path.suffix.lower() not in (".csv", ".tsv"):
        what = "is neither a folder nor a CSV or TSV file" if path.exists() else "does not exist"
        raise PellucidError(f"{path} {what}; give a folder with one folder of images per class, or a list of files")
    try:
        return _from_rows(_list_rows(path), path.parent, classifier)
    except PellucidError as error:
        raise type(error)(f"{path}: {error}") from error


def _from_folder(root: Path, classifier: Classifier) -> DataSet:
    files = [path.relative_to(root) for path in find_images(root, recursive=True)]
    names = sorted({path.parts[0] for path in files if len(path.parts) > 1})
    if not names:
        raise PellucidError(
            f"{root} has images but no folders in it; expected one folder per class, or a list of files"
        )
    labels = _folder_labels(root, names, classifier)
    stray = [ImageFailure(path, "is in no class folder") for path in files if len(path.parts) == 1]
    stray += [ImageFailure(path, "its name is not UTF-8; rename it") for path in files if not _is_text(path)]
    inside = [path for path in files if len(path.parts) > 1 and _is_text(path)]
    return DataSet(
        root,
        tuple(path.as_posix() for path in inside),
        tuple(labels[path.parts[0]] for path in inside),
        tuple(stray),
    )


def _is_text(path: PurePath) -> bool:
    """Whether a name can be written into a table."""
    return str(path).isascii() or not any("\ud800" <= letter <= "\udfff" for letter in str(path))


def _folder_labels(root: Path, names: Sequence[str], classifier: Classifier) -> dict[str, int]:
    """The class of each folder. None is guessed: in sorted order, one misspelt folder would move all labels."""
    labels: dict[str, int] = {}
    failures: list[str] = []
    for name in names:
        try:
            labels[name] = _find_label(name, classifier)
        except TargetError as error:
            failures.append(str(error))
    ask = "" if classifier.has_class_names else f"; {classifier.name} has no class names: {_GIVE_NAMES}"
    if failures:
        raise PellucidError(
            f"{len(failures)} of {len(names)} folders in {root} are no class of {classifier.name} ({failures[0]}); "
            f"name them by class name or index, and move away what is no class{ask}"
        )
    if ask and _has_two_orders(names):
        raise PellucidError(
            f"the folders in {root} are 0, 1, 10 ... sorted as texts, as ImageFolder does, and 0, 1, 2 ... sorted as "
            f"numbers, and nothing says in which order the logits are{ask}"
        )
    return labels


def _has_two_orders(names: Sequence[str]) -> bool:
    """Whether there is a folder for each of the numbers 0 ... and ImageFolder, which sorts texts, numbered others."""
    numbers = [int(name) for name in names if name.isdecimal()]
    return sorted(numbers) == list(range(len(names))) and numbers != sorted(numbers)


def _find_label(label: int | str, classifier: Classifier) -> int:
    if isinstance(label, str) and classifier.class_names == imagenet_class_names() and label in imagenet_synsets():
        return imagenet_synsets().index(label)
    return classifier.class_index(label)


def _list_rows(path: Path) -> list[tuple[str, str, int | str]]:
    """Where each row stands, its file and its class."""
    rows = read_rows(path)
    columns = (0, 1)
    first = [name.strip().lower() for name in rows[0][1]] if rows else []
    for header in _HEADERS:
        if set(header) <= set(first):
            columns, rows = (first.index(header[0]), first.index(header[1])), rows[1:]
            break
    for line, row in rows:
        if len(row) <= max(columns):
            raise PellucidError(f"line {line}: the row {row} has no class; {_EXPECTED}")
    return [(f"line {line}", row[columns[0]].strip(), row[columns[1]].strip()) for line, row in rows]


def _from_rows(rows: Sequence[tuple[str, str, int | str]], root: Path, classifier: Classifier) -> DataSet:
    if not rows:
        raise PellucidError("the list of images is empty; expected a path and a class in every row")
    labels: dict[int | str, int] = {}
    for where, _, label in rows:
        try:
            labels[label] = labels[label] if label in labels else _find_label(label, classifier)
        except TargetError as error:
            hint = f"; {_EXPECTED}" if where == "line 1" else ""
            raise TargetError(f"{where}: {error}{hint}") from error
    files = [_stored_name(root, PurePath(os.path.normpath(path)).as_posix()) for _, path, _ in rows]
    missing = [(where, path) for (where, path, _), file in zip(rows, files, strict=True) if file is None]
    if missing:
        where, path = missing[0]
        more = f" ({len(missing)} of the {len(rows)} files are missing)" if len(missing) > 1 else ""
        raise ImageError(f"{where}: {path}: no such file in {root.absolute()}{more}; correct the list")
    names = [file for file in files if file is not None]
    if len(set(names)) < len(names):
        repeated = next(file for file in names if names.count(file) > 1)
        raise PellucidError(f"{repeated} is in the list of images more than once")
    return DataSet(root, tuple(names), tuple(labels[label] for _, _, label in rows))


def _stored_name(root: Path, name: str) -> str | None:
    """The name under which a listed file is stored: as it is written, or in another of Unicode's forms."""
    forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return next((form for form in forms if (root / form).exists()), None)


@torch.no_grad()
def predict(classifier: Classifier, data: DataSet, start: int, stop: int, max_batch: int) -> "pa.Table":
    """Classify images `start` to `stop` of a data set.

    Args:
        classifier: with preprocessing.
        data: the data set.
        start: the first of its files.
        stop: the file after the last.
        max_batch: most images in one pass.

    Returns:
        One row per image: path, label, predicted, confidence (softmax probability of the predicted class), the
        reason why there is no prediction, else null, and the digest of the file.
    """
    rows = []
    # Before they are read: an image that is replaced in between is found out when it is explained.
    digests = {index: digest_of_file(data.root / data.files[index]) for index in range(start, stop)}
    numbered = _inputs(classifier, data, range(start, stop))
    while batch := list(islice(numbered, max_batch)):
        inputs = [image for _, image in batch if isinstance(image, Tensor)]
        outcomes = iter(_most_probable(classifier.logits(stack_inputs(inputs)))) if inputs else iter(())
        for index, image in batch:
            predicted, confidence, reason = (None, None, image) if isinstance(image, str) else next(outcomes)
            rows.append((data.files[index], data.labels[index], predicted, confidence, reason, digests[index]))
    columns = zip(*rows, strict=True)
    return arrow().table(
        dict(zip(_prediction_schema().names, map(list, columns), strict=True)), schema=_prediction_schema()
    )


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def image_digests(tables: "Iterable[pa.Table]") -> dict[str, str]:
    """The digest of each image when it was classified.

    Raises:
        PellucidError: an image was another one for another model.
    """
    digests: dict[str, str] = {}
    for table in tables:
        columns = (table[name].to_pylist() for name in ("path", "sha256"))
        for path, digest in zip(*columns, strict=True):
            if digests.setdefault(path, digest) != digest:
                raise PellucidError(_replaced(path))
    return digests


def check_unchanged(root: Path, files: Iterable[str], digests: Mapping[str, str]) -> None:
    """Check that images are those that the run began with.

    Args:
        root: folder that they are relative to.
        files: which of them.
        digests: of all that were classified.

    Raises:
        PellucidError: one was replaced, or is gone.
    """
    for file in files:
        if digest_of_file(root / file) != digests.get(file):
            raise PellucidError(_replaced(file))


def _replaced(file: str) -> str:
    return (
        f"{file} is not the image that the run began with; put it back and start the same command again, or give "
        "another folder"
    )


def confident_candidates(table: "pa.Table", threshold: float) -> tuple[Candidate, ...]:
    """The images that were classified correctly with at least this probability."""
    return tuple(
        Candidate(row["label"], row["path"], row["confidence"])
        for row in table.to_pylist()
        if row["reason"] is None and row["predicted"] == row["label"] and row["confidence"] >= threshold
    )


def unusable_images(tables: "Iterable[pa.Table]") -> list[ImageFailure]:
    """The images without a prediction, each once, with the reason."""
    reasons = {row["path"]: row["reason"] for table in tables for row in table.to_pylist() if row["reason"] is not None}
    return [ImageFailure(path, reason) for path, reason in reasons.items()]


def _inputs(classifier: Classifier, data: DataSet, indices: Sequence[int]) -> Iterator[tuple[int, Tensor | str]]:
    """Each image's index with the network's input, or with the reason why there is none."""
    paths = [data.root / data.files[index] for index in indices]
    for index, (_, image) in zip(indices, read_images(paths), strict=True):
        if isinstance(image, ImageFailure):
            yield index, image.reason
            continue
        try:
            yield index, classifier.prepare(image)
        except ImageError as error:
            yield index, str(error)


def _most_probable(logits: Tensor) -> list[tuple[int | None, float | None, str | None]]:
    confidence, predicted = logits.double().softmax(1).max(1)
    finite = logits.isfinite().all(1)
    return [
        (guess, sure, None) if is_finite else (None, None, _NOT_FINITE)
        for guess, sure, is_finite in zip(predicted.tolist(), confidence.tolist(), finite.tolist(), strict=True)
    ]


def _prediction_schema() -> "pa.Schema":
    pa = arrow()
    return pa.schema(
        {
            "path": pa.string(),
            "label": pa.int32(),
            "predicted": pa.int32(),
            "confidence": pa.float64(),
            "reason": pa.string(),
            "sha256": pa.string(),
        }.items()
    )


def grid_images(classifier: Classifier, grids: GridSet, rows: range, root: str | Path) -> Tensor:
    """Some grid images of a set, in the classifier's own input space.

    Args:
        classifier: whose preprocessing makes the cells.
        grids: the manifest.
        rows: which of its grids.
        root: folder that the manifest's paths are relative to.

    Returns:
        (len(rows), C, rows * h, columns * w).

    Raises:
        ImageError: an image is no longer there.
    """
    cells = [classifier.read([Path(root) / cell.path for cell in grids.cells[row]]) for row in rows]
    return join_cells(torch.stack(cells), grids.grid)


def grid_targets(grids: GridSet, rows: range, *, single_head: bool) -> Tensor:
    """The (head, class) pairs that are explained: (len(rows), T, 2), one for each evaluated cell.

    Args:
        grids: the manifest.
        rows: which of its grids.
        single_head: GridPG, whose only head is 0; elsewhere the head of a cell has its number.
    """
    cells = torch.tensor(grids.evaluated_cells)
    classes = grids.labels[rows.start : rows.stop][:, cells]  # (N, T)
    heads = torch.zeros_like(classes) if single_head else cells.expand_as(classes)
    return torch.stack([heads, classes], dim=-1)
