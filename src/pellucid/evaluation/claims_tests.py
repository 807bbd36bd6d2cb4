"""The thirteen claims, one function each: a model's scores in, numbers held against thresholds out.

A function yields nothing where nothing of its claim was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import isfinite, nan

import numpy as np
import torch

from pellucid.evaluation.aggregation import rank_bins
from pellucid.evaluation.claims_evidence import (
    ACTIVATION,
    BACKPROPAGATION,
    NON_NEGATIVE,
    PERTURBATION,
    POOLED,
    SMOOTHED,
    Check,
    Scores,
    base_name,
    check,
    gap,
)
from pellucid.statistics.intervals import Interval, bootstrap_interval

LAYERS = ("input", "middle", "final")
_ALIKE = 0.05  # medians closer than this count as the same
_LEAST_GRIDS = 25  # fewer leave the worst 2 % empty


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
    found = list(scores.medians("GridPG", "final", methods))
    for (first, one), (second, other) in combinations(found, 2):
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


def pooled_activation_lights_up_the_twin(scores: Scores) -> Iterator[Check]:
    """Q5: pooled CAMs at the final layer are worse on DiFull, because the twin's cell lights up too."""
    chance = 1 / max(scores.cells - 1, 1)
    for method, line in scores.medians("DiFull", "final", scores.methods(*POOLED)):
        reference = scores.line("GridPG", "final", method)
        subject = f"{method} at final"
        if reference is not None:
            yield check(subject, "median on DiFull minus on GridPG", gap(line.median, reference.median), most=0)
        key = ("DiFull", "final", method)
        share = bootstrap_interval(scores.column("mirror_share", *key), scores.column("grid", *key))
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
            share = bootstrap_interval(good, scores.column("grid", *key), "mean")
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
        found = [scores.correlation("GridPG", (a, layer), (b, layer)) for a, b in pairs]
        finite = [rho for rho in found if isfinite(rho)]
        if finite:
            quantity = f"median rank correlation, {len(finite)} pairs"
            yield check(subject, quantity, float(np.median(finite)), least=least, most=most)


def more_cells_are_harder(scores: Scores) -> Iterator[Check]:
    """Q11: medians on GridPG are lower where a grid has more cells."""
    for other in scores.others:
        if other.cells == scores.cells:
            continue
        fewer, more = sorted((scores, other), key=lambda each: each.cells)
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
            found = _worst_bin(scores, setting, method)
            if found is not None:
                score, grids = found
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
    found = [scores.correlation("GridPG", (name, "input"), (cam, "final")) for cam in scores.methods("GradCAM")[:1]]
    return found[0] if found else nan


def _worst_bin(scores: Scores, setting: str, method: str) -> tuple[float, set[float]] | None:
    """Mean score of AggAtt's last bin for the first cell, and its grids; None with too few grids."""
    key = (setting, "final", method)
    first = scores.column("cell", *key) == 0
    score, mass, grid = (torch.from_numpy(scores.column(name, *key)[first]) for name in ("score", "cell_mass", "grid"))
    members = rank_bins(score, mass).members
    if sum(map(len, members)) < _LEAST_GRIDS:
        return None
    return float(score[members[-1]].mean()), set(grid[members[-1]].tolist())
