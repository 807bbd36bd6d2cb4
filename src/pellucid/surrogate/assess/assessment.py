"""How good a surrogate is, on images it was not trained on: fidelity, and control of each concept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.assess.leakage import ContextMeasurement, measure_baseline, measure_intervention
from pellucid.surrogate.assess.realism import Realism, measure_realism
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, predict_class
from pellucid.surrogate.explain.validity import MIN_EFFECTIVENESS, measure_fidelity
from pellucid.surrogate.model.batches import map_batches
from pellucid.surrogate.model.codes import Codes

MIN_AGREEMENT = 0.95
"""Share of images that keep their class on the reconstruction, below which effects on it need a warning."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """How well the surrogate controls a concept: what is measured when a context is set.

    Attributes:
        concept: its name.
        correlation: of the requested with the measured value on the generated image, over images.
        slope: of the measured against the requested value; 1 is right.
        leakage: other context -> mean absolute change of its measured value against the unchanged image, in standard
            deviations.
        num_images: how many could be measured before and after.
        measurable_share: of the images measured before, those that could be measured after, in [0, 1]; NaN where
            nothing can be measured.

    >>> Control(
    ...     concept="width", correlation=0.9, slope=1.0, leakage={}, num_images=100, measurable_share=0.5
    ... ).effective  # half of the images cannot be measured
    False
    """

    concept: str
    correlation: float
    slope: float
    leakage: Mapping[str, float]
    num_images: int
    measurable_share: float

    @property
    def effectiveness(self) -> float:
        """The correlation, less for images that cannot be measured: they count as not following at all."""
        return self.correlation * self.measurable_share

    @property
    def effective(self) -> bool:
        """Whether counterfactuals of this context may be shown as explanations."""
        return self.effectiveness >= MIN_EFFECTIVENESS


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """The scores of a surrogate.

    Attributes:
        agreement: share of images whose class the classifier keeps on the reconstruction.
        kl: mean KL divergence of the classifier's probabilities, image from reconstruction, in nats.
        logit_r2: share of the variance of the logits that the reconstructions keep.
        head_agreement: share whose class the surrogate's head predicts from context and latents alone.
        nuisance_flip_rate: share whose class changes when all nuisance is another image's.
        pixel_error: mean absolute error of reconstructions, in units of the classifier's input.
        realism: comparison of the classifier's features of images and reconstructions.
        controls: of each context, measured on the generated images, which are the counterfactuals.
        transferred_controls: the same measured with the residual transferred to the input images.
        measured_by: what measured the contexts.
        num_images: how many were assessed.
        seed: of the requested values and swaps.

    >>> from pellucid.surrogate import digit_surrogate
    >>> assessment = digit_surrogate().assessment
    >>> round(assessment.agreement, 2), min(assessment.effectiveness.values()) > MIN_EFFECTIVENESS
    (0.99, True)
    """

    agreement: float
    kl: float
    logit_r2: float
    head_agreement: float
    nuisance_flip_rate: float
    pixel_error: float
    realism: Realism
    controls: tuple[Control, ...]
    transferred_controls: tuple[Control, ...]
    measured_by: str
    num_images: int
    seed: int

    @property
    def effectiveness(self) -> dict[str, float]:
        """Context -> correlation of requested and measured value, less for images that cannot be measured."""
        return {control.concept: control.effectiveness for control in self.controls}

    @property
    def transferred_effectiveness(self) -> dict[str, float]:
        """The same with the residual transferred to the input images."""
        return {control.concept: control.effectiveness for control in self.transferred_controls}


def assess(
    batch: EncodedBatch,
    head_logits: Callable[[Codes], Tensor],
    pooled_features: Callable[[Tensor], Tensor],
    span: Tensor,
    measurement: ContextMeasurement,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Assessment:
    """Assess a surrogate on held-out images.

    Each context in turn is set to a value drawn evenly from its span, all other codes held; then the generated images
    are measured, and apart from them the input images with the residual transferred.

    Args:
        batch: held-out images.
        head_logits: from codes to logits (N, K), the surrogate's head.
        pooled_features: from images to the classifier's features (N, F).
        span: (2, K_c) least and largest value requested of each context, in standard deviations.
        measurement: of the contexts; best by code that knows nothing of the surrogate. Both ways of showing a change
            are measured, whatever it says.
        seed: of the requested values and of the swaps.
        on_progress: called with (contexts done, in all).

    Raises:
        PellucidError: no images.
    """
    if not len(batch):
        raise PellucidError("there are no images to assess the surrogate on")
    random = torch.Generator().manual_seed(seed)
    fidelity, size = measure_fidelity(batch), batch.max_batch
    predicted = map_batches(head_logits, batch.codes, size=size)
    reconstructed = map_batches(batch.surrogate.logits, batch.reconstructions, size=size)
    features = [map_batches(pooled_features, images, size=size) for images in (batch.images, batch.reconstructions)]
    donors = torch.randperm(len(batch), generator=random)
    swapped = batch.decode(replace(batch.codes, nuisance=batch.codes.nuisance[donors]))
    after_swap = map_batches(batch.surrogate.logits, swapped, size=size)
    ways = [replace(measurement, residual_transfer=transfer) for transfer in (False, True)]
    baselines = [measure_baseline(batch, way) for way in ways]
    controls: tuple[list[Control], list[Control]] = ([], [])
    for column, (low, high) in enumerate(span.T.tolist()):
        requested = torch.rand(len(batch), generator=random).to(batch.images) * (high - low) + low
        for way, baseline, part in zip(ways, baselines, controls, strict=True):
            measured = measure_intervention(batch, column, requested, way)
            part.append(_control(batch.surrogate.context_names, column, requested, measured, baseline))
        if on_progress:
            on_progress(column + 1, len(batch.surrogate.context_names))
    return Assessment(
        agreement=float(fidelity.same_class.float().mean()),
        kl=float(fidelity.kl.mean()),
        logit_r2=_r2(batch.logits, reconstructed),
        head_agreement=float((predict_class(predicted) == batch.classes).float().mean()),
        nuisance_flip_rate=float((predict_class(after_swap) != predict_class(reconstructed)).float().mean()),
        pixel_error=float(fidelity.pixel_error.mean()),
        realism=measure_realism(*features, seed=seed),
        controls=tuple(controls[0]),
        transferred_controls=tuple(controls[1]),
        measured_by=measurement.description,
        num_images=len(batch),
        seed=seed,
    )


def agreement_warnings(assessment: Assessment) -> list[str]:
    """A warning where effects measured on reconstructions may be those of other images.

    >>> from pellucid.surrogate import digit_surrogate
    >>> agreement_warnings(digit_surrogate().assessment)
    []
    """
    if assessment.agreement >= MIN_AGREEMENT:
        return []
    return [
        f"only {assessment.agreement:.1%} of images keep their class on the reconstruction, so effects measured on "
        "reconstructions may be those of other images: compare with residual_transfer=True (--residual-transfer)"
    ]


def _control(names: tuple[str, ...], column: int, requested: Tensor, measured: Tensor, baseline: Tensor) -> Control:
    """Control of the context in a column, from requested values (N,) and contexts (N, K_c) after and before."""
    before = torch.isfinite(baseline).all(1)
    known = torch.isfinite(measured).all(1) & before
    count, others = int(known.sum()), [name for name in names if name != names[column]]
    if count < 3:
        correlation = float("nan") if int(before.sum()) < 3 else 0.0
        slope, leakage = float("nan"), dict.fromkeys(others, float("nan"))
    else:
        covariance = torch.cov(torch.stack([requested[known].double(), measured[known, column].double()]))
        spread = float((covariance[0, 0] * covariance[1, 1]).sqrt())
        correlation = float(covariance[0, 1]) / spread if spread > 0 else 0.0
        slope = float(covariance[0, 1] / covariance[0, 0])
        change = (measured - baseline)[known].abs().mean(0)
        leakage = {name: float(change[names.index(name)]) for name in others}
    return Control(
        concept=names[column],
        correlation=correlation,
        slope=slope,
        leakage=leakage,
        num_images=count,
        measurable_share=float(known.sum() / before.sum()),
    )


def _r2(true: Tensor, predicted: Tensor) -> float:
    true, predicted = true.double(), predicted.double()
    return float(1 - (true - predicted).square().sum() / (true - true.mean(0)).square().sum())
