"""Tables of context features: what is known of each image besides its pixels, such as thickness or age."""

import csv
import difflib
import io
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pellucid.data.images import find_images
from pellucid.data.tables import read_rows
from pellucid.errors import PellucidError
from pellucid.storage import write_atomically

FilePath: TypeAlias = str | os.PathLike[str]

_SAME = 0.9999  # correlation from which two columns are one feature under two names
_SHOWN = 3  # examples in a message


@dataclass(frozen=True)
class ContextScale:
    """What context features are standardized with: those of a training table, to be used on any other.

    Attributes:
        names: K features.
        means: (K,) float64.
        sds: (K,) float64, above 0.

    >>> scale = ContextTable.from_columns({"age": [20.0, 40.0]}).scale()
    >>> scale.standardize(torch.tensor([[50.0]]))
    tensor([[2.]])
    """

    names: tuple[str, ...]
    means: Tensor
    sds: Tensor

    def standardize(self, values: Tensor) -> Tensor:
        """Values (..., K) in standard deviations from the mean, float32, on the values' device."""
        means, sds = self.means.to(values.device), self.sds.to(values.device)
        return ((values.double() - means) / sds).float()

    def unstandardize(self, standardized: Tensor) -> Tensor:
        """What `standardize` was given, (..., K) float64; differentiable."""
        means, sds = self.means.to(standardized.device), self.sds.to(standardized.device)
        return standardized.double() * sds + means


@dataclass(frozen=True)
class ContextTable:
    """Context features of images, one row per image.

    Constant columns and copies are allowed, as in a table made by an intervention; `check` refuses them where a
    surrogate is to learn from the table.

    Attributes:
        names: K features, none twice.
        values: (N, K) float64, finite.
        files: the images of the rows, if they are files.

    >>> table = ContextTable.from_columns({"age": [20.0, 40.0, 30.0], "weight": [60.0, 80.0, 75.0]})
    >>> table.column("age").tolist(), len(table.subset([0, 2]))
    ([20.0, 40.0, 30.0], 2)
    >>> table.with_columns({"age": 0.0}).select(["age"]).values.tolist()
    [[0.0], [0.0], [0.0]]
    """

    names: tuple[str, ...]
    values: Tensor
    files: tuple[Path, ...] | None = None

    def __post_init__(self) -> None:
        _check_names(self.names)
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise PellucidError(
                f"context values are {tuple(self.values.shape)}, not one row per image with "
                f"{len(self.names)} columns ({', '.join(self.names)})"
            )
        if self.files is not None and len(self.files) != len(self.values):
            raise PellucidError(f"the context has {len(self.values)} rows for {len(self.files)} files; give one each")
        object.__setattr__(self, "values", self.values.double())
        self._refuse_gaps()

    @classmethod
    def from_columns(cls, columns: Mapping[str, ArrayLike], files: Sequence[Path] | None = None) -> "ContextTable":
        """A table from one array of N numbers per feature.

        Raises:
            PellucidError: the columns differ in length, or a number is missing.
        """
        arrays = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
            raise PellucidError(f"context columns must be equally long lists of numbers, not {shapes}")
        values = torch.from_numpy(np.stack(list(arrays.values()), axis=1)) if arrays else torch.zeros(0, 0)
        return cls(tuple(arrays), values, tuple(files) if files is not None else None)

    def __len__(self) -> int:
        return len(self.values)

    def column(self, name: str) -> Tensor:
        """The values (N,) of one feature."""
        return self.values[:, self._column_index(name)]

    def select(self, names: Sequence[str]) -> "ContextTable":
        """The same rows with the named columns only, in that order."""
        return ContextTable(tuple(names), self.values[:, [self._column_index(name) for name in names]], self.files)

    def subset(self, rows: Sequence[int] | Tensor | slice) -> "ContextTable":
        """Some rows, by their numbers, a mask or a slice."""
        indices = torch.arange(len(self))[rows if isinstance(rows, slice | Tensor) else list(rows)]
        files = self.files and tuple(self.files[row] for row in indices.tolist())
        return ContextTable(self.names, self.values[indices.to(self.values.device)], files)

    def with_columns(self, values: Mapping[str, float | Tensor]) -> "ContextTable":
        """The same rows with some columns set to a number, or to one number per row."""
        columns = list(self.values.unbind(1))
        for name, value in values.items():
            columns[self._column_index(name)] = torch.as_tensor(value).to(columns[0]).expand(len(self))
        return ContextTable(self.names, torch.stack(columns, dim=1), self.files)

    def scale(self) -> ContextScale:
        """Means and standard deviations (of the population) of the columns.

        Raises:
            PellucidError: a column is constant.
        """
        self._refuse_constants()
        return ContextScale(self.names, self.values.mean(0), self.values.std(0, correction=0))

    def check(self, *, at_least: int = 2, images: int | None = None) -> None:
        """Refuse a table from which nothing can be learned.

        Args:
            at_least: so many rows are needed.
            images: how many images it must describe, if known.

        Raises:
            PellucidError: too few rows, not one per image, a constant column, or two columns that are copies of
                each other (correlation beyond ±0.9999): their effects could never be separated.
        """
        if images is not None and images != len(self):
            raise PellucidError(f"the context table has {len(self)} rows for {images} images; give one row each")
        if len(self) < at_least:
            raise PellucidError(f"{len(self)} images with context are too few; at least {at_least} are needed")
        self._refuse_constants()
        correlations = torch.corrcoef(self.values.T).reshape(len(self.names), -1)
        for first, second in combinations(range(len(self.names)), 2):
            if abs(float(correlations[first, second])) > _SAME:
                raise PellucidError(
                    f"context columns {self.names[first]!r} and {self.names[second]!r} are copies of each other "
                    f"(correlation {float(correlations[first, second]):.5f}); leave one of them out"
                )

    def _column_index(self, name: str) -> int:
        if name not in self.names:
            raise PellucidError(f"no context column {name!r}{_nearest(name, self.names)}")
        return self.names.index(name)

    def _refuse_constants(self) -> None:
        spread, size = self.values.std(0, correction=0), self.values.abs().amax(0) if len(self) else torch.zeros(0)
        constant = [name for name, s, m in zip(self.names, spread, size, strict=False) if not s > 1e-9 * m]
        if constant or not len(self):
            columns = ", ".join(map(repr, constant)) or "every column"
            raise PellucidError(f"context columns without any variation: {columns}; leave them out")

    def _refuse_gaps(self) -> None:
        rows, columns = (~self.values.isfinite()).nonzero(as_tuple=True)
        if not len(rows):
            return
        row, name = int(rows[0]), self.names[int(columns[0])]
        where = str(self.files[row]) if self.files else f"row {row}"
        raise PellucidError(
            f"the context has {len(rows)} missing or infinite values, the first at {where}, column {name!r}; "
            "fill them in, or leave out those images or columns"
        )


def read_context(
    table: FilePath,
    folder: FilePath | None = None,
    *,
    columns: Sequence[str] | None = None,
    file_column: str = "file",
) -> ContextTable:
    """Read context features from a CSV file, with a header and one row per image.

    Args:
        table: the CSV file, in UTF-8 (or in UTF-16 with a byte order mark).
        folder: of the images, searched with all its folders. Each of them must have a row that names it by its
            path below the folder; the table then comes in the order of `find_images`. Without a folder the rows
            stay as they are and name no files.
        columns: the features to read; by default all columns but the file column.
        file_column: the column with the images' names; needed with a folder only.

    Returns:
        The table; with a folder its `files` are the images' paths. Call `check` before training on it.

    Raises:
        PellucidError: the file is not such a table, a cell is not a number, a row names an unknown image or one that
            had a row already, or images have no row. The message begins with the path and names the line.
        ImageError: the folder has no images.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "table.csv").write_text("age,weight\\n20,60\\n40,80\\n")
    ...     read_context(Path(folder) / "table.csv").values.tolist()
    [[20.0, 60.0], [40.0, 80.0]]
    """
    try:
        header, rows = _read_table(Path(table))
        file_index = None if folder is None else _index_in_header(file_column, header)
        named = header if columns is None else map(_composed, columns)
        names = tuple(name for name in named if columns is not None or name != file_column)
        _check_names(names)
        indices = [_index_in_header(name, header) for name in names]
        numbers = [[_number(row[index], line, header[index]) for index in indices] for line, row in rows]
        values = torch.tensor(numbers, dtype=torch.float64).reshape(len(rows), len(names))
        if folder is None or file_index is None:
            return ContextTable(names, values)
        images = find_images(Path(folder), recursive=True)
        order = _match([(line, row[file_index]) for line, row in rows], images, Path(folder))
        return ContextTable(names, values[order], tuple(images))
    except PellucidError as error:
        raise type(error)(f"{table}: {error}") from error


def write_context(context: ContextTable, path: FilePath, *, folder: FilePath | None = None) -> None:
    """Write a table as CSV that `read_context` reads back to the last bit.

    Args:
        context: the table.
        path: the file to write; replaced at once if it exists.
        folder: the files of the table are named by their paths below this one; needed if it has files.

    Raises:
        PellucidError: the table has files, and no folder is given or one is outside of it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_context(ContextTable.from_columns({"age": [20.5]}), Path(folder) / "table.csv")
    ...     (Path(folder) / "table.csv").read_text().split()
    ['age', '20.5']
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(["file"] if context.files is not None else []), *context.names])
    for row, values in enumerate(context.values.tolist()):
        name = [_relative(context.files[row], folder)] if context.files is not None else []
        writer.writerow([*name, *map(repr, values)])
    write_atomically(path, text.getvalue().encode())


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the rows with the lines they stand on (which `pyarrow.csv` does not tell)."""
    first, *rows = read_rows(path) or [(1, [])]
    header = [_composed(name).strip() for name in first[1]]
    if not header or not rows:
        raise PellucidError("has no rows; give a header and one row per image")
    for line, row in rows:
        if len(row) != len(header):
            raise PellucidError(f"line {line} has {len(row)} cells, the header {len(header)}; correct that line")
    return header, rows


def _check_names(names: Sequence[str]) -> None:
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if repeated:
        raise PellucidError(f"two context columns are named {repeated[0]!r}; rename or leave out one of them")
    if not names or not all(names):
        raise PellucidError(f"context columns need names, at least one; these are {tuple(names)}")


def _index_in_header(name: str, header: list[str]) -> int:
    if header.count(name) != 1:
        problem = "two columns" if name in header else "no column"
        raise PellucidError(f"{problem} {name!r}{_nearest(name, header)}")
    return header.index(name)


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, _SHOWN, 0.6) or list(known[:10])
    return f"; did you mean one of {', '.join(near)}?"


def _number(cell: str, line: int, column: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise PellucidError(f"line {line}, column {column!r}: {_not_a_number(cell)}") from None


def _not_a_number(cell: str) -> str:
    text = cell.strip()
    if not text:
        return "the cell is empty; fill it in or drop the image"
    if text.replace(",", ".", 1).lstrip("+-").replace(".", "", 1).isdecimal():
        return f"{cell!r} has a decimal comma; write {text.replace(',', '.')}"
    return f"{cell!r} is not a number; write a number for each value of a category (0 and 1), or leave the column out"


def _match(lines: list[tuple[int, str]], images: list[Path], folder: Path) -> list[int]:
    """For each image the row that names it."""
    row_of: dict[str, int] = {}
    known = [path.relative_to(folder).as_posix() for path in images]
    spell = _composed if len({_composed(name) for name in known}) == len(known) else str
    known = [spell(name) for name in known]
    for row, (line, name) in enumerate(lines):
        name = spell(PurePosixPath(name.strip()).as_posix())
        if name in row_of:
            raise PellucidError(f"line {line}: a second row for {name!r}; keep one of them")
        row_of[name] = row
    images_known = set(known)
    unknown = [name for name in row_of if name not in images_known]
    if unknown:
        line = lines[row_of[unknown[0]]][0]
        raise PellucidError(
            f"line {line}: no image {unknown[0]!r} in {folder}{_nearest(unknown[0], known)} "
            f"({len(unknown)} such rows; drop them or add the images)"
        )
    missing = [name for name in known if name not in row_of]
    if missing:
        raise PellucidError(
            f"{len(missing)} of {len(known)} images in {folder} have no row ({', '.join(missing[:_SHOWN])}, ...); "
            "add rows for them or move them away"
        )
    return [row_of[name] for name in known]


def _composed(name: str) -> str:
    """A file's name in Unicode's composed form: macOS decomposes names, tables are typed."""
    return unicodedata.normalize("NFC", name)


def _relative(path: Path, folder: FilePath | None) -> str:
    if folder is None or not path.is_relative_to(folder):
        raise PellucidError(f"the context's file {path} is not below the folder {folder}; give the images' folder")
    return path.relative_to(folder).as_posix()
