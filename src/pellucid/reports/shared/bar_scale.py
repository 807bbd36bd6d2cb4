"""Bars with intervals on a common range, and how numbers and p-values beside them are written."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pellucid.reports.shared.colors import format_number


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
