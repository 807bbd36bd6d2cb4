"""Test support. Perturbations of digits: thinner, thicker, swollen, broken.

Those of Castro et al., "Morpho-MNIST: Quantitative Assessment and Diagnostics for Representation Learning", JMLR 2019:
the digit is binarized on a grid four times finer, changed there, and drawn again with the intensity it had.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.synthetic.morphomnist import measure_intensity, measure_thickness, set_intensity
from pellucid.synthetic.morphomnist.morphology import (
    binarize,
    check_images,
    downscale,
    medial_axis,
    squared_distances,
    upscale,
)

_SCALE = 4
_DARKEST, _BRIGHTEST = 1e-3, 255.0


def neighbor_counts(shapes: Tensor) -> Tensor:
    """How many of the eight neighbors of each pixel are in the shape, (N, H, W) float32."""
    counted = torch.nn.functional.avg_pool2d(shapes[:, None].float(), 3, 1, 1, divisor_override=1)[:, 0]
    return counted - shapes.float()


def thin(images: Tensor, amount: float = 0.7) -> Tensor:
    """Erode digits by a disk of radius ⌊4 · amount · thickness / 2⌋ fine pixels.

    Args:
        images: (N, H, W) bright digits on dark ground, 0..255.
        amount: part of the thickness that goes; above 0 and below 1.

    Returns:
        (N, H, W) float32, 0..255.

    Raises:
        PellucidError: the images are not (N, H, W), one is of one even gray, or the amount is out of range.
    """
    if not 0 < amount < 1:
        raise PellucidError(f"a digit can be thinned by an amount between 0 and 1, not {amount}")
    radius = _radius(images, amount)
    return _redrawn(images, lambda shapes: squared_distances(shapes) > radius**2)


def thicken(images: Tensor, amount: float = 1.0) -> Tensor:
    """Dilate digits by a disk of radius ⌊4 · amount · thickness / 2⌋ fine pixels.

    Args:
        images: (N, H, W) bright digits on dark ground, 0..255.
        amount: of the thickness to add; above 0.

    Returns:
        (N, H, W) float32, 0..255.

    Raises:
        PellucidError: the images are not (N, H, W), one is of one even gray, or the amount is out of range.
    """
    if not amount > 0:
        raise PellucidError(f"a digit can be thickened by an amount above 0, not {amount}")
    radius = _radius(images, amount)
    reach = int(radius.max()) if len(radius) else 0
    return _redrawn(images, lambda shapes: squared_distances(~shapes, reach) <= radius**2)


def swell(images: Tensor, strength: float = 3.0, radius: float = 7.0, *, seed: int = 0) -> Tensor:
    """Magnify digits around a random point r0 of the skeleton.

    Within R = radius · √thickness / 2 of r0 a pixel at r shows what was at r0 + (r - r0) (|r - r0| / R)^(strength - 1).

    Args:
        images: (N, H, W) bright digits on dark ground, 0..255.
        strength: above 1; at 1 nothing changes.
        radius: of the swelling, in pixels for a thickness of 4.
        seed: of the points; those of an image depend on its place in the batch.

    Returns:
        (N, H, W) float32, 0..255.

    Raises:
        PellucidError: the images are not (N, H, W), one is of one even gray, or an option is out of range.
    """
    if strength < 1 or radius <= 0:
        raise PellucidError(f"wanted a strength of at least 1 and a radius above 0, not {strength} and {radius}")
    reach = radius * measure_thickness(images, scale=_SCALE).sqrt() / 2 * _SCALE
    random = torch.Generator().manual_seed(seed)
    return _redrawn(images, partial(_swollen, reach=reach, strength=strength, random=random))


def fracture(images: Tensor, cuts: int = 3, width: float = 1.5, *, margin: float = 2.0, seed: int = 0) -> Tensor:
    """Cut through the strokes of digits, across the skeleton.

    Args:
        images: (N, H, W) bright digits on dark ground, 0..255.
        cuts: how many; fewer where cuts leave no stroke to cut.
        width: of a cut, in pixels.
        margin: a cut keeps so many pixels off the ends and forks of the skeleton; where a digit has no such point,
            it goes where ends and forks are farthest.
        seed: of the points; those of an image depend on its place in the batch.

    Returns:
        (N, H, W) float32, 0..255.

    Raises:
        PellucidError: the images are not (N, H, W), one is of one even gray, or an option is out of range.
    """
    if cuts < 1 or width <= 0 or margin < 0:
        raise PellucidError(f"wanted cuts >= 1, width > 0 and margin >= 0, not {cuts}, {width} and {margin}")
    measure_thickness(images, scale=_SCALE)
    random = torch.Generator().manual_seed(seed)
    return _redrawn(images, lambda shapes: _fractured(shapes, random, cuts, width * _SCALE, margin * _SCALE))


def _radius(images: Tensor, amount: float) -> Tensor:
    return (_SCALE * amount * measure_thickness(images, scale=_SCALE) / 2).floor()[:, None, None]


def _redrawn(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Images whose binarized fine versions are changed, with the intensities they had."""
    gray = check_images(images)
    shapes = change(binarize(upscale(gray, _SCALE)))
    drawn = downscale(shapes.float() * _BRIGHTEST, _SCALE).clamp(0, _BRIGHTEST)
    return set_intensity(drawn, measure_intensity(gray).clamp(_DARKEST, _BRIGHTEST))


def _draw_one(weights: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Row and column (N,) of a random pixel of each mask (N, H, W), all of them equally probable."""
    keys = torch.rand(weights.shape, generator=random).to(weights.device) * weights
    place = keys.flatten(1).argmax(1)
    return place // weights.shape[2], place % weights.shape[2]


def _grid(shapes: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (1, H, 1) and columns (1, 1, W)."""
    rows, columns = (torch.arange(size, device=shapes.device).float() for size in shapes.shape[1:])
    return rows[None, :, None], columns[None, None]


def _swollen(shapes: Tensor, reach: Tensor, strength: float, random: torch.Generator) -> Tensor:
    spine = medial_axis(shapes, squared_distances(shapes))
    y0, x0 = (place[:, None, None] for place in _draw_one(spine, random))
    rows, columns = _grid(shapes)
    down, right = rows - y0, columns - x0
    nearness = (torch.hypot(down, right) / reach[:, None, None]).clamp(max=1) ** (strength - 1)  # (N, H, W)
    y, x = (y0 + down * nearness).round().long(), (x0 + right * nearness).round().long()
    return shapes.flatten(1).gather(1, (y * shapes.shape[2] + x).flatten(1)).view(shapes.shape)


def _fractured(shapes: Tensor, random: torch.Generator, cuts: int, width: float, margin: float) -> Tensor:
    squared = squared_distances(shapes)
    spine = medial_axis(shapes, squared)
    count = neighbor_counts(spine)
    special = spine & (count != 2)
    away = torch.where(spine, squared_distances(~special).float().sqrt(), -1.0)
    allowed = spine & (away >= away.amax((1, 2), keepdim=True).clamp(max=margin))
    rows, columns = _grid(shapes)
    for _ in range(cuts):
        left = allowed.any(2).any(1)
        y0, x0 = _draw_one(allowed, random)
        down, right = rows - y0[:, None, None], columns - x0[:, None, None]
        along_y, along_x = _direction(spine, down, right, 2 * width)
        along = down * along_y + right * along_x
        across = (down * along_x - right * along_y).abs()
        thick = squared[torch.arange(len(shapes)), y0, x0].float().sqrt()[:, None, None]
        cut = (along >= -width / 2) & (along < width / 2) & (across <= thick + width) & left[:, None, None]
        shapes = shapes & ~cut
        allowed = allowed & (torch.hypot(down, right) > 2 * width)
    return shapes


def _direction(spine: Tensor, down: Tensor, right: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Unit vector (y, x), each (N, 1, 1), along which the skeleton runs within a radius: its main axis there."""
    near = spine & (torch.hypot(down, right) <= radius)
    yy, xx, xy = ((a * b * near).sum((1, 2), keepdim=True) for a, b in ((down, down), (right, right), (down, right)))
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    return torch.sin(angle), torch.cos(angle)
