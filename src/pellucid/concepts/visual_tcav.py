"""Visual-TCAV: where a classifier saw concepts in images, and how much they counted for its classes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from pellucid.attribution import (
    BatchBudget,
    Target,
    TargetLike,
    View,
    count_targets,
    image_batches,
    rows_per_image,
)
from pellucid.classifiers import Activation, LayerView, MultiView
from pellucid.concepts.cav import (
    CAV,
    Null,
    check_cavs,
    null_directions,
)
from pellucid.concepts.concept_explanation import ConceptExplanation, DirectionScores
from pellucid.concepts.concept_scores import reference_attribution, signed_contribution
from pellucid.concepts.evidence import (
    DEFAULT_TARGETS,
    Evidence,
    compute_concept_maps,
    find_statuses,
    gather_evidence,
    score_directions,
)
from pellucid.concepts.joint import (
    JointMethod,
    gram_matrix,
    joint_attribution,
    sharing_rule,
)
from pellucid.errors import PellucidError
from pellucid.results import Passes, Provenance, Receipt, library_versions
from pellucid.statistics import correct

CORRELATED = 0.5
"""Cosine between CAVs from which a note says that they share evidence."""


@dataclass(frozen=True, eq=False)
class VisualTCAV:
    """Explains images by concepts (De Santis et al., 2024), with the published score and a signed one beside it.

    The published score is always computed as published: logits, zero baseline, 50 steps of the trapezoid rule, CAVs as
    they are. Baseline, targets other than logits and refinement concern the signed contribution.

    Attributes:
        view: `classifier.at(layer)`.
        cavs: concepts, fitted at this layer of this classifier.
        baseline: where the path of the signed contribution starts: "zero"; "negatives", the mean activation of the
            images without the concepts, which lies where activations do; or a tensor that broadcasts to (C, h, w).
        tolerance: relative completeness gap above which steps are doubled; None for never.
        max_steps: where that doubling ends.
        permutations: relabelings for the p-values; 0 for none.
        null: what is relabeled, see `null_directions`.
        correction: how p-values are adjusted for their number, a name from `CORRECTIONS`.
        joint: how the joint attribution shares evidence out, "least_squares" or "shapley".
        seed: of the relabelings.
        max_batch: most rows (images x steps) that go through the network at once.
        max_bytes: most bytes that the tensors of one pass may take; None for no bound.

    Raises:
        PellucidError: CAVs that do not belong to the view, or an option outside its range.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cav = pl.concepts.fit_cav(view, bright + 2, dark, name="bright")
        >>> explanation = VisualTCAV(view, [cav], permutations=9)(bright[:2], targets=1)
        >>> tuple(explanation.reference.shape), tuple(explanation.p_values.shape)
        ((2, 1, 1), (2, 1, 1))
    """

    view: View
    cavs: Sequence[CAV]
    baseline: Literal["zero", "negatives"] | Tensor = "zero"
    tolerance: float | None = 0.02
    max_steps: int = 400
    permutations: int = 199
    null: Null = "centered"
    correction: str = "benjamini_hochberg"
    joint: JointMethod = "least_squares"
    seed: int = 0
    max_batch: int = 16
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        check_cavs(self.view, self.cavs)
        flattened = [cav.name for cav in self.cavs if not cav.is_pooled]
        if flattened:
            raise PellucidError(
                f"{', '.join(flattened)}: fitted to flattened activations, which have no concept map; use tcav"
            )
        correct(torch.ones(1), self.correction)
        _ = self._sharing_rule  # refuses an unknown method, and too many concepts
        if isinstance(self.baseline, str) and self.baseline not in ("zero", "negatives"):
            raise PellucidError(f"unknown baseline {self.baseline!r}: zero, negatives or a tensor")
        if self.null not in ("centered", "relabel"):
            raise PellucidError(f"unknown null {self.null!r}: centered or relabel")
        if self.permutations < 0 or self.max_batch < 1 or (self.tolerance is not None and not self.tolerance > 0):
            raise PellucidError(
                f"expected permutations >= 0, max_batch >= 1 and tolerance > 0, not {self.permutations}, "
                f"{self.max_batch} and {self.tolerance}"
            )

    def __call__(self, images: Tensor, targets: TargetLike = None) -> ConceptExplanation:
        """Explain images, each on its own.

        Args:
            images: (N, C, H, W) in the classifier's own input space.
            targets: class index or name; a list of them (T targets for every image); a tensor (N,) or (N, T), image
                by image; a `Target` with another output than the logit; None for the three most likely classes. A
                network with one logit has two classes: 0 or its name, and 1 or "not " and its name.

        Returns:
            Maps, scores and statuses of N images, D concepts and T targets.

        Raises:
            TargetError: no such class.
            ModelError: NaN or infinite activations or logits.
        """
        return self.explain(images, targets)

    def explain(self, images: Tensor, targets: TargetLike = None, *, resample: bool = False) -> ConceptExplanation:
        """Explain images as calling this does, with more about the CAVs.

        Args:
            images: as in `__call__`.
            targets: as in `__call__`.
            resample: add the scores under the bootstrap resamples of the CAVs, for `ConceptExplanation.interval`.
        """
        return explain_layers([self], images, targets, resample=resample)[0]

    def _gather(self, images: Tensor, targets: TargetLike, budget: BatchBudget, activation: Activation) -> Evidence:
        return gather_evidence(
            self.view,
            images,
            targets,
            baseline=self._baseline,
            tolerance=self.tolerance,
            max_steps=self.max_steps,
            budget=budget,
            activation=activation,
        )

    @property
    def options(self) -> dict[str, object]:
        """Every option with its value; a tensor baseline by its shape and mean."""
        options = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("view", "cavs")}
        if isinstance(self.baseline, Tensor):
            options["baseline"] = f"tensor {tuple(self.baseline.shape)}, mean {float(self.baseline.mean()):.6g}"
        return options

    @cached_property
    def _directions(self) -> Tensor:
        """(D, C)."""
        return torch.stack([cav.direction for cav in self.cavs])

    @cached_property
    def _nulls(self) -> list[Tensor]:
        """(P, C) for each concept."""
        return [null_directions(cav, self.permutations, self.seed, self.null) for cav in self.cavs]

    @cached_property
    def _baseline(self) -> Tensor | None:
        """What broadcasts to the activation, or None for zeros."""
        if isinstance(self.baseline, Tensor):
            return self.baseline
        if self.baseline == "zero":
            return None
        means = torch.stack([cav.negative_features.mean(0) for cav in self.cavs])
        if not torch.allclose(means, means[:1].expand_as(means)):
            raise PellucidError(
                "the CAVs were fitted against different negatives, which have no common mean; give baseline= as a "
                "tensor, or fit the CAVs together with fit_cavs"
            )
        return means[0, :, None, None]

    @cached_property
    def _sharing_rule(self) -> Tensor:
        return sharing_rule(gram_matrix(self._directions), self.joint)

    def _score(self, evidence: Evidence, resample: bool) -> ConceptExplanation:
        """Maps and scores of all concepts from the evidence that they share."""
        activation, path, values = evidence.activation, evidence.path, evidence.path.values
        directions = self._directions.to(activation)
        maps, negative_maps = compute_concept_maps(activation, self.cavs)
        scores = DirectionScores(
            reference_attribution(activation, evidence.reference, directions, maps, evidence.class_weights),
            signed_contribution(activation, values, directions, maps),
        )
        positive = signed_contribution(activation, values.relu(), directions, maps)
        status_codes, signed_status_codes = find_statuses(evidence, self.cavs, maps, scores, self.tolerance)
        return ConceptExplanation(
            cavs=tuple(self.cavs),
            targets=evidence.labels,
            maps=maps,
            negative_maps=negative_maps,
            reference=scores.reference,
            signed=scores.signed,
            positive=positive,
            negative=scores.signed - positive,
            joint=joint_attribution(path.difference, path.mean, directions, path.delta, self._sharing_rule),
            status_codes=status_codes,
            signed_status_codes=signed_status_codes,
            class_weights=evidence.class_weights,
            scores=evidence.scores,
            delta=path.delta,
            gap=path.relative_gap,
            reference_gap=evidence.reference_gap,
            steps=path.steps,
            positive_mass=values.relu().sum((2, 3, 4)),
            negative_mass=-(-values).relu().sum((2, 3, 4)),
            nulls=self._null_scores(evidence) if self.permutations else None,
            resamples=self._resampled_scores(evidence) if resample else None,
            notes=self._notes(activation, hypotheses=scores.reference[0].numel()),
            provenance=Provenance(
                model=self.view.classifier.name,
                layers=(self.view.layer,),
                method="VisualTCAV",
                options=self.options,
                seeds={"permutations": self.seed},
                versions=library_versions(),
            ),
            receipt=Receipt(passes=evidence.passes),
        )

    def _null_scores(self, evidence: Evidence) -> DirectionScores:
        """Scores of relabeled images' directions under the concept's own emblems."""
        each = [
            score_directions(evidence, null, *cav.emblems) for cav, null in zip(self.cavs, self._nulls, strict=True)
        ]
        return DirectionScores.stack(each)

    def _resampled_scores(self, evidence: Evidence) -> DirectionScores:
        """Scores of each CAV's bootstrap resamples under their own emblems."""
        return DirectionScores.stack(
            [score_directions(evidence, cav.resamples, *cav.resample_emblems.T) for cav in self.cavs]
        )

    def _notes(self, activation: Tensor, hypotheses: int) -> tuple[str, ...]:
        notes = [remark for cav in self.cavs for remark in cav.remarks]
        if activation.shape[2:] == (1, 1):
            notes.append(f"layer {self.view.layer!r} has no spatial extent: a concept map is one number per image")
        smallest = hypotheses / (1 + self.permutations)
        if self.permutations and self.correction in ("holm", "bonferroni") and smallest > 0.05:
            notes.append(
                f"{self.permutations} permutations cannot make {hypotheses} p-values adjusted by {self.correction} "
                f"fall below {min(smallest, 1.0):.2g}: raise permutations, or adjust with benjamini_hochberg"
            )
        gram = gram_matrix(self._directions)
        notes += [
            f"{self.cavs[a].name} and {self.cavs[b].name} are correlated (cosine {float(gram[a, b]):.2f}): "
            "they share evidence, so their scores must not be added up; see the joint attribution"
            for a, b in combinations(range(len(self.cavs)), 2)
            if abs(float(gram[a, b])) >= CORRELATED
        ]
        return tuple(notes)


@torch.inference_mode(False)
def explain_layers(
    explainers: Sequence[VisualTCAV], images: Tensor, targets: TargetLike = None, *, resample: bool = False
) -> list[ConceptExplanation]:
    """Explain images at several layers: each goes through the network's first part once, however many layers.

    Args:
        explainers: one per layer, all of one classifier.
        images: (N, C, H, W) in the classifier's own input space.
        targets: as `VisualTCAV` takes them; None for the most likely classes, the same at all layers.
        resample: add the scores under the bootstrap resamples of the CAVs.

    Returns:
        One explanation per explainer, in their order. The pass that computes the activations at all layers is counted
        at the earliest.

    Raises:
        PellucidError: no explainers, or no images.
        TargetError: no such class.
        ModelError: NaN or infinite activations or logits.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> views = [view.classifier.at("input"), view]
        >>> cavs = pl.concepts.fit_cavs(views, {"bright": bright + 2}, dark)
        >>> explainers = [VisualTCAV(*pair, permutations=0) for pair in zip(views, cavs)]
        >>> [(result.layer, result.targets[0]) for result in explain_layers(explainers, bright[:1], targets=0)]
        [('input', ('class 0',)), ('0', ('class 0',))]
    """
    if not explainers:
        raise PellucidError("no layers to explain at: give one explainer or more")
    classes = targets.classes if isinstance(targets, Target) else targets
    count = DEFAULT_TARGETS if classes is None else count_targets(classes)
    budgets = [
        BatchBudget(item.view, images[:1], targets=count, max_batch=item.max_batch, max_bytes=item.max_bytes)
        for item in explainers
    ]
    views = [item.view for item in explainers]
    together = _join_views(views)
    parts: list[list[ConceptExplanation]] = [[] for _ in explainers]
    for batch in image_batches(budgets, images, targets, differentiate=True):
        target = batch.target
        if together is None:
            activations = [view.activation(batch.images) for view in views]
        else:
            activations = together.activations(batch.images)
        for explainer, activation, budget, part in zip(explainers, activations, budgets, parts, strict=True):
            evidence = explainer._gather(batch.images, target, budget, activation)
            part.append(explainer._score(evidence, resample))
            target = evidence.target
    joined = [ConceptExplanation.join(part) for part in parts]
    runs = (1,) * len(views) if together is None else together.prefix_passes
    shared = [Passes(prefix_forward=len(images) * n * rows_per_image(v)[0]) for n, v in zip(runs, views, strict=True)]
    return [
        explanation.add_passes(budget.passes + cost)
        for explanation, budget, cost in zip(joined, budgets, shared, strict=True)
    ]


def _join_views(views: Sequence[View]) -> MultiView | None:
    """Layers that one pass computes together; None for views of grid settings, which are run one by one."""
    layers = [view for view in views if isinstance(view, LayerView)]
    if len(layers) < len(views) or len({id(view.classifier) for view in layers}) != 1:
        return None
    return layers[0].classifier.at_layers(layers)
