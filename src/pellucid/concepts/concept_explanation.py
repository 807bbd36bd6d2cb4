"""The result of Visual-TCAV for single images: maps, scores, and what is known against each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.attribution import Passes
from pellucid.concepts.cav import CAV
from pellucid.concepts.joint import JointAttribution, gram_matrix
from pellucid.errors import PellucidError
from pellucid.statistics import correct, rank_p_value


class DirectionScores(NamedTuple):
    """Scores that S other directions give in place of each CAV: (N, D, S, T) each."""

    reference: Tensor
    signed: Tensor

    @staticmethod
    def stack(concepts: "Sequence[DirectionScores]") -> "DirectionScores":
        """Scores (N, S, T) of each concept as those of D concepts."""
        return DirectionScores(*(torch.stack(scores, dim=1) for scores in zip(*concepts, strict=True)))


@dataclass(frozen=True, eq=False, kw_only=True)
class ConceptExplanation:
    """What a classifier saw of D concepts in N images, and how much it counted for T targets each.

    Attributes:
        cavs: the D concepts.
        layer: name of the layer.
        targets: N tuples of T texts.
        maps: (N, D, h, w) in [0, 1], where the concept is seen; one scale for all images.
        negative_maps: (N, D, h, w) in [0, 1], where its opposite is seen.
        reference: (N, D, T) in [0, 1], the published score: share of the class's positive evidence that lies where the
            concept is seen and in channels aligned with it, times the class weight. A dominant concept has about 0.06:
            compare ranks and intervals.
        signed: (N, D, T) evidence for (+) and against (-) the target there, in the target's unit (logits).
        positive, negative: (N, D, T) the parts of `signed` above and below zero; they add up to it.
        joint: evidence shared out among the concepts, and the residual that none accounts for.
        status: (N, D, T) array of `Status` for `reference`.
        signed_status: (N, D, T) array of `Status` for `signed`.
        class_weights: (N, T) in [0, 1], how far the logit rises above that of a zero activation, relative to the class
            that rises most.
        scores: (N, T) the explained numbers.
        delta: (N, T) score minus the score at the baseline.
        gap: (N, T) relative completeness gap of the evidence behind `signed`.
        reference_gap: (N, T) the same for `reference`, whose 50 steps are fixed.
        steps: (N,) steps behind `signed`; 0 where one gradient is exact.
        positive_mass, negative_mass: (N, T) all evidence for and against the target at this layer, >= 0 and <= 0.
        nulls: scores of relabelled images' directions, or None.
        resamples: scores of bootstrap resamples of the CAVs, or None.
        correction: how p-values are adjusted for their number.
        notes: remarks on the whole.
        options: the explainer's.
        passes: what it cost.
    """

    cavs: tuple[CAV, ...]
    layer: str
    targets: tuple[tuple[str, ...], ...]
    maps: Tensor
    negative_maps: Tensor
    reference: Tensor
    signed: Tensor
    positive: Tensor
    negative: Tensor
    joint: JointAttribution
    status: NDArray[np.object_]
    signed_status: NDArray[np.object_]
    class_weights: Tensor
    scores: Tensor
    delta: Tensor
    gap: Tensor
    reference_gap: Tensor
    steps: Tensor
    positive_mass: Tensor
    negative_mass: Tensor
    nulls: DirectionScores | None
    resamples: DirectionScores | None
    correction: str
    notes: tuple[str, ...]
    options: Mapping[str, object]
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
    def p_values(self) -> Tensor | None:
        """(N, D, T) how often relabelled images give a |signed| contribution as large; None without permutations."""
        return None if self.nulls is None else score_p_values(self.signed, self.nulls.signed, two_sided=True)

    @property
    def reference_p_values(self) -> Tensor | None:
        """(N, D, T) how often relabelled images give a reference score as large; None without permutations."""
        return None if self.nulls is None else score_p_values(self.reference, self.nulls.reference)

    @property
    def adjusted_p_values(self) -> Tensor | None:
        """`p_values` adjusted for the concepts and targets of each image; over layers: `adjust_over_layers`."""
        return None if self.p_values is None else adjust_over_layers([self])[0]

    def interval(self, score: str = "signed", confidence: float = 0.95) -> Tensor | None:
        """(2, N, D, T) where a score lies when the images of its concept are drawn anew; None without resamples.

        Quantiles over the bootstrap resamples of the CAV: with 20 of them hardly more than their range.

        Args:
            score: "reference" or "signed".
            confidence: of the interval, in (0, 1).
        """
        if score not in ("reference", "signed") or not 0 < confidence < 1:
            raise PellucidError(f"no interval of {score!r} at {confidence}; wanted reference or signed, and 0 to 1")
        if self.resamples is None:
            return None
        margin = (1 - confidence) / 2
        levels = torch.tensor([margin, 1 - margin], dtype=torch.float64)
        scores: Tensor = getattr(self.resamples, score)
        return scores.double().quantile(levels, dim=2)

    def rows(self) -> list[dict[str, object]]:
        """A tidy table: one row per image, concept and target."""
        adjusted, p_values, reference_p = self.adjusted_p_values, self.p_values, self.reference_p_values
        return [
            {
                "layer": self.layer,
                "image": n,
                "concept": cav.name,
                "target": self.targets[n][t],
                "reference": float(self.reference[n, d, t]),
                "status": str(self.status[n, d, t]),
                "signed": float(self.signed[n, d, t]),
                "signed_status": str(self.signed_status[n, d, t]),
                "positive": float(self.positive[n, d, t]),
                "negative": float(self.negative[n, d, t]),
                "joint": float(self.joint.contributions[n, d, t]),
                "p_value": None if p_values is None else float(p_values[n, d, t]),
                "adjusted_p_value": None if adjusted is None else float(adjusted[n, d, t]),
                "reference_p_value": None if reference_p is None else float(reference_p[n, d, t]),
                "class_weight": float(self.class_weights[n, t]),
                "score": float(self.scores[n, t]),
                "delta": float(self.delta[n, t]),
                "gap": float(self.gap[n, t]),
                "map_mean": float(self.maps[n, d].mean()),
                "low": cav.emblems.low,
                "high": cav.emblems.high,
                "auc": cav.auc,
            }
            for n in range(len(self.reference))
            for d, cav in enumerate(self.cavs)
            for t in range(self.reference.shape[2])
        ]

    @staticmethod
    def join(parts: Sequence["ConceptExplanation"]) -> "ConceptExplanation":
        """Explanations of consecutive images as one."""
        first = parts[0]
        changes: dict[str, object] = {
            item.name: torch.cat([getattr(part, item.name) for part in parts]).cpu()
            for item in fields(first)
            if isinstance(getattr(first, item.name), Tensor)
        }
        for name in ("status", "signed_status"):
            changes[name] = np.concatenate([getattr(part, name) for part in parts])
        for name in ("nulls", "resamples"):
            if getattr(first, name) is not None:
                changes[name] = DirectionScores(
                    *map(torch.cat, zip(*(getattr(part, name) for part in parts), strict=True))
                )
        joints = [part.joint for part in parts]
        changes["joint"] = JointAttribution(
            torch.cat([joint.contributions for joint in joints]), torch.cat([joint.residual for joint in joints])
        )
        changes["targets"] = tuple(labels for part in parts for labels in part.targets)
        changes["notes"] = tuple(dict.fromkeys(note for part in parts for note in part.notes))
        changes["passes"] = sum((part.passes for part in parts), Passes())
        return replace(first, **changes)  # type: ignore[arg-type]


def score_p_values(scores: Tensor, nulls: Tensor, *, two_sided: bool = False) -> Tensor:
    """Rank p-values (..., D, T) of scores (..., D, T) among those of null directions (..., D, P, T)."""
    return rank_p_value(scores, nulls.movedim(-2, -1), two_sided=two_sided)


def adjust_over_layers(explanations: Sequence[ConceptExplanation], correction: str | None = None) -> list[Tensor]:
    """p-values of the signed contributions at several layers, adjusted for concepts x targets x layers of each image.

    Args:
        explanations: the same images at several layers, explained with permutations.
        correction: a name from `CORRECTIONS`; by default that of the first explanation.

    Returns:
        One (N, D, T) for each explanation.
    """
    p_values = [found.p_values for found in explanations]
    known = [values.flatten(1) for values in p_values if values is not None]
    if len(known) < len(explanations):
        raise PellucidError("an explanation has no p-values; explain with permutations above 0")
    sizes = [values.shape[1] for values in known]
    family = torch.cat(known, dim=1)  # (N, hypotheses)
    adjusted = torch.stack([correct(of_image, correction or explanations[0].correction) for of_image in family])
    parts = torch.split(adjusted, sizes, dim=1)
    return [part.reshape(found.signed.shape) for part, found in zip(parts, explanations, strict=True)]
