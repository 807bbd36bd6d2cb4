"""The drawings of an evaluation page as coordinates: box plots, the curve over kernels, and correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from pellucid.evaluation.sweep import Correlations, SummaryLine
from pellucid.reports.shared.html import distinct

TOP, HEIGHT, LEFT, STEP = 10, 200, 34, 27
"""Of the plotting area, in the units of the drawing: where it begins, and the width of one box."""

_WHISKER = 1.5  # interquartile ranges, as in Tukey's and matplotlib's box plots
_NUMBERS_UP_TO = 40  # columns of correlations; more leave no room for numbers


@dataclass(frozen=True)
class Box:
    """One box: name, center on the x axis, and heights of whiskers, quartiles, median and attainable maximum."""

    name: str
    x: float
    low: float
    first: float
    median: float
    third: float
    high: float
    attainable: float | None
    text: str


@dataclass(frozen=True)
class BoxPanel:
    """The boxes of a layer; `chance` and `one` are heights of reference lines, `label` is room for the names."""

    title: str
    boxes: tuple[Box, ...]
    width: int
    chance: float
    one: float
    ticks: tuple[tuple[float, str], ...]
    lost: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Curve:
    """A line over kernels with intervals: (x, y, low, high) of every point."""

    name: str
    points: tuple[tuple[float, float, float, float], ...]
    text: str


@dataclass(frozen=True)
class CurvePanel:
    """Medians over kernels at the input; `reference` is the height of Grad-CAM at the final layer."""

    title: str
    curves: tuple[Curve, ...]
    kernels: tuple[tuple[float, str], ...]
    width: int
    chance: float
    ticks: tuple[tuple[float, str], ...]
    reference: float | None


@dataclass(frozen=True)
class HeatCell:
    """One correlation: sign, strength in percent, short and long text."""

    sign: str
    strength: int
    short: str
    text: str


@dataclass(frozen=True)
class Heat:
    """A matrix of correlations: (layer, number of its columns), names of rows and columns, and cells."""

    layers: tuple[tuple[str, int], ...]
    names: tuple[tuple[str, str], ...]
    rows: tuple[tuple[HeatCell, ...], ...]
    numbers: bool


def box_panel(
    title: str, lines: Sequence[SummaryLine], scores: Mapping[str, NDArray[np.float64]], chance: float
) -> BoxPanel:
    """Box plots of methods at one layer in one setting; outliers beyond the whiskers are not drawn.

    Args:
        title: the layer.
        lines: of the summary, one for each box.
        scores: method -> localization scores.
        chance: 1 / cells.
    """
    known = [line for line in lines if line.median.scores]
    boxes = tuple(_box(position, line, scores[line.method]) for position, line in enumerate(known))
    longest = max((min(len(line.method), 22) for line in known), default=0)
    return BoxPanel(
        title=title,
        boxes=boxes,
        width=LEFT + max(STEP * len(boxes), 4 * STEP) + 8,
        chance=_height(chance),
        one=_height(1),
        ticks=_ticks(),
        lost=tuple(line.method for line in lines if not line.median.scores),
        label=12 + round(4.2 * longest),
    )


def curve_panel(title: str, lines: Sequence[SummaryLine], reference: float | None, chance: float) -> CurvePanel:
    """Medians over kernels, a line for each method.

    Args:
        title: the setting.
        lines: of the summary, all at one layer: every kernel of every method.
        reference: median of Grad-CAM at the final layer; None if it was not run.
        chance: 1 / cells.
    """
    kernels = sorted({line.kernel_size for line in lines})
    at = {kernel: LEFT + 24 + 46 * position for position, kernel in enumerate(kernels)}
    names = ["none" if kernel == 1 else str(kernel) for kernel in kernels]
    curves = []
    for method in distinct(line.method for line in lines):
        lines_of_method = sorted((line for line in lines if line.method == method and line.median.scores), key=_kernel)
        points = [_point(at[line.kernel_size], line) for line in lines_of_method]
        text = ", ".join(f"{line.kernel_size}: {line.median.estimate:.3f}" for line in lines_of_method)
        curves.append(Curve(method, tuple(points), text))
    return CurvePanel(
        title=title,
        curves=tuple(curves),
        kernels=tuple(zip(at.values(), names, strict=True)),
        width=LEFT + 46 * len(kernels) + 8,
        chance=_height(chance),
        ticks=_ticks(),
        reference=None if reference is None else _height(reference),
    )


def heat(correlations: Correlations) -> Heat:
    """Spearman's correlations, ordered by layer."""
    layers = distinct(layer for _, layer in correlations.names)
    order = sorted(range(len(correlations.names)), key=lambda position: layers.index(correlations.names[position][1]))
    names = tuple(correlations.names[position] for position in order)
    rows = tuple(tuple(_heat_cell(correlations, i, j) for j in order) for i in order)
    spans = tuple((layer, sum(own == layer for _, own in names)) for layer in layers)
    return Heat(spans, names, rows, numbers=len(names) <= _NUMBERS_UP_TO)


def _box(position: int, line: SummaryLine, scores: NDArray[np.float64]) -> Box:
    finite = scores[np.isfinite(scores)]
    first, third = line.quartiles
    reach = _WHISKER * (third - first)
    low, high = finite[finite >= first - reach].min(), finite[finite <= third + reach].max()
    median = line.median.estimate
    text = f"{line.method}: median {median:.3f}, quartiles {first:.3f} and {third:.3f}, {len(finite)} maps"
    return Box(
        name=line.method,
        x=LEFT + STEP * (position + 0.5),
        low=_height(low),
        first=_height(first),
        median=_height(median),
        third=_height(third),
        high=_height(high),
        attainable=_height(line.attainable) if isfinite(line.attainable) else None,
        text=text,
    )


def _heat_cell(correlations: Correlations, i: int, j: int) -> HeatCell:
    value = float(correlations.matrix[i, j])
    pair = " and ".join(f"{name} at {layer}" for name, layer in (correlations.names[i], correlations.names[j]))
    if not isfinite(value):
        return HeatCell("none", 0, "", f"{pair}: not defined")
    shown = f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
    short = shown.replace("0.", ".", 1) if abs(value) < 0.995 else shown[:-3]
    return HeatCell("for" if value >= 0 else "against", round(100 * abs(value)), short, f"{pair}: {shown}")


def _point(x: float, line: SummaryLine) -> tuple[float, float, float, float]:
    median = line.median
    bounds = (median.low, median.high) if isfinite(median.low) else (median.estimate, median.estimate)
    return x, _height(median.estimate), _height(bounds[0]), _height(bounds[1])


def _kernel(line: SummaryLine) -> int:
    return line.kernel_size


def _ticks() -> tuple[tuple[float, str], ...]:
    return tuple((_height(value), f"{value:g}") for value in (0, 0.25, 0.5, 0.75, 1))


def _height(score: float) -> float:
    """Where a score lies on the y axis."""
    return round(TOP + (1 - float(score)) * HEIGHT, 1)
