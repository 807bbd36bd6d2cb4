"""The result of Visual-TCAV for single images: maps, scores, and what is known against each of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.concepts.cav import CAV
from pellucid.concepts.concept_sets import number_images
from pellucid.concepts.concept_table import ConceptResult, Row, at_index, make_row
from pellucid.concepts.joint import JointAttribution
from pellucid.concepts.status import decode_statuses
from pellucid.errors import PellucidError
from pellucid.results import Passes, Provenance, Receipt, plot_maps
from pellucid.shapes import Float, Int
from pellucid.statistics import correct, rank_p_value, score_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Score = Literal["reference", "signed"]


@dataclass(frozen=True, eq=False)
class DirectionScores:
    """Scores that S other directions give in place of each CAV.

    Attributes:
        reference, signed: (N, D, S, T), or (N, S, T) for a single concept; see `ConceptExplanation`.
    """

    reference: Tensor
    signed: Tensor

    @staticmethod
    def stack(concepts: "Sequence[DirectionScores]") -> "DirectionScores":
        """Scores (N, S, T) of each concept as those of D concepts."""
        return DirectionScores(
            torch.stack([scores.reference for scores in concepts], dim=1),
            torch.stack([scores.signed for scores in concepts], dim=1),
        )

    @staticmethod
    def join(parts: "Sequence[DirectionScores]") -> "DirectionScores":
        """Scores of consecutive images as one."""
        return DirectionScores(
            torch.cat([part.reference for part in parts]), torch.cat([part.signed for part in parts])
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class ConceptExplanation(ConceptResult):
    """What a classifier saw of D concepts in N images, and how much it counted for T targets each.

    Attributes:
        cavs: the D concepts.
        targets: N tuples of T texts.
        maps: (N, D, h, w) in [0, 1], where the concept is seen; one scale for all images.
        negative_maps: (N, D, h, w) in [0, 1], where its opposite is seen.
        reference: (N, D, T) in [0, 1], the published score: share of the class's positive evidence that lies where the
            concept is seen and in channels aligned with it, times the class weight. A dominant concept has about 0.06:
            compare ranks and intervals.
        signed: (N, D, T) evidence for (+) and against (-) the target there, in the target's unit (logits).
        positive, negative: (N, D, T) the parts of `signed` above and below zero; they add up to it.
        joint: evidence shared out among the concepts, and the residual that none accounts for.
        status_codes, signed_status_codes: (N, D, T) what `status` and `signed_status` decode.
        class_weights: (N, T) in [0, 1], how far the logit rises above that of a zero activation, relative to the class
            that rises most.
        scores: (N, T) the explained numbers.
        delta: (N, T) score minus the score at the baseline.
        gap: (N, T) relative completeness gap of the evidence behind `signed`.
        reference_gap: (N, T) the same for `reference`, whose 50 steps are fixed.
        steps: (N,) steps behind `signed`; 0 where one gradient is exact.
        positive_mass, negative_mass: (N, T) all evidence for and against the target at this layer, >= 0 and <= 0.
        nulls: scores of relabeled images' directions, or None.
        resamples: scores of bootstrap resamples of the CAVs, or None.
        notes: remarks on the whole.
        provenance: the model, the layer, and the explainer's options.
        receipt: what it cost, and the largest completeness gap of `signed`.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cav = pl.concepts.fit_cav(view, bright + 2, dark, name="bright")
        >>> explanation = pl.concepts.VisualTCAV(view, [cav], permutations=9)(bright[:3], targets=[0, 1])
        >>> tuple(explanation.maps.shape), tuple(explanation.signed.shape)
        ((3, 1, 6, 6), (3, 1, 2))
        >>> explanation.to_table().column_names[-3:]
        ['p_value', 'adjusted_p_value', 'status']
    """

    kind: ClassVar[str] = "concepts"

    cavs: tuple[CAV, ...]
    targets: tuple[tuple[str, ...], ...]
    maps: Float[Tensor, "N D h w"]
    negative_maps: Float[Tensor, "N D h w"]
    reference: Float[Tensor, "N D T"]
    signed: Float[Tensor, "N D T"]
    positive: Float[Tensor, "N D T"]
    negative: Float[Tensor, "N D T"]
    joint: JointAttribution
    status_codes: Tensor
    signed_status_codes: Tensor
    class_weights: Float[Tensor, "N T"]
    scores: Float[Tensor, "N T"]
    delta: Float[Tensor, "N T"]
    gap: Float[Tensor, "N T"]
    reference_gap: Float[Tensor, "N T"]
    steps: Int[Tensor, " N"]
    positive_mass: Float[Tensor, "N T"]
    negative_mass: Float[Tensor, "N T"]
    nulls: DirectionScores | None
    resamples: DirectionScores | None
    notes: tuple[str, ...]
    provenance: Provenance
    receipt: Receipt

    @property
    def values(self) -> Tensor:
        """The concept maps (N, D, h, w)."""
        return self.maps

    @cached_property
    def status(self) -> NDArray[np.object_]:
        """(N, D, T) array of `Status` for `reference`."""
        return decode_statuses(self.status_codes)

    @cached_property
    def signed_status(self) -> NDArray[np.object_]:
        """(N, D, T) array of `Status` for `signed`."""
        return decode_statuses(self.signed_status_codes)

    @property
    def p_values(self) -> Tensor | None:
        """(N, D, T) how often relabeled images give a |signed| contribution as large; None without permutations."""
        return None if self.nulls is None else score_p_values(self.signed, self.nulls.signed, two_sided=True)

    @property
    def reference_p_values(self) -> Tensor | None:
        """(N, D, T) how often relabeled images give a reference score as large; None without permutations."""
        return None if self.nulls is None else score_p_values(self.reference, self.nulls.reference)

    @property
    def adjusted_p_values(self) -> Tensor | None:
        """`p_values` adjusted for the concepts and targets of each image; over layers: `adjust_over_layers`."""
        return None if self.nulls is None else adjust_over_layers([self])[0]

    def interval(self, score: Score = "signed", confidence: float = 0.95) -> Tensor | None:
        """Where a score lies when the images of its concept are drawn again, by its spread over the CAV's resamples.

        See `pellucid.statistics.score_interval`. The reference score has none: it is cut off at 0 and scaled by its
        largest channel, so that its resamples say too little of how far it is from the score of very many images.

        Args:
            score: "reference" or "signed".
            confidence: of the interval, in (0, 1).

        Returns:
            (2, N, D, T) low and high, or None without resamples and of the reference score; NaN where
            the resamples all agree.

        Raises:
            PellucidError: another score, or another confidence.
        """
        if score not in ("reference", "signed") or not 0 < confidence < 1:
            raise PellucidError(f"no interval of {score!r} at {confidence}; expected reference or signed, and 0 to 1")
        if self.resamples is None or score == "reference":
            return None
        return torch.stack(score_interval(self.signed, self.resamples.signed, dim=2, confidence=confidence))

    def rows(self, images: Sequence[str] | None = None, adjusted_p_values: Tensor | None = None) -> Iterator[Row]:
        """Every number, with the columns of `COLUMNS`.

        Args:
            images: N texts that say which image each is; "image 0" and so on by default.
            adjusted_p_values: (N, D, T) of `signed`; by default adjusted within this explanation.
        """
        adjusted = self.adjusted_p_values if adjusted_p_values is None else adjusted_p_values
        scores = {
            "signed": (self.interval("signed"), self.p_values, adjusted, self.signed_status),
            "reference": (self.interval("reference"), self.reference_p_values, None, self.status),
        }
        for n, image in enumerate(images or number_images(len(self.maps))):
            key = {"image": image, "layer": self.layer}
            yield from self._map_rows(n, key)
            for t, target in enumerate(self.targets[n]):
                yield from self._target_rows(n, t, key | {"target": target})
                for d, concept in enumerate(self.concepts):
                    yield from self._score_rows(scores, (n, d, t), key | {"target": target, "concept": concept})

    def plot(self, images: Tensor | None = None) -> "Figure":
        """The concept maps as a matplotlib figure: a row for each image, a column for each concept, one scale for all.

        Args:
            images: (N, C, H, W) in [0, 1], shown gray below the maps; none by default.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        rows, title = number_images(len(self.maps)), f"concept maps at {self.layer}"
        return plot_maps(self.maps, rows=rows, columns=self.concepts, signed=False, images=images, title=title)

    def add_passes(self, passes: Passes) -> "ConceptExplanation":
        """The same with more passes on its receipt."""
        return replace(self, receipt=replace(self.receipt, passes=self.passes + passes))

    @staticmethod
    def join(parts: Sequence["ConceptExplanation"]) -> "ConceptExplanation":
        """Explanations of consecutive images as one, on the CPU."""
        first = parts[0]
        changes: dict[str, Any] = {
            item.name: torch.cat([getattr(part, item.name) for part in parts]).cpu().contiguous()
            for item in fields(first)
            if isinstance(getattr(first, item.name), Tensor)
        }
        for name in ("nulls", "resamples"):
            if getattr(first, name) is not None:
                changes[name] = DirectionScores.join([getattr(part, name) for part in parts])
        joints = [part.joint for part in parts]
        changes["joint"] = JointAttribution(
            torch.cat([joint.contributions for joint in joints]), torch.cat([joint.residual for joint in joints])
        )
        changes["targets"] = tuple(labels for part in parts for labels in part.targets)
        changes["notes"] = tuple(dict.fromkeys(note for part in parts for note in part.notes))
        passes = sum((part.passes for part in parts), Passes())
        changes["receipt"] = replace(first.receipt, passes=passes, gap=float(changes["gap"].max()))
        return replace(first, **changes)

    def _map_rows(self, n: int, key: Row) -> Iterator[Row]:
        for d, concept in enumerate(self.concepts):
            for name, maps in (("map", self.maps[n, d]), ("negative_map", self.negative_maps[n, d])):
                yield make_row(f"{name}_mean", float(maps.mean()), concept=concept, **key)
                yield make_row(f"{name}_max", float(maps.max()), concept=concept, **key)

    def _target_rows(self, n: int, t: int, key: Row) -> Iterator[Row]:
        numbers = {
            "score": self.scores,
            "delta": self.delta,
            "gap": self.gap,
            "reference_gap": self.reference_gap,
            "class_weight": self.class_weights,
            "positive_mass": self.positive_mass,
            "negative_mass": self.negative_mass,
            "joint_residual": self.joint.residual,
        }
        for name, values in numbers.items():
            yield make_row(name, float(values[n, t]), **key)

    def _score_rows(
        self, scores: Mapping[str, tuple[Any, ...]], index: tuple[int, int, int], key: Row
    ) -> Iterator[Row]:
        for name, (interval, p_values, adjusted, status) in scores.items():
            yield make_row(
                name,
                float(getattr(self, name)[index]),
                **key,
                low=at_index(interval, (0, *index)),
                high=at_index(interval, (1, *index)),
                p_value=at_index(p_values, index),
                adjusted_p_value=at_index(adjusted, index),
                status=str(status[index]),
            )
        parts = {"positive": self.positive, "negative": self.negative, "joint": self.joint.contributions}
        for name, values in parts.items():
            yield make_row(name, float(values[index]), **key)


def score_p_values(scores: Tensor, nulls: Tensor, *, two_sided: bool = False) -> Tensor:
    """Rank scores among those of null directions.

    Args:
        scores: (..., D, T).
        nulls: (..., D, P, T).
        two_sided: compare sizes, whatever the sign.

    Returns:
        p-values (..., D, T).

    Example:
        >>> score_p_values(torch.tensor([[2.0]]), torch.tensor([[[1.0], [3.0], [0.0]]])).item()
        0.5
    """
    return rank_p_value(scores, nulls.movedim(-2, -1), two_sided=two_sided)


def adjust_over_layers(explanations: Sequence[ConceptExplanation], correction: str | None = None) -> list[Tensor]:
    """Adjust p-values of the signed contributions for the concepts x targets x layers of each image.

    Args:
        explanations: the same N images at several layers, explained with permutations.
        correction: a name from `CORRECTIONS`; by default that of the first explanation.

    Returns:
        One (N, D, T) for each explanation.

    Raises:
        PellucidError: an explanation has no p-values.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cavs = pl.concepts.fit_cavs(view, {"bright": bright + 2}, dark)
        >>> result = pl.concepts.VisualTCAV(view, cavs, permutations=9)(bright[:2], targets=1)
        >>> [tuple(adjusted.shape) for adjusted in adjust_over_layers([result])]
        [(2, 1, 1)]
    """
    p_values = [explanation.p_values for explanation in explanations]
    known = [values.flatten(1) for values in p_values if values is not None]
    if len(known) < len(explanations):
        raise PellucidError("an explanation has no p-values; explain with permutations above 0")
    sizes = [values.shape[1] for values in known]
    correction = correction or str(explanations[0].options["correction"])
    adjusted = torch.stack([correct(of_image, correction) for of_image in torch.cat(known, dim=1)])
    parts = torch.split(adjusted, sizes, dim=1)
    return [part.reshape(item.signed.shape) for part, item in zip(parts, explanations, strict=True)]


def concept_rows(explanations: Sequence[ConceptExplanation], images: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of explanations of the same images at several layers.

    Args:
        explanations: of the same N images; p-values are adjusted for all of these.
        images: N texts that say which image each is; "image 0" and so on by default.
    """
    tested = all(explanation.nulls is not None for explanation in explanations)
    adjusted = adjust_over_layers(explanations) if tested else [None] * len(explanations)
    for explanation, over_layers in zip(explanations, adjusted, strict=True):
        yield from explanation.rows(images, over_layers)
