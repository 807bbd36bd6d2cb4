"""Concept sets: the images that show a concept, or masked parts of them, in a fixed order and on record."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pellucid.data import find_images, read_image, to_rgb
from pellucid.errors import ImageError, PellucidError

FEW_IMAGES = 10
"""Below so many images a direction is mostly chance, and a warning says so."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the upright image."""
OneImage = Path | Image.Image | Tensor
Images = str | Path | Tensor | NDArray[np.uint8] | Sequence[str | Path | Image.Image | NDArray[np.uint8]]


class ConceptWarning(UserWarning):
    """A concept set or CAV can be used, but its numbers deserve less trust."""


@dataclass(frozen=True)
class ConceptSet:
    """Images of a concept, in the order in which they are used.

    Attributes:
        name: the concept.
        images: N files, upright RGB images, or tensors (C, H, W) in a classifier's own input space.
        sources: N texts that say which image each is: the file, or its place in the list.
        masks: N tensors (H, W) in [0, 1] over the upright images, 1 inside; None where all of an image counts.
    """

    name: str
    images: tuple[OneImage, ...]
    sources: tuple[str, ...]
    masks: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)


def concept_set(
    images: "Images | ConceptSet",
    name: str = "concept",
    *,
    masks: Sequence[NDArray[np.generic] | Tensor] | None = None,
    boxes: Sequence[Box] | None = None,
    count: int | None = None,
    seed: int = 0,
) -> ConceptSet:
    """Collect the images of a concept.

    Args:
        images: a folder; or a list of files (they are sorted), PIL images or uint8 arrays (H, W) or (H, W, 3); or
            an array of such; or a tensor (N, C, H, W) that is already in a classifier's own input space.
        name: the concept.
        masks: one (H, W) map per image, boolean or in [0, 1], in the order of `images`: only the inside counts.
        boxes: one (left, top, right, bottom) per image, in pixels, in place of masks. Images must be tensors, PIL
            images or arrays, or files that are given in sorted order.
        count: take a random sample of so many; it keeps the order.
        seed: of the sample.

    Raises:
        ImageError: a file is missing, or a folder has no images.
        PellucidError: there are no images, fewer than `count`, or masks do not fit them.
    """
    if isinstance(images, ConceptSet):
        return images
    items, sources = _items(images)
    if not items:
        raise PellucidError(f"concept {name!r} has no images; give a folder, files, images or arrays")
    regions = _regions(name, items, masks, boxes)
    chosen: Sequence[int] = range(len(items))
    if count is not None:
        if not 1 <= count <= len(items):
            raise PellucidError(f"concept {name!r} has {len(items)} images; a sample of {count} cannot be taken")
        generator = torch.Generator().manual_seed(seed)
        chosen = sorted(torch.randperm(len(items), generator=generator)[:count].tolist())
    return ConceptSet(
        name,
        tuple(items[index] for index in chosen),
        tuple(sources[index] for index in chosen),
        None if regions is None else tuple(regions[index] for index in chosen),
    )


def check_sets(name: str, concept: Sequence[str], negatives: Sequence[str]) -> list[str]:
    """Remarks on a concept set and its negatives, given the digests of their images.

    Raises:
        PellucidError: fewer than two images on a side, or both sides are the same images.
    """
    remarks = []
    for side, digests in ((f"concept {name!r}", concept), (f"the negatives of {name!r}", negatives)):
        if len(digests) < 2:
            raise PellucidError(f"{side}: {len(digests)} image; a CAV needs at least 2, better {FEW_IMAGES} or more")
        if len(digests) < FEW_IMAGES:
            remarks.append(f"{side}: {len(digests)} images only, fewer than {FEW_IMAGES}: mostly chance")
        repeated = sum(times - 1 for times in Counter(digests).values())
        if repeated:
            remarks.append(f"{side}: {repeated} of {len(digests)} images are copies of others")
    common = set(concept) & set(negatives)
    if common and set(concept) == set(negatives):
        raise PellucidError(f"concept {name!r} and its negatives are the same images: there is nothing to tell apart")
    if common:
        remarks.append(f"{len(common)} images of concept {name!r} are among its negatives")
    return remarks


def warn(remarks: Sequence[str]) -> None:
    """Emit each remark as a `ConceptWarning`."""
    for remark in remarks:
        warnings.warn(remark, ConceptWarning, stacklevel=3)


def _items(images: Images) -> tuple[list[OneImage], list[str]]:
    if isinstance(images, Tensor):
        if images.ndim != 4 or not images.is_floating_point():
            raise PellucidError(
                f"a tensor of images is (N, C, H, W) floats as classifier.read makes them, not "
                f"{tuple(images.shape)} {images.dtype}; give 8-bit images as arrays (H, W, 3)"
            )
        return list(images), _places(len(images))
    listed = [images] if isinstance(images, str | Path) else list(images)
    if listed and all(isinstance(item, str | Path) for item in listed):
        files = sorted(find_images(listed))
        return list(files), [str(file) for file in files]
    return [_upright(item) for item in listed], _places(len(listed))


def _places(count: int) -> list[str]:
    return [f"image {index}" for index in range(count)]


def _upright(item: object) -> Image.Image:
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim not in (2, 3):
            raise ImageError(f"an array {item.shape} {item.dtype} is no image; wanted uint8 (H, W) or (H, W, 3)")
        item = Image.fromarray(item)
    if not isinstance(item, Image.Image):
        raise ImageError(
            f"a {type(item).__name__} among the images; give files only, or PIL images and uint8 arrays only"
        )
    return to_rgb(item)


def _regions(
    name: str,
    items: Sequence[OneImage],
    masks: Sequence[NDArray[np.generic] | Tensor] | None,
    boxes: Sequence[Box] | None,
) -> list[Tensor] | None:
    given = boxes if masks is None else masks
    if given is None:
        return None
    if masks is not None and boxes is not None:
        raise PellucidError(f"concept {name!r}: give masks or boxes, not both")
    if len(given) != len(items):
        raise PellucidError(f"concept {name!r}: {len(given)} masks or boxes for {len(items)} images")
    if masks is not None:
        return [torch.as_tensor(mask).float() for mask in masks]
    return [_box_mask(item, box) for item, box in zip(items, boxes or (), strict=True)]


def _box_mask(item: OneImage, box: Box) -> Tensor:
    """1 at the pixels whose centre lies in the box."""
    height, width = _size(item)
    left, top, right, bottom = box
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    inside = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    if not bool(inside.any()):
        raise PellucidError(
            f"box {box} holds no pixel of an image of {width} x {height}; wanted left, top, right, bottom"
        )
    return inside.float()


def _size(item: OneImage) -> tuple[int, int]:
    """(height, width) of the upright image."""
    if isinstance(item, Tensor):
        return item.shape[-2], item.shape[-1]
    if isinstance(item, Path):
        item = read_image(item)
    return item.height, item.width
