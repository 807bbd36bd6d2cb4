"""Training pictures in display space, held in memory or read again for each batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.errors import PictureError
from pellucid.surrogate.model.image_space import DisplaySpace


class Pictures(Protocol):
    """Pictures by row, (R, C, H, W) float32 in display space on the CPU."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor) -> Tensor: ...


class Held:
    """Pictures in memory."""

    def __init__(self, shown: Tensor) -> None:
        self._shown = shown

    def __len__(self) -> int:
        return len(self._shown)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self._shown[rows]


class Files:
    """Picture files, read for each batch."""

    def __init__(self, files: Sequence[str | Path], classifier: Classifier, space: DisplaySpace) -> None:
        self._files, self._classifier, self._space = list(files), classifier, space

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self._space.show(self._classifier.read([self._files[row] for row in rows.tolist()]).float())


class Stacked:
    """The rows of several collections, one after the other."""

    def __init__(self, parts: Sequence[Pictures]) -> None:
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


def gathered(
    given: Tensor | Sequence[str | Path], classifier: Classifier, side: int, held_bytes: int
) -> tuple[Pictures, DisplaySpace]:
    """What was given as training pictures, and their display space.

    Args:
        given: (N, C, H, W) in the classifier's input space, or files.
        classifier: reads the files.
        side: wanted height and width.
        held_bytes: files are held in memory if they take no more than this, else read for every batch.

    Raises:
        PictureError: they are no squares of that side, or hold NaN.
    """
    if isinstance(given, Tensor):
        pictures = classifier.check_pictures(given).detach().cpu().float()
        space = DisplaySpace.of(classifier, _checked(pictures, side))
        return Held(space.show(pictures)), space
    if not given:
        raise PictureError("no pictures were given: the list of files is empty")
    kept: list[Tensor] = []
    extremes: list[Tensor] = []
    for file in given:  # all of them, once: what is wrong with one is better known now than in the middle of training
        picture = _read(classifier, file, side)
        extremes += [picture.amin((0, 2, 3)), picture.amax((0, 2, 3))]
        if picture.nbytes * len(given) <= held_bytes:
            kept.append(picture)
    space = DisplaySpace.of(classifier, torch.stack(extremes)[:, :, None, None])
    if len(kept) < len(given):
        return Files(given, classifier, space), space
    return Held(torch.cat([space.show(picture) for picture in kept])), space


def _read(classifier: Classifier, file: str | Path, side: int) -> Tensor:
    picture = classifier.read([file]).float()
    try:
        return _checked(picture, side)
    except PictureError as error:
        raise PictureError(f"{file}: {error}") from error


def _checked(pictures: Tensor, side: int) -> Tensor:
    height, width = pictures.shape[-2:]
    if height != width:
        raise PictureError(f"the twin draws squares; the pictures are {width} x {height}: crop or pad them")
    if height != side:
        raise PictureError(f"the pictures are {width} x {height}, the preset draws {side} x {side}: resize or pad them")
    if not bool(pictures.isfinite().all()):
        bad = (~pictures.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        which = f"pictures {bad[:8]} hold" if len(pictures) > 1 else "it holds"
        raise PictureError(f"{which} NaN or infinite values")
    return pictures
