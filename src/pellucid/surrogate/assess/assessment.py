"""How good a twin is, measured on pictures it was not trained on: fidelity, and control over each context."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.assess.leakage import Measure, remeasured, unchanged
from pellucid.surrogate.assess.realism import Realism, realism
from pellucid.surrogate.explain.encoded_batch import Painting, chunks, decided
from pellucid.surrogate.explain.validity import LEAST_EFFECTIVENESS, fidelity
from pellucid.surrogate.model.codes import Codes


@dataclass(frozen=True)
class Control:
    """What happens when a context is set.

    Attributes:
        concept: its name.
        correlation: of the asked with the re-measured value on the generated picture, over pictures.
        slope: of the re-measured against the asked value; 1 is right.
        leak: other context -> mean absolute change of its measured value against the picture unchanged, in standard
            deviations.
        pictures: how many could be measured before and after.
        measurable: share of those measured before that could be measured after; NaN where nothing can be measured.
    """

    concept: str
    correlation: float
    slope: float
    leak: Mapping[str, float]
    pictures: int
    measurable: float

    @property
    def effectiveness(self) -> float:
        """The correlation, less for drawings that cannot be measured: they count as not following at all."""
        return self.correlation * self.measurable

    @property
    def effective(self) -> bool:
        """Whether counterfactuals of this context may be shown as explanations."""
        return self.effectiveness >= LEAST_EFFECTIVENESS


@dataclass(frozen=True)
class Assessment:
    """A twin's marks.

    Attributes:
        agreement: share of pictures whose class the classifier keeps on the reconstruction.
        kl: mean KL divergence of the classifier's probabilities, picture from reconstruction, in nats.
        logit_r2: share of the variance of the logits that the reconstructions keep.
        head_agreement: share whose class the discriminative twin's head tells from context and latents alone.
        swap_flips: share whose class changes when all nuisance is another picture's.
        pixels: mean absolute error of reconstructions, in units of the classifier's input.
        realism: what the classifier's features say of the reconstructions.
        controls: of each context.
        measured_by: what re-measured the contexts.
        transferred: whether it was measured with the changes laid on the pictures, not on the twin's own drawings.
        pictures: how many were assessed.
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
    pictures: int
    seed: int

    @property
    def effectiveness(self) -> dict[str, float]:
        """Context -> correlation of asked and re-measured value, less for drawings that cannot be measured."""
        return {control.concept: control.effectiveness for control in self.controls}

    def to_json(self) -> str:
        """All marks as JSON text; `from_json` reads it."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Assessment":
        """Read what `to_json` wrote.

        Raises:
            PellucidError: when the text is something else.
        """
        try:
            content = json.loads(text)
            controls = tuple(Control(**control) for control in content.pop("controls"))
            seen = Realism(**content.pop("realism"))
            return cls(controls=controls, realism=seen, **content)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise PellucidError(f"this is no assessment written by pellucid: {error}") from error


def assess(
    painting: Painting,
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
    """Measure a twin on held-out pictures.

    Each context in turn is asked to take a value drawn evenly from its span, all other codes held; the generated
    pictures are then measured anew.

    Args:
        painting: held-out pictures.
        head: from codes to logits (N, K), the discriminative twin.
        features: from pictures to the classifier's features (N, F).
        span: (2, K_c) least and most asked of each context, in standard deviations.
        measure: re-measures contexts; best by code that knows nothing of the twin.
        measured_by: says what it is.
        transferred: measure control with the changes laid on the pictures instead of on the twin's own drawings.
        seed: of the asked values and of the swaps.
        on_progress: called with (contexts done, in all).

    Raises:
        PellucidError: no pictures.
    """
    if not len(painting):
        raise PellucidError("there are no pictures to assess the twin on")
    random = torch.Generator().manual_seed(seed)
    trust = fidelity(painting)
    with torch.no_grad():
        batches = list(chunks(len(painting), painting.max_batch))
        told = torch.cat([head(painting.codes[rows]) for rows in batches])
        redrawn = torch.cat([painting.twin.logits(painting.reconstructions[rows]) for rows in batches])
        real, drawn = (
            torch.cat([features(seen[rows]) for rows in batches])
            for seen in (painting.pictures, painting.reconstructions)
        )
    donors = torch.randperm(len(painting), generator=random)
    swapped = painting.drawn(replace(painting.codes, nuisance=painting.codes.nuisance[donors]))
    with torch.no_grad():
        after = torch.cat([painting.twin.logits(swapped[rows]) for rows in batches])
    factual = unchanged(painting, measure, transferred=transferred)
    controls = []
    for column in range(len(painting.twin.context_names)):
        controls.append(_control(painting, column, span, measure, factual, transferred, random))
        if on_progress:
            on_progress(column + 1, len(painting.twin.context_names))
    return Assessment(
        agreement=float(trust.agrees.float().mean()),
        kl=float(trust.kl.mean()),
        logit_r2=_r2(painting.logits, redrawn),
        head_agreement=float((decided(told) == painting.classes).float().mean()),
        swap_flips=float((decided(after) != decided(redrawn)).float().mean()),
        pixels=float(trust.pixels.mean()),
        realism=realism(real, drawn, seed=seed),
        controls=tuple(controls),
        measured_by=measured_by,
        transferred=transferred,
        pictures=len(painting),
        seed=seed,
    )


def _control(
    painting: Painting,
    column: int,
    span: Tensor,
    measure: Measure,
    factual: Tensor,
    transferred: bool,
    random: torch.Generator,
) -> Control:
    names = painting.twin.context_names
    low, high = span[:, column].tolist()
    asked = torch.rand(len(painting), generator=random).to(painting.pictures) * (high - low) + low
    seen = remeasured(painting, column, asked, measure, transferred=transferred)
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
