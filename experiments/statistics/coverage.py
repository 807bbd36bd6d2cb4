"""How often does each "95 %" interval hold the truth? Expected: 92 to 98 %, or no interval."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
import torch
from scipy import special
from torch import Tensor

from experiments.statistics.concepts import fit, generator_of, images, view
from experiments.statistics.simulate import Settings, Simulation
from pellucid.concepts import CAV, Bootstrap, Estimate, VisualTCAV, explain_class
from pellucid.statistics import Statistic, binomial_interval, cluster_interval
from pellucid.surrogate import EncodedBatch, Importance, ReferenceSet, shapley_importance

SHAPES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, float]] = {
    "normal": (special.ndtri, 0.0, 0.0),
    "exponential": (lambda share: -np.log1p(-share), float(np.log(2)), 1.0),
    "beta(1/2, 2)": (lambda share: special.betaincinv(0.5, 2, share), float(special.betaincinv(0.5, 2, 0.5)), 0.2),
}
"""Quantile function, median and mean of the scores."""


def _held(low: float, high: float, truth: float) -> bool | None:
    """Whether an interval holds the truth; None if there is none."""
    return None if np.isnan(low) or np.isnan(high) else bool(low <= truth <= high)


def _of_grids(settings: Settings, random: np.random.Generator) -> dict[str, bool | None]:
    """Scores with the stated shape; half of their normal variance lies between grids."""
    grids, cells = settings["grids"], settings["cells"]
    normal = random.normal(size=(grids, 1)) + random.normal(size=(grids, cells)) if cells > 1 else None
    share = special.ndtr(normal / 2**0.5) if normal is not None else random.random((grids, 1))
    quantile, median, mean = SHAPES[settings["scores"]]
    scores, names = quantile(share).ravel(), np.repeat(np.arange(grids), cells)
    truths: dict[Statistic, float] = {"median": median, "mean": mean}
    found = {statistic: cluster_interval(scores, names, statistic) for statistic in truths}
    return {statistic: _held(found[statistic].low, found[statistic].high, truths[statistic]) for statistic in truths}


GRIDS = Simulation(
    "grid_intervals",
    "Median and mean of scores of grids, or with one cell of images (evaluation: localization scores, metrics; "
    "concepts: means over images and leads). Expected: 92 to 98 %.",
    [
        {"scores": scores, "cells": cells, "grids": grids}
        for scores in SHAPES
        for cells in (1, 4)
        for grids in (2, 4, 5, 6, 7, 8, 12, 30)
    ],
    _of_grids,
    replications=4000,
)


def _share(settings: Settings, random: np.random.Generator) -> dict[str, bool | None]:
    successes = int(random.binomial(settings["trials"], settings["share"]))
    return {"share": _held(*binomial_interval(successes, settings["trials"]), settings["share"])}


SHARES = Simulation(
    "share_intervals",
    "Necessity and sufficiency of a concept (surrogate): a share of images. Expected: 92 % or more; exact tests of few "
    "trials cannot hold less.",
    [{"trials": trials, "share": share} for trials in (5, 10, 20, 50) for share in (0.05, 0.2, 0.5)],
    _share,
    replications=2000,
)


@cache
def _population_cav(shift: float) -> CAV:
    draws = torch.Generator().manual_seed(999)
    return fit(images(4000, draws, shift), images(4000, draws), name="c")


@cache
def _true_scores(shift: float) -> Tensor:
    """Signed scores (N,) of many images of the class under the CAV of very many images."""
    explainer = VisualTCAV(view(), [_population_cav(shift)], permutations=0, tolerance=None, max_batch=256)
    return explainer(_class_images(shift), 1).signed[:, 0, 0]


@cache
def _class_images(shift: float) -> Tensor:
    return images(1500, torch.Generator().manual_seed(998), shift)


def _of_concepts(settings: Settings, random: np.random.Generator) -> dict[str, bool | None]:
    draws, shift, count = generator_of(random), settings["shift"], settings["images"]
    cav = fit(images(settings["concept"], draws, shift), images(100, draws), resamples=20)
    explainer = VisualTCAV(view(), [cav], permutations=0, tolerance=None, max_batch=64)
    chosen = torch.from_numpy(random.choice(1500, count, replace=False))
    result = explain_class(explainer, _class_images(shift)[chosen], 1, bootstrap=Bootstrap(hierarchical=True))
    local = explainer.explain(_class_images(shift)[chosen[:1]], 1, resample=True)
    truth = _true_scores(shift)
    interval = local.interval()
    assert interval is not None
    return {
        "mean over images and concept images": _ends_held(result.signed, float(truth.mean())),
        "the same of the published score": _ends_held(result.reference, 0.0),
        "one image, over concept images": _held(*interval[:, 0, 0, 0].tolist(), float(truth[chosen[0]])),
    }


def _ends_held(estimate: Estimate, truth: float) -> bool | None:
    return _held(float(estimate.low[0, 0]), float(estimate.high[0, 0]), truth)


CONCEPTS = Simulation(
    "concept_intervals",
    "Visual-TCAV with 20 resamples of the CAV; the truth is the score under the CAV of 4,000 images, of 1,500 images. "
    "Expected: 92 to 98 %.",
    [
        {"shift": shift, "concept": concept, "images": count}
        for shift in (1.0, 2.0)
        for concept in (10, 20, 50)
        for count in (4, 12)
    ],
    _of_concepts,
    replications=300,
)


@dataclass(frozen=True)
class _Codes:
    concepts: Tensor

    def concept_coordinates(self) -> Tensor:
        return self.concepts

    def replace_concepts(self, concepts: Tensor) -> "_Codes":
        return _Codes(concepts)


@dataclass(frozen=True)
class _Interacting:
    """An image whose margin is a sum, a product and a kink of its concepts; stands in for a batch of a surrogate."""

    codes: _Codes
    concept_names: tuple[str, ...] = ("a", "b", "c", "d")

    def __len__(self) -> int:
        return len(self.codes.concepts)

    def __getitem__(self, rows: slice) -> "_Interacting":
        return _Interacting(_Codes(self.codes.concepts[rows]))

    @property
    def logits(self) -> Tensor:
        return self.counterfactual_logits(self.codes)

    def repeat(self, times: int) -> "_Interacting":
        return _Interacting(_Codes(self.codes.concepts.repeat_interleave(times, 0)))

    def counterfactual_logits(self, codes: _Codes) -> Tensor:
        first, second, third, fourth = codes.concepts.T
        margin = first + 2 * first * second + 3 * (third - fourth).relu()
        return torch.stack([torch.zeros_like(margin), margin], dim=1)


@cache
def _reference() -> _Interacting:
    return _Interacting(_Codes(torch.randn(200, 4, generator=torch.Generator().manual_seed(5))))


def _shapley(permutations: int, seed: int) -> Importance:
    image = _Interacting(_Codes(torch.tensor([[1.0, 1.5, 0.5, -1.0]])))
    batch, reference = cast(EncodedBatch, image), cast(ReferenceSet, _reference())
    return shapley_importance(
        batch, reference, classes=torch.tensor([1]), against="all", permutations=permutations, seed=seed
    )


@cache
def _true_shapley() -> Tensor:
    return _shapley(200_000, seed=1).values[0]


def _of_importance(settings: Settings, random: np.random.Generator) -> dict[str, bool | None]:
    count = settings["permutations"]
    shown = _shapley(count, generator_of(random).initial_seed())
    ends = shown.values[0] - shown.half_widths[0], shown.values[0] + shown.half_widths[0]
    truth = _true_shapley()
    return {name: _held(float(ends[0][k]), float(ends[1][k]), float(truth[k])) for k, name in enumerate(shown.names)}


IMPORTANCE = Simulation(
    "importance_intervals",
    "Shapley values of four concepts that interact, over the permutations sampled (surrogate; 64 is the default). "
    "Expected: 92 to 98 %.",
    [{"permutations": count} for count in (2, 4, 10, 16, 64, 256)],
    _of_importance,
    replications=2000,
)

SIMULATIONS = (GRIDS, SHARES, CONCEPTS, IMPORTANCE)
