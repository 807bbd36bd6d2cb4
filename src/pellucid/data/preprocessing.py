"""From an image to a classifier's input."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from pellucid.data.geometry import Geometry
from pellucid.errors import ImageError, PellucidError

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
_Box = tuple[int, int, int, int]  # left, top, right, bottom

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_MAX_RESIZED_PIXELS = 100_000_000


@dataclass(frozen=True)
class Preprocess:
    """Turns an image into a classifier's input: resize, center crop, scale to 0..1, normalize.

    The window is chosen in one of three ways:

    - `resize`: the shorter side is resized to so many pixels, the longer to int(resize * long / short), and
      the center cropped at int(round((size - crop) / 2)): torchvision's Resize and CenterCrop, to the bit.
    - `crop_fraction`: a centered square of int(crop_fraction * shorter side) pixels at (size - crop + 1) // 2
      is cut out of the original, then resized: EfficientNet's reference preprocessing. Needs a square input.
    - neither: the whole image is resized, whatever its proportions.

    A crop never exceeds the image, so nothing is padded.

    Attributes:
        input_size: (H, W) of the classifier's input.
        resize: length of the shorter side before the crop, at least max(H, W).
        crop_fraction: part of the shorter side, in (0, 1].
        interpolation: Pillow's filter of that name; all but "nearest" are antialiased.
        mean: subtracted, per channel, on the 0..1 scale. One channel means gray input, three RGB.
        std: divided by, per channel, on the 0..1 scale.

    >>> preprocess = Preprocess((224, 224), resize=256)
    >>> preprocess(Image.new("RGB", (512, 512), "white")).shape
    torch.Size([3, 224, 224])
    >>> preprocess.geometry(512, 512).box
    (32.0, 32.0, 480.0, 480.0)
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
                f"resize {self.resize} makes images smaller than the crop {self.input_size}; "
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
        if self.interpolation not in get_args(Interpolation):
            known = ", ".join(get_args(Interpolation))
            raise PellucidError(f"unknown interpolation {self.interpolation!r}; choose one of {known}")

    @classmethod
    def imagenet(
        cls, input_size: int = 224, resize: int = 256, interpolation: Interpolation = "bilinear"
    ) -> "Preprocess":
        """The usual way of ImageNet classifiers: resize, center crop, ImageNet's mean and deviation.

        Args:
            input_size: side of the square input.
            resize: length of the shorter side before the crop.
            interpolation: Pillow's filter of that name.
        """
        size = (input_size, input_size)
        return cls(size, resize=resize, interpolation=interpolation, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    @property
    def channels(self) -> int:
        """1 for gray input, 3 for RGB."""
        return len(self.mean)

    def __call__(self, image: Image.Image) -> Tensor:
        """The classifier's input (C, H, W), float32, of an upright 8-bit image of mode "RGB" or "L".

        Raises:
            ImageError: the image has another mode or is stored rotated, or is so long and thin that resizing it would
                fill the memory.
        """
        if image.mode not in ("RGB", "L"):
            raise ImageError(f"the image has mode {image.mode!r}, not RGB or L; convert it with pellucid.data.to_rgb")
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            raise ImageError("the image is stored rotated, as cameras do; turn it upright with pellucid.data.to_rgb")
        window = self._window(image.convert("L" if self.channels == 1 else "RGB"))
        levels = torch.from_numpy(np.array(window).reshape(*self.input_size, self.channels))
        scaled = levels.permute(2, 0, 1).contiguous().float().div(255)  # (C, H, W)
        return scaled.sub(_per_channel(self.mean, scaled)).div(_per_channel(self.std, scaled))

    def denormalize(self, x: Tensor) -> Tensor:
        """Back to colors: (..., C, H, W) in the input space to (..., C, H, W) in 0..1, clipped there.

        Raises:
            PellucidError: the number of channels differs.
        """
        if x.ndim < 3 or x.shape[-3] != self.channels:
            raise PellucidError(f"the input has shape (..., {self.channels}, H, W), not {tuple(x.shape)}")
        return x.mul(_per_channel(self.std, x)).add(_per_channel(self.mean, x)).clamp(0, 1)

    def geometry(self, width: int, height: int) -> Geometry:
        """Which part of an image of this size the input shows."""
        (x0, y0, x1, y1), resized, window = self._plan(width, height)
        left, right = (x0 + x * (x1 - x0) / resized[0] for x in window[::2])
        top, bottom = (y0 + y * (y1 - y0) / resized[1] for y in window[1::2])
        return Geometry(width, height, (left, top, right, bottom))

    def _window(self, image: Image.Image) -> Image.Image:
        cut, resized, window = self._plan(*image.size)
        if math.prod(resized) > _MAX_RESIZED_PIXELS:
            raise ImageError(
                f"an image of {image.width} x {image.height} would become {resized[0]} x {resized[1]} "
                f"when its shorter side is resized to {self.resize}; crop it first"
            )
        resample = Image.Resampling[self.interpolation.upper()]
        return _cut_out(image, cut).resize(resized, resample).crop(window)

    def _plan(self, width: int, height: int) -> tuple[_Box, tuple[int, int], _Box]:
        """What to cut out of the image, (width, height) to resize that to, and what to cut out then."""
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


def _cut_out(image: Image.Image, box: _Box) -> Image.Image:
    if box == (0, 0, *image.size):
        return image
    # Not Image.crop, which warns of large images.
    left, top, right, bottom = box
    return Image.fromarray(np.asarray(image)[top:bottom, left:right])


def _per_channel(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)[:, None, None]
