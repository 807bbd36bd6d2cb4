"""Training images in display space, held in memory or read again for each batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.errors import ImageError
from pellucid.surrogate.model.image_space import DisplaySpace


class Images(Protocol):
    """Images by row, (R, C, H, W) float32 in display space on the CPU."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor) -> Tensor: ...


class InMemory:
    """Images in memory."""

    def __init__(self, shown: Tensor) -> None:
        self._shown = shown

    def __len__(self) -> int:
        return len(self._shown)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self._shown[rows]


class FileDataset:
    """Image files, read for each batch."""

    def __init__(self, files: Sequence[str | Path], classifier: Classifier, space: DisplaySpace) -> None:
        self._files, self._classifier, self._space = list(files), classifier, space

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self._space.show(self._classifier.read([self._files[row] for row in rows.tolist()]).float())


class ConcatDataset:
    """The rows of several collections, one after the other."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self._parts = list(parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, rows: Tensor) -> Tensor:
        found: list[Tensor] = []
        order: list[Tensor] = []
        start = 0
        for part in self._parts:
            mine = ((rows >= start) & (rows < start + len(part))).nonzero()[:, 0]
            if len(mine):
                found.append(part[rows[mine] - start])
                order.append(mine)
            start += len(part)
        return torch.cat(found)[torch.cat(order).argsort()]


def make_dataset(
    given: Tensor | Sequence[str | Path], classifier: Classifier, side: int, max_bytes_in_memory: int
) -> tuple[Images, DisplaySpace]:
    """What was given as training images, and their display space.

    Args:
        given: (N, C, H, W) in the classifier's input space, or files.
        classifier: reads the files.
        side: wanted height and width.
        max_bytes_in_memory: files are held in memory if they take no more than this, else read for every batch.

    Raises:
        ImageError: they are no squares of that side, or hold NaN.
    """
    if isinstance(given, Tensor):
        images = classifier.check_images(given).detach().cpu().float()
        space = DisplaySpace.of(classifier, _checked(images, side))
        return InMemory(space.show(images)), space
    if not given:
        raise ImageError("no images were given: the list of files is empty")
    kept: list[Tensor] = []
    extremes: list[Tensor] = []
    for file in given:  # all of them, once: what is wrong with one is better known now than in the middle of training
        image = _read(classifier, file, side)
        extremes += [image.amin((0, 2, 3)), image.amax((0, 2, 3))]
        if image.nbytes * len(given) <= max_bytes_in_memory:
            kept.append(image)
    space = DisplaySpace.of(classifier, torch.stack(extremes)[:, :, None, None])
    if len(kept) < len(given):
        return FileDataset(given, classifier, space), space
    return InMemory(torch.cat([space.show(image) for image in kept])), space


def _read(classifier: Classifier, file: str | Path, side: int) -> Tensor:
    image = classifier.read([file]).float()
    try:
        return _checked(image, side)
    except ImageError as error:
        raise ImageError(f"{file}: {error}") from error


def _checked(images: Tensor, side: int) -> Tensor:
    height, width = images.shape[-2:]
    if height != width:
        raise ImageError(f"the twin draws squares; the images are {width} x {height}: crop or pad them")
    if height != side:
        raise ImageError(f"the images are {width} x {height}, the preset draws {side} x {side}: resize or pad them")
    if not bool(images.isfinite().all()):
        bad = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        which = f"images {bad[:8]} hold" if len(images) > 1 else "it holds"
        raise ImageError(f"{which} NaN or infinite values")
    return images
