"""The fit of concepts at one layer: features and directions first, emblems in a second pass."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pellucid.classifiers import LayerView
from pellucid.concepts.cav import CAV, WEAK_AUC, CavCache
from pellucid.concepts.concept_scores import Emblems, sample_median
from pellucid.concepts.concept_sets import ConceptSet, warn
from pellucid.concepts.estimators import Estimator, estimator_name, fit_directions
from pellucid.concepts.layer_activations import LayerActivations
from pellucid.errors import PellucidError
from pellucid.results import library_versions
from pellucid.statistics import roc_auc

Division = tuple[Tensor, Tensor]
"""Indices of images with and without the concept."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How CAVs are fitted and examined.

    Attributes:
        features: "pooled", the mean over the cells, or "flattened", every cell on its own (TCAV only: no concept maps).
        splits: random splits for the held-out AUC.
        holdout: part of the images that is held out in each split.
        resamples: bootstrap resamples for the stability and for hierarchical intervals; at least 2.
        seed: of splits and resamples.
        max_batch: images that go through the network at once.

    Example:
        >>> FitOptions(splits=5).holdout
        0.3
    """

    features: Literal["pooled", "flattened"] = "pooled"
    splits: int = 20
    holdout: float = 0.3
    resamples: int = 20
    seed: int = 0
    max_batch: int = 8

    def __post_init__(self) -> None:
        if self.features not in ("pooled", "flattened"):
            raise PellucidError(f"unknown features {self.features!r}: pooled or flattened")
        if self.splits < 1 or not 0 < self.holdout < 1 or self.resamples < 2 or self.max_batch < 1:
            raise PellucidError(
                "expected splits >= 1, 0 < holdout < 1, resamples >= 2 and max_batch >= 1, not "
                f"{self.splits}, {self.holdout}, {self.resamples} and {self.max_batch}"
            )


@dataclass(frozen=True)
class PartialFit:
    """A concept after the first pass over its images: directions, but no emblems yet.

    Attributes:
        activations: of its images.
        features: (n1, F).
        direction: (F,).
        divisions: of the B bootstrap resamples.
        resamples: (B, F) their directions.
        aucs: held out, one for each split.
        remarks: on the set.
    """

    activations: LayerActivations
    features: Tensor
    direction: Tensor
    divisions: list[Division]
    resamples: Tensor
    aucs: Tensor
    remarks: list[str]


class LayerFit:
    """The fit of several concepts against the same negatives at one layer.

    Args:
        view: the layer.
        negatives: activations of the images without the concepts.
        estimator: what fits the directions.
        options: how to fit and examine.
    """

    def __init__(self, view: LayerView, negatives: LayerActivations, estimator: Estimator, options: FitOptions) -> None:
        self.view = view
        self.negatives = negatives
        self.estimator = estimator
        self.options = options

    def fit(
        self, concepts: Sequence[LayerActivations], remarks: Sequence[list[str]], folder: str | Path | None
    ) -> list[CAV]:
        """Fit the CAVs, or read them from the cache; emit a `ConceptWarning` for what is against them.

        Args:
            concepts: activations of each concept's images.
            remarks: on each concept's set.
            folder: of the cache; None for no cache.
        """
        cache = None if folder is None else CavCache(folder, self.view, self.fit_config)
        absent = self.negatives.inputs.digests
        cavs: dict[int, CAV] = {}
        partial: dict[int, PartialFit] = {}
        for index, (activations, on_sets) in enumerate(zip(concepts, remarks, strict=True)):
            cached = None if cache is None else cache.look_up(activations.inputs.digests, absent)
            if cached is None:
                partial[index] = self.fit_direction(activations, on_sets)
            else:
                concept = activations.inputs.concept
                on_quality = self.quality_warnings(concept, cached.direction, cached.auc)
                cavs[index] = replace(cached, **self.provenance(concept), remarks=on_sets + on_quality)
        for (index, fit), cav in zip(partial.items(), self.compute_emblems(list(partial.values())), strict=True):
            cavs[index] = cav
            if cache is not None:
                cache.keep(cav, fit.activations.inputs.digests, absent)
        for index in range(len(concepts)):
            warn(cavs[index].remarks)
        return [cavs[index] for index in range(len(concepts))]

    @property
    def fit_config(self) -> dict[str, Any]:
        """All options that change numbers."""
        options = {name: value for name, value in asdict(self.options).items() if name != "max_batch"}
        return {
            "estimator": estimator_name(self.estimator),
            "estimator_options": self.estimator.options(),
            "options": options,
        }

    def provenance(self, concept: ConceptSet) -> dict[str, Any]:
        """What the images are called here; the same ones may have other names elsewhere."""
        return {
            "name": concept.name,
            "sources": concept.sources,
            "negative_sources": self.negatives.inputs.concept.sources,
        }

    def quality_warnings(self, concept: ConceptSet, direction: Tensor, auc: float) -> list[str]:
        """Find what the fit itself says against a CAV.

        Args:
            concept: the set it was fitted to.
            direction: (F,).
            auc: held out.
        """
        what = f"CAV {concept.name!r} at {self.view.layer!r}"
        if not bool(direction.any()):
            return [f"{what}: no direction, images with and without the concept activate it alike: AUC {auc:.2f}"]
        return [f"{what}: held-out AUC {auc:.2f}, below {WEAK_AUC:g}"] if auc < WEAK_AUC else []

    @cached_property
    def negative_features(self) -> Tensor:
        """(n0, F)."""
        return self._features(self.negatives)

    def fit_direction(self, activations: LayerActivations, remarks: list[str]) -> PartialFit:
        """First pass: features and directions."""
        features = self._features(activations)
        both, sizes = torch.cat([features, self.negative_features]), (len(features), len(self.negative_features))
        generator = torch.Generator().manual_seed(self.options.seed)
        splits = [_split(*sizes, self.options.holdout, generator) for _ in range(self.options.splits)]
        resamples = [_resample(*sizes, generator) for _ in range(self.options.resamples)]
        whole = (torch.arange(sizes[0]), torch.arange(sizes[0], sum(sizes)))
        divisions = [whole, *resamples, *(train for train, _ in splits)]
        directions = fit_directions(self.estimator, both, divisions)
        # Means that agree still differ by rounding, and a direction made of that would pass for a concept.
        difference = both[whole[0]].mean(0) - both[whole[1]].mean(0)
        if float(difference.norm()) <= 1e-9 * float(both.norm(dim=1).max()):
            directions = torch.zeros_like(directions)
        count = 1 + len(resamples)
        aucs = [
            roc_auc(both[shown] @ direction, both[absent] @ direction)
            for direction, (_, (shown, absent)) in zip(directions[count:], splits, strict=True)
        ]
        return PartialFit(
            activations, features, directions[0], resamples, directions[1:count], torch.tensor(aucs), remarks
        )

    def compute_emblems(self, fits: Sequence[PartialFit]) -> list[CAV]:
        """Second pass: emblems. The negatives go through the network once for all concepts."""
        if not fits:
            return []
        stacks = [torch.cat([fit.direction[None], -fit.direction[None], fit.resamples]) for fit in fits]
        absent = torch.split(self._levels(self.negatives, torch.cat(stacks)), [len(stack) for stack in stacks], dim=1)
        return [
            self._finish(fit, self._levels(fit.activations, stack), levels)
            for fit, stack, levels in zip(fits, stacks, absent, strict=True)
        ]

    def _features(self, activations: LayerActivations) -> Tensor:
        return activations.pooled() if self.options.features == "pooled" else activations.flattened()

    def _levels(self, activations: LayerActivations, directions: Tensor) -> Tensor:
        """(n, D) levels of the projections; NaN for flattened features, whose directions are not those of cells."""
        if self.options.features == "flattened":
            return torch.full((len(activations.inputs), len(directions)), torch.nan, dtype=torch.float64)
        return activations.projection_levels(directions)

    def _finish(self, fit: PartialFit, shown: Tensor, absent: Tensor) -> CAV:
        """A CAV from the levels (n, 2 + B) of projections on the direction, its opposite, and the resamples."""
        concept, first = fit.activations.inputs.concept, len(shown)
        high, low = sample_median(shown).tolist(), sample_median(absent).tolist()
        resample_emblems = [
            [float(sample_median(absent[without - first, index])), float(sample_median(shown[within, index]))]
            for index, (within, without) in enumerate(fit.divisions, start=2)
        ]
        auc = float(fit.aucs.mean())
        return CAV(
            **self.provenance(concept),
            **self.fit_config,
            layer=self.view.layer,
            direction=fit.direction.float(),
            emblems=Emblems(low[0], high[0]),
            negative_emblems=Emblems(high[1], low[1]),
            auc=auc,
            auc_deviation=float(fit.aucs.std(correction=0)),
            stability=_mean_cosine(fit.resamples),
            concept_features=fit.features.float(),
            negative_features=self.negative_features.float(),
            resamples=fit.resamples.float(),
            resample_emblems=torch.tensor(resample_emblems),
            classifier=self.view.classifier.name,
            fingerprint=self.view.classifier.fingerprint(),
            remarks=fit.remarks + self.quality_warnings(concept, fit.direction, auc),
            versions=library_versions(),
        )


def _split(shown: int, absent: int, holdout: float, generator: torch.Generator) -> tuple[Division, Division]:
    """A random division of each side into images to fit to and images held out, at least one of each."""
    parts = []
    for size, offset in ((shown, 0), (absent, shown)):
        held = min(max(round(holdout * size), 1), size - 1)
        order = torch.randperm(size, generator=generator) + offset
        parts.append((order[held:], order[:held]))
    (fit_shown, held_shown), (fit_absent, held_absent) = parts
    return (fit_shown, fit_absent), (held_shown, held_absent)


def _resample(shown: int, absent: int, generator: torch.Generator) -> Division:
    """Each side drawn with replacement."""
    return (
        torch.randint(shown, (shown,), generator=generator),
        torch.randint(absent, (absent,), generator=generator) + shown,
    )


def _mean_cosine(directions: Tensor) -> float:
    """Mean cosine over all pairs of directions (B, F); directions of length zero agree with none."""
    unit = torch.nn.functional.normalize(directions, dim=1)
    return float((unit @ unit.T).triu(1).sum() / (len(unit) * (len(unit) - 1) / 2))
