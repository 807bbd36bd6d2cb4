"""Digits redrawn to a thickness, slant, width or intensity that is asked for: oracle interventions on real images."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.synthetic.morphomnist.measure import (
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
_CORE = 0.7  # of the thickness asked for: strokes may be so much thinner than it where they are thinnest

Target = Tensor | float | None


@dataclass(frozen=True)
class _Knobs:
    """How a batch of digits is changed: pixels by which strokes grow to either side, shear added, stretch."""

    growth: Tensor
    shear: Tensor
    stretch: Tensor


def set_thickness(images: Tensor, thickness: Tensor | float, *, scale: int = 4) -> Tensor:
    """Dilate or erode the strokes of images (N, H, W) to a mean thickness in pixels; see `redraw`."""
    return redraw(images, thickness=thickness, scale=scale)


def set_slant(images: Tensor, slant: Tensor | float, *, keep_thickness: bool = True, scale: int = 4) -> Tensor:
    """Shear images (N, H, W) about their centroids to a slant in radians, positive to the right; see `redraw`.

    A shear makes strokes thinner, drawing bright ones anew makes them thicker; unless `keep_thickness` is false the
    thickness is set to what it was.
    """
    return redraw(images, slant=slant, thickness=_thickness_to_keep(images, keep_thickness, scale), scale=scale)


def set_width(images: Tensor, width: Tensor | float, *, keep_thickness: bool = False, scale: int = 4) -> Tensor:
    """Stretch images (N, H, W) along their slanted axes to a width in pixels; see `redraw`.

    Upright strokes widen with the digit. With `keep_thickness` the thickness is set to what it was, which not every
    width allows: a 1 cannot be both wide and thin.
    """
    return redraw(images, width=width, thickness=_thickness_to_keep(images, keep_thickness, scale), scale=scale)


def set_intensity(images: Tensor, intensity: Tensor | float) -> Tensor:
    """Multiply the grey values of images (N, H, W), cut at 255, to the intensity asked for (above 0, up to 255)."""
    gray = check_images(images)
    wanted = _in_range(intensity, gray, "intensity", 0, _BRIGHTEST)
    # Cutting at 255 lowers the threshold that the intensity is the median above, so once is not enough.
    for _ in range(4):
        factor = wanted / measure_intensity(gray).clamp(min=1e-6)
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
    """Redraw digits so that they measure what is asked; what is not asked is left to follow.

    Slant and width are set by a shear and a stretch along rows about the centroid, thickness by moving the outline of
    the binarised digit on a grid `scale` times finer by a real number of pixels (a dilation or erosion with a disk,
    anti-aliased; strokes that get thinner keep a core about their skeleton), intensity by a factor. The result is
    measured and the settings corrected, always starting from the original image, so that nothing blurs twice. A digit
    keeps its intensity unless another one is asked for. Whether the values were reached is for `measure` to say.

    Args:
        images: (N, H, W) bright digits on dark ground, 0..255.
        thickness: one number of pixels, or (N,) of them.
        slant: in radians, positive to the right.
        width: in pixels.
        intensity: in grey levels.
        scale: of the fine grid; 4 as the measures' own.
        rounds: how often to draw.
        batch: most images to draw at once; bounds the memory.

    Returns:
        (N, H, W) float32, 0..255, not rounded.

    Raises:
        PellucidError: the images are not (N, H, W), or a target is no number per image or out of range.
    """
    if scale < 1 or rounds < 1 or batch < 1:
        raise PellucidError(f"wanted scale, rounds and batch of at least 1, not {scale}, {rounds} and {batch}")
    gray = check_images(images)
    size = float(max(gray.shape[1:]))
    targets = (("thickness", thickness, 0.0, size), ("slant", slant, -1.5, 1.5), ("width", width, 0.0, size))
    asked = {
        name: _in_range(target, gray, name, low, high) for name, target, low, high in targets if target is not None
    }
    level = measure_intensity(gray).clamp(1e-3, _BRIGHTEST)
    level = level if intensity is None else _in_range(intensity, gray, "intensity", 0, _BRIGHTEST)
    if not asked:
        return set_intensity(gray, level)
    shaped = torch.empty_like(gray)
    for start in range(0, len(gray), batch):
        rows = slice(start, start + batch)
        here = {name: target[rows] for name, target in asked.items()}
        shaped[rows] = _reshape(gray[rows], here, level[rows], scale, rounds)
    return shaped


def _thickness_to_keep(images: Tensor, keep: bool, scale: int) -> Tensor | None:
    return measure_thickness(images, scale=scale) if keep else None


def _in_range(target: Tensor | float, images: Tensor, name: str, lowest: float, highest: float) -> Tensor:
    """One value per image, (N,)."""
    values = torch.as_tensor(target, dtype=torch.float32, device=images.device)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != len(images)):
        raise PellucidError(f"{name} has shape {tuple(values.shape)}; give one number, or one for each image")
    if not bool(((values > lowest) & (values <= highest)).all()):
        raise PellucidError(f"{name} must be above {lowest:g} and at most {highest:g}; not all of the values asked are")
    return values.expand(len(images))


def _reshape(images: Tensor, asked: dict[str, Tensor], level: Tensor, scale: int, rounds: int) -> Tensor:
    """Images that measure what is asked; of all rounds, for each image the one that came nearest.

    The intensity is set in every round, because cutting at 255 makes strokes thicker.
    """
    fine = upscale(images, scale)
    where = moments(fine)
    none = torch.zeros(len(images), device=images.device)
    knobs = _Knobs(none, none, none + 1)
    best, nearest = images, none + torch.inf
    for _ in range(rounds):
        drawn = set_intensity(_draw(fine, where, knobs, asked, scale), level)
        found = measure(drawn, scale=scale, batch=len(drawn))
        errors = {name: target - getattr(found, name).nan_to_num() for name, target in asked.items()}
        # A pixel of width weighs as much as a fifth of a pixel of thickness or of a radian.
        error = sum(e.abs() * (0.2 if name == "width" else 1) for name, e in errors.items())
        better = error < nearest
        best = torch.where(better[:, None, None], drawn, best)
        nearest = torch.where(better, error, nearest)
        knobs = _turn(knobs, asked, errors)
    return best


def _turn(knobs: _Knobs, asked: dict[str, Tensor], errors: dict[str, Tensor]) -> _Knobs:
    """The knobs after one step towards what is asked; a knob that nothing was asked of stays."""
    growth, shear, stretch = knobs.growth, knobs.shear, knobs.stretch
    if "thickness" in asked:
        growth = growth + errors["thickness"] / 2
    if "slant" in asked:
        shear = shear - torch.tan(asked["slant"]) + torch.tan(asked["slant"] - errors["slant"])
    if "width" in asked:
        found = (asked["width"] - errors["width"]).clamp(min=1e-3)
        stretch = stretch * (asked["width"] / found).clamp(1 / _MAX_STRETCH, _MAX_STRETCH)
    return _Knobs(growth, shear, stretch)


def _draw(fine: Tensor, where: Moments, knobs: _Knobs, asked: Mapping[str, Tensor], scale: int) -> Tensor:
    """Coarse images 0..255 of fine ones as the knobs say; those that nothing was asked of are not touched."""
    if "slant" in asked or "width" in asked:
        fine = _stretch_and_shear(fine, where, knobs.shear, knobs.stretch)
    if "thickness" in asked:
        fine = _BRIGHTEST * (0.5 + _grow(binarize(fine), knobs.growth * scale, asked["thickness"] * scale)).clamp(0, 1)
    return downscale(fine, scale).clamp(0, _BRIGHTEST)


def _grow(shapes: Tensor, growth: Tensor, thickness: Tensor) -> Tensor:
    """Signed distances (N, H, W) to the outlines of shapes that grew by `growth` (N,) to either side, or shrank.

    Strokes that shrink keep a core about their skeletons, of `_CORE` times the thickness asked for, as far as they had
    it: uneven strokes would else fall to pieces, and a thin image of a digit would be no image of it.
    """
    reach = int(growth.max().clamp(min=0).ceil()) + 1
    outline = signed_distances(shapes, reach)
    moved = outline + growth[:, None, None]
    shrinking = (growth < 0).nonzero()[:, 0]
    if len(shrinking):
        some, half = shapes[shrinking], _CORE / 2 * thickness[shrinking, None, None]
        spine = medial_axis(some, squared_distances(some))
        away = squared_distances(~spine, int(half.max().ceil()) + 1).float().sqrt()
        moved[shrinking] = torch.maximum(moved[shrinking], torch.minimum(outline[shrinking], half - away))
    return moved


def _stretch_and_shear(images: Tensor, where: Moments, shear: Tensor, stretch: Tensor) -> Tensor:
    """Images stretched along their slanted axes and then sheared, both about their centroids."""
    height, width = images.shape[1:]
    below = torch.arange(height, device=images.device)[None, :, None] - where.y[:, None, None]  # (N, H, 1)
    x = torch.arange(width, device=images.device)[None, None]  # (1, 1, W)
    center, slope, more, wider = (t[:, None, None] for t in (where.x, where.shear, shear, stretch))
    source = center + slope * below + (x - center - (slope + more) * below) / wider  # (N, H, W)
    framed = torch.nn.functional.pad(images, (1, 2))
    position = (source + 1).clamp(0, width + 1)
    left = position.long()
    low, high = framed.gather(2, left), framed.gather(2, left + 1)
    return low + (high - low) * (position - left)
