"""What the claims are checked against: one model's scores, and a number held against a range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan, nan, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pellucid.evaluation.sweep.arrow import arrow
from pellucid.evaluation.sweep.summary import SummaryLine, correlate
from pellucid.statistics.intervals import Interval

if TYPE_CHECKING:
    import pyarrow as pa


BACKPROPAGATION = ("Gradient", "GuidedBackprop", "InputXGradient", "IntegratedGradients", "SmoothGrad")
POOLED = ("GradCAM", "GradCAMPlusPlus", "AblationCAM", "ScoreCAM")
"""Activation methods that weigh every channel with one number for the whole map; Layer-CAM weighs every cell."""
ACTIVATION = (*POOLED, "LayerCAM")
PERTURBATION = ("Occlusion", "RISE")
SMOOTHED = ("IntegratedGradients", "InputXGradient")
"""Those of which smoothing is claimed to help."""
NON_NEGATIVE = ("Gradient", "GuidedBackprop", "LayerCAM")

Floats = NDArray[np.float64]
Correlation = dict[frozenset[tuple[str, str]], float]


@dataclass(frozen=True)
class Check:
    """A number held against the range that a claim wants.

    Attributes:
        subject: what was measured, such as "GradCAM at final".
        quantity: which number it is.
        value: the number; `low` and `high` its interval, NaN where there is none.
        low, high: see `value`.
        wanted: the range, in words; empty for a number that is only shown.
        holds: whether the value lies in the range; None for one that is only shown.
        conclusive: whether the whole interval lies on one side of the range's ends; None without an interval or a
            range.
    """

    subject: str
    quantity: str
    value: float
    low: float
    high: float
    wanted: str
    holds: bool | None
    conclusive: bool | None


def check(
    subject: str, quantity: str, found: Interval | float, *, least: float | None = None, most: float | None = None
) -> Check:
    """Hold a number against `least` and `most` (both may be reached); with neither it is only shown."""
    value, low, high = (
        (found.estimate, found.low, found.high) if isinstance(found, Interval) else (float(found), nan, nan)
    )
    if least is None and most is None:
        return Check(subject, quantity, value, low, high, "", None, None)
    bottom, top = -np.inf if least is None else least, np.inf if most is None else most
    inside = [bottom <= end <= top for end in (low, high)]
    beyond = high < bottom or low > top
    conclusive = None if isnan(low) or isnan(high) else all(inside) or beyond
    return Check(subject, quantity, value, low, high, _range(least, most), bottom <= value <= top, conclusive)


def gap(first: Interval, second: Interval) -> Interval:
    """`first` minus `second` with an interval made of theirs, as if they were independent.

    Scores of the same grids rise and fall together, which makes the true interval narrower: this one errs towards
    doubt. Source: Zou and Donner, Construction of confidence limits about effect measures, 2008.
    """
    difference = first.estimate - second.estimate
    below = sqrt((first.estimate - first.low) ** 2 + (second.high - second.estimate) ** 2)
    above = sqrt((first.high - first.estimate) ** 2 + (second.estimate - second.low) ** 2)
    return replace(
        first,
        estimate=difference,
        low=difference - below,
        high=difference + above,
        scores=min(first.scores, second.scores),
        grids=min(first.grids, second.grids),
        excluded=first.excluded + second.excluded,
    )


def base_name(method: str) -> str:
    """The method's class, of what a table calls it: "RISE (masks=500)" is RISE."""
    return method.partition(" ")[0]


class Scores:
    """The scores of one trained model in one run, without controls.

    Args:
        table: of a run (see `pellucid.evaluation.sweep.table.schema`).
        lines: its summary.
        model: name.
        others: the same model in other runs.

    Attributes:
        model: name.
        others: see above.
        chance: what a map that knows nothing scores, 1 / cells.
        cells: of a grid.
    """

    def __init__(
        self, table: pa.Table, lines: Sequence[SummaryLine], model: str, others: Sequence[Scores] = ()
    ) -> None:
        keep = [
            name == model and variant == "trained" and not control
            for name, variant, control in zip(
                *(table[column].to_pylist() for column in ("model", "variant", "control")), strict=True
            )
        ]
        self._table = table.filter(arrow().array(keep, arrow().bool_()))
        self._lines = {
            (line.setting, line.layer, line.method, line.kernel_size): line
            for line in lines
            if line.model == model and line.variant == "trained" and not line.control
        }
        self.model, self.others = model, tuple(others)
        self.cells = max(self._table["cell"].to_pylist(), default=0) + 1  # the last cell is always one that is scored
        self.chance = 1 / self.cells
        self._known: dict[str, Correlation] = {}

    @property
    def settings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(setting for setting, *_ in self._lines))

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer for _, layer, *_ in self._lines))

    @property
    def kernels(self) -> tuple[int, ...]:
        """Sizes of the smoothing kernels, 1 for none among them."""
        return tuple(sorted({kernel for *_, kernel in self._lines}))

    def methods(self, *names: str) -> tuple[str, ...]:
        """What the table calls the methods of these classes; all of them without names."""
        found = dict.fromkeys(method for _, _, method, _ in self._lines)
        return tuple(method for method in found if not names or base_name(method) in names)

    def line(self, setting: str, layer: str, method: str, kernel: int = 1) -> SummaryLine | None:
        """A line of the summary; None where nothing was measured or no map could be scored."""
        found = self._lines.get((setting, layer, method, kernel))
        return found if found is not None and found.median.scores else None

    def medians(self, setting: str, layer: str, methods: Sequence[str]) -> Iterator[tuple[str, SummaryLine]]:
        """(method, line) of those methods that were measured there."""
        for method in methods:
            if (line := self.line(setting, layer, method)) is not None:
                yield method, line

    def column(self, name: str, setting: str, layer: str, method: str, kernel: int = 1) -> Floats:
        """A column's numbers of one method, row by row."""
        values: Floats = self._table[name].to_numpy()[self._rows.get((setting, layer, method, kernel), [])]
        return values.astype(np.float64)

    def correlation(self, setting: str, first: tuple[str, str], second: tuple[str, str]) -> float:
        """Spearman's rank correlation of two (name, layer); names as in `SummaryLine.name`. NaN where undefined."""
        if setting not in self._known:
            self._known[setting] = self._correlations(setting)
        return self._known[setting].get(frozenset((first, second)), nan)

    def _correlations(self, setting: str) -> Correlation:
        """Of all methods, and of smoothed IntGrad and IxG at the input."""
        if setting not in self.settings:
            return {}
        columns = (self._table[name].to_pylist() for name in ("kernel_size", "layer", "method"))
        wanted = [
            kernel == 1 or (layer == "input" and base_name(method) in SMOOTHED)
            for kernel, layer, method in zip(*columns, strict=True)
        ]
        found = correlate(self._table.filter(arrow().array(wanted)), setting=setting, model=self.model)
        return {
            frozenset((one, other)): float(found.matrix[i, j])
            for i, one in enumerate(found.names)
            for j, other in enumerate(found.names[:i])
        }

    @cached_property
    def _rows(self) -> dict[tuple[str, str, str, int], list[int]]:
        rows: dict[tuple[str, str, str, int], list[int]] = {}
        names = ("setting", "layer", "method", "kernel_size")
        for row, key in enumerate(zip(*(self._table[name].to_pylist() for name in names), strict=True)):
            rows.setdefault(key, []).append(row)
        return rows


def _range(least: float | None, most: float | None) -> str:
    if least is None:
        return f"at most {most:.3g}"
    return f"at least {least:.3g}" if most is None else f"{least:.3g} to {most:.3g}"
