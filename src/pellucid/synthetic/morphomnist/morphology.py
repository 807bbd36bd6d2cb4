"""Digits on a finer grid, and the shape of their strokes there: distances and medial axes of many digits at once."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import PellucidError

_NEAREST = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=np.uint8)
_NEIGHBORS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))


def check_images(images: Tensor) -> Tensor:
    """Gray images (N, H, W) as float32, or an error that says what they are instead.

    Raises:
        PellucidError: another shape, NaN or infinite values.
    """
    if images.ndim != 3:
        raise PellucidError(
            f"digits are gray images (N, H, W), not {tuple(images.shape)}; "
            "take one channel, as in images[:, 0] or images.mean(1)"
        )
    gray = images.float()
    if not bool(gray.isfinite().all()):
        raise PellucidError("digits have NaN or infinite gray values; check what made them")
    return gray


def upscale(images: Tensor, scale: int) -> Tensor:
    """Images (N, H, W) on a grid `scale` times finer: cubic splines without overshoot, then a Gaussian.

    The Gaussian has a standard deviation of scale / 3 fine pixels. Overshoot is what leaves the range of the
    image's own gray values.
    """
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    splines = _along_both_axes(images, scale, _spline_finer)
    return _along_both_axes(torch.clamp(splines, low, high), scale, _smooth)


def downscale(images: Tensor, scale: int) -> Tensor:
    """Images (N, H * scale, W * scale) on the coarse grid: that Gaussian, then cubic splines without overshoot."""
    smooth = _along_both_axes(images, scale, _smooth)
    low, high = smooth.amin((1, 2), keepdim=True), smooth.amax((1, 2), keepdim=True)
    return torch.clamp(_along_both_axes(smooth, scale, _spline_coarser), low, high)


def binarize(images: Tensor) -> Tensor:
    """What is at least half way from the darkest to the brightest gray of an image, (N, H, W) bool.

    >>> binarize(torch.tensor([[[0.0, 4.0, 5.0, 10.0]]]))
    tensor([[[False, False,  True,  True]]])
    """
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    return images >= low + 0.5 * (high - low)


def squared_distances(shapes: Tensor, reach: int | None = None) -> Tensor:
    """Squared Euclidean distance of every pixel to the nearest one outside its shape; exact.

    Distances along columns by two scans, then their lower envelope along rows, for each pixel searched only as
    far as the distance found so far.

    Args:
        shapes: (N, H, W) bool. What lies beyond the border is neither inside nor outside.
        reach: distances above it may come out too large, though never as `reach` or less; saves time.

    Returns:
        (N, H, W) int32, 0 outside the shapes; (H + W)² in an image that is all shape.

    >>> squared_distances(torch.tensor([[[False, True, True, True, False]]]))
    tensor([[[0, 1, 4, 1, 0]]], dtype=torch.int32)
    """
    height, width = shapes.shape[1:]
    down, up = _steps_from_outside(shapes, range(height)), _steps_from_outside(shapes, range(height - 1, -1, -1))
    straight = torch.minimum(down, up).int().square_().view(-1)
    nearest = straight.clone()
    position = shapes.reshape(-1).nonzero()[:, 0]
    best = straight.index_select(0, position)
    for step in range(1, width if reach is None else min(width, reach + 1)):
        closer = (best > step**2).nonzero()[:, 0]
        if not len(closer):
            break
        position, best = position.index_select(0, closer), best.index_select(0, closer)
        column = position % width
        # A step that would leave the row stops at its end, which is even nearer.
        left, right = position - column.clamp(max=step), position + (width - 1 - column).clamp(max=step)
        beside = torch.minimum(straight.index_select(0, left), straight.index_select(0, right))
        best = torch.minimum(best, beside + step**2)
        nearest.index_copy_(0, position, best)
    return nearest.view(shapes.shape)


def signed_distances(shapes: Tensor, reach: int | None = None) -> Tensor:
    """Distance of every pixel's center to the outline of its shape, positive inside, (N, H, W) float32.

    The outline runs half way between pixels inside and outside. Outside, distances above `reach` may come out too
    large.

    >>> signed_distances(torch.tensor([[[False, True, True, True, False]]]))
    tensor([[[-0.5000,  0.5000,  1.5000,  0.5000, -0.5000]]])
    """
    inside = squared_distances(shapes).float().sqrt()
    outside = squared_distances(~shapes, reach).float().sqrt()
    return torch.where(shapes, inside - 0.5, 0.5 - outside)


def medial_axis(shapes: Tensor, squared: Tensor) -> Tensor:
    """The skeletons of shapes: their pixels peeled from the outside in, as far as nothing falls apart.

    Pixels are looked at in the order of their distance to the outside, those with most neighbors in the shape
    first, and taken away unless that would change the number of 8-connected parts in the 3 x 3 pixels around
    or open a hole, or the pixel is an end (has at most one neighbor left). Pixels of equal rank are taken by the
    parity of row and column: those never touch, so that a whole class goes at once with the result of going one by
    one.

    Args:
        shapes: (N, H, W) bool.
        squared: (N, H, W) integers, from `squared_distances`.

    Returns:
        (N, H, W) bool, the skeletons, one pixel thin.

    >>> bar = torch.zeros(1, 5, 9, dtype=torch.bool)
    >>> bar[:, 1:4, 1:8] = True
    >>> medial_axis(bar, squared_distances(bar))[0, 2].int()
    tensor([0, 0, 1, 1, 1, 1, 1, 0, 0], dtype=torch.int32)
    """
    framed = torch.nn.functional.pad(shapes.to(torch.uint8), (1, 1, 1, 1))
    height, width = framed.shape[1:]
    flat = framed.view(-1)
    position = flat.nonzero()[:, 0]
    y, x = position // width % height, position % width
    missing = 8 - torch.stack([flat.index_select(0, at) for at in _neighbors(position, width)]).sum(0)
    rank = (squared[shapes].int() * 9 + missing.int()) * 4 + (y % 2 * 2 + x % 2).int()
    rank, order = rank.sort(stable=True)
    sizes = torch.unique_consecutive(rank, return_counts=True)[1].tolist()
    kept = _kept_patterns().to(shapes.device)
    for group in torch.split(position.index_select(0, order), sizes):
        pattern = torch.zeros_like(group, dtype=torch.uint8)
        for bit, neighbor in enumerate(_neighbors(group, width)):
            pattern |= flat.index_select(0, neighbor) << bit
        flat.index_copy_(0, group, kept.index_select(0, pattern.int()))
    return framed[:, 1:-1, 1:-1].bool()


def _neighbors(position: Tensor, width: int) -> Iterator[Tensor]:
    """The places of the eight neighbors in rows of that width, in the order of `_NEIGHBORS`."""
    return (position + (dy * width + dx) for dy, dx in _NEIGHBORS)


def _steps_from_outside(shapes: Tensor, rows: range) -> Tensor:
    """Steps since the last pixel outside the shape, going through the rows in that order, (N, H, W) int16."""
    far = sum(shapes.shape[1:])
    inside = shapes.to(torch.int16)
    steps = torch.empty_like(inside)
    steps[:, rows[0]] = inside[:, rows[0]] * far
    for before, row in pairwise(rows):
        torch.add(steps[:, before], 1, out=steps[:, row]).mul_(inside[:, row]).clamp_(max=far)
    return steps


def _along_both_axes(images: Tensor, scale: int, matrix: Callable[[int, int], Tensor]) -> Tensor:
    rows, columns = (matrix(size, scale).to(images) for size in images.shape[1:])
    return rows @ (images @ columns.T)


@lru_cache(maxsize=16)
def _spline_finer(size: int, scale: int) -> Tensor:
    """From `size` gray values to `scale` times as many, (size * scale, size)."""
    from scipy.ndimage import zoom

    return torch.from_numpy(zoom(np.eye(size), (scale, 1), order=3, mode="mirror", grid_mode=True)).float()


@lru_cache(maxsize=16)
def _spline_coarser(size: int, scale: int) -> Tensor:
    """From `size` gray values to one in `scale`, (size / scale, size)."""
    from scipy.ndimage import zoom

    return torch.from_numpy(zoom(np.eye(size), (1 / scale, 1), order=3, mode="mirror", grid_mode=True)).float()


@lru_cache(maxsize=16)
def _smooth(size: int, scale: int) -> Tensor:
    """The Gaussian on the fine grid, (size, size)."""
    from scipy.ndimage import gaussian_filter1d

    return torch.from_numpy(gaussian_filter1d(np.eye(size), scale / 3, axis=0, mode="reflect")).float()


@lru_cache(maxsize=1)
def _kept_patterns() -> Tensor:
    """For each pattern of the eight neighbors, one bit each, whether their center must stay, (256,) uint8."""
    from scipy.ndimage import label

    patterns = np.zeros((256, 3, 3), dtype=np.uint8)
    for bit, (dy, dx) in enumerate(_NEIGHBORS):
        patterns[:, 1 + dy, 1 + dx] = np.arange(256) >> bit & 1
    # With the center, all that is there is one part; it is inside when its four nearest neighbors are.
    falls_apart = np.array([label(pattern, np.ones((3, 3)))[1] != 1 for pattern in patterns])
    is_inside = (patterns * _NEAREST).sum((1, 2)) == _NEAREST.sum()
    is_end = patterns.sum((1, 2)) < 2
    return torch.from_numpy((falls_apart | is_inside | is_end).astype(np.uint8))
