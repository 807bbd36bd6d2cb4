"""How much concepts count for a class: Visual-TCAV over many images, at one layer or at several together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from pellucid.attribution import Target, TargetLike
from pellucid.classifiers import Classifier
from pellucid.concepts.class_explanation import Bootstrap, ClassExplanation, Estimate
from pellucid.concepts.concept_explanation import ConceptExplanation, DirectionScores, Score, score_p_values
from pellucid.concepts.concept_sets import number_images
from pellucid.concepts.visual_tcav import VisualTCAV, explain_layers
from pellucid.errors import PellucidError, TargetError
from pellucid.statistics import FEWEST, correct, mean_interval

if TYPE_CHECKING:
    from PIL.Image import Image

    ClassImages = Tensor | Sequence[str | Path | Image] | Iterable[Tensor]


@overload
def explain_class(
    explainers: VisualTCAV,
    images: "ClassImages",
    targets: TargetLike,
    *,
    bootstrap: Bootstrap | None = ...,
    on_images: Callable[[int], None] = ...,
) -> ClassExplanation: ...
@overload
def explain_class(
    explainers: Sequence[VisualTCAV],
    images: "ClassImages",
    targets: TargetLike,
    *,
    bootstrap: Bootstrap | None = ...,
    on_images: Callable[[int], None] = ...,
) -> list[ClassExplanation]: ...
def explain_class(
    explainers: VisualTCAV | Sequence[VisualTCAV],
    images: "ClassImages",
    targets: TargetLike,
    *,
    bootstrap: Bootstrap | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> ClassExplanation | list[ClassExplanation]:
    """Explain a class by concepts over many images of it; maps are not kept.

    Args:
        explainers: the concepts at a layer, or an explainer for each of several layers of one classifier: then each
            image goes through the network once for all layers (see `explain_layers`).
        images: files or PIL images, read batch by batch; or (N, C, H, W) in the classifier's own input space; or an
            iterable of such batches.
        targets: class index or name, a list of them, or a `Target`; the same for all images.
        bootstrap: how the intervals are computed; None for the defaults.
        on_images: called after each batch with the number of its images.

    Returns:
        One result; for a sequence of explainers, one for each in their order, with p-values adjusted for concepts x
        targets x layers.

    Raises:
        TargetError: no targets, or targets that go image by image.
        PellucidError: no images, or no explainers.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cavs = pl.concepts.fit_cavs(view, {"bright": bright + 2}, dark)
        >>> result = explain_class(pl.concepts.VisualTCAV(view, cavs, permutations=9), bright, targets=1)
        >>> tuple(result.signed.values.shape), [place.concept for place in result.ranking()]
        ((12, 1, 1), ['bright'])
    """
    classes = targets.classes if isinstance(targets, Target) else targets
    if classes is None or isinstance(classes, Tensor):
        raise TargetError("a class explanation needs one class, or a list of them, for all images")
    several = [explainers] if isinstance(explainers, VisualTCAV) else explainers
    if not several:
        raise PellucidError("no layers to explain at: give one explainer or more")
    bootstrap = bootstrap or Bootstrap()
    parts: list[list[ConceptExplanation]] = [[] for _ in several]
    sources: list[str] = []
    for batch, names in _iterate_batches(several, images):
        explained = explain_layers(several, batch, targets, resample=bootstrap.hierarchical)
        for kept, part in zip(parts, explained, strict=True):
            kept.append(replace(part, maps=_strongest(part.maps), negative_maps=_strongest(part.negative_maps)))
        sources += names
        on_images(len(names))
    if not sources:
        raise PellucidError("no images to explain: the list is empty")
    wholes = [ConceptExplanation.join(part) for part in parts]
    correction = several[0].correction
    few = _interval_notes(wholes[0])
    references = _estimate(wholes, "reference", correction, bootstrap)
    signed = _estimate(wholes, "signed", correction, bootstrap)
    results = [
        ClassExplanation(
            cavs=whole.cavs,
            targets=whole.targets[0],
            sources=tuple(sources),
            reference=reference,
            signed=contribution,
            strongest=whole.maps[:, :, 0, 0],
            status_codes=whole.status_codes,
            signed_status_codes=whole.signed_status_codes,
            gap=whole.gap,
            bootstrap=bootstrap,
            notes=(*whole.notes, *few),
            provenance=replace(whole.provenance, seeds={**whole.provenance.seeds, "bootstrap": bootstrap.seed}),
            receipt=whole.receipt,
        )
        for whole, reference, contribution in zip(wholes, references, signed, strict=True)
    ]
    return results[0] if isinstance(explainers, VisualTCAV) else results


def _estimate(
    wholes: Sequence[ConceptExplanation], score: Score, correction: str, bootstrap: Bootstrap
) -> list[Estimate]:
    """The means of a score at each layer, with intervals and with p-values adjusted over all layers."""
    estimates = []
    for whole in wholes:
        values: Tensor = getattr(whole, score)
        low, high = mean_interval(values, _spread(whole.resamples, score), confidence=bootstrap.confidence)
        if score == "reference" and whole.resamples is not None:  # see `ConceptExplanation.interval`
            low, high = torch.full_like(low, torch.nan), torch.full_like(high, torch.nan)
        estimates.append(Estimate(values, low, high, _p_values(values, whole.nulls, score), None))
    known = [estimate.p_values for estimate in estimates if estimate.p_values is not None]
    if len(known) < len(estimates):
        return estimates
    adjusted = torch.split(correct(torch.cat([p.flatten() for p in known]), correction), [p.numel() for p in known])
    return [
        replace(estimate, adjusted_p_values=part.reshape(estimate.low.shape))
        for estimate, part in zip(estimates, adjusted, strict=True)
    ]


def _interval_notes(whole: ConceptExplanation) -> list[str]:
    """Why there are no intervals, if there are none."""
    count = len(whole.signed)
    few = f"{count} image{'s are' if count > 1 else ' is'} too few for intervals of means, which need {FEWEST}"
    return [f"{few}: none is given"] if count < FEWEST else []


def _spread(resamples: DirectionScores | None, score: Score) -> Tensor | None:
    """Scores (N, B, D, T) under the resamples of the CAVs."""
    if resamples is None:
        return None
    scores: Tensor = getattr(resamples, score)
    return scores.movedim(2, 1)


def _p_values(values: Tensor, nulls: DirectionScores | None, score: Score) -> Tensor | None:
    """(D, T) ranks of the means among those of relabeled images' CAVs."""
    if nulls is None:
        return None
    return score_p_values(values.mean(0), getattr(nulls, score).mean(0), two_sided=score == "signed")


def _strongest(maps: Tensor) -> Tensor:
    """(N, D, 1, 1) largest value of each map."""
    return maps.amax((2, 3), keepdim=True)


def _iterate_batches(explainers: Sequence[VisualTCAV], images: "ClassImages") -> Iterator[tuple[Tensor, list[str]]]:
    """Batches of images with their names."""
    size, count = min(explainer.max_batch for explainer in explainers), 0
    if isinstance(images, Tensor):
        images = torch.split(images, size) if len(images) else ()
    elif isinstance(images, Sequence) and not any(isinstance(image, Tensor) for image in images):
        classifier: object = explainers[0].view.classifier
        if not isinstance(classifier, Classifier):
            raise PellucidError("this view's classifier reads no files; give images as a tensor (N, C, H, W)")
        unnamed = number_images(len(images))
        for start in range(0, len(images), size):
            chunk = list(images[start : start + size])
            names = [str(item) if isinstance(item, str | Path) else unnamed[start + i] for i, item in enumerate(chunk)]
            yield classifier.read(chunk), names
        return
    batches: Iterable[Tensor] = images  # type: ignore[assignment]
    for batch in batches:
        yield batch, number_images(len(batch), first=count)
        count += len(batch)
