"""The thirteen claims, one function each: a model's scores in, numbers held against thresholds out.

A function yields nothing where nothing of its claim was measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, pairwise
from math import isfinite, nan, sqrt

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pellucid.evaluation import rank_bins
from pellucid.evaluation.sweep import SummaryLine, correlate_scores
from pellucid.statistics import Interval, cluster_interval

BACKPROPAGATION = ("Gradient", "GuidedBackprop", "InputXGradient", "IntegratedGradients", "SmoothGrad")
POOLED = ("GradCAM", "GradCAMPlusPlus", "AblationCAM", "ScoreCAM")
"""Activation methods that weigh every channel with one number for the whole map; Layer-CAM weighs every cell."""
ACTIVATION = (*POOLED, "LayerCAM")
PERTURBATION = ("Occlusion", "RISE")
SMOOTHED = ("IntegratedGradients", "InputXGradient")
"""Those of which smoothing is claimed to help."""
NON_NEGATIVE = ("Gradient", "GuidedBackprop", "LayerCAM")

LAYERS = ("input", "middle", "final")
_ALIKE = 0.05  # medians closer than this count as the same
_LEAST_GRIDS = 25  # fewer leave the worst 2 % empty

Floats = NDArray[np.float64]
Correlation = dict[frozenset[tuple[str, str]], float]


@dataclass(frozen=True)
class Check:
    """A number held against the range that a claim asks for.

    Attributes:
        subject: what was measured, such as "GradCAM at final".
        quantity: which number it is.
        value: the number; `low` and `high` its interval, NaN where there is none.
        low, high: see `value`.
        expected: the range, in words; empty for a number that is only shown.
        holds: whether the value lies in the range; None for one that is only shown.
        conclusive: whether the whole interval lies on one side of the range's ends; None without an interval or a
            range.
    """

    subject: str
    quantity: str
    value: float
    low: float
    high: float
    expected: str
    holds: bool | None
    conclusive: bool | None


def check(
    subject: str, quantity: str, measured: Interval | float, *, least: float | None = None, most: float | None = None
) -> Check:
    """Hold a number against `least` and `most` (both may be reached); with neither it is only shown."""
    value, low, high = (
        (measured.estimate, measured.low, measured.high)
        if isinstance(measured, Interval)
        else (float(measured), nan, nan)
    )
    if least is None and most is None:
        return Check(subject, quantity, value, low, high, "", None, None)
    bottom, top = -np.inf if least is None else least, np.inf if most is None else most
    inside = [bottom <= end <= top for end in (low, high)]
    beyond = high < bottom or low > top
    # Too few grids have no interval, and settle nothing; what is no statistic of grids needs none.
    conclusive = (all(inside) or beyond) if isinstance(measured, Interval) else None
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
        table: of a run (see `pellucid.evaluation.sweep.Run.table`).
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
        self, table: pa.Table, lines: Sequence[SummaryLine], model: str, others: Sequence["Scores"] = ()
    ) -> None:
        keep = [
            name == model and variant == "trained" and not control
            for name, variant, control in zip(
                *(table[column].to_pylist() for column in ("model", "variant", "control")), strict=True
            )
        ]
        self._table = table.filter(pa.array(keep, pa.bool_()))
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
        known = dict.fromkeys(method for _, _, method, _ in self._lines)
        return tuple(method for method in known if not names or base_name(method) in names)

    def line(self, setting: str, layer: str, method: str, kernel: int = 1) -> SummaryLine | None:
        """A line of the summary; None where nothing was measured or no map could be scored."""
        line = self._lines.get((setting, layer, method, kernel))
        return line if line is not None and line.median.scores else None

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
        studied = [
            kernel == 1 or (layer == "input" and base_name(method) in SMOOTHED)
            for kernel, layer, method in zip(*columns, strict=True)
        ]
        correlations = correlate_scores(self._table.filter(pa.array(studied)), setting=setting, model=self.model)
        return {
            frozenset((one, other)): float(correlations.matrix[i, j])
            for i, one in enumerate(correlations.names)
            for j, other in enumerate(correlations.names[:i])
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


def backpropagation_is_poor_at_the_input(scores: Scores) -> Iterator[Check]:
    """Q1: medians near chance, and the middle half of the scores covers chance."""
    near = scores.chance + (1 - scores.chance) / 5
    for method, line in scores.medians("GridPG", "input", scores.methods(*BACKPROPAGATION)):
        subject = f"{method} at input"
        yield check(subject, "median on GridPG", line.median, most=near)
        low, high = line.quartiles
        covers = low <= scores.chance <= high
        yield Check(
            subject,
            "middle half on GridPG",
            line.median.estimate,
            low,
            high,
            f"covers {scores.chance:.3g}",
            covers,
            None,
        )


def methods_improve_towards_the_final_layer(scores: Scores) -> Iterator[Check]:
    """Q2: medians rise from layer to layer, except those of Layer-CAM."""
    for method in scores.methods():
        lines = [(layer, line) for layer in LAYERS if (line := scores.line("GridPG", layer, method)) is not None]
        if base_name(method) == "LayerCAM" and {layer for layer, _ in lines} >= {"input", "final"}:
            gain = gap(lines[-1][1].median, lines[0][1].median)
            yield check(method, "gain from input to final", gain, most=_ALIKE)
        elif base_name(method) != "LayerCAM":
            for (before, first), (after, second) in pairwise(lines):
                yield check(method, f"gain from {before} to {after}", gap(second.median, first.median), least=0)


def four_methods_agree_at_the_final_layer(scores: Scores) -> Iterator[Check]:
    """Q3: IntGrad, IxG, Grad-CAM and Occlusion score alike, and rank the grids alike."""
    methods = scores.methods("IntegratedGradients", "InputXGradient", "GradCAM", "Occlusion")
    lines = list(scores.medians("GridPG", "final", methods))
    for (first, one), (second, other) in combinations(lines, 2):
        subject = f"{first}, {second} at final"
        yield check(subject, "difference of medians", gap(one.median, other.median), least=-_ALIKE, most=_ALIKE)
        rho = scores.correlation("GridPG", (first, "final"), (second, "final"))
        if isfinite(rho):
            yield check(subject, "rank correlation", rho, least=0.8)


def local_methods_are_near_perfect_on_difull(scores: Scores) -> Iterator[Check]:
    """Q4: back-propagation and Layer-CAM reach what up-sampling leaves; signed maps lose more, as clipping follows."""
    for layer in LAYERS:
        for method, line in scores.medians("DiFull", layer, scores.methods(*BACKPROPAGATION, "LayerCAM")):
            tolerance = 0.03 if base_name(method) in NON_NEGATIVE else 0.1
            attainable = Interval(line.attainable, line.attainable, line.attainable, 0.95, 1, 1, 0)
            missing = gap(attainable, line.median)
            most = 0.001 if layer == "input" else tolerance
            yield check(f"{method} at {layer}", "attainable minus median on DiFull", missing, most=most)


def pooled_activation_lights_up_the_same_class(scores: Scores) -> Iterator[Check]:
    """Q5: pooled CAMs at the final layer are worse on DiFull, because the other cell of the class lights up too."""
    chance = 1 / max(scores.cells - 1, 1)
    for method, line in scores.medians("DiFull", "final", scores.methods(*POOLED)):
        reference = scores.line("GridPG", "final", method)
        subject = f"{method} at final"
        if reference is not None:
            yield check(subject, "median on DiFull minus on GridPG", gap(line.median, reference.median), most=0)
        key = ("DiFull", "final", method)
        share = cluster_interval(scores.column("mirror_share", *key), scores.column("grid", *key))
        if share.scores:
            yield check(subject, "mirror share", share, least=chance + (1 - chance) / 4)


def activation_is_below_chance_at_the_input(scores: Scores) -> Iterator[Check]:
    """Q6: pooled CAMs at the input are spread over all cells."""
    for method, line in scores.medians("GridPG", "input", scores.methods(*POOLED)):
        yield check(f"{method} at input", "median on GridPG", line.median, most=scores.chance)


def occlusion_is_high_on_difull(scores: Scores) -> Iterator[Check]:
    """Q7: at all layers, falling slightly to the final one, where windows straddle the borders."""
    for method in scores.methods("Occlusion"):
        lines = {layer: line for layer in LAYERS if (line := scores.line("DiFull", layer, method)) is not None}
        for layer, line in lines.items():
            yield check(f"{method} at {layer}", "median on DiFull", line.median, least=0.8)
        if {"input", "final"} <= set(lines):
            fall = gap(lines["input"].median, lines["final"].median)
            yield check(method, "fall from input to final", fall, least=0, most=0.2)


def rise_is_poor_everywhere(scores: Scores) -> Iterator[Check]:
    """Q8: low medians, wide spread, about half of the maps good."""
    for setting, layer in ((setting, layer) for setting in ("GridPG", "DiFull") for layer in LAYERS):
        for method, line in scores.medians(setting, layer, scores.methods("RISE")):
            subject, key = f"{method} at {layer}", (setting, layer, method)
            yield check(subject, f"median on {setting}", line.median, most=0.6)
            spread = line.quartiles[1] - line.quartiles[0]
            yield check(subject, f"interquartile range on {setting}", spread, least=0.15)
            column = scores.column("score", *key)
            good = np.where(np.isfinite(column), column > 0.5, np.nan)
            share = cluster_interval(good, scores.column("grid", *key), "mean")
            yield check(subject, f"share above 0.5 on {setting}", share, least=0.25, most=0.75)


def dipart_equals_difull(scores: Scores) -> Iterator[Check]:
    """Q9: nearly the same medians; local methods lose a little at the input through the receptive field."""
    local = scores.methods(*BACKPROPAGATION, "LayerCAM")
    for layer in LAYERS:
        for method, line in scores.medians("DiPart", layer, scores.methods()):
            full = scores.line("DiFull", layer, method)
            if full is not None:
                most = 0.0 if layer == "input" and method in local else _ALIKE
                change = gap(line.median, full.median)
                yield check(
                    f"{method} at {layer}", "median on DiPart minus on DiFull", change, least=-_ALIKE, most=most
                )


def ranks_agree_at_the_final_layer_only(scores: Scores) -> Iterator[Check]:
    """Q10: at the input CAMs rank the grids like nothing else does; at the final layer all agree."""
    others = scores.methods(*BACKPROPAGATION, *PERTURBATION)
    pooled = scores.methods(*POOLED)
    every = scores.methods(*BACKPROPAGATION, *PERTURBATION, *ACTIVATION)
    groups = (
        ("pooled CAMs with the rest, at input", "input", [(a, b) for a in pooled for b in others], None, 0.3),
        ("back-propagation and perturbation, at input", "input", list(combinations(others, 2)), 0.3, None),
        ("all methods, at final", "final", list(combinations(every, 2)), 0.4, None),
    )
    for subject, layer, pairs, least, most in groups:
        rhos = [scores.correlation("GridPG", (a, layer), (b, layer)) for a, b in pairs]
        finite = [rho for rho in rhos if isfinite(rho)]
        if finite:
            quantity = f"median rank correlation, {len(finite)} pairs"
            yield check(subject, quantity, float(np.median(finite)), least=least, most=most)


def more_cells_are_harder(scores: Scores) -> Iterator[Check]:
    """Q11: medians on GridPG are lower where a grid has more cells."""
    for other in scores.others:
        if other.cells == scores.cells:
            continue
        fewer, more = sorted((scores, other), key=lambda own: own.cells)
        for layer in LAYERS:
            for method, line in more.medians("GridPG", layer, more.methods()):
                reference = fewer.line("GridPG", layer, method)
                if reference is not None:
                    quantity = f"median with {more.cells} cells minus with {fewer.cells}"
                    yield check(f"{method} at {layer}", quantity, gap(line.median, reference.median), most=0)


def smoothing_helps_at_the_input(scores: Scores) -> Iterator[Check]:
    """Q12: smoothed IntGrad at the input localizes better and ranks grids more like Grad-CAM at the final layer."""
    for method in scores.methods(*SMOOTHED):
        lines = {k: line for k in scores.kernels if (line := scores.line("GridPG", "input", method, k)) is not None}
        if len(lines) < 2 or 1 not in lines:
            continue
        best = max((k for k in lines if k > 1), key=lambda k: lines[k].median.estimate)
        gain, claimed = gap(lines[best].median, lines[1].median), base_name(method) == "IntegratedGradients"
        yield check(f"{method} at input", f"gain with kernel {best} on GridPG", gain, least=_ALIKE if claimed else None)
        ranks = {k: _rank_like_grad_cam(scores, line.name) for k, line in lines.items()}
        if all(map(isfinite, ranks.values())):
            peak = max((k for k in lines if k > 1), key=lambda k: ranks[k])
            quantity = f"gain in rank correlation with GradCAM at final, kernel {peak}"
            yield check(f"{method} at input", quantity, ranks[peak] - ranks[1], least=0 if claimed else None)
        for kernel in lines:
            smoothed = scores.line("DiFull", "input", method, kernel)
            if kernel > 1 and smoothed is not None:
                quantity = f"attainable minus median on DiFull, kernel {kernel}"
                yield check(f"{method} at input", quantity, smoothed.attainable - smoothed.median.estimate, most=_ALIKE)


def the_worst_maps_are_bad_for_all_methods(scores: Scores) -> Iterator[Check]:
    """Q13: AggAtt's worst bin misses the cell with every method on GridPG, not with local ones on DiFull."""
    worst = {}
    local = scores.methods(*BACKPROPAGATION, "LayerCAM")
    for setting, methods, limits in (
        ("GridPG", scores.methods(), {"most": 0.5}),
        ("DiFull", local, {"least": 0.8}),
    ):
        for method in methods:
            worst_bin = _worst_bin(scores, setting, method)
            if worst_bin is not None:
                score, grids = worst_bin
                yield check(f"{method} at final", f"mean score in the worst bin on {setting}", score, **limits)
                worst[setting, method] = grids
    shared = [
        len(worst["GridPG", a] & worst["GridPG", b]) / len(worst["GridPG", a])
        for a, b in combinations([method for setting, method in worst if setting == "GridPG"], 2)
    ]
    if shared:
        quantity = f"share of the worst grids in common, mean of {len(shared)} pairs"
        yield check("two methods at final", quantity, float(np.mean(shared)), least=0.1)


def _rank_like_grad_cam(scores: Scores, name: str) -> float:
    rhos = [scores.correlation("GridPG", (name, "input"), (cam, "final")) for cam in scores.methods("GradCAM")[:1]]
    return rhos[0] if rhos else nan


def _worst_bin(scores: Scores, setting: str, method: str) -> tuple[float, set[float]] | None:
    """Mean score of AggAtt's last bin for the first cell, and its grids; None with too few grids."""
    key = (setting, "final", method)
    first = scores.column("cell", *key) == 0
    score, mass, grid = (torch.from_numpy(scores.column(name, *key)[first]) for name in ("score", "cell_mass", "grid"))
    members = rank_bins(score, mass).members
    if sum(map(len, members)) < _LEAST_GRIDS:
        return None
    return float(score[members[-1]].mean()), set(grid[members[-1]].tolist())
