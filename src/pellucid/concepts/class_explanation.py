"""The result of Visual-TCAV over many images of a class: means with intervals and tests, and a ranking of concepts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.concepts.cav import CAV
from pellucid.concepts.concept_explanation import Score
from pellucid.concepts.concept_table import ConceptResult, Row, at_index, cav_rows, make_row
from pellucid.concepts.status import decode_statuses
from pellucid.errors import PellucidError
from pellucid.results import Provenance, Receipt
from pellucid.statistics import holm, mean_interval, sign_flip_p_value

SEEN = 0.5
"""A concept counts as seen in an image where its map reaches half of what images of the concept typically show."""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How the intervals of a class explanation are computed.

    Attributes:
        confidence: of the intervals, in (0, 1).
        repeats: sign patterns of the tests of the leads.
        hierarchical: let the intervals hold the CAVs' uncertainty as well as the images': the spread over the bootstrap
            resamples of each CAV is added.
        seed: of the sign patterns.

    Example:
        >>> Bootstrap(confidence=0.9).hierarchical
        False
    """

    confidence: float = 0.95
    repeats: int = 10_000
    hierarchical: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Estimate:
    """Scores of D concepts and T targets, estimated over N images.

    Attributes:
        values: (N, D, T) score of each image.
        low, high: (D, T) confidence interval of the mean (`pellucid.statistics.mean_interval`); NaN where none holds:
            with fewer than 5 images, where all images have the same score, and of the reference score over CAVs too.
        p_values: (D, T) how often relabeled images' CAVs give a mean as large, or None.
        adjusted_p_values: (D, T) adjusted for all tests, those at layers explained together included; or None.

    Example:
        >>> values = torch.tensor([0.2, 0.4]).reshape(2, 1, 1)
        >>> Estimate(values, values.amin(0), values.amax(0), None, None).mean.item()
        0.30000001192092896
    """

    values: Tensor
    low: Tensor
    high: Tensor
    p_values: Tensor | None
    adjusted_p_values: Tensor | None

    @property
    def mean(self) -> Tensor:
        """(D, T)."""
        return self.values.mean(0)

    @property
    def deviation(self) -> Tensor:
        """(D, T) standard deviation over the images (of the population: divided by N)."""
        return self.values.std(0, correction=0)

    @property
    def standard_errors(self) -> Tensor:
        """(2, D, T): mean - 2 and mean + 2 standard errors."""
        margin = 2 * self.deviation / len(self.values) ** 0.5
        return torch.stack([self.mean - margin, self.mean + margin])


@dataclass(frozen=True)
class RankedConcept:
    """A concept's position among the others.

    Attributes:
        concept: its name.
        mean, low, high: score over the images, and its interval; None where there is none (see `Estimate`).
        share_seen: share of the images in which it is seen.
        lead, lead_low, lead_high: how far it is ahead of the next, paired by image, and the interval; None for the
            last, and ends of an interval where there is none.
        lead_p_value: two-sided sign-flip test of that lead, Holm-adjusted over the ranking; None for the last.

    Example:
        >>> RankedConcept("striped", mean=0.06, low=0.05, high=0.07, share_seen=0.9).lead is None
        True
    """

    concept: str
    mean: float
    low: float | None
    high: float | None
    share_seen: float
    lead: float | None = None
    lead_low: float | None = None
    lead_high: float | None = None
    lead_p_value: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassExplanation(ConceptResult):
    """How much D concepts count for T targets over N images at one layer; `explain_class` computes it.

    Attributes:
        cavs: the concepts.
        targets: T texts.
        sources: N texts that say which image each is.
        reference: the published score, >= 0.
        signed: the signed contribution, in the target's unit.
        strongest: (N, D) largest value of the concept map in each image, in [0, 1].
        status_codes, signed_status_codes: (N, D, T) what `status` and `signed_status` decode.
        gap: (N, T) relative completeness gap.
        bootstrap: how the intervals were computed.
        notes: remarks on the whole.
        provenance: the model, the layer, and the explainer's options.
        receipt: what it cost, and the largest completeness gap.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cavs = pl.concepts.fit_cavs(view, {"bright": bright + 2, "dim": bright + 1}, dark)
        >>> explainer = pl.concepts.VisualTCAV(view, cavs, permutations=9)
        >>> result = pl.concepts.explain_class(explainer, bright, targets=1)
        >>> tuple(result.reference.mean.shape), len(result.ranking(score="signed"))
        ((2, 1), 2)
    """

    kind: ClassVar[str] = "class_concepts"

    cavs: tuple[CAV, ...]
    targets: tuple[str, ...]
    sources: tuple[str, ...]
    reference: Estimate
    signed: Estimate
    strongest: Tensor
    status_codes: Tensor
    signed_status_codes: Tensor
    gap: Tensor
    bootstrap: Bootstrap
    notes: tuple[str, ...]
    provenance: Provenance
    receipt: Receipt

    @property
    def values(self) -> dict[str, Tensor]:
        """Scores (N, D, T) of each image: "reference" and "signed"."""
        return {"reference": self.reference.values, "signed": self.signed.values}

    @property
    def scores(self) -> dict[str, Tensor]:
        """Means (D, T) over the images: "reference" and "signed"."""
        return {"reference": self.reference.mean, "signed": self.signed.mean}

    @property
    def permutations(self) -> int:
        """Relabelings behind the p-values."""
        return int(str(self.options["permutations"]))

    @cached_property
    def status(self) -> NDArray[np.object_]:
        """(N, D, T) array of `Status` for `reference`."""
        return decode_statuses(self.status_codes)

    @cached_property
    def signed_status(self) -> NDArray[np.object_]:
        """(N, D, T) array of `Status` for `signed`."""
        return decode_statuses(self.signed_status_codes)

    @property
    def published_interval(self) -> Tensor:
        """(2, D, T): the reference score's mean - 2 and mean + 2 standard errors, clipped at 0, as published."""
        return self.reference.standard_errors.clamp(min=0.0)

    @property
    def share_seen(self) -> Tensor:
        """(D,) share of the images in which the concept is seen (see `SEEN`)."""
        return (self.strongest >= SEEN).double().mean(0)

    def ranking(self, target: int = 0, score: Score = "reference") -> list[RankedConcept]:
        """The concepts from the highest mean to the lowest, each compared with the next, image by image.

        Args:
            target: index of the target, 0 to T - 1.
            score: "reference" or "signed".

        Raises:
            PellucidError: another score.
        """
        if score not in ("reference", "signed"):
            raise PellucidError(f"unknown score {score!r}: reference or signed")
        estimate: Estimate = getattr(self, score)
        means, values = estimate.mean[:, target], estimate.values[:, :, target]
        order = means.argsort(descending=True, stable=True)
        ahead = self._leads(values[:, order]) if len(order) > 1 else []
        return [
            RankedConcept(
                self.concepts[index],
                float(means[index]),
                at_index(estimate.low, (index, target)),
                at_index(estimate.high, (index, target)),
                float(self.share_seen[index]),
                *(ahead[place] if place < len(ahead) else ()),
            )
            for place, index in enumerate(order.tolist())
        ]

    def _leads(self, ranked: Tensor) -> list[list[float | None]]:
        """Mean, interval and p-value of the lead of each of the ranked concepts (N, D) over the next."""
        leads = (ranked[:, :-1] - ranked[:, 1:]).double()
        bootstrap = self.bootstrap
        low, high = mean_interval(leads, confidence=bootstrap.confidence)
        tests = sign_flip_p_value(leads, permutations=bootstrap.repeats, seed=bootstrap.seed)
        columns = (leads.mean(0), low, high, torch.from_numpy(holm(tests)))
        return [[at_index(column, (place,)) for column in columns] for place in range(leads.shape[1])]

    def rows(self) -> Iterator[Row]:
        """Every number with the columns of `COLUMNS`: means (no image), and what they are means of."""
        yield from cav_rows(self.cavs)
        for d, concept in enumerate(self.concepts):
            key = {"layer": self.layer, "concept": concept}
            yield make_row("share_seen", float(self.share_seen[d]), **key)
            for n, image in enumerate(self.sources):
                yield make_row("map_max", float(self.strongest[n, d]), image=image, **key)
            for t, target in enumerate(self.targets):
                yield from self._score_rows(d, t, key | {"target": target})
        for t, target in enumerate(self.targets):
            for n, image in enumerate(self.sources):
                yield make_row("gap", float(self.gap[n, t]), image=image, layer=self.layer, target=target)

    def _score_rows(self, d: int, t: int, key: Row) -> Iterator[Row]:
        for name, estimate, status in (
            ("signed", self.signed, self.signed_status),
            ("reference", self.reference, self.status),
        ):
            yield make_row(
                f"{name}_mean",
                float(estimate.mean[d, t]),
                low=at_index(estimate.low, (d, t)),
                high=at_index(estimate.high, (d, t)),
                p_value=at_index(estimate.p_values, (d, t)),
                adjusted_p_value=at_index(estimate.adjusted_p_values, (d, t)),
                **key,
            )
            yield make_row(f"{name}_deviation", float(estimate.deviation[d, t]), **key)
            for n, image in enumerate(self.sources):
                yield make_row(name, float(estimate.values[n, d, t]), image=image, status=str(status[n, d, t]), **key)


def class_rows(explanations: Sequence[ClassExplanation]) -> Iterator[Row]:
    """Rows of explanations of a class at several layers."""
    for explanation in explanations:
        yield from explanation.rows()
