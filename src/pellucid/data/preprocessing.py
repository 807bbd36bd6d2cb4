"""From a picture to a classifier's input, and from the input back to the part of the picture it shows."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import PellucidError, PictureError

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
PlaceMode = Literal["bilinear", "nearest"]
_Box = tuple[int, int, int, int]  # left, top, right, bottom

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_MAX_RESIZED_PIXELS = 100_000_000
_RAMP_TOP = 254  # with a phase below 1 added, levels stay in 0..254
_RAMP_SHADES = 8
_UNMEASURED = "the geometry of this preprocessing cannot be measured"


@dataclass(frozen=True)
class Geometry:
    """Which part of a picture a classifier's input window shows: an axis-aligned affine map.

    Input position (x, y), in fractions of the window, lies at left + x (right - left), top + y (bottom - top)
    of the picture. Positions are edges, not centres: pixel i covers i to i + 1.

    Attributes:
        width: of the original picture, in pixels.
        height: of the original picture, in pixels.
        box: (left, top, right, bottom) of the window, in pixels of the original picture, with fractions. It
            reaches beyond the picture where the preprocessing pads.
    """

    width: int
    height: int
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        if min(self.width, self.height) < 1 or not (left < right and top < bottom):
            raise PellucidError(
                f"no window of a picture: {self.width} x {self.height} pixels, box {self.box}; "
                "a box is (left, top, right, bottom) with left < right and top < bottom"
            )

    def place(self, values: Tensor, *, mode: PlaceMode = "bilinear") -> Tensor:
        """Lay a map of the window where it belongs on the original picture.

        The map may have any resolution; its cells tile the window (align_corners=False: values sit at the
        centres of cells). Finer than the picture, cells are averaged with the widened triangle of an
        antialiased resize.

        It costs 4 bytes per pixel of the picture and map (8 for float64), up to twice that while it is made:
        one map on 4000 x 3000 pixels becomes 48 MB, whatever its resolution was.

        Args:
            values: (..., h, w), any scale and sign, finite: bilinear placing spreads a NaN over its row and
                column.
            mode: "bilinear", or "nearest" to show the cells as they are.

        Returns:
            (..., height, width), float32 (float64 for float64), in the scale and sign of `values`; NaN at the
            pixels whose centre lies outside the box, which the classifier did not see.

        Raises:
            PellucidError: `values` has fewer than two axes or no cells, or the mode is unknown.
        """
        if values.ndim < 2 or 0 in values.shape[-2:]:
            raise PellucidError(f"a map to place has shape (..., h, w) with h, w >= 1, not {tuple(values.shape)}")
        _check_choice("place mode", mode, get_args(PlaceMode))
        cells = values if values.dtype == torch.float64 else values.float()
        left, top, right, bottom = self.box
        rows, vertical = _sampling(cells.shape[-2], top, bottom, self.height, mode)
        columns, horizontal = _sampling(cells.shape[-1], left, right, self.width, mode)
        placed = cells.new_full((*cells.shape[:-2], self.height, self.width), math.nan)
        placed[..., rows, columns] = vertical.to(cells) @ cells @ horizontal.to(cells).T
        return placed


@dataclass(frozen=True)
class Preprocess:
    """Turns a picture into a classifier's input: resize, centre crop, scale to 0..1, normalise.

    The window is chosen in one of three ways:

    - `resize`: the shorter side is resized to so many pixels, the longer to int(resize * long / short), and
      the centre cropped at int(round((size - crop) / 2)): torchvision's Resize and CenterCrop, to the bit.
    - `crop_fraction`: a centred square of int(crop_fraction * shorter side) pixels at (size - crop + 1) // 2
      is cut out of the original, then resized: EfficientNet's reference preprocessing. Needs a square input.
    - neither: the whole picture is resized, whatever its proportions.

    A crop never exceeds the picture, so nothing is padded.

    Attributes:
        input_size: (H, W) of the classifier's input.
        resize: length of the shorter side before the crop, at least max(H, W).
        crop_fraction: part of the shorter side, in (0, 1].
        interpolation: Pillow's filter of that name; all but "nearest" are antialiased.
        mean: subtracted, per channel, on the 0..1 scale. One channel means grey input, three RGB.
        std: divided by, per channel, on the 0..1 scale.
    """

    input_size: tuple[int, int]
    resize: int | None = None
    crop_fraction: float | None = None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise PellucidError(f"input_size {self.input_size!r} is not (height, width), both at least 1")
        if self.resize is not None and self.crop_fraction is not None:
            raise PellucidError("resize and crop_fraction are two ways to choose the window; give one of them")
        if self.resize is not None and self.resize < max(self.input_size):
            raise PellucidError(
                f"resize {self.resize} makes pictures smaller than the crop {self.input_size}; "
                f"give at least {max(self.input_size)}"
            )
        if self.crop_fraction is not None and not 0 < self.crop_fraction <= 1:
            raise PellucidError(f"crop_fraction {self.crop_fraction} is not in (0, 1]")
        if self.crop_fraction is not None and self.input_size[0] != self.input_size[1]:
            raise PellucidError(f"crop_fraction cuts a square; input_size {self.input_size} is none: give resize")
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean) or min(self.std) <= 0:
            raise PellucidError(
                f"mean {self.mean} and std {self.std} need one number per channel, 1 or 3, and std above 0"
            )
        _check_choice("interpolation", self.interpolation, get_args(Interpolation))

    @classmethod
    def imagenet(
        cls, input_size: int = 224, resize: int = 256, interpolation: Interpolation = "bilinear"
    ) -> "Preprocess":
        """The usual way of ImageNet classifiers: resize, centre crop, ImageNet's mean and deviation."""
        size = (input_size, input_size)
        return cls(size, resize=resize, interpolation=interpolation, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    @property
    def channels(self) -> int:
        """1 for grey input, 3 for RGB."""
        return len(self.mean)

    def __call__(self, picture: Image.Image) -> Tensor:
        """The classifier's input (C, H, W), float32, of an upright 8-bit picture of mode "RGB" or "L".

        Raises:
            PictureError: the picture has another mode, or is so long and thin that resizing it would fill the
                memory.
        """
        if picture.mode not in ("RGB", "L"):
            raise PictureError(
                f"the picture has mode {picture.mode!r}, not RGB or L; convert it with pellucid.data.to_rgb"
            )
        window = self._window(picture.convert("L" if self.channels == 1 else "RGB"))
        levels = torch.from_numpy(np.array(window).reshape(*self.input_size, self.channels))
        scaled = levels.permute(2, 0, 1).contiguous().float().div(255)  # (C, H, W)
        return scaled.sub(_per_channel(self.mean, scaled)).div(_per_channel(self.std, scaled))

    def denormalise(self, x: Tensor) -> Tensor:
        """Back to colours: (..., C, H, W) in the input space to (..., C, H, W) in 0..1, clipped there.

        Raises:
            PellucidError: the number of channels differs.
        """
        if x.ndim < 3 or x.shape[-3] != self.channels:
            raise PellucidError(f"the input has shape (..., {self.channels}, H, W), not {tuple(x.shape)}")
        return x.mul(_per_channel(self.std, x)).add(_per_channel(self.mean, x)).clamp(0, 1)

    def geometry(self, width: int, height: int) -> Geometry:
        """Which part of a picture of this size the input shows."""
        (x0, y0, x1, y1), resized, window = self._plan(width, height)
        left, right = (x0 + x * (x1 - x0) / resized[0] for x in window[::2])
        top, bottom = (y0 + y * (y1 - y0) / resized[1] for y in window[1::2])
        return Geometry(width, height, (left, top, right, bottom))

    def _window(self, picture: Image.Image) -> Image.Image:
        cut, resized, window = self._plan(*picture.size)
        if math.prod(resized) > _MAX_RESIZED_PIXELS:
            raise PictureError(
                f"a picture of {picture.width} x {picture.height} would become {resized[0]} x {resized[1]} "
                f"when its shorter side is resized to {self.resize}; crop it first"
            )
        resample = Image.Resampling[self.interpolation.upper()]
        return _cut_out(picture, cut).resize(resized, resample).crop(window)

    def _plan(self, width: int, height: int) -> tuple[_Box, tuple[int, int], _Box]:
        """What to cut out of the picture, (width, height) to resize that to, and what to cut out then."""
        input_height, input_width = self.input_size
        left = top = 0
        cut, resized = (0, 0, width, height), (input_width, input_height)
        if self.crop_fraction is not None:
            side = max(1, int(self.crop_fraction * min(width, height)))
            x, y = (width - side + 1) // 2, (height - side + 1) // 2
            cut = (x, y, x + side, y + side)
        elif self.resize is not None:
            long = int(self.resize * max(width, height) / min(width, height))
            resized = (self.resize, long) if width <= height else (long, self.resize)
            left, top = round((resized[0] - input_width) / 2), round((resized[1] - input_height) / 2)
        return cut, resized, (left, top, left + input_width, top + input_height)


def measure_geometry(preprocess: Callable[[Image.Image], Tensor], width: int, height: int) -> Geometry:
    """Find out which part of a picture someone's own preprocessing shows, by looking at ramps through it.

    A black and a white picture give each output's offset and gain; ramps along x and along y then tell where
    in the picture it comes from, and a straight line is fitted to that. Each ramp comes in eight shades, an
    eighth of a level apart, so that 8-bit rounding averages out: the box is right to a few hundredths of a
    pixel of the input or of the picture, whichever is larger. That takes 19 calls, so keep the result.

    Args:
        preprocess: from an RGB picture to (C, H, W), such as a torchvision Compose: any resize and crop along
            the axes, padding with a constant, and per-channel changes of scale, all of them fixed.
        width: of the pictures to measure for; those of another size may have another geometry.
        height: of the pictures to measure for.

    Raises:
        PellucidError: the callable returns something else than (C, H, W), or is not of that kind: random,
            mirrored, rotated, padded with picture content, or dependent on brightness in another way.
    """
    plain = [Image.new("RGB", (width, height), colour) for colour in ("black", "white")]
    ramps = chain(_ramps(width, 0, height), _ramps(height, 1, width))
    again = islice(_ramps(width, 0, height), 1)
    black, white, *shades, repeated = _respond(preprocess, chain(plain, ramps, again))
    gain = white - black  # (C, H, W)
    strongest = gain.abs().amax((1, 2), keepdim=True)
    # Constant padding does not react, and pixels that an interpolation mixes with it only in part.
    reacts = gain.abs() > 0.99 * strongest.clamp(min=1e-3 * float(strongest.max()))
    channels = reacts.any(2).any(1)
    seen = reacts.any(0)  # (H, W)
    rows, columns = _run(seen.any(1)), _run(seen.any(0))
    if not torch.equal(repeated, shades[0]):
        raise PellucidError(f"{_UNMEASURED}: it gives two results for one picture; leave out random steps")
    if not reacts[channels][:, rows, columns].all():
        raise PellucidError(f"{_UNMEASURED}: it hides parts of the picture inside its window; leave out such steps")
    levels = torch.stack([(shade - black) / gain for shade in shades])[:, channels, rows, columns].mean(1)
    share = levels * 255 / _RAMP_TOP  # (shades, rows, columns), 0..1 along the picture
    left, right = _fit(share[:_RAMP_SHADES] * width, columns, gain.shape[2], width)
    top, bottom = _fit(share[_RAMP_SHADES:].mT * height, rows, gain.shape[1], height)
    return Geometry(width, height, (left, top, right, bottom))


def _ramps(extent: int, axis: int, across: int) -> Iterator[Image.Image]:
    """Pictures that brighten evenly to the right (axis 0) or downwards (axis 1), in all shades."""
    ramp = _RAMP_TOP * (np.arange(extent) + 0.5) / extent
    size = (extent, across) if axis == 0 else (across, extent)
    for shade in range(_RAMP_SHADES):
        # Over the shades, floor(level + phase) averages to the level.
        levels = np.floor(ramp + (shade + 0.5) / _RAMP_SHADES).astype(np.uint8)
        line = Image.fromarray(np.expand_dims(levels, axis))
        yield line.resize(size, Image.Resampling.NEAREST).convert("RGB")


def _respond(preprocess: Callable[[Image.Image], Tensor], pictures: Iterable[Image.Image]) -> list[Tensor]:
    outputs = [preprocess(picture) for picture in pictures]
    found = {str(tuple(each.shape)) if isinstance(each, Tensor) else type(each).__name__ for each in outputs}
    if len(found) > 1 or not isinstance(outputs[0], Tensor) or outputs[0].ndim != 3:
        raise PellucidError(
            f"{_UNMEASURED}: it returns {' or '.join(sorted(found))}; return one tensor of shape (C, H, W)"
        )
    return [output.detach().double().cpu() for output in outputs]


def _run(seen: Tensor) -> slice:
    where = seen.nonzero().flatten().tolist()
    if len(where) < 4:
        raise PellucidError(
            f"{_UNMEASURED}: fewer than 4 x 4 outputs differ between a black and a white picture; "
            "normalise with fixed numbers, not with the picture's own"
        )
    return slice(where[0], where[-1] + 1)


def _fit(positions: Tensor, seen: slice, length: int, extent: int) -> tuple[float, float]:
    """Where the window of `length` outputs starts and stops along an axis of `extent` pixels.

    `positions` (shades, lines, outputs): where along the axis the outputs `seen` say that they come from.
    """
    outputs = torch.arange(length, dtype=torch.float64)[seen] + 0.5
    mean = positions.mean(0)
    pitch, _ = _line(outputs, mean.mean(0))
    # Near edges, filters see less on one side, so the line is fitted to the outputs further inside.
    margin = min(math.ceil(3 * max(1.0, 1 / max(abs(pitch), 1e-6))), len(outputs) // 4)
    inside = slice(margin, len(outputs) - margin)
    pitch, start = _line(outputs[inside], mean.mean(0)[inside])
    jitter = float((positions - mean).abs().max())
    bend = float((mean - (start + pitch * outputs)).abs().max())
    # An edge or a nearest neighbour moves an output by half a pixel, 8-bit rounding by one or two levels.
    level, step = extent / _RAMP_TOP, 0.75 * max(1.0, abs(pitch))
    if jitter > step + 2.5 * level:
        raise PellucidError(
            f"{_UNMEASURED}: its crop moves by {jitter:.1f} pixels between calls; leave out random steps"
        )
    if bend > step + level / 4:
        raise PellucidError(
            f"{_UNMEASURED}: its outputs lie up to {bend:.1f} pixels of the picture off an even grid along "
            "the axes; leave out rotation, warping and changes of contrast"
        )
    if pitch <= 0:
        raise PellucidError(f"{_UNMEASURED}: it mirrors the picture; leave out the flip")
    return start, start + pitch * length


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Slope and value at 0 of the least-squares line."""
    centred = x - x.mean()
    slope = (centred @ y) / (centred @ centred)
    return float(slope), float(y.mean() - slope * x.mean())


def _sampling(cells: int, start: float, stop: float, length: int, mode: PlaceMode) -> tuple[slice, Tensor]:
    """The pixels of an axis whose centres lie in start..stop, and their weights (pixels, cells)."""
    first, last = (min(max(math.ceil(edge - 0.5), 0), length) for edge in (start, stop))
    per_pixel = cells / (stop - start)
    position = (torch.arange(first, last, dtype=torch.float64) + 0.5 - start) * per_pixel
    if mode == "nearest":
        nearest = position.floor().clamp(0, cells - 1)
        return slice(first, last), (nearest[:, None] == torch.arange(cells)).double()
    distance = position[:, None] - (torch.arange(cells) + 0.5)
    weights = (1 - distance.abs() / max(1.0, per_pixel)).clamp(min=0)
    # At the edges, part of the triangle has no cells: the outermost cells fill in.
    return slice(first, last), weights / weights.sum(1, keepdim=True)


def _cut_out(picture: Image.Image, box: _Box) -> Image.Image:
    if box == (0, 0, *picture.size):
        return picture
    # Not Image.crop, which warns of large pictures.
    left, top, right, bottom = box
    return Image.fromarray(np.asarray(picture)[top:bottom, left:right])


def _per_channel(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)[:, None, None]


def _check_choice(name: str, chosen: str, choices: tuple[str, ...]) -> None:
    if chosen not in choices:
        raise PellucidError(f"unknown {name} {chosen!r}; choose one of {', '.join(choices)}")
