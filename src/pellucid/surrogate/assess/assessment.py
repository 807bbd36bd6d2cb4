"""How good a twin is, measured on images it was not trained on: fidelity, and control over each context."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.assess.leakage import Measure, measure_baseline, measure_intervention
from pellucid.surrogate.assess.realism import Realism, realism
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, chunks, predict_class
from pellucid.surrogate.explain.validity import MIN_EFFECTIVENESS, fidelity
from pellucid.surrogate.model.codes import Codes


@dataclass(frozen=True)
class Control:
    """What happens when a context is set.

    Attributes:
        concept: its name.
        correlation: of the asked with the re-measured value on the generated image, over images.
        slope: of the re-measured against the asked value; 1 is right.
        leak: other context -> mean absolute change of its measured value against the image unchanged, in standard
            deviations.
        images: how many could be measured before and after.
        measurable: share of those measured before that could be measured after; NaN where nothing can be measured.
    """

    concept: str
    correlation: float
    slope: float
    leak: Mapping[str, float]
    images: int
    measurable: float

    @property
    def effectiveness(self) -> float:
        """The correlation, less for drawings that cannot be measured: they count as not following at all."""
        return self.correlation * self.measurable

    @property
    def effective(self) -> bool:
        """Whether counterfactuals of this context may be shown as explanations."""
        return self.effectiveness >= MIN_EFFECTIVENESS


@dataclass(frozen=True)
class Assessment:
    """A twin's marks.

    Attributes:
        agreement: share of images whose class the classifier keeps on the reconstruction.
        kl: mean KL divergence of the classifier's probabilities, image from reconstruction, in nats.
        logit_r2: share of the variance of the logits that the reconstructions keep.
        head_agreement: share whose class the discriminative twin's head tells from context and latents alone.
        swap_flips: share whose class changes when all nuisance is another image's.
        pixels: mean absolute error of reconstructions, in units of the classifier's input.
        realism: what the classifier's features say of the reconstructions.
        controls: of each context.
        measured_by: what re-measured the contexts.
        transferred: whether it was measured with the changes laid on the images, not on the twin's own drawings.
        images: how many were assessed.
        seed: of the asked values and swaps.
    """

    agreement: float
    kl: float
    logit_r2: float
    head_agreement: float
    swap_flips: float
    pixels: float
    realism: Realism
    controls: tuple[Control, ...]
    measured_by: str
    transferred: bool
    images: int
    seed: int

    @property
    def effectiveness(self) -> dict[str, float]:
        """Context -> correlation of asked and re-measured value, less for drawings that cannot be measured."""
        return {control.concept: control.effectiveness for control in self.controls}


def assess(
    batch: EncodedBatch,
    head: Callable[[Codes], Tensor],
    features: Callable[[Tensor], Tensor],
    span: Tensor,
    measure: Measure,
    measured_by: str,
    *,
    transferred: bool = False,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Assessment:
    """Measure a twin on held-out images.

    Each context in turn is asked to take a value drawn evenly from its span, all other codes held; the generated
    images are then measured anew.

    Args:
        painting: held-out images.
        head: from codes to logits (N, K), the discriminative twin.
        features: from images to the classifier's features (N, F).
        span: (2, K_c) least and most asked of each context, in standard deviations.
        measure: re-measures contexts; best by code that knows nothing of the twin.
        measured_by: says what it is.
        transferred: measure control with the changes laid on the images instead of on the twin's own drawings.
        seed: of the asked values and of the swaps.
        on_progress: called with (contexts done, in all).

    Raises:
        PellucidError: no images.
    """
    if not len(batch):
        raise PellucidError("there are no images to assess the twin on")
    random = torch.Generator().manual_seed(seed)
    trust = fidelity(batch)
    with torch.no_grad():
        batches = list(chunks(len(batch), batch.max_batch))
        told = torch.cat([head(batch.codes[rows]) for rows in batches])
        redrawn = torch.cat([batch.surrogate.logits(batch.reconstructions[rows]) for rows in batches])
        real, drawn = (
            torch.cat([features(seen[rows]) for rows in batches]) for seen in (batch.images, batch.reconstructions)
        )
    donors = torch.randperm(len(batch), generator=random)
    swapped = batch.drawn(replace(batch.codes, nuisance=batch.codes.nuisance[donors]))
    with torch.no_grad():
        after = torch.cat([batch.surrogate.logits(swapped[rows]) for rows in batches])
    factual = measure_baseline(batch, measure, transferred=transferred)
    controls = []
    for column in range(len(batch.surrogate.context_names)):
        controls.append(_control(batch, column, span, measure, factual, transferred, random))
        if on_progress:
            on_progress(column + 1, len(batch.surrogate.context_names))
    return Assessment(
        agreement=float(trust.agrees.float().mean()),
        kl=float(trust.kl.mean()),
        logit_r2=_r2(batch.logits, redrawn),
        head_agreement=float((predict_class(told) == batch.classes).float().mean()),
        swap_flips=float((predict_class(after) != predict_class(redrawn)).float().mean()),
        pixels=float(trust.pixels.mean()),
        realism=realism(real, drawn, seed=seed),
        controls=tuple(controls),
        measured_by=measured_by,
        transferred=transferred,
        images=len(batch),
        seed=seed,
    )


def _control(
    batch: EncodedBatch,
    column: int,
    span: Tensor,
    measure: Measure,
    factual: Tensor,
    transferred: bool,
    random: torch.Generator,
) -> Control:
    names = batch.surrogate.context_names
    low, high = span[:, column].tolist()
    asked = torch.rand(len(batch), generator=random).to(batch.images) * (high - low) + low
    seen = measure_intervention(batch, column, asked, measure, transferred=transferred)
    before = torch.isfinite(factual).all(1)
    known = torch.isfinite(seen).all(1) & before
    measurable = float(known.sum() / before.sum())
    if int(known.sum()) < 3:
        nothing = {name: float("nan") for name in names if name != names[column]}
        reached = float("nan") if int(before.sum()) < 3 else 0.0
        return Control(names[column], reached, float("nan"), nothing, int(known.sum()), measurable)
    wanted, got = asked[known].double(), seen[known, column].double()
    covariance = torch.cov(torch.stack([wanted, got]))
    moved = (seen - factual)[known].abs().mean(0)
    leak = {name: float(moved[other]) for other, name in enumerate(names) if other != column}
    spread = float((covariance[0, 0] * covariance[1, 1]).sqrt())
    correlation = float(covariance[0, 1]) / spread if spread > 0 else 0.0
    slope = float(covariance[0, 1] / covariance[0, 0])
    return Control(names[column], correlation, slope, leak, int(known.sum()), measurable)


def _r2(true: Tensor, found: Tensor) -> float:
    true, found = true.double(), found.double()
    return float(1 - (true - found).square().sum() / (true - true.mean(0)).square().sum())
