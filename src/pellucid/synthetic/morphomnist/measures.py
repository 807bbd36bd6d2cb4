"""Morphometry of handwritten digits: how large, long, thick, slanted, wide, high and bright their strokes are.

The measures are those of Castro et al., "Morpho-MNIST: Quantitative Assessment and Diagnostics for Representation
Learning", JMLR 2019, and the intensity of Pawlowski et al., "Deep Structural Causal Models for Tractable
Counterfactual Inference", NeurIPS 2020. Thousands of digits are measured at once, on any device.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pellucid.data import ContextTable
from pellucid.errors import PellucidError
from pellucid.synthetic.morphomnist.morphology import (
    binarize,
    check_images,
    medial_axis,
    squared_distances,
    upscale,
)

_TRIM = 0.01  # of the mass, left out at either end of width and height
_STEPS_PER_PIXEL = 2  # at which the mass along the slanted axis is summed up


@dataclass(frozen=True)
class Measures:
    """Morphometry of N digits; each field is (N,) float32, NaN for an image of one even gray.

    Attributes:
        area: of the strokes, in square pixels.
        length: of the skeleton, in pixels.
        thickness: twice the mean distance from the skeleton to the outside, in pixels.
        slant: arctan(-u11 / u02) of the gray values' second moments, in radians; positive leans to the right.
        width: horizontal extent of the middle 98 % of the mass once the slant is taken out, in pixels.
        height: vertical extent of the middle 98 % of the mass, in pixels.
        intensity: median of the gray values at least half way from the darkest to the brightest.
    """

    area: Tensor
    length: Tensor
    thickness: Tensor
    slant: Tensor
    width: Tensor
    height: Tensor
    intensity: Tensor

    def __len__(self) -> int:
        return len(self.area)

    def table(self, *names: str) -> ContextTable:
        """The named measures as a context table; all of them if none is named.

        Raises:
            PellucidError: unknown name, or a digit that could not be measured.
        """
        unknown = [name for name in names if name not in MEASURES]
        if unknown:
            raise PellucidError(f"no measure {unknown[0]!r}; choose of {', '.join(MEASURES)}")
        selected = names or MEASURES
        return ContextTable(selected, torch.stack([getattr(self, name) for name in selected], dim=1).double().cpu())


MEASURES = tuple(field.name for field in fields(Measures))
"""Names of the measures."""


@dataclass(frozen=True)
class Moments:
    """Where the mass of images lies, each (N,) float32: x to the right and y downwards, in pixels.

    Attributes:
        x: centroid.
        y: centroid.
        shear: u11 / u02, how far the mass moves to the right per pixel downwards: -tan(slant).
    """

    x: Tensor
    y: Tensor
    shear: Tensor


def measure(images: Tensor, *, scale: int = 4, background: float = 0.0, batch: int = 512) -> Measures:
    """Measure digits.

    Area, length and thickness are those of the digit on a grid `scale` times finer, binarized half way between its
    darkest and brightest gray; on that grid a stroke of an odd number of pixels counts as one pixel thicker. All
    measures but the intensity are the same whatever the gray values are multiplied by.

    Args:
        images: (N, H, W) bright digits on dark ground, of any number type; 0..255 gives the usual intensities.
        scale: of the fine grid.
        background: gray values below this part of an image's maximum count as 0 first; above 0 for generated
            images, whose ground may be faintly uneven.
        batch: most images to measure at once; bounds the memory (about 1 MB each at 28 x 28 and scale 4).

    Returns:
        The measures, on the images' device.

    Raises:
        PellucidError: the images are not (N, H, W) or have NaN, or an option is out of range.

    >>> from pellucid.synthetic import draw_digits
    >>> measured = measure(draw_digits(torch.tensor([1]), thickness=3.0, intensity=200.0, slant=0.2))
    >>> round(float(measured.thickness)), round(float(measured.slant), 1), float(measured.intensity)
    (3, 0.2, 200.0)
    """
    if scale < 1 or batch < 1 or not 0 <= background < 1:
        raise PellucidError(
            f"scale and batch must be at least 1 and background in [0, 1), not {scale}, {batch} and {background}"
        )
    parts = [_measure_batch(check_images(part), scale, background) for part in torch.split(images, batch)]
    return Measures(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def measure_intensity(images: Tensor) -> Tensor:
    """The intensities (N,) of images (N, H, W): the median gray of what is at least half way to the brightest.

    >>> measure_intensity(torch.tensor([[[0.0, 0.0, 200.0, 100.0]]]))
    tensor([150.])
    """
    flat = check_images(images).flatten(1)
    count = binarize(images.float()).sum((1, 2))
    brightest = flat.topk(int(count.max()), dim=1).values if len(flat) else flat  # (N, pixels), falling
    middle = torch.stack([(count - 1) // 2, count // 2], dim=1)
    return brightest.gather(1, middle).mean(1)


def measure_thickness(images: Tensor, *, scale: int = 4) -> Tensor:
    """The thicknesses of digits in pixels, as in `measure`.

    Args:
        images: (N, H, W) bright digits on dark ground.
        scale: of the fine grid.

    Returns:
        (N,).

    Raises:
        PellucidError: an image is of one even gray.
    """
    thickness = measure(images, scale=scale).thickness
    blank = thickness.isnan().nonzero()
    if len(blank):
        raise PellucidError(f"image {int(blank[0])} is of one even gray, not a digit; leave it out")
    return thickness


def moments(images: Tensor) -> Moments:
    """Centroid and shear of images (N, H, W), with the gray values as mass.

    >>> moments(torch.eye(3)[None]).shear
    tensor([1.])
    """
    y, x = (torch.arange(size, dtype=torch.float32, device=images.device) for size in images.shape[1:])
    mass = images.sum((1, 2))
    over_rows, over_columns = images.sum(2), images.sum(1)
    center_y, center_x = over_rows @ y / mass, over_columns @ x / mass
    below, right = y - center_y[:, None], x - center_x[:, None]  # (N, H), (N, W)
    u11 = torch.einsum("nhw,nh,nw->n", images, below, right)
    return Moments(center_x, center_y, u11 / (over_rows * below**2).sum(1))


def _measure_batch(images: Tensor, scale: int, background: float) -> tuple[Tensor, ...]:
    images = images * (images >= background * images.amax((1, 2), keepdim=True))
    area, length, thickness = _measure_strokes(binarize(upscale(images, scale)), scale)
    where = moments(images)
    columns = (
        *(area, length, thickness, torch.atan(-where.shear)),
        *(_width(images, where), _extent(images.sum(2).cumsum(1), 1), measure_intensity(images)),
    )
    even = images.amax((1, 2)) == images.amin((1, 2))
    return tuple(column.masked_fill(even, torch.nan) for column in columns)


def _measure_strokes(shapes: Tensor, scale: int) -> tuple[Tensor, Tensor, Tensor]:
    """Area, skeleton length and mean thickness of shapes (N, H, W) on the fine grid, in coarse pixels."""
    squared = squared_distances(shapes)
    skeleton = medial_axis(shapes, squared)
    straight = _count(skeleton[:, 1:] & skeleton[:, :-1]) + _count(skeleton[:, :, 1:] & skeleton[:, :, :-1])
    diagonal = _count(skeleton[:, 1:, 1:] & skeleton[:, :-1, :-1]) + _count(skeleton[:, 1:, :-1] & skeleton[:, :-1, 1:])
    spine = skeleton.nonzero(as_tuple=True)
    total = torch.zeros(len(shapes), device=shapes.device).index_add_(0, spine[0], squared[spine].float().sqrt())
    thickness = 2 * total / _count(skeleton)
    return _count(shapes) / scale**2, (straight + 2**0.5 * diagonal) / scale, thickness / scale


def _count(mask: Tensor) -> Tensor:
    return mask.sum((1, 2)).float()


def _width(images: Tensor, where: Moments) -> Tensor:
    """Extent along rows once every row is moved back by the shear; gray is spread evenly over its pixel."""
    size = images.shape[2]
    y = torch.arange(images.shape[1], device=images.device) - where.y[:, None]  # (N, H)
    steps = torch.arange(2 * size * _STEPS_PER_PIXEL + 1, device=images.device) / _STEPS_PER_PIXEL - size / 2
    edge = (steps + (where.shear[:, None] * y)[..., None]).clamp(0, size)  # (N, H, steps), from the left border
    upto = torch.nn.functional.pad(images.cumsum(2), (1, 0))  # (N, H, W + 1), mass left of each pixel edge
    left = edge.nan_to_num().long().clamp(max=size - 1)
    low, high = upto.gather(2, left), upto.gather(2, left + 1)
    return _extent((low + (high - low) * (edge - left)).sum(1), _STEPS_PER_PIXEL)


def _extent(upto: Tensor, steps_per_pixel: int) -> Tensor:
    """Distance between the ends of the middle of the mass, which is summed up along an axis to (N, steps)."""
    share = torch.nn.functional.pad(upto, (1, 0)) / upto[:, -1:]
    levels = torch.tensor([_TRIM, 1 - _TRIM], device=upto.device).expand(len(upto), 2).contiguous()
    after = torch.searchsorted(share, levels).clamp(1, share.shape[1] - 1)
    low, high = share.gather(1, after - 1), share.gather(1, after)
    position = (after - 1 + (levels - low) / (high - low)) / steps_per_pixel
    return position[:, 1] - position[:, 0]
