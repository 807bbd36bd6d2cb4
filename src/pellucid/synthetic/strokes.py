"""Digits drawn from lines and arcs, of exactly known thickness, intensity, slant and width: no download needed."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from pellucid.errors import PellucidError

Points = list[tuple[float, float]]

_STEP = math.pi / 12  # of arcs
_HEIGHT = 20 / 28  # of the side, as in MNIST
_WAVES = 3
_ROUNDS = 4
_SHIFT = 1.5  # pixels of 28 at a jitter of 1


def draw_digits(
    labels: Tensor,
    *,
    thickness: Tensor | float = 2.5,
    intensity: Tensor | float = 255.0,
    slant: Tensor | float = 0.0,
    width: Tensor | float | None = None,
    size: int = 28,
    jitter: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Draw digits with pens of known properties.

    A digit is a set of line segments. It is sheared upright, stretched to its width and height (5/7 of the image,
    pen included), sheared to the given slant, and put in the middle: its centroid along rows, its box along
    columns. Each pixel gets the intensity times its share covered by the pen, from its distance to the
    nearest segment.

    Args:
        labels: (N,) the digits, 0..9.
        thickness: of the pen in pixels, one number or (N,); exact everywhere along the strokes.
        intensity: gray level of fully covered pixels, 0..255.
        slant: in radians, positive to the right; that of the second moments of the lines.
        width: of the upright digit in pixels, pen included; by default what suits the digit.
        size: side of the images.
        jitter: how much the digits' shapes differ, 0 (all alike) to about 1 (still legible).
        seed: of the jitter; the shape of a digit depends on its place in the batch.

    Returns:
        (N, size, size) float32, 0..255; differentiable with respect to thickness, intensity, slant and width.

    Raises:
        PellucidError: a label is not a digit, a number per image is missing, or a pen does not fit its digit.

    >>> draw_digits(torch.tensor([3, 8]), thickness=3.0, jitter=0.5, seed=1).shape
    torch.Size([2, 28, 28])
    """
    if labels.ndim != 1 or labels.is_floating_point() or not bool(((labels >= 0) & (labels <= 9)).all()):
        raise PellucidError(f"labels must be (N,) integers from 0 to 9, not {labels.dtype} {tuple(labels.shape)}")
    lines = _segments().to(labels.device)[labels.long()]  # (N, S, 2 ends, 2)
    if jitter:
        lines = _bent(lines, jitter, torch.Generator().manual_seed(seed))
    pen, level, lean = (_per_image(value, labels) for value in (thickness, intensity, slant))
    lines, wide = _posed(lines, pen, None if width is None else _per_image(width, labels), lean, _HEIGHT * size)
    if not bool(((pen > 0) & (pen < wide) & (pen < _HEIGHT * size)).all()):
        raise PellucidError(
            f"a pen must be above 0 and thinner than the digit is wide and high ({_HEIGHT * size:.1f} pixels)"
        )
    lines = lines + size / 2
    if jitter:
        shift = torch.rand(len(labels), 2, generator=torch.Generator().manual_seed(seed + 1)).to(lines) - 0.5
        lines = lines + (2 * _SHIFT * jitter * size / 28) * shift[:, None, None]
    covered = (pen[:, None, None] / 2 - _distances(lines, size) + 0.5).clamp(min=0)
    # A pen thinner than a pixel never covers it all.
    return level[:, None, None] * torch.minimum(covered, pen.clamp(max=1)[:, None, None])


def _per_image(value: Tensor | float, labels: Tensor) -> Tensor:
    values = torch.as_tensor(value, dtype=torch.float32, device=labels.device)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != len(labels)):
        raise PellucidError(f"{tuple(values.shape)} numbers for {len(labels)} digits; give one number, or one for each")
    return values.expand(len(labels))


def _distances(lines: Tensor, size: int) -> Tensor:
    """Distance of pixel centers to the nearest segment, (N, size, size)."""
    centers = torch.arange(size, dtype=lines.dtype, device=lines.device) + 0.5
    x, y = centers[None, None, :], centers[None, :, None]
    nearest = torch.full((len(lines), size, size), math.inf, device=lines.device)
    for segment in lines[..., None, None].unbind(1):  # (N, 2 ends, 2, 1, 1)
        (x0, y0), (dx, dy) = segment[:, 0].unbind(1), (segment[:, 1] - segment[:, 0]).unbind(1)
        part = (((x - x0) * dx + (y - y0) * dy) / (dx**2 + dy**2).clamp(min=1e-12)).clamp(0, 1)
        squared = (x - x0 - part * dx) ** 2 + (y - y0 - part * dy) ** 2
        nearest = torch.minimum(nearest, squared)
    return nearest.clamp(min=1e-12).sqrt()


def _posed(lines: Tensor, pen: Tensor, width: Tensor | None, lean: Tensor, height: float) -> tuple[Tensor, Tensor]:
    """Lines stretched and sheared about (0, 0) to their targets, and the digits' widths (N,), pen included."""
    posed = lines
    # The moments depend on how long the segments are in the end, those on the shear that the moments ask for.
    for _ in range(_ROUNDS):
        upright = _upright(lines, (posed[:, :, 1] - posed[:, :, 0]).norm(dim=-1))
        extent = upright.amax((1, 2)) - upright.amin((1, 2))  # (N, 2)
        wide = extent[:, 0] / extent[:, 1] * (height - pen) + pen if width is None else width
        factors = torch.stack([(wide - pen) / extent[:, 0], (height - pen) / extent[:, 1]], dim=1)
        x, y = (upright * factors[:, None, None]).unbind(-1)
        middle = (y.amax((1, 2), keepdim=True) + y.amin((1, 2), keepdim=True)) / 2
        posed = torch.stack([x - torch.tan(lean)[:, None, None] * y, y - middle], dim=-1)
    return posed, wide


def _upright(lines: Tensor, mass: Tensor) -> Tensor:
    """Lines about their centroid and sheared along rows until u11 = 0, for segments (N, S) of a mass."""
    share = (mass / mass.sum(1, keepdim=True))[..., None]  # (N, S, 1)
    start, end = lines.unbind(2)  # (N, S, 2)
    center = (share * (start + end) / 2).sum(1, keepdim=True)
    middle, half = (start + end) / 2 - center, (end - start) / 2
    # Along a segment the mean of ab is that of its middle plus a third of that of half its extent.
    second = (share * (middle * middle[..., 1:] + half * half[..., 1:] / 3)).sum(1)  # (N, 2): u11, u02
    x, y = (lines - center[:, None]).unbind(-1)
    return torch.stack([x - (second[:, 0] / second[:, 1])[:, None, None] * y, y], dim=-1)


def _bent(lines: Tensor, jitter: float, random: torch.Generator) -> Tensor:
    """Lines displaced by a few smooth waves, so that strokes that meet still do."""
    waves = (len(lines), _WAVES)
    numbers = torch.rand(*waves, 5, generator=random).to(lines.device)
    direction = (numbers[..., :2] - 0.5) * 2.5  # periods per height, (N, waves, 2)
    phase = (lines.flatten(1, 2) @ direction.mT + numbers[:, None, :, 2]) * 2 * math.pi  # (N, points, waves)
    amplitude = (numbers[..., 3:] - 0.5) * 0.16 * jitter
    return lines + (torch.sin(phase) @ amplitude).view(lines.shape)


@lru_cache(maxsize=1)
def _segments() -> Tensor:
    """The segments of the ten digits, (10, S, 2 ends, 2 of x and y), y downwards from 0 to 1; filled up with points."""
    digits = [[pair for stroke in strokes for pair in pairwise(stroke)] for strokes in _glyphs()]
    longest = max(map(len, digits))
    filled = [pairs + [(pairs[-1][1], pairs[-1][1])] * (longest - len(pairs)) for pairs in digits]
    return torch.tensor(filled)


def _glyphs() -> Sequence[Sequence[Points]]:
    """The strokes of the digits 0 to 9."""
    return (
        [_arc(0.3, 0.5, 0.3, 0.5, 0, 360)],
        [[(0.06, 0.22), (0.28, 0.0), (0.28, 1.0)], [(0.08, 1.0), (0.48, 1.0)]],
        [[*_arc(0.3, 0.28, 0.29, 0.28, 190, 400), (0.0, 1.0), (0.62, 1.0)]],
        [[*_arc(0.28, 0.25, 0.26, 0.25, 200, 450), *_arc(0.28, 0.75, 0.31, 0.25, 270, 520)]],
        [[(0.42, 0.0), (0.0, 0.66), (0.64, 0.66)], [(0.47, 0.36), (0.47, 1.0)]],
        [[(0.55, 0.0), (0.1, 0.0), (0.06, 0.45), *_arc(0.26, 0.69, 0.31, 0.31, 225, 510)]],
        [_arc(0.52, 0.69, 0.5, 0.69, 285, 180), _arc(0.3, 0.69, 0.28, 0.31, 180, 540)],
        [[(0.0, 0.0), (0.6, 0.0), (0.2, 1.0)]],
        [_arc(0.3, 0.25, 0.24, 0.25, 90, 450), _arc(0.3, 0.75, 0.3, 0.25, 270, 630)],
        [_arc(0.3, 0.31, 0.28, 0.31, 0, 360), _arc(0.08, 0.31, 0.5, 0.69, 0, 80)],
    )


def _arc(x: float, y: float, half_width: float, half_height: float, start: float, stop: float) -> Points:
    """Points on an ellipse between two angles in degrees: 0 is to the right, 90 downwards."""
    count = max(2, math.ceil(math.radians(abs(stop - start)) / _STEP) + 1)
    angles = [math.radians(start + (stop - start) * step / (count - 1)) for step in range(count)]
    return [(x + half_width * math.cos(angle), y + half_height * math.sin(angle)) for angle in angles]
