"""Digits redrawn to a given thickness, slant, width or intensity: oracle interventions on real images."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.synthetic.morphomnist.measures import (
    Moments,
    measure,
    measure_intensity,
    measure_thickness,
    moments,
)
from pellucid.synthetic.morphomnist.morphology import (
    binarize,
    check_images,
    downscale,
    medial_axis,
    signed_distances,
    squared_distances,
    upscale,
)

SETTABLE = ("thickness", "slant", "width", "intensity")
"""What `redraw` can set."""

_BRIGHTEST = 255.0
_MAX_STRETCH = 2.0  # per round, either way
_CORE = 0.7  # of the requested thickness: strokes may be that much thinner where they are thinnest

Target = Tensor | float | None


@dataclass(frozen=True)
class _Adjustments:
    """How a batch of digits is changed: pixels by which strokes grow to either side, shear added, stretch."""

    growth: Tensor
    shear: Tensor
    stretch: Tensor


def set_thickness(images: Tensor, thickness: Tensor | float, *, scale: int = 4) -> Tensor:
    """Dilate or erode the strokes of digits to a mean thickness.

    Args:
        images: (N, H, W) bright digits on dark ground, 0..255.
        thickness: in pixels, one number or (N,).
        scale: of the fine grid.

    Returns:
        (N, H, W) float32, 0..255; see `redraw`.

    >>> from pellucid.synthetic import draw_digits
    >>> thick = set_thickness(draw_digits(torch.tensor([3]), thickness=2.0), 4.0)
    >>> round(float(measure_thickness(thick)))
    4
    """
    return redraw(images, thickness=thickness, scale=scale)


def set_slant(images: Tensor, slant: Tensor | float, *, keep_thickness: bool = True, scale: int = 4) -> Tensor:
    """Shear digits about their centroids to a slant.

    A shear makes strokes thinner, redrawing bright ones makes them thicker; unless `keep_thickness` is false the
    thickness is set to what it was.

    Args:
        images: (N, H, W) bright digits on dark ground, 0..255.
        slant: in radians, positive to the right; one number or (N,).
        keep_thickness: whether strokes stay as thick as they were.
        scale: of the fine grid.

    Returns:
        (N, H, W) float32, 0..255; see `redraw`.
    """
    return redraw(images, slant=slant, thickness=_thickness_to_keep(images, keep_thickness, scale), scale=scale)


def set_width(images: Tensor, width: Tensor | float, *, keep_thickness: bool = False, scale: int = 4) -> Tensor:
    """Stretch digits along their slanted axes to a width.

    Upright strokes widen with the digit. With `keep_thickness` the thickness is set to what it was, which not every
    width allows: a 1 cannot be both wide and thin.

    Args:
        images: (N, H, W) bright digits on dark ground, 0..255.
        width: in pixels, one number or (N,).
        keep_thickness: whether strokes stay as thick as they were.
        scale: of the fine grid.

    Returns:
        (N, H, W) float32, 0..255; see `redraw`.
    """
    return redraw(images, width=width, thickness=_thickness_to_keep(images, keep_thickness, scale), scale=scale)


def set_intensity(images: Tensor, intensity: Tensor | float) -> Tensor:
    """Multiply the gray values of images (N, H, W), cut at 255, to the requested intensity (above 0, up to 255).

    >>> set_intensity(torch.tensor([[[0.0, 100.0, 100.0]]]), 200.0)
    tensor([[[  0., 200., 200.]]])
    """
    gray = check_images(images)
    levels = _in_range(intensity, gray, "intensity", 0, _BRIGHTEST)
    # Cutting at 255 lowers the threshold that the intensity is the median above, so once is not enough.
    for _ in range(4):
        factor = levels / measure_intensity(gray).clamp(min=1e-6)
        gray = (gray * factor[:, None, None]).clamp(0, _BRIGHTEST)
    return gray


def redraw(
    images: Tensor,
    *,
    thickness: Target = None,
    slant: Target = None,
    width: Target = None,
    intensity: Target = None,
    scale: int = 4,
    rounds: int = 4,
    batch: int = 256,
) -> Tensor:
    """Redraw digits so that they measure what is requested; what is not given is left to follow.

    Slant and width are set by a shear and a stretch along rows about the centroid, thickness by moving the outline of
    the binarized digit on a grid `scale` times finer by a real number of pixels (a dilation or erosion with a disk,
    anti-aliased; strokes that get thinner keep a core about their skeleton), intensity by a factor. The result is
    measured and the settings corrected, always starting from the original image, so that nothing blurs twice. A digit
    keeps its intensity unless another one is given. Whether the values were reached is for `measure` to say.

    Args:
        images: (N, H, W) bright digits on dark ground, 0..255.
        thickness: one number of pixels, or (N,) of them.
        slant: in radians, positive to the right.
        width: in pixels.
        intensity: in gray levels.
        scale: of the fine grid; 4 as the measures' own.
        rounds: how often to draw.
        batch: most images to draw at once; bounds the memory.

    Returns:
        (N, H, W) float32, 0..255, not rounded.

    Raises:
        PellucidError: the images are not (N, H, W), or a target is not one number per image or out of range.

    >>> from pellucid.synthetic import draw_digits
    >>> digit = draw_digits(torch.tensor([7]), thickness=2.0)
    >>> measured = measure(redraw(digit, thickness=3.0, slant=0.3))
    >>> round(float(measured.thickness)), round(float(measured.slant), 1)
    (3, 0.3)
    """
    if scale < 1 or rounds < 1 or batch < 1:
        raise PellucidError(f"scale, rounds and batch must be at least 1, not {scale}, {rounds} and {batch}")
    gray = check_images(images)
    size = float(max(gray.shape[1:]))
    limits = (("thickness", thickness, 0.0, size), ("slant", slant, -1.5, 1.5), ("width", width, 0.0, size))
    targets = {
        name: _in_range(target, gray, name, low, high) for name, target, low, high in limits if target is not None
    }
    level = measure_intensity(gray).clamp(1e-3, _BRIGHTEST)
    level = level if intensity is None else _in_range(intensity, gray, "intensity", 0, _BRIGHTEST)
    if not targets:
        return set_intensity(gray, level)
    shaped = torch.empty_like(gray)
    for start in range(0, len(gray), batch):
        rows = slice(start, start + batch)
        of_batch = {name: target[rows] for name, target in targets.items()}
        shaped[rows] = _reshape(gray[rows], of_batch, level[rows], scale, rounds)
    return shaped


def _thickness_to_keep(images: Tensor, keep: bool, scale: int) -> Tensor | None:
    return measure_thickness(images, scale=scale) if keep else None


def _in_range(target: Tensor | float, images: Tensor, name: str, lowest: float, highest: float) -> Tensor:
    """One value per image, (N,)."""
    values = torch.as_tensor(target, dtype=torch.float32, device=images.device)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != len(images)):
        raise PellucidError(f"{name} has shape {tuple(values.shape)}; give one number, or one for each image")
    if not bool(((values > lowest) & (values <= highest)).all()):
        raise PellucidError(f"{name} must be above {lowest:g} and at most {highest:g}; not all of the given values are")
    return values.expand(len(images))


def _reshape(images: Tensor, targets: dict[str, Tensor], level: Tensor, scale: int, rounds: int) -> Tensor:
    """Images that measure what is requested; of all rounds, for each image the one that came nearest.

    The intensity is set in every round, because cutting at 255 makes strokes thicker.
    """
    fine = upscale(images, scale)
    mass = moments(fine)
    none = torch.zeros(len(images), device=images.device)
    adjustments = _Adjustments(none, none, none + 1)
    best, nearest = images, none + torch.inf
    for _ in range(rounds):
        drawn = set_intensity(_draw(fine, mass, adjustments, targets, scale), level)
        measured = measure(drawn, scale=scale, batch=len(drawn))
        errors = {name: target - getattr(measured, name).nan_to_num() for name, target in targets.items()}
        # A pixel of width weighs as much as a fifth of a pixel of thickness or of a radian.
        error = sum(e.abs() * (0.2 if name == "width" else 1) for name, e in errors.items())
        better = error < nearest
        best = torch.where(better[:, None, None], drawn, best)
        nearest = torch.where(better, error, nearest)
        adjustments = _correct(adjustments, targets, errors)
    return best


def _correct(adjustments: _Adjustments, targets: dict[str, Tensor], errors: dict[str, Tensor]) -> _Adjustments:
    """The adjustments after one step towards the targets; those without a target stay."""
    growth, shear, stretch = adjustments.growth, adjustments.shear, adjustments.stretch
    if "thickness" in targets:
        growth = growth + errors["thickness"] / 2
    if "slant" in targets:
        shear = shear - torch.tan(targets["slant"]) + torch.tan(targets["slant"] - errors["slant"])
    if "width" in targets:
        present = (targets["width"] - errors["width"]).clamp(min=1e-3)
        stretch = stretch * (targets["width"] / present).clamp(1 / _MAX_STRETCH, _MAX_STRETCH)
    return _Adjustments(growth, shear, stretch)


def _draw(fine: Tensor, mass: Moments, adjustments: _Adjustments, targets: Mapping[str, Tensor], scale: int) -> Tensor:
    """Coarse images 0..255 of fine ones as the adjustments say; those without a target are not touched."""
    if "slant" in targets or "width" in targets:
        fine = _stretch_and_shear(fine, mass, adjustments.shear, adjustments.stretch)
    if "thickness" in targets:
        fine = _BRIGHTEST * (
            0.5 + _grow(binarize(fine), adjustments.growth * scale, targets["thickness"] * scale)
        ).clamp(0, 1)
    return downscale(fine, scale).clamp(0, _BRIGHTEST)


def _grow(shapes: Tensor, growth: Tensor, thickness: Tensor) -> Tensor:
    """Signed distances (N, H, W) to the outlines of shapes that grew by `growth` (N,) to either side, or shrank.

    Strokes that shrink keep a core about their skeletons, of `_CORE` times the requested thickness, as far as they had
    it: uneven strokes would else fall to pieces, and a thin image of a digit would be no image of it.
    """
    reach = int(growth.max().clamp(min=0).ceil()) + 1
    outline = signed_distances(shapes, reach)
    moved = outline + growth[:, None, None]
    shrinking = (growth < 0).nonzero()[:, 0]
    if len(shrinking):
        thinner, half = shapes[shrinking], _CORE / 2 * thickness[shrinking, None, None]
        spine = medial_axis(thinner, squared_distances(thinner))
        away = squared_distances(~spine, int(half.max().ceil()) + 1).float().sqrt()
        moved[shrinking] = torch.maximum(moved[shrinking], torch.minimum(outline[shrinking], half - away))
    return moved


def _stretch_and_shear(images: Tensor, mass: Moments, shear: Tensor, stretch: Tensor) -> Tensor:
    """Images stretched along their slanted axes and then sheared, both about their centroids."""
    height, width = images.shape[1:]
    below = torch.arange(height, device=images.device)[None, :, None] - mass.y[:, None, None]  # (N, H, 1)
    x = torch.arange(width, device=images.device)[None, None]  # (1, 1, W)
    center, slope, more, wider = (t[:, None, None] for t in (mass.x, mass.shear, shear, stretch))
    source = center + slope * below + (x - center - (slope + more) * below) / wider  # (N, H, W)
    framed = torch.nn.functional.pad(images, (1, 2))
    position = (source + 1).clamp(0, width + 1)
    left = position.long()
    low, high = framed.gather(2, left), framed.gather(2, left + 1)
    return low + (high - low) * (position - left)
