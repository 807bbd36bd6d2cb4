"""Training images in display space, kept in memory or read again for each batch."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pellucid.classifiers import Classifier
from pellucid.errors import ImageError
from pellucid.surrogate.model.image_space import DisplaySpace


class InMemory(Dataset[Tensor]):
    """Images (N, C, R, R) in memory.

    Args:
        images: Display space, on the CPU.

    >>> images = InMemory(torch.zeros(5, 1, 16, 16))
    >>> len(images), images[0].shape
    (5, torch.Size([1, 16, 16]))
    """

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> Tensor:
        return self._images[row]


class FileDataset(Dataset[Tensor]):
    """Image files, read for each batch.

    Args:
        files: One for each image.
        classifier: Reads them.
        space: Display space of the images.
    """

    def __init__(self, files: Sequence[str | Path], classifier: Classifier, space: DisplaySpace) -> None:
        self._files, self._classifier, self._space = list(files), classifier, space

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> Tensor:
        return self._space.to_display(self._classifier.read([self._files[row]]).float())[0]


def gather_images(images: Dataset[Tensor], rows: Tensor) -> Tensor:
    """The images of a dataset in `rows` (R,), stacked: (R, C, H, W).

    >>> gather_images(InMemory(torch.arange(4.0).view(4, 1, 1, 1)), torch.tensor([3, 1])).flatten()
    tensor([3., 1.])
    """
    return torch.stack([images[row] for row in rows.tolist()])


def make_dataset(
    images: Tensor | Sequence[str | Path], classifier: Classifier, resolution: int, max_bytes_in_memory: int
) -> tuple[InMemory | FileDataset, DisplaySpace]:
    """The training images as a dataset, and their display space.

    Args:
        images: (N, C, R, R) in the classifier's input space, or files.
        classifier: Reads the files.
        resolution: R, the height and width that the images must have.
        max_bytes_in_memory: Files are kept in memory if they take no more than this, else read for every batch.

    Raises:
        ImageError: An image is not a square of that side, or holds NaN.
    """
    if isinstance(images, Tensor):
        images = _check_images(classifier.check_images(images).detach().cpu().float(), resolution)
        space = DisplaySpace.of(classifier, images)
        return InMemory(space.to_display(images)), space
    if not images:
        raise ImageError("no images were given: the list of files is empty")
    kept: list[Tensor] = []
    extremes: list[Tensor] = []
    for file in images:  # all of them, once: what is wrong with one is better known now than in the middle of training
        image = _read_image(classifier, file, resolution)
        extremes += [image.amin((0, 2, 3)), image.amax((0, 2, 3))]
        if image.nbytes * len(images) <= max_bytes_in_memory:
            kept.append(image)
    space = DisplaySpace.of(classifier, torch.stack(extremes)[:, :, None, None])
    if len(kept) < len(images):
        return FileDataset(images, classifier, space), space
    return InMemory(torch.cat([space.to_display(image) for image in kept])), space


def _read_image(classifier: Classifier, file: str | Path, resolution: int) -> Tensor:
    image = classifier.read([file]).float()
    try:
        return _check_images(image, resolution)
    except ImageError as error:
        raise ImageError(f"{file}: {error}") from error


def _check_images(images: Tensor, resolution: int) -> Tensor:
    height, width = images.shape[-2:]
    if height != width:
        raise ImageError(f"a surrogate needs square images; these are {width} x {height}: crop or pad them")
    if height != resolution:
        raise ImageError(
            f"the images are {width} x {height}, the preset generates {resolution} x {resolution}: resize or pad them"
        )
    if not bool(images.isfinite().all()):
        bad = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        which = f"images {bad[:8]} hold" if len(images) > 1 else "it holds"
        raise ImageError(f"{which} NaN or infinite values")
    return images
