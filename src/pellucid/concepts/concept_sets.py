"""Concept sets: the pictures that show a concept, or masked parts of them, in a fixed order and on record."""

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

from pellucid.data import find_pictures, read_picture, to_rgb
from pellucid.errors import PellucidError, PictureError

FEW_PICTURES = 10
"""Below so many pictures a direction is mostly chance, and a warning says so."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the upright picture."""
OnePicture = Path | Image.Image | Tensor
Pictures = str | Path | Tensor | NDArray[np.uint8] | Sequence[str | Path | Image.Image | NDArray[np.uint8]]


class ConceptWarning(UserWarning):
    """A concept set or CAV can be used, but its numbers deserve less trust."""


@dataclass(frozen=True)
class ConceptSet:
    """Pictures of a concept, in the order in which they are used.

    Attributes:
        name: the concept.
        pictures: N files, upright RGB pictures, or tensors (C, H, W) in a classifier's own input space.
        sources: N texts that say which picture each is: the file, or its place in the list.
        masks: N tensors (H, W) in [0, 1] over the upright pictures, 1 inside; None where all of a picture counts.
    """

    name: str
    pictures: tuple[OnePicture, ...]
    sources: tuple[str, ...]
    masks: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.pictures)


def concept_set(
    pictures: "Pictures | ConceptSet",
    name: str = "concept",
    *,
    masks: Sequence[NDArray[np.generic] | Tensor] | None = None,
    boxes: Sequence[Box] | None = None,
    count: int | None = None,
    seed: int = 0,
) -> ConceptSet:
    """Collect the pictures of a concept.

    Args:
        pictures: a folder; or a list of files (they are sorted), PIL pictures or uint8 arrays (H, W) or (H, W, 3); or
            an array of such; or a tensor (N, C, H, W) that is already in a classifier's own input space.
        name: the concept.
        masks: one (H, W) map per picture, boolean or in [0, 1], in the order of `pictures`: only the inside counts.
        boxes: one (left, top, right, bottom) per picture, in pixels, in place of masks. Pictures must be tensors, PIL
            pictures or arrays, or files that are given in sorted order.
        count: take a random sample of so many; it keeps the order.
        seed: of the sample.

    Raises:
        PictureError: a file is missing, or a folder has no pictures.
        PellucidError: there are no pictures, fewer than `count`, or masks do not fit them.
    """
    if isinstance(pictures, ConceptSet):
        return pictures
    items, sources = _items(pictures)
    if not items:
        raise PellucidError(f"concept {name!r} has no pictures; give a folder, files, pictures or arrays")
    regions = _regions(name, items, masks, boxes)
    chosen: Sequence[int] = range(len(items))
    if count is not None:
        if not 1 <= count <= len(items):
            raise PellucidError(f"concept {name!r} has {len(items)} pictures; a sample of {count} cannot be taken")
        generator = torch.Generator().manual_seed(seed)
        chosen = sorted(torch.randperm(len(items), generator=generator)[:count].tolist())
    return ConceptSet(
        name,
        tuple(items[index] for index in chosen),
        tuple(sources[index] for index in chosen),
        None if regions is None else tuple(regions[index] for index in chosen),
    )


def check_sets(name: str, concept: Sequence[str], negatives: Sequence[str]) -> list[str]:
    """Remarks on a concept set and its negatives, given the digests of their pictures.

    Raises:
        PellucidError: fewer than two pictures on a side, or both sides are the same pictures.
    """
    remarks = []
    for side, digests in ((f"concept {name!r}", concept), (f"the negatives of {name!r}", negatives)):
        if len(digests) < 2:
            raise PellucidError(
                f"{side}: {len(digests)} picture; a CAV needs at least 2, better {FEW_PICTURES} or more"
            )
        if len(digests) < FEW_PICTURES:
            remarks.append(f"{side}: {len(digests)} pictures only, fewer than {FEW_PICTURES}: mostly chance")
        repeated = sum(times - 1 for times in Counter(digests).values())
        if repeated:
            remarks.append(f"{side}: {repeated} of {len(digests)} pictures are copies of others")
    common = set(concept) & set(negatives)
    if common and set(concept) == set(negatives):
        raise PellucidError(f"concept {name!r} and its negatives are the same pictures: there is nothing to tell apart")
    if common:
        remarks.append(f"{len(common)} pictures of concept {name!r} are among its negatives")
    return remarks


def warn(remarks: Sequence[str]) -> None:
    """Emit each remark as a `ConceptWarning`."""
    for remark in remarks:
        warnings.warn(remark, ConceptWarning, stacklevel=3)


def _items(pictures: Pictures) -> tuple[list[OnePicture], list[str]]:
    if isinstance(pictures, Tensor):
        if pictures.ndim != 4 or not pictures.is_floating_point():
            raise PellucidError(
                f"a tensor of pictures is (N, C, H, W) floats as classifier.read makes them, not "
                f"{tuple(pictures.shape)} {pictures.dtype}; give 8-bit pictures as arrays (H, W, 3)"
            )
        return list(pictures), _places(len(pictures))
    listed = [pictures] if isinstance(pictures, str | Path) else list(pictures)
    if listed and all(isinstance(item, str | Path) for item in listed):
        files = sorted(find_pictures(listed))
        return list(files), [str(file) for file in files]
    return [_upright(item) for item in listed], _places(len(listed))


def _places(count: int) -> list[str]:
    return [f"picture {index}" for index in range(count)]


def _upright(item: object) -> Image.Image:
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim not in (2, 3):
            raise PictureError(f"an array {item.shape} {item.dtype} is no picture; wanted uint8 (H, W) or (H, W, 3)")
        item = Image.fromarray(item)
    if not isinstance(item, Image.Image):
        raise PictureError(
            f"a {type(item).__name__} among the pictures; give files only, or PIL pictures and uint8 arrays only"
        )
    return to_rgb(item)


def _regions(
    name: str,
    items: Sequence[OnePicture],
    masks: Sequence[NDArray[np.generic] | Tensor] | None,
    boxes: Sequence[Box] | None,
) -> list[Tensor] | None:
    given = boxes if masks is None else masks
    if given is None:
        return None
    if masks is not None and boxes is not None:
        raise PellucidError(f"concept {name!r}: give masks or boxes, not both")
    if len(given) != len(items):
        raise PellucidError(f"concept {name!r}: {len(given)} masks or boxes for {len(items)} pictures")
    if masks is not None:
        return [torch.as_tensor(mask).float() for mask in masks]
    return [_box_mask(item, box) for item, box in zip(items, boxes or (), strict=True)]


def _box_mask(item: OnePicture, box: Box) -> Tensor:
    """1 at the pixels whose centre lies in the box."""
    height, width = _size(item)
    left, top, right, bottom = box
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    inside = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    if not bool(inside.any()):
        raise PellucidError(
            f"box {box} holds no pixel of a picture of {width} x {height}; wanted left, top, right, bottom"
        )
    return inside.float()


def _size(item: OnePicture) -> tuple[int, int]:
    """(height, width) of the upright picture."""
    if isinstance(item, Tensor):
        return item.shape[-2], item.shape[-1]
    if isinstance(item, Path):
        item = read_picture(item)
    return item.height, item.width
