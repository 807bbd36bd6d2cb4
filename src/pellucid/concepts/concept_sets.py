"""Concept sets: the images that show a concept, or masked parts of them, in a fixed order and on record."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pellucid.data import find_images, read_image, to_rgb
from pellucid.errors import ImageError, PellucidError
from pellucid.synthetic import NEGATIVES, draw_images

FEW_IMAGES = 10
"""With fewer images than this a direction is mostly chance, and a warning says so."""
DRAWN_COUNT = 40
"""Default number of images that are drawn of a concept."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the upright image."""
OneImage = Path | Image.Image | Tensor
Images = str | Path | Tensor | NDArray[np.uint8] | Sequence[str | Path | Image.Image | NDArray[np.uint8]]
Mask = NDArray[np.generic] | Tensor


class ConceptWarning(UserWarning):
    """A concept set or CAV can be used, but its numbers deserve less trust."""


@dataclass(frozen=True)
class ConceptSet:
    """Images of a concept, in the order in which they are used; `concept_set` makes one.

    Attributes:
        name: the concept.
        images: N files, upright RGB images, or tensors (C, H, W) in a classifier's own input space.
        sources: N texts that say which image each is: the file, or its position in the list.
        masks: N tensors (H, W) in [0, 1] over the upright images, 1 inside; None where all of an image counts.

    Example:
        >>> import torch
        >>> dots = concept_set(torch.zeros(2, 3, 8, 8), "dotted")
        >>> len(dots), dots.sources
        (2, ('image 0', 'image 1'))
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
    masks: Sequence[Mask] | None = None,
    boxes: Sequence[Box] | None = None,
    count: int | None = None,
    seed: int = 0,
) -> ConceptSet:
    """Collect the images of a concept.

    Args:
        images: a folder; or a list of files (they are sorted), PIL images or uint8 arrays (H, W) or (H, W, 3); or an
            array of such; or a tensor (N, C, H, W) that is already in a classifier's own input space.
        name: the concept.
        masks: one (H, W) map per image, boolean or in [0, 1], in the order of `images`: only the inside counts.
        boxes: one (left, top, right, bottom) per image, in pixels, in place of masks. Images must be tensors, PIL
            images or arrays, or files that are given in sorted order.
        count: size of a random sample, which keeps the order; None for all images.
        seed: of the sample.

    Returns:
        The set; a `ConceptSet` is returned as it is.

    Raises:
        ImageError: a file is missing, or a folder has no images.
        PellucidError: there are no images, fewer than `count`, or masks do not fit them.

    Example:
        >>> import numpy as np
        >>> left_half = concept_set([np.zeros((4, 6), np.uint8)], "dark", boxes=[(0, 0, 3, 4)])
        >>> left_half.masks[0].sum(0).tolist()
        [4.0, 4.0, 4.0, 0.0, 0.0, 0.0]
    """
    if isinstance(images, ConceptSet):
        return images
    items, sources = _to_items(images)
    if not items:
        raise PellucidError(f"concept {name!r} has no images; give a folder, files, images or arrays")
    regions = _to_masks(name, items, masks, boxes)
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


def draw_concept_set(name: str, count: int = DRAWN_COUNT, *, size: int = 224, seed: int = 0) -> ConceptSet:
    """Draw the images of a concept.

    Args:
        name: a texture or color, or "negatives" for images without any (see `pellucid.synthetic.textures`).
        count: number of images.
        size: their side in pixels.
        seed: of everything that varies.

    Returns:
        The set, of PIL images.

    Example:
        >>> stripes = draw_concept_set("striped", 2, size=16)
        >>> stripes.images[0].size, stripes.sources[1]
        ((16, 16), 'drawn striped 1 of seed 0')
    """
    drawn = concept_set(draw_images(name, count, size, seed), name)
    return replace(drawn, sources=tuple(f"drawn {name} {index} of seed {seed}" for index in range(count)))


def concept_folders(
    folder: str | Path, negatives: str = NEGATIVES, *, count: int | None = None, seed: int = 0
) -> tuple[list[ConceptSet], ConceptSet]:
    """Collect concept sets from a folder that holds one folder per concept and one of images without them.

    Args:
        folder: its sub-folders are the concepts; hidden ones are skipped.
        negatives: name of the folder of images without any of the concepts.
        count: size of a random sample of each folder that has more images; None for all of them.
        seed: of the samples.

    Returns:
        (concepts sorted by name, negatives).

    Raises:
        ImageError: there is no such folder, no concept in it, or a folder has no images.
    """
    root, folders = Path(folder), _list_folders(folder, f"one named {negatives!r}")
    if root / negatives not in folders or len(folders) < 2:
        names = ", ".join(path.name for path in folders)
        raise ImageError(f"{root}: holds {names}; expected a folder per concept and one named {negatives!r}")
    sets = [_sample_folder(path, path.name, count, seed) for path in folders if path.name != negatives]
    return sets, _sample_folder(root / negatives, negatives, count, seed)


def collect_sets(
    folder: str | Path | None = None,
    drawn: Sequence[str] = (),
    negatives: str | Path | None = None,
    *,
    count: int | None = None,
    size: int = 224,
    seed: int = 0,
    on_set: Callable[[str], None] = lambda name: None,
) -> tuple[list[ConceptSet], ConceptSet]:
    """Collect concept sets from a folder, drawn ones, or both, and the negatives that they share.

    Args:
        folder: its sub-folders are concepts; hidden ones and one named "negatives" are not.
        drawn: names of concepts to draw.
        negatives: folder of images without any of the concepts; by default `folder`'s own "negatives", else drawn
            ones. Drawn negatives beside photographed concepts raise a warning.
        count: images of each set: of a folder at most this many, sampled; drawn, `DRAWN_COUNT` by default.
        size: side of drawn images in pixels.
        seed: of samples and drawings.
        on_set: called with the name of each set before it is collected.

    Returns:
        (concepts, negatives).

    Raises:
        ImageError: there is no such folder, no concept in it, or a folder has no images.
        PellucidError: no concepts, or two of one name.

    Example:
        >>> concepts, negatives = collect_sets(drawn=["striped", "dotted"], count=3, size=16)
        >>> [concept.name for concept in concepts], len(negatives)
        (['striped', 'dotted'], 3)
    """
    folders = [] if folder is None else _list_folders(folder, "optionally one named 'negatives'")
    inside = next((path for path in folders if path.name == NEGATIVES), None)
    shown = [path for path in folders if path != inside]
    names = [*(path.name for path in shown), *drawn]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        problem = f"there are two concepts named {', '.join(repeated)}" if repeated else "there are no concepts"
        raise PellucidError(
            f"{problem}; expected a folder per concept, drawn concepts, or both, each with its own name"
        )
    sets = []
    for path in shown:
        on_set(path.name)
        sets.append(_sample_folder(path, path.name, count, seed))
    for name in drawn:
        on_set(name)
        sets.append(draw_concept_set(name, count or DRAWN_COUNT, size=size, seed=seed))
    on_set(NEGATIVES)
    without = negatives or inside
    if without is not None:
        return sets, _sample_folder(Path(without), NEGATIVES, count, seed)
    if shown:
        warn(
            [
                f"{', '.join(path.name for path in shown)}: given images against drawn negatives: the CAVs may tell "
                "photographs from drawings; add a folder 'negatives' of ordinary photographs"
            ]
        )
    return sets, draw_concept_set(NEGATIVES, count or DRAWN_COUNT, size=size, seed=seed)


def check_sets(name: str, concept: Sequence[str], negatives: Sequence[str]) -> list[str]:
    """Compare a concept set with its negatives.

    Args:
        name: the concept.
        concept: digest of each of its images as the network sees them.
        negatives: digest of each image without the concept.

    Returns:
        Remarks on few, repeated or shared images.

    Raises:
        PellucidError: fewer than two images on a side, or both sides are the same images.

    Example:
        >>> check_sets("dotted", ["a"] * 12, [f"b{i}" for i in range(12)])
        ["concept 'dotted': 11 of 12 images are copies of others"]
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


def _list_folders(folder: str | Path, negatives: str) -> list[Path]:
    root = Path(folder)
    expected = f"expected one with a folder of images per concept and {negatives}"
    if not root.is_dir():
        raise ImageError(f"{root}: no such folder; {expected}")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise ImageError(f"{root}: holds no folders; {expected}")
    return folders


def _sample_folder(folder: Path, name: str, count: int | None, seed: int) -> ConceptSet:
    files = find_images(folder)
    return concept_set(files, name, count=None if count is None else min(count, len(files)), seed=seed)


def _to_items(images: Images) -> tuple[list[OneImage], list[str]]:
    """Images with the texts that say which they are."""
    if isinstance(images, Tensor):
        if images.ndim != 4 or not images.is_floating_point():
            raise PellucidError(
                f"a tensor of images is (N, C, H, W) floats as classifier.read returns them, not "
                f"{tuple(images.shape)} {images.dtype}; give 8-bit images as arrays (H, W, 3)"
            )
        return list(images), number_images(len(images))
    listed = [images] if isinstance(images, str | Path) else list(images)
    if listed and all(isinstance(item, str | Path) for item in listed):
        files = sorted(find_images(listed))
        return list(files), [str(file) for file in files]
    return [_to_upright(item) for item in listed], number_images(len(listed))


def number_images(count: int, first: int = 0) -> list[str]:
    """Name images that have no name: "image 0", "image 1", and so on.

    Example:
        >>> number_images(2)
        ['image 0', 'image 1']
    """
    return [f"image {index}" for index in range(first, first + count)]


def _to_upright(item: object) -> Image.Image:
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim not in (2, 3):
            raise ImageError(f"an array {item.shape} {item.dtype} is not an image; expected uint8 (H, W) or (H, W, 3)")
        item = Image.fromarray(item)
    if not isinstance(item, Image.Image):
        raise ImageError(
            f"a {type(item).__name__} among the images; give files only, or PIL images and uint8 arrays only"
        )
    return to_rgb(item)


def _to_masks(
    name: str, items: Sequence[OneImage], masks: Sequence[Mask] | None, boxes: Sequence[Box] | None
) -> list[Tensor] | None:
    regions = boxes if masks is None else masks
    if regions is None:
        return None
    if masks is not None and boxes is not None:
        raise PellucidError(f"concept {name!r}: give masks or boxes, not both")
    if len(regions) != len(items):
        raise PellucidError(f"concept {name!r}: {len(regions)} masks or boxes for {len(items)} images")
    if masks is not None:
        return [torch.as_tensor(mask).float() for mask in masks]
    return [_box_mask(item, box) for item, box in zip(items, boxes or (), strict=True)]


def _box_mask(item: OneImage, box: Box) -> Tensor:
    """1 at the pixels whose centre lies in the box."""
    height, width = _image_size(item)
    left, top, right, bottom = box
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    inside = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    if not bool(inside.any()):
        raise PellucidError(
            f"box {box} holds no pixel of an image of {width} x {height}; expected left, top, right, bottom"
        )
    return inside.float()


def _image_size(item: OneImage) -> tuple[int, int]:
    """(height, width) of the upright image."""
    if isinstance(item, Tensor):
        return item.shape[-2], item.shape[-1]
    if isinstance(item, Path):
        item = read_image(item)
    return item.height, item.width
