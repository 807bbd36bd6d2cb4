"""How much concepts count for a class: Visual-TCAV over many images, at one layer or at several together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pellucid.attribution import Target
from pellucid.classifiers import Classifier
from pellucid.concepts.class_explanation import ClassExplanation, Estimate
from pellucid.concepts.concept_explanation import ConceptExplanation, DirectionScores, score_p_values
from pellucid.concepts.visual_tcav import VisualTCAV, explain_layers
from pellucid.errors import PellucidError, TargetError
from pellucid.statistics import bootstrap_mean_interval, correct

if TYPE_CHECKING:
    from PIL.Image import Image


Score = Literal["reference", "signed"]


def global_explanation(
    explainer: VisualTCAV,
    images: "Tensor | Sequence[str | Path | Image] | Iterable[Tensor]",
    targets: Any,
    *,
    confidence: float = 0.95,
    repeats: int = 2000,
    hierarchical: bool = False,
    seed: int = 0,
) -> ClassExplanation:
    """Explain a class by concepts over many images of it; maps are not kept.

    Args:
        explainer: the concepts at a layer.
        images: files or PIL images, read batch by batch; or (N, C, H, W) in the classifier's own input space; or an
            iterable of such batches.
        targets: class index or name, a list of them, or a `Target`; the same for all images.
        confidence: of the intervals.
        repeats: bootstrap samples.
        hierarchical: let the intervals hold the CAVs' uncertainty as well as the images': each bootstrap sample draws
            a resample of the CAV first.
        seed: of the bootstrap.

    Raises:
        TargetError: no targets, or targets that go image by image.
        PellucidError: no images.
    """
    return global_explanations(
        [explainer],
        images,
        targets,
        confidence=confidence,
        repeats=repeats,
        hierarchical=hierarchical,
        seed=seed,
    )[0]


def global_explanations(
    explainers: Sequence[VisualTCAV],
    images: "Tensor | Sequence[str | Path | Image] | Iterable[Tensor]",
    targets: Any,
    *,
    confidence: float = 0.95,
    repeats: int = 2000,
    hierarchical: bool = False,
    seed: int = 0,
    on_images: Callable[[int], None] = lambda count: None,
) -> list[ClassExplanation]:
    """As `global_explanation`, at several layers from one pass of each image (see `explain_layers`).

    Args:
        explainers: one per layer, all of one classifier.
        images, targets, confidence, repeats, hierarchical, seed: as in `global_explanation`.
        on_images: called after each batch with the number of its images.

    Returns:
        One result per explainer, in their order; p-values are adjusted for concepts x targets x layers.
    """
    given = targets.classes if isinstance(targets, Target) else targets
    if given is None or isinstance(given, Tensor):
        raise TargetError("a global explanation needs one class, or a list of them, for all images")
    if not explainers:
        raise PellucidError("no layers to explain at: give one explainer or more")
    parts: list[list[ConceptExplanation]] = [[] for _ in explainers]
    sources: list[str] = []
    for batch, names in _batches(explainers, images):
        for kept, found in zip(parts, explain_layers(explainers, batch, targets, resample=hierarchical), strict=True):
            kept.append(replace(found, maps=_strongest(found.maps), negative_maps=_strongest(found.negative_maps)))
        sources += names
        on_images(len(names))
    if not sources:
        raise PellucidError("no images to explain: the list is empty")
    wholes = [ConceptExplanation.join(part) for part in parts]
    bootstrap = {"confidence": confidence, "repeats": repeats, "seed": seed}
    correction = explainers[0].correction
    references = _estimates(wholes, "reference", correction, **bootstrap)
    signed = _estimates(wholes, "signed", correction, **bootstrap)
    return [
        ClassExplanation(
            cavs=whole.cavs,
            layer=whole.layer,
            targets=whole.targets[0],
            sources=tuple(sources),
            reference=reference,
            signed=own,
            strongest=whole.maps[:, :, 0, 0],
            status=whole.status,
            signed_status=whole.signed_status,
            gap=whole.gap,
            hierarchical=hierarchical,
            permutations=explainers[0].permutations,
            notes=whole.notes,
            passes=whole.passes,
            **bootstrap,  # type: ignore[arg-type]
        )
        for whole, reference, own in zip(wholes, references, signed, strict=True)
    ]


def _estimates(wholes: Sequence[ConceptExplanation], score: Score, correction: str, **bootstrap: Any) -> list[Estimate]:
    """The means of a score at each layer, with intervals and with p-values adjusted over all layers."""
    found = []
    for whole in wholes:
        values: Tensor = getattr(whole, score)
        low, high = bootstrap_mean_interval(values, _spread(whole.resamples, score), **bootstrap)
        found.append(Estimate(values, low, high, _p_values(values, whole.nulls, score), None))
    known = [estimate.p_values for estimate in found if estimate.p_values is not None]
    if len(known) < len(found):
        return found
    adjusted = torch.split(correct(torch.cat([p.flatten() for p in known]), correction), [p.numel() for p in known])
    return [
        replace(estimate, adjusted_p_values=own.reshape(estimate.low.shape))
        for estimate, own in zip(found, adjusted, strict=True)
    ]


def _spread(resamples: DirectionScores | None, score: Score) -> Tensor | None:
    """Scores (N, B, D, T) under the resamples of the CAVs."""
    if resamples is None:
        return None
    scores: Tensor = getattr(resamples, score)
    return scores.movedim(2, 1)


def _p_values(values: Tensor, nulls: DirectionScores | None, score: Score) -> Tensor | None:
    """(D, T) ranks of the means among those of relabelled images' CAVs."""
    if nulls is None:
        return None
    return score_p_values(values.mean(0), getattr(nulls, score).mean(0), two_sided=score == "signed")


def _strongest(maps: Tensor) -> Tensor:
    """(N, D, 1, 1) largest value of each map."""
    return maps.amax((2, 3), keepdim=True)


def _batches(
    explainers: Sequence[VisualTCAV], images: "Tensor | Sequence[str | Path | Image] | Iterable[Tensor]"
) -> Iterator[tuple[Tensor, list[str]]]:
    """Batches of images with their names."""
    size, count = min(each.max_batch for each in explainers), 0
    if isinstance(images, Tensor):
        images = torch.split(images, size) if len(images) else ()
    elif isinstance(images, Sequence) and not any(isinstance(image, Tensor) for image in images):
        classifier: object = explainers[0].view.classifier
        if not isinstance(classifier, Classifier):
            raise PellucidError("this view's classifier reads no files; give images as a tensor (N, C, H, W)")
        for start in range(0, len(images), size):
            chunk = list(images[start : start + size])
            names = [
                str(item) if isinstance(item, str | Path) else f"image {start + i}" for i, item in enumerate(chunk)
            ]
            yield classifier.read(chunk), names
        return
    batches: Iterable[Tensor] = images  # type: ignore[assignment]
    for batch in batches:
        yield batch, [f"image {index}" for index in range(count, count + len(batch))]
        count += len(batch)
