"""TCAV: for how many images of a class a step towards a concept raises the class's logit (Kim et al., 2018)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import BatchLimits, Target, TargetLike, View, iterate_cases
from pellucid.concepts.cav import CAV, check_cavs, null_directions
from pellucid.concepts.concept_sets import number_images
from pellucid.concepts.concept_table import ConceptResult, Row, cav_rows, make_row
from pellucid.concepts.estimators import find_estimator, fit_directions
from pellucid.errors import PellucidError, TargetError
from pellucid.results import Passes, Provenance, Receipt, library_versions
from pellucid.shapes import Float
from pellucid.statistics import correct, permutation_p_value, rank_p_value

MIN_RANDOM_SET = 5
"""Images that each random set has at least: the sets are parts of the negatives that a CAV was fitted with."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TCAVResult(ConceptResult):
    """TCAV scores of D concepts for one target over N images.

    Attributes:
        cavs: the concepts.
        target: what the derivative is taken of.
        sensitivities: (N, D) derivative of the target along each CAV of length 1, image by image; signed, in logits per
            unit of activation.
        random_scores: D tensors (R,): the score with each random set in place of all negatives.
        baseline_scores: D tensors (R,): the scores of each random set against another one.
        p_values: (D,) two-sided test that the images of the concept and the negatives are alike along the class's mean
            gradient, so that a step from the negatives to the concept leaves the logit as it is on average: a
            permutation test of the images' projections (`permutation_p_value`), whatever the estimator of the CAV. It
            holds its level; the scores over random sets are shown without a test, since they share the concept's images
            and agree even for a chance concept.
        relabeled_p_values: (D,) how often CAVs of relabeled images give a score as far from 0.5. Valid, but nearly
            blind: by chance too most scores are close to 0 or 1.
        adjusted: both p-values by name, each adjusted for the D concepts.
        notes: remarks.
        provenance: the model, the layer, and the options.
        receipt: what it cost.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cav = pl.concepts.fit_cav(view, bright + 2, dark, name="bright")
        >>> result = tcav(view, [cav], bright, target=1, permutations=9)
        >>> result.concepts, tuple(result.sensitivities.shape), sorted(result.adjusted)
        (('bright',), (12, 1), ['p_values', 'relabeled_p_values'])
    """

    kind: ClassVar[str] = "tcav"

    cavs: tuple[CAV, ...]
    target: str
    sensitivities: Float[Tensor, "N D"]
    random_scores: tuple[Tensor, ...]
    baseline_scores: tuple[Tensor, ...]
    p_values: Float[Tensor, " D"]
    relabeled_p_values: Float[Tensor, " D"]
    adjusted: Mapping[str, Tensor]
    notes: tuple[str, ...]
    provenance: Provenance
    receipt: Receipt

    @property
    def values(self) -> Tensor:
        """The sensitivities (N, D)."""
        return self.sensitivities

    @property
    def targets(self) -> tuple[str, ...]:
        """The one target."""
        return (self.target,)

    @property
    def scores(self) -> Tensor:
        """(D,) share of the images whose sensitivity is positive: TCAV's score."""
        return _sign_share(self.sensitivities)

    @property
    def sensitivity_p_values(self) -> Tensor:
        """(D,) `p_values`, which test the mean sensitivity and not the score."""
        return self.p_values

    @property
    def magnitudes(self) -> Tensor:
        """(D,) share of the positive sensitivities in the sum of their sizes, in [0, 1]; 0.5 where all are zero."""
        sizes = self.sensitivities.abs().sum(0)
        share = self.sensitivities.relu().sum(0) / torch.where(sizes > 0, sizes, 1.0)
        return torch.where(sizes > 0, share, 0.5)

    @property
    def mean_sensitivities(self) -> Tensor:
        """(D,) mean sensitivity, in logits per unit of activation: unlike the score it does not saturate."""
        return self.sensitivities.mean(0)

    def rows(self, images: Sequence[str] | None = None) -> Iterator[Row]:
        """Every number with the columns of `COLUMNS`.

        Args:
            images: N texts that say which image of the class each is; "image 0" and so on by default.
        """
        yield from cav_rows(self.cavs)
        for d, concept in enumerate(self.concepts):
            key = {"layer": self.layer, "concept": concept, "target": self.target}
            yield make_row("tcav", float(self.scores[d]), **key)
            for name, sets in (("random_sets", self.random_scores[d]), ("chance", self.baseline_scores[d])):
                low, high = float(sets.min()), float(sets.max())
                yield make_row(f"tcav_{name}", float(sets.mean()), low=low, high=high, **key)
            yield make_row("mean_sensitivity", float(self.mean_sensitivities[d]), **key)
            yield make_row("magnitude", float(self.magnitudes[d]), **key)
            for name, adjusted in self.adjusted.items():
                p_value = float(getattr(self, name)[d])
                yield make_row(name, p_value, p_value=p_value, adjusted_p_value=float(adjusted[d]), **key)
            for n, image in enumerate(images or number_images(len(self.sensitivities))):
                yield make_row("sensitivity", float(self.sensitivities[n, d]), image=image, **key)


def tcav(
    view: View,
    cavs: Sequence[CAV],
    class_images: Tensor,
    target: TargetLike,
    *,
    random_sets: int = 10,
    permutations: int = 499,
    correction: str = "holm",
    seed: int = 0,
    max_batch: int = 16,
) -> TCAVResult:
    """Score concepts by the sign of the class's derivative along their CAVs, and test the scores against chance.

    The gradients come from one pass for all concepts, random sets and relabelings; those are refits to the features
    that the CAVs keep.

    Args:
        view: `classifier.at(layer)`.
        cavs: concepts, fitted at this layer of this classifier, to pooled or flattened features.
        class_images: (N, C, H, W) images of the class, in the classifier's own input space.
        target: class index or name, or a `Target`; its logit is differentiated, not the loss.
        random_sets: number of parts that the negatives are divided into at random; fewer if the negatives are few.
        permutations: relabelings for the p-values, which are NaN with 0.
        correction: how p-values are adjusted, "holm", "bonferroni" or "benjamini_hochberg".
        seed: of division and relabelings.
        max_batch: images that go through the network at once.

    Returns:
        Scores, sensitivities and tests of the D concepts.

    Raises:
        TargetError: no such class, or several targets.
        PellucidError: no images, or CAVs that do not belong here.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cavs = pl.concepts.fit_cavs(view, {"bright": bright + 2}, dark)
        >>> result = tcav(view, cavs, bright, target=1, permutations=9)
        >>> 0 <= result.scores.item() <= 1, result.target
        (True, 'class 1')
    """
    check_cavs(view, cavs)
    if not len(class_images):
        raise PellucidError("no images of the class: the batch is empty")
    classes = target.classes if isinstance(target, Target) else target
    if classes is None or isinstance(classes, Tensor | list):
        raise TargetError(f"tcav scores one class for all images; {classes!r} is not one, call it once per class")
    gradients, label, passes = _gradients(view, class_images, target, max_batch)
    divided = [_random_set_scores(cav, gradients, random_sets, seed) for cav in cavs]
    sensitivities = torch.cat([_along(gradients, cav.direction[None]) for cav in cavs], dim=1)
    p_values = {
        name: torch.tensor([test(cav, gradients, permutations, seed) for cav in cavs], dtype=torch.float64)
        for name, test in (("p_values", _projection_test), ("relabeled_p_values", _score_test))
    }
    return TCAVResult(
        cavs=tuple(cavs),
        target=label,
        sensitivities=sensitivities,
        random_scores=tuple(own for own, _ in divided),
        baseline_scores=tuple(other for _, other in divided),
        **p_values,
        adjusted={name: correct(values, correction) for name, values in p_values.items()},
        notes=(*(remark for cav in cavs for remark in cav.remarks), *_opposed(cavs, gradients, sensitivities)),
        provenance=Provenance(
            model=view.classifier.name,
            layers=(view.layer,),
            method="TCAV",
            options={"random_sets": random_sets, "permutations": permutations, "correction": correction},
            seeds={"random sets and permutations": seed},
            versions=library_versions(),
        ),
        receipt=Receipt(passes=passes),
    )


def _gradients(view: View, images: Tensor, target: TargetLike, max_batch: int) -> tuple[Tensor, str, Passes]:
    """Gradients (N, C, h, w) of the target at the layer."""
    gradients, passes, label = [], Passes(), ""
    for case in iterate_cases(view, images, target, [BatchLimits(max_batch=max_batch, gradients=True)]):
        gradients.append(case.gradients[:, 0].cpu())
        passes, label = passes + case.claim_passes(), case.target.labels[0][0]
    return torch.cat(gradients), label, passes


def _at_features(gradients: Tensor, width: int) -> Tensor:
    """Gradients (N, F) in the space of features of that width: summed over the cells if they are pooled."""
    return gradients.sum((2, 3)) if width == gradients.shape[1] else gradients.flatten(1)


def _along(gradients: Tensor, directions: Tensor) -> Tensor:
    """Derivatives (N, L) along directions (L, C), a step in every cell, or (L, C * h * w); of length 1."""
    derivatives: Tensor = _at_features(gradients, directions.shape[1]) @ torch.nn.functional.normalize(directions).T
    return derivatives


def _sign_share(sensitivities: Tensor) -> Tensor:
    return (sensitivities > 0).double().mean(0)


def _projections(cav: CAV, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """The concept's images (n1,) and the negatives (n0,) along the mean gradient of all images of the class."""
    mean = _at_features(gradients, len(cav.direction)).double().mean(0)
    return cav.concept_features.double() @ mean, cav.negative_features.double() @ mean


def _projection_test(cav: CAV, gradients: Tensor, permutations: int, seed: int) -> float:
    return permutation_p_value(*_projections(cav, gradients), repeats=permutations, seed=seed)


def _score_test(cav: CAV, gradients: Tensor, permutations: int, seed: int) -> float:
    if not permutations:
        return float("nan")
    null = _sign_share(_along(gradients, null_directions(cav, permutations, seed)))
    score = _sign_share(_along(gradients, cav.direction[None]))[0]
    return float(rank_p_value(score - 0.5, null - 0.5, two_sided=True))


def _opposed(cavs: Sequence[CAV], gradients: Tensor, sensitivities: Tensor) -> list[str]:
    """Remarks on CAVs that point the other way along the gradient than the images that are tested."""
    notes = []
    for cav, mean in zip(cavs, sensitivities.double().mean(0).tolist(), strict=True):
        concept, negatives = _projections(cav, gradients)
        if float(concept.mean() - negatives.mean()) * mean < 0:
            notes.append(
                f"concept {cav.name!r}: its images raise the logit by their mean where the CAV lowers it, or the other "
                "way round; the p-value is that of the images, not of the CAV"
            )
    return notes


def _random_set_scores(cav: CAV, gradients: Tensor, random_sets: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores (R,) of the concept against each random set, and of each random set against the next."""
    features = torch.cat([cav.concept_features, cav.negative_features]).double()
    shown, absent = len(cav.concept_features), len(cav.negative_features)
    count = min(random_sets, absent // MIN_RANDOM_SET)
    if count < 2:
        raise PellucidError(
            f"CAV {cav.name!r} was fitted with {absent} negatives; two random sets need {2 * MIN_RANDOM_SET} or more"
        )
    order = torch.randperm(absent, generator=torch.Generator().manual_seed(seed)) + shown
    sets = torch.tensor_split(order, count)
    against_concept = [(torch.arange(shown), own) for own in sets]
    against_next = [(own, sets[(index + 1) % count]) for index, own in enumerate(sets)]
    estimator = type(find_estimator(cav.estimator))(**cav.estimator_options)
    directions = fit_directions(estimator, features, against_concept + against_next).float()
    scores = _sign_share(_along(gradients, directions))
    return scores[:count], scores[count:]


def tcav_rows(results: Sequence[TCAVResult], images: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of results at several layers.

    Args:
        results: of the same N images of the class.
        images: N texts that say which image each is; "image 0" and so on by default.
    """
    for result in results:
        yield from result.rows(images)
