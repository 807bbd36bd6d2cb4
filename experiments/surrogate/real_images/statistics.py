"""Statistics of images that code measures and code sets: a judge that no generator can please, and an oracle.

Images are (N, C, H, W) in [0, 1], of one channel or three. "Grey" is the mean of the channels.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

import pellucid as pl
from pellucid.surrogate import DisplaySpace

_RING = 4  # pixels of the border
_ROUNDS = 4  # setting one statistic moves others, and clipping moves all: set in turn, so many times
_BISECTIONS = 10
_LEAST = 1e-3  # of contrast and saturation that are divided by


def _gray(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True)


def _brightness(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3))


def _contrast(x: Tensor) -> Tensor:
    return _gray(x).flatten(1).std(1, correction=0)


def _saturation(x: Tensor) -> Tensor:
    return (x.amax(1) - x.amin(1)).mean((1, 2))


def _border_blueness(x: Tensor) -> Tensor:
    red, green, blue = x.unbind(1)
    ring = torch.ones_like(blue)
    ring[:, _RING:-_RING, _RING:-_RING] = 0
    return ((blue - (red + green) / 2) * ring).sum((1, 2)) / ring.sum((1, 2))


def _detail(x: Tensor) -> Tensor:
    gray = _gray(x)
    across, down = gray.diff(dim=3).abs().mean((1, 2, 3)), gray.diff(dim=2).abs().mean((1, 2, 3))
    return (across + down) / 2 / _contrast(x).clamp_min(_LEAST)


def _with_brightness(x: Tensor, expected: Tensor) -> Tensor:
    return x + _wide(expected - _brightness(x))


def _with_contrast(x: Tensor, expected: Tensor) -> Tensor:
    gray = _gray(x)
    factor = _wide(expected / _contrast(x).clamp_min(_LEAST))
    return x + (factor - 1) * (gray - gray.mean((2, 3), keepdim=True))


def _with_saturation(x: Tensor, expected: Tensor) -> Tensor:
    gray = _gray(x)
    return gray + _wide(expected / _saturation(x).clamp_min(_LEAST)) * (x - gray)


def _with_border_blueness(x: Tensor, expected: Tensor) -> Tensor:
    tint = torch.tensor([-1 / 3, -1 / 3, 2 / 3]).to(x)[:, None, None]  # leaves grey as it is
    return x + _wide(expected - _border_blueness(x)) * surround_mask(x.shape[-1]).to(x) * tint


def _with_detail(x: Tensor, expected: Tensor) -> Tensor:
    """Sharpen or blur: x + a (x - blurred x), with a found by bisection."""
    fine = x - F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    low, high = torch.full_like(expected, -1.0), torch.full_like(expected, 4.0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        short = _detail((x + _wide(middle) * fine).clamp(0, 1)) < expected
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return x + _wide((low + high) / 2) * fine


_TOOLS: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "detail": (_detail, _with_detail),
    "contrast": (_contrast, _with_contrast),
    "saturation": (_saturation, _with_saturation),
    "border blueness": (_border_blueness, _with_border_blueness),
    "brightness": (_brightness, _with_brightness),
}

STATISTICS = tuple(_TOOLS)
"""detail: mean absolute difference of neighboring grey pixels, in units of the contrast. contrast: standard deviation
of grey. saturation: mean of the largest less the smallest channel. border blueness: blue less the mean of red and
green on the four outer pixels. brightness: mean. Saturation and border blueness need three channels."""


def measure_statistics(images: Tensor, names: Sequence[str] = STATISTICS) -> Tensor:
    """The named statistics (N, K) of images (N, C, H, W) in [0, 1]."""
    return torch.stack([_TOOLS[name][0](images) for name in names], dim=1)


def set_statistics(images: Tensor, expected: Tensor, names: Sequence[str] = STATISTICS) -> Tensor:
    """Images redrawn by code, as nearly as clipping at black and full allows with the named statistics `expected`.

    Args:
        images: (N, C, H, W) in [0, 1].
        expected: (N, K).
        names: of the K statistics.
    """
    for _ in range(_ROUNDS):
        for column, name in enumerate(names):
            images = _TOOLS[name][1](images, expected[:, column]).clamp(0, 1)
    return images


def versions_of(
    images: Tensor, low: Tensor, high: Tensor, random: torch.Generator, names: Sequence[str] = STATISTICS
) -> Tensor:
    """Images redrawn with statistics drawn evenly and independently between bounds (K,) and (K,)."""
    share = torch.rand(len(images), len(names), generator=random)
    return set_statistics(images, low + (high - low) * share, names)


def effect_of_code(images: Tensor, name: str, value: float, names: Sequence[str] = STATISTICS) -> Tensor:
    """Images with one statistic set by code and the other named ones held: a true intervention."""
    expected = measure_statistics(images, names)
    expected[:, list(names).index(name)] = value
    return set_statistics(images, expected, names)


def shown(classifier: pl.Classifier, images: Tensor) -> Tensor:
    """Images of a classifier's input space in [0, 1]."""
    return (DisplaySpace.of(classifier, images).to_display(images) / 2 + 0.5).clamp(0, 1)


def unshown(classifier: pl.Classifier, images: Tensor) -> Tensor:
    """The inverse of `shown`."""
    return DisplaySpace.of(classifier, images).from_display(2 * images - 1)


def surround_mask(side: int) -> Tensor:
    """(side, side), 1 in the surroundings, 0 in the middle, smooth between."""
    axis = torch.linspace(-1, 1, side)
    radius = (axis[:, None] ** 4 + axis[None, :] ** 4) ** 0.25
    return ((radius - 0.55) / 0.2).clamp(0, 1)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
