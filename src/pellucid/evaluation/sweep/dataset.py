"""A data set of labelled images: a folder with one folder per class, or a list of files with their classes."""

import csv
import difflib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pellucid.classifiers import Classifier
from pellucid.data import ImageFailure, find_images
from pellucid.errors import PellucidError, TargetError

Data = str | Path | Sequence[tuple[str | Path, int | str]]
"""A folder, a CSV or TSV file, or pairs of a file and its class."""

_HEADERS = (("path", "label"), ("file", "label"), ("path", "class"), ("file", "class"))


@dataclass(frozen=True)
class DataSet:
    """Labelled image files.

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
        """SHA-256 of names, labels and sizes: it tells another data set, but not an image repainted in place."""
        found = hashlib.sha256()
        for file, label in zip(self.files, self.labels, strict=True):
            path = self.root / file
            found.update(f"{file}\0{label}\0{path.stat().st_size if path.is_file() else -1}\n".encode())
        return found.hexdigest()


def read_data_set(data: Data, classifier: Classifier) -> DataSet:
    """List a data set; no image is opened.

    Args:
        data: one of
            - a folder with one folder per class. Folders are named by class index or class name ("tiger_cat" is "tiger
              cat"); where they are not and there are as many as classes, sorted by name they are the classes in order;
            - a CSV or TSV file with a path (relative to the file) and a class (index or name) in each row. A first row
              with the names `path` or `file`, and `label` or `class`, says which columns; else they are the first two;
            - pairs (path, class).
        classifier: whose classes they are.

    Raises:
        PellucidError: no such data, or a class that the classifier does not have.
        ImageError: a folder without images.
    """
    if not isinstance(data, str | Path):
        return _listed([(str(path), str(label)) for path, label in data], Path(), classifier)
    path = Path(data)
    if path.is_dir():
        return _folder(path, classifier)
    if path.suffix.lower() not in (".csv", ".tsv"):
        what = "is neither a folder nor a CSV or TSV file" if path.exists() else "does not exist"
        raise PellucidError(f"{path} {what}; give a folder with one folder of images per class, or a list of files")
    return _listed(_rows(path), path.parent, classifier)


def _folder(root: Path, classifier: Classifier) -> DataSet:
    files = [path.relative_to(root) for path in find_images(root, recursive=True)]
    names = sorted({path.parts[0] for path in files if len(path.parts) > 1})
    if not names:
        raise PellucidError(f"{root} has images but no folders in it; wanted one folder per class, or a list of files")
    labels = _labels_of_folders(root, names, classifier)
    kept = [path for path in files if len(path.parts) > 1]
    stray = [ImageFailure(path, "is in no class folder") for path in files if len(path.parts) == 1]
    return DataSet(
        root,
        tuple(path.as_posix() for path in kept),
        tuple(labels[path.parts[0]] for path in kept),
        tuple(stray),
    )


def _labels_of_folders(root: Path, names: Sequence[str], classifier: Classifier) -> dict[str, int]:
    found: dict[str, int] = {}
    failures: list[str] = []
    for name in names:
        try:
            found[name] = _label(name, classifier)
        except TargetError as error:
            failures.append(str(error))
    if not failures:
        return found
    if len(names) == classifier.num_classes:
        return {name: index for index, name in enumerate(names)}
    raise PellucidError(
        f"{len(failures)} of {len(names)} folders in {root} are no class of {classifier.name} ({failures[0]}); name "
        f"them by class index or name, or have one for each of the {classifier.num_classes} classes, sorted like them"
    )


def _label(text: str, classifier: Classifier) -> int:
    if text.isdecimal():
        return classifier.class_index(int(text))
    plain = text.replace("_", " ").lower()
    names = [name.replace("_", " ").lower() for name in classifier.class_names]
    if names.count(plain) == 1:
        return names.index(plain)
    if plain in names:
        indices = [index for index, name in enumerate(names) if name == plain]
        raise TargetError(f"class name {text!r} belongs to classes {indices}; use the index")
    near = difflib.get_close_matches(plain, names, n=2)
    raise TargetError(f"no class {text!r}" + (f"; did you mean {' or '.join(map(repr, near))}?" if near else ""))


def _rows(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",") if row]
    columns = (0, 1)
    first = [name.strip().lower() for name in rows[0]] if rows else []
    for wanted in _HEADERS:
        if set(wanted) <= set(first):
            columns, rows = (first.index(wanted[0]), first.index(wanted[1])), rows[1:]
            break
    short = [row for row in rows if len(row) <= max(columns)]
    if short:
        raise PellucidError(f"{path}: the row {short[0]} has no class; wanted a path and a class in every row")
    return [(row[columns[0]].strip(), row[columns[1]].strip()) for row in rows]


def _listed(rows: Sequence[tuple[str, str]], root: Path, classifier: Classifier) -> DataSet:
    if not rows:
        raise PellucidError("the list of images is empty; wanted a path and a class in every row")
    labels = {name: _label(name, classifier) for name in dict.fromkeys(label for _, label in rows)}
    files = [PurePath(os.path.normpath(path)).as_posix() for path, _ in rows]
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise PellucidError(f"{twice} is in the list of images more than once")
    return DataSet(root, tuple(files), tuple(labels[label] for _, label in rows))
