"""Scales that pages and figures state: of colors, of bars with intervals, and the numbers written beside them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pellucid.errors import PellucidError

SCALE_PERCENTILE = 99.5
ALPHA = 0.88
_OPACITY_EXPONENT = 0.85  # below 1: weak evidence shows, and the strongest still lets the photograph through

# Orange and blue differ in hue for every common color vision and stand out from gray at any brightness.
_POSITIVE = ((255, 196, 120), (250, 130, 30), (206, 66, 0))
_NEGATIVE = ((140, 200, 255), (54, 134, 244), (20, 66, 200))
# Violet to yellow: weak, strong and the gray below stay apart for every common color vision, too.
_SEQUENTIAL = ((80, 40, 160), (155, 28, 170), (255, 205, 30))

# Indices of a map layer: 0..252 hold values (zero in the middle where signed), 253..255 the hatching.
_TOP, _ZERO, _UNSEEN = 252, 126, 253
_VEIL = ((86, 89, 97, 195), (100, 103, 111, 195), (114, 117, 125, 195))  # ground, edge, core of a line


class ReportError(PellucidError):
    """A figure or page cannot be drawn from these results."""


def robust_scale(values: Tensor, percentile: float = SCALE_PERCENTILE) -> float:
    """The |value| at which colors end: a percentile of the non-zero, finite |values|.

    A few extreme pixels do not wash out a map, and a map with few non-zero pixels still gets a scale.

    Args:
        values: map or maps that share the scale, any shape, signed, NaN outside the network's view.
        percentile: in (0, 100]; 100 is the maximum.

    Returns:
        The scale, in the map's own unit; 0.0 where no value is finite and non-zero.

    Raises:
        ReportError: the percentile is out of range.

    >>> robust_scale(torch.tensor([[0.0, -2.0], [1.0, float("nan")]]), percentile=100)
    2.0
    """
    if not 0 < percentile <= 100:
        raise ReportError(f"percentile is {percentile}; expected one above 0 and up to 100, such as 99.5")
    magnitudes = values.detach().to("cpu", torch.float32).abs()
    magnitudes = magnitudes[magnitudes.isfinite() & (magnitudes > 0)]
    return float(np.percentile(magnitudes.numpy(), percentile)) if magnitudes.numel() else 0.0


def palette(*, signed: bool = True, alpha: float = ALPHA) -> NDArray[np.uint8]:
    """The 256 RGBA colors of a map layer, (256, 4).

    Entries 0..252 run over the scale: -s..+s where signed (126 is zero), 0..s where not (0 is zero). Zero is
    transparent, opacity grows with |value| up to `alpha`, in (0, 1]. Entries 253..255 draw the hatching.

    >>> palette(signed=True)[126].tolist()[3]  # zero is transparent
    0
    """
    if not 0 < alpha <= 1:
        raise ReportError(f"alpha is {alpha}; expected an opacity above 0 and up to 1")
    colors = np.empty((256, 4), np.uint8)
    if signed:
        colors[_ZERO : _TOP + 1] = _ramp(_POSITIVE, _TOP - _ZERO + 1, alpha)
        colors[: _ZERO + 1] = _ramp(_NEGATIVE, _ZERO + 1, alpha)[::-1]
    else:
        colors[: _TOP + 1] = _ramp(_SEQUENTIAL, _TOP + 1, alpha)
    colors[_UNSEEN:] = _VEIL
    return colors


def color_row(*, signed: bool = True) -> Image.Image:
    """The colors of the scale, from its lower to its upper end, as one row of RGBA pixels.

    >>> color_row(signed=False).size
    (253, 1)
    """
    return Image.fromarray(palette(signed=signed)[None, : _TOP + 1])


def levels(values: NDArray[np.float32], scale: float, signed: bool) -> NDArray[np.uint8]:
    """Palette indices of a map, hatching where it is NaN.

    Args:
        values: (h, w).
        scale: |value| at which the colors end, above 0.
        signed: whether zero is in the middle of the palette.

    Returns:
        (h, w) uint8.

    >>> levels(np.array([[-1.0, 0.0, 1.0]], np.float32), 1.0, signed=True).tolist()
    [[0, 126, 252]]
    """
    relative = np.clip(np.nan_to_num(values / scale), -1, 1)
    levels = _ZERO + np.round(_ZERO * relative) if signed else np.round(_TOP * relative)
    rows, columns = np.indices(values.shape)
    period = max(8, max(values.shape) // 40)
    distance = np.abs((rows + columns) % period - period // 2)
    hatch = _UNSEEN + np.clip(2 - distance, 0, 2)
    indices: NDArray[np.uint8] = np.where(np.isnan(values), hatch, levels).astype(np.uint8)
    return indices


def scale_ticks(scale: float, signed: bool) -> list[tuple[float, str, str]]:
    """Place along a color bar in [0, 1], text anchor and label of each of its three numbers.

    >>> [label for _, _, label in scale_ticks(2.0, signed=True)]
    ['−2', '0', '+2']
    """
    if not signed:
        return [(0.0, "la", "0"), (0.5, "ma", format_number(scale / 2)), (1.0, "ra", format_number(scale))]
    return [(0.0, "la", format_number(-scale)), (0.5, "ma", "0"), (1.0, "ra", "+" + format_number(scale))]


def format_number(value: float) -> str:
    """Three significant digits with a real minus sign and a power of ten where needed.

    >>> format_number(-0.0000123)
    '−1.23×10⁻⁵'
    """
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    raised = str(int(exponent or 0)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return mantissa.replace("-", "−") + (f"×10{raised}" if exponent else "")


def sign_convention(signed: bool) -> str:
    """What the colors of an overlay say, in one line.

    >>> sign_convention(signed=True)
    'Orange: evidence for the target. Blue: evidence against it. No color: zero.'
    """
    if signed:
        return "Orange: evidence for the target. Blue: evidence against it. No color: zero."
    return "Violet to yellow: weak to strong. Maps of this method are never negative. No color: zero."


def _ramp(anchors: Sequence[tuple[int, int, int]], steps: int, alpha: float) -> NDArray[np.uint8]:
    """Colors from zero (transparent) to the end of the scale, (steps, 4)."""
    t = np.linspace(0, 1, steps)
    stops = np.linspace(0, 1, len(anchors))
    channels = [np.interp(t, stops, channel) for channel in zip(*anchors, strict=True)]
    return np.stack([*channels, 255 * alpha * t**_OPACITY_EXPONENT], axis=1).round().astype(np.uint8)


@dataclass(frozen=True)
class Scale:
    """The range that bars share, and how numbers on it are written.

    Attributes:
        low, high: ends of the range; 0 lies in it.

    >>> scale = Scale.over([-1.0, 3.0])
    >>> scale.write(0.5), scale.write_range(-1, 2), scale.bar(3.0)["sign"]
    ('+0.50', '−1.00 to +2.00', 'for')
    """

    low: float
    high: float

    @staticmethod
    def over(values: Iterable[float]) -> "Scale":
        """The range of some numbers and 0; a little of each side stays free."""
        finite = [value for value in values if math.isfinite(value)]
        low, high = min(finite, default=0.0), max(finite, default=0.0)
        margin = 0.03 * (max(high, 0.0) - min(low, 0.0)) or 1.0
        return Scale(min(low, 0.0) - margin * (low < 0), max(high, 0.0) + margin * (high > 0 or low >= 0))

    def place(self, value: float) -> float:
        """Where a number lies along the range, in percent."""
        return round(100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low), 2)

    def bar(self, value: float, low: float | None = None, high: float | None = None) -> dict[str, float | str | None]:
        """Ends of a bar from 0 and of its interval, in percent of the range.

        Args:
            value: where the bar ends.
            low: lower end of its interval; None or NaN for none.
            high: upper end of its interval.
        """
        zero, end = self.place(0.0), self.place(value)
        ends = _known_ends(low, high)
        return {
            "left": min(zero, end),
            "width": round(abs(end - zero), 2),
            "sign": "for" if value >= 0 else "against",
            "zero": zero,
            "low": self.place(ends[0]) if ends else None,
            "span": round(self.place(ends[1]) - self.place(ends[0]), 2) if ends else None,
        }

    def write(self, value: float, signed: bool = True) -> str:
        """A number with as many digits as the range deserves, "+0.42"."""
        if not math.isfinite(value):
            return "no number"
        size = max(self.high, -self.low)
        digits = max(0, 2 - math.floor(math.log10(size))) if size > 0 else 2
        if digits > 6:
            return format_number(value)
        text = f"{value:{'+' if signed else ''}.{digits}f}"
        text = text.lstrip("+-") if not text.strip("+-0.") else text
        return text.replace("-", "−")

    def write_range(self, low: float | None, high: float | None) -> str | None:
        """An interval, "+0.42 to +0.51"; None where an end is None or NaN."""
        ends = _known_ends(low, high)
        return f"{self.write(ends[0])} to {self.write(ends[1])}" if ends else None

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place in percent and text of 0 and of round numbers on either side that fit."""
        step = _round_step(max(self.high, -self.low))
        numbers = [number for number in (-step, 0.0, step) if self.low <= number <= self.high]
        return [(self.place(number), format_number(number) if number else "0") for number in numbers]


def _known_ends(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None or math.isnan(low) or math.isnan(high) else (low, high)


def _round_step(size: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `size`."""
    power = 10.0 ** math.floor(math.log10(size))
    return float(max(step * power for step in (1, 2, 5) if step * power <= size * (1 + 1e-9)))


def format_p_value(p_value: float) -> str:
    """ "p = 0.03" or "p < 0.001".

    >>> format_p_value(0.0301), format_p_value(0.0001)
    ('p = 0.03', 'p < 0.001')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
