"""Regions of the images of a data set, a table of boxes or a folder of masks, as the classifier's input shows them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.data import Geometry, read_image, read_rows
from pellucid.errors import PellucidError
from pellucid.evaluation.metrics.regions import BoundingBox

_COLUMNS = ("path", "left", "top", "right", "bottom")


@dataclass(frozen=True)
class RegionFiles:
    """Where the object of each image is.

    Attributes:
        boxes: the boxes of each file, in pixels of the image.
        folder: of masks, one image for each file, named like it but for the ending; anything but black is inside.
    """

    boxes: Mapping[str, tuple[BoundingBox, ...]] = field(default_factory=dict)
    folder: Path | None = None

    def digest(self) -> str:
        """SHA-256 of the boxes, or of the names and sizes of the masks."""
        content = hashlib.sha256()
        for file, boxes in sorted(self.boxes.items()):
            content.update(f"{file}\0{boxes}\n".encode())
        if self.folder is not None:
            for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
                content.update(f"{path.relative_to(self.folder).as_posix()}\0{path.stat().st_size}\n".encode())
        return content.hexdigest()

    def mask(self, file: str, geometry: Geometry, size: tuple[int, int]) -> Tensor:
        """The region of one image at the pixels of the classifier's input.

        Args:
            file: name of the image in the data set.
            geometry: which part of the image the input shows.
            size: (H, W) of the input.

        Returns:
            (H, W) bool; nowhere True where nothing is known of the image, or its region lies outside of the input.

        Raises:
            ImageError: the mask cannot be read.
            PellucidError: the mask has another size than the image.
        """
        left, top, right, bottom = geometry.box
        across = left + (torch.arange(size[1]) + 0.5) * (right - left) / size[1]
        down = top + (torch.arange(size[0]) + 0.5) * (bottom - top) / size[0]
        if self.folder is None:
            return _inside(self.boxes.get(file, ()), across, down)
        return _sample(self._mask_path(file), geometry, across, down)

    def masks(self, classifier: Classifier, root: Path, files: Sequence[str]) -> Tensor:
        """The regions of several images at the pixels of the classifier's input.

        Args:
            classifier: whose preprocessing cuts the images.
            root: folder of the data set.
            files: N names in the data set.

        Returns:
            (N, H, W) bool, see `mask`.
        """
        size = (classifier.input_shape[1], classifier.input_shape[2])
        return torch.stack(
            [self.mask(file, classifier.geometry(*read_image(root / file).size), size) for file in files]
        )

    def _mask_path(self, file: str) -> Path | None:
        assert self.folder is not None
        stem = self.folder / PurePosixPath(file).with_suffix("")
        return next((path for path in sorted(stem.parent.glob(f"{stem.name}.*")) if path.is_file()), None)


def read_regions(source: str | Path) -> RegionFiles:
    """Read where the objects are.

    Args:
        source: a CSV or TSV file with the columns path, left, top, right, bottom, a row for each box: paths as the data
            set names its files, edges in pixels of the image; or a folder of masks that is laid out like the data set.

    Raises:
        PellucidError: neither, or a row that is not a box.
    """
    path = Path(source)
    if path.is_dir():
        return RegionFiles(folder=path)
    if path.suffix.lower() not in (".csv", ".tsv") or not path.is_file():
        raise PellucidError(f"{path} is neither a folder of masks nor a CSV or TSV file of boxes")
    try:
        header, *lines = read_rows(path) or [(1, [])]
    except PellucidError as error:
        raise PellucidError(f"{path}: {error}") from error
    names = [name.strip().lower() for name in header[1]]
    if not set(_COLUMNS) <= set(names):
        raise PellucidError(f"{path}, line 1: expected a header with the columns {', '.join(_COLUMNS)}")
    rows = [(number, dict(zip(names, cells, strict=False))) for number, cells in lines]
    boxes: dict[str, list[BoundingBox]] = {}
    for number, row in rows:
        try:
            left, top, right, bottom = (float(row[name]) for name in _COLUMNS[1:])
            name = PurePosixPath(row["path"].strip()).as_posix()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PellucidError(f"{path}, line {number}: expected the columns {', '.join(_COLUMNS)}") from error
        if not (left < right and top < bottom):
            raise PellucidError(f"{path}, line {number}: the box {(left, top, right, bottom)} is empty")
        boxes.setdefault(name, []).append((left, top, right, bottom))
    if not boxes:
        raise PellucidError(f"{path} has no boxes; expected the columns {', '.join(_COLUMNS)}")
    return RegionFiles({name: tuple(of_file) for name, of_file in boxes.items()})


def _inside(boxes: Sequence[BoundingBox], across: Tensor, down: Tensor) -> Tensor:
    """(H, W) bool: the positions that lie in one of the boxes."""
    mask = torch.zeros(len(down), len(across), dtype=torch.bool)
    for left, top, right, bottom in boxes:
        mask |= ((top <= down) & (down < bottom))[:, None] & (left <= across) & (across < right)
    return mask


def _sample(path: Path | None, geometry: Geometry, across: Tensor, down: Tensor) -> Tensor:
    """(H, W) bool: the mask at these positions, False outside of the image."""
    mask = torch.zeros(len(down), len(across), dtype=torch.bool)
    if path is None:
        return mask
    image = read_image(path)
    if image.size != (geometry.width, geometry.height):
        raise PellucidError(
            f"mask {path} has {image.width} x {image.height} pixels, the image {geometry.width} x {geometry.height}"
        )
    inside = torch.from_numpy(np.asarray(image.convert("L")) > 0)
    rows, columns = down.floor().long(), across.floor().long()
    seen = [(rows >= 0) & (rows < image.height), (columns >= 0) & (columns < image.width)]
    mask[seen[0][:, None] & seen[1]] = inside[rows[seen[0]]][:, columns[seen[1]]].flatten()
    return mask
