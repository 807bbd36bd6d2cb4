"""Fitting CAVs: images are streamed twice, once for the directions and once for the emblems."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from pellucid.classifiers import LayerView
from pellucid.concepts.cav import CAV, WEAK_AUC, CavCache
from pellucid.concepts.concept_scores import Emblems, sample_median
from pellucid.concepts.concept_sets import ConceptSet, Images, check_sets, concept_set, warn
from pellucid.concepts.estimators import Estimator, estimator_name, find_estimator, fit_directions
from pellucid.concepts.layer_activations import Inputs, LayerActivations
from pellucid.concepts.multi_layer import order_by_depth
from pellucid.errors import PellucidError
from pellucid.results import library_versions
from pellucid.statistics import roc_auc

Concepts = Mapping[str, Images] | Sequence[ConceptSet]
Division = tuple[Tensor, Tensor]
"""Indices of images with and without the concept."""

CONCEPT_CACHE_BYTES, NEGATIVE_CACHE_BYTES = 64 * 2**20, 256 * 2**20
"""Activations of a concept's and of the negatives' images are kept for the second pass and for the next layer if they
take no more than this.
"""


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


def fit_cav(
    view: LayerView,
    concept_images: Images | ConceptSet,
    negative_images: Images | ConceptSet,
    estimator: str | Estimator = "difference",
    *,
    name: str | None = None,
    options: FitOptions | None = None,
    cache: str | Path | None = None,
) -> CAV:
    """Fit the CAV of one concept.

    Args:
        view: `classifier.at(layer)`.
        concept_images: a `ConceptSet`, or what `concept_set` takes: a folder, files, images, arrays, a tensor.
        negative_images: images without the concept, given in the same ways.
        estimator: a name from `ESTIMATORS`, or an `Estimator` with its options.
        name: of the concept; by default the folder's or the set's.
        options: how to fit and examine.
        cache: folder in which CAVs are kept. A CAV is found again only if weights, layer, precision, options, versions
            and every image as the network sees it are the same.

    Returns:
        The CAV. Remarks on it are also emitted as `ConceptWarning`.

    Raises:
        PellucidError: fewer than two images on a side, or the same images on both.
        ModelError: NaN or infinite activations.

    Example:
        >>> import torch, pellucid as pl
        >>> layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        >>> classifier = pl.Classifier(torch.nn.Sequential(*layers, torch.nn.Linear(4, 2)).eval(), input_size=(3, 8, 8))
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cav = fit_cav(classifier.at("1"), bright + 2, dark, "lda", name="bright")
        >>> cav.estimator, cav.auc > 0.9
        ('lda', True)
    """
    default = Path(concept_images).name if isinstance(concept_images, str | Path) else "concept"
    concept = concept_set(concept_images, name or default)
    concept = concept if name is None else replace(concept, name=name)
    return fit_cavs(view, [concept], negative_images, estimator, options=options, cache=cache)[0]


@overload
def fit_cavs(
    views: LayerView,
    concepts: Concepts,
    negative_images: Images | ConceptSet,
    estimator: str | Estimator = ...,
    *,
    options: FitOptions | None = ...,
    cache: str | Path | None = ...,
) -> list[CAV]: ...
@overload
def fit_cavs(
    views: Sequence[LayerView],
    concepts: Concepts,
    negative_images: Images | ConceptSet,
    estimator: str | Estimator = ...,
    *,
    options: FitOptions | None = ...,
    cache: str | Path | None = ...,
) -> list[list[CAV]]: ...
def fit_cavs(
    views: LayerView | Sequence[LayerView],
    concepts: Concepts,
    negative_images: Images | ConceptSet,
    estimator: str | Estimator = "difference",
    *,
    options: FitOptions | None = None,
    cache: str | Path | None = None,
) -> list[CAV] | list[list[CAV]]:
    """Fit the CAVs of several concepts that share their negatives, at one layer or at several.

    Images are read once, the negatives go through the network once for all concepts, and each layer continues from the
    one before it. The CAVs are those of `fit_cav` for each concept and layer.

    Args:
        views: `classifier.at(layer)`, or several of one classifier in any order.
        concepts: images by name, or concept sets.
        negative_images: images without any of the concepts, as `fit_cav` takes them.
        estimator, options, cache: as in `fit_cav`.

    Returns:
        CAVs in the order of the concepts; for a sequence of views, such a list for each of them. Remarks on the CAVs
        are also emitted as `ConceptWarning`.

    Raises:
        PellucidError: fewer than two images on a side, or the same images on both.
        ModelError: NaN or infinite activations.

    Example:
        >>> import torch, pellucid as pl
        >>> layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        >>> classifier = pl.Classifier(torch.nn.Sequential(*layers, torch.nn.Linear(4, 2)).eval(), input_size=(3, 8, 8))
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cavs = fit_cavs([classifier.at("input"), classifier.at("1")], {"bright": bright + 2}, dark)
        >>> [(cav.layer, len(cav.direction)) for (cav,) in cavs]
        [('input', 3), ('1', 4)]
    """
    every = views if isinstance(views, Sequence) else [views]
    options = options or FitOptions()
    sets = (
        [concept_set(images, name) for name, images in concepts.items()] if isinstance(concepts, Mapping) else concepts
    )
    *inputs, negatives = (
        Inputs(item, every[0].classifier, options.max_batch)
        for item in (*sets, concept_set(negative_images, "negatives"))
    )
    remarks = [check_sets(item.concept.name, item.digests, negatives.digests) for item in inputs]
    limits = [CONCEPT_CACHE_BYTES] * len(inputs) + [NEGATIVE_CACHE_BYTES]
    fitted: dict[int, list[CAV]] = {}
    earlier: list[LayerActivations | None] = [None] * len(limits)
    for index in order_by_depth(every):
        activations = [
            LayerActivations(every[index], *item) for item in zip((*inputs, negatives), limits, earlier, strict=True)
        ]
        fit = LayerFit(every[index], activations[-1], find_estimator(estimator), options)
        fitted[index] = fit.fit(activations[:-1], remarks, cache)
        for item in earlier:
            if item is not None:
                item.release()
        earlier = [*activations]
    by_view = [fitted[index] for index in range(len(every))]
    return by_view if isinstance(views, Sequence) else by_view[0]


@dataclass(frozen=True)
class PartialFit:
    """A concept after the first pass over its images: directions, but no emblems yet."""

    activations: LayerActivations
    features: Tensor  # (n1, F)
    direction: Tensor  # (F,)
    divisions: list[Division]  # of the B bootstrap resamples
    resamples: Tensor  # (B, F)
    aucs: Tensor  # (splits,)
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
        """CAVs of the concepts, from the cache in `folder` where they are in it; warns of what is against them."""
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
        """What the fit itself says against the CAV."""
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
