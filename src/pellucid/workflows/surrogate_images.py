"""The images of a surrogate: found in a folder with their context, split into training and held-out ones, and read."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.data import ContextTable, find_images, read_context
from pellucid.errors import PellucidError

MIN_HELD_OUT = 50


@dataclass(frozen=True)
class ImageSample:
    """Images (N, C, H, W) in the classifier's input space, their files, and their context if it is known."""

    files: Sequence[Path]
    images: Tensor
    context: ContextTable | None


def find_images_with_context(
    folder: Path, context: Path | None, columns: Sequence[str] = ()
) -> tuple[list[Path], ContextTable | None]:
    """The images below a folder and, if there is a table, their rows in the same order.

    Args:
        folder: searched with all its folders.
        context: CSV with a row per image; None for no context.
        columns: of the table; all if empty.

    Raises:
        PellucidError: no such folder, or a table that does not fit the images.
    """
    if not folder.is_dir():
        raise PellucidError(f"{folder} is not a folder of images")
    if context is None:
        return find_images(folder, recursive=True), None
    table = read_context(context, folder, columns=list(columns) or None)
    return list(table.files or ()), table


def digest_of_files(files: Sequence[Path]) -> str:
    """Identifies a list of files in its order: with other files, other rows would be held out.

    >>> digest_of_files([]) == digest_of_files([Path("a.png")])
    False
    """
    return sha256("\n".join(map(str, files)).encode()).hexdigest()


def split_rows(count: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows held out, drawn at random; both in order.

    Args:
        count: rows in all.
        held_out: share of them that is held out, in ]0, 1[.
        seed: of the draw.

    Raises:
        PellucidError: a share outside ]0, 1[, or too few images held out.

    >>> train, held = split_rows(200, 0.25, seed=0)
    >>> len(train), len(held), sorted(train + held) == list(range(200))
    (150, 50, True)
    """
    if not 0 < held_out < 1:
        raise PellucidError(f"--held-out is the share of images kept from training, between 0 and 1, not {held_out:g}")
    kept = round(held_out * count)
    if kept < MIN_HELD_OUT:
        raise PellucidError(
            f"{count} images are too few: --held-out {held_out:g} of them are {kept}, and at least {MIN_HELD_OUT} "
            "are needed to assess the surrogate and to explain against"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[kept:]), sorted(order[:kept])


def read_sample(
    classifier: Classifier, files: Sequence[Path], table: ContextTable | None, rows: Sequence[int]
) -> ImageSample:
    """Read some of the images and their context.

    Args:
        classifier: that reads them.
        files: all images.
        table: their context, in the same order.
        rows: which of them.

    Raises:
        PellucidError: a file is not an image, or the classifier's preprocessing leaves them at different sizes.
    """
    chosen = [files[row] for row in rows]
    images = [classifier.read(file) for file in chosen]
    if sizes := {tuple(image.shape[1:]) for image in images[1:]} - {tuple(images[0].shape[1:])}:
        raise PellucidError(
            f"images differ in size once read: {tuple(images[0].shape[1:])} and {sizes.pop()}; bring them to one size, "
            "or give the classifier a preprocessing that does"
        )
    context = None if table is None else table.subset(rows)
    return ImageSample(chosen, classifier.check_images(torch.cat(images)), context)
