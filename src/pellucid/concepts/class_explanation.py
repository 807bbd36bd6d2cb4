"""What Visual-TCAV over many images finds: means with intervals and tests, and a ranking of the concepts."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.attribution import Passes
from pellucid.concepts.cav import CAV
from pellucid.concepts.joint import gram_matrix
from pellucid.errors import PellucidError
from pellucid.statistics import bootstrap_mean_interval, holm, sign_flip_p_value

SEEN = 0.5
"""A concept counts as seen in an image where its map reaches half of what images of the concept typically show."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """Scores of D concepts and T targets, estimated over N images.

    Attributes:
        values: (N, D, T) score of each image.
        low, high: (D, T) bootstrap interval of the mean.
        p_values: (D, T) how often relabelled images' CAVs give a mean as large, or None.
        adjusted_p_values: (D, T) adjusted for all tests, those at layers explained together included; or None.
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
    """A concept's place among the others.

    Attributes:
        concept: its name.
        mean, low, high: score over the images, and its interval.
        share_seen: share of the images in which it is seen.
        lead, lead_low, lead_high: how far it is ahead of the next, paired by image, and the interval; None for the
            last.
        lead_p_value: two-sided sign-flip test of that lead, Holm-adjusted over the ranking; None for the last.
    """

    concept: str
    mean: float
    low: float
    high: float
    share_seen: float
    lead: float | None = None
    lead_low: float | None = None
    lead_high: float | None = None
    lead_p_value: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassExplanation:
    """How much D concepts count for T targets over N images at one layer.

    Attributes:
        cavs: the concepts.
        layer: name of the layer.
        targets: T texts.
        sources: N texts that say which image each is.
        reference: the published score, >= 0.
        signed: the signed contribution, in the target's unit.
        strongest: (N, D) largest value of the concept map in each image.
        status, signed_status: (N, D, T) arrays of `Status`.
        gap: (N, T) relative completeness gap.
        confidence, repeats, seed: of the bootstrap.
        hierarchical: whether the intervals hold the CAVs' uncertainty too.
        permutations: relabellings behind the p-values.
        notes: remarks on the whole.
        passes: what it cost.
    """

    cavs: tuple[CAV, ...]
    layer: str
    targets: tuple[str, ...]
    sources: tuple[str, ...]
    reference: Estimate
    signed: Estimate
    strongest: Tensor
    status: NDArray[np.object_]
    signed_status: NDArray[np.object_]
    gap: Tensor
    confidence: float
    repeats: int
    seed: int
    hierarchical: bool
    permutations: int
    notes: tuple[str, ...]
    passes: Passes

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of the D concepts."""
        return tuple(cav.name for cav in self.cavs)

    @property
    def gram(self) -> Tensor:
        """Cosines (D, D) between the CAVs: how far the concepts share their evidence."""
        return gram_matrix(torch.stack([cav.direction for cav in self.cavs]))

    @property
    def published_interval(self) -> Tensor:
        """(2, D, T): the reference score's mean - 2 and mean + 2 standard errors, clipped at 0, as published."""
        return self.reference.standard_errors.clamp(min=0.0)

    @property
    def share_seen(self) -> Tensor:
        """(D,) share of the images in which the concept is seen (see `SEEN`)."""
        return (self.strongest >= SEEN).double().mean(0)

    def ranking(self, target: int = 0, score: str = "reference") -> list[RankedConcept]:
        """The concepts from the highest mean to the lowest, each compared with the next, image by image.

        Args:
            target: index of the target, 0 to T - 1.
            score: "reference" or "signed".
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
                float(estimate.low[index, target]),
                float(estimate.high[index, target]),
                float(self.share_seen[index]),
                *(ahead[place] if place < len(ahead) else ()),
            )
            for place, index in enumerate(order.tolist())
        ]

    def _leads(self, ranked: Tensor) -> list[list[float]]:
        """Mean, interval and p-value of the lead of each of the ranked concepts (N, D) over the next."""
        leads = (ranked[:, :-1] - ranked[:, 1:]).double()
        low, high = bootstrap_mean_interval(leads, confidence=self.confidence, repeats=self.repeats, seed=self.seed)
        found: list[list[float]] = torch.stack(
            [leads.mean(0), low, high, torch.from_numpy(holm(sign_flip_p_value(leads, seed=self.seed)))], dim=1
        ).tolist()
        return found

    def rows(self) -> list[dict[str, object]]:
        """A tidy table: one row per score, concept and target."""
        return [
            {
                "layer": self.layer,
                "concept": concept,
                "target": self.targets[t],
                "score": name,
                "images": len(self.sources),
                "mean": float(estimate.mean[d, t]),
                "deviation": float(estimate.deviation[d, t]),
                "low": float(estimate.low[d, t]),
                "high": float(estimate.high[d, t]),
                "p_value": None if estimate.p_values is None else float(estimate.p_values[d, t]),
                "adjusted_p_value": None
                if estimate.adjusted_p_values is None
                else float(estimate.adjusted_p_values[d, t]),
                "share_seen": float(self.share_seen[d]),
                "auc": self.cavs[d].auc,
            }
            for name, estimate in (("reference", self.reference), ("signed", self.signed))
            for d, concept in enumerate(self.concepts)
            for t in range(len(self.targets))
        ]
