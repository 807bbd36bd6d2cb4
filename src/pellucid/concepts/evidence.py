"""The evidence for classes at a layer, computed once for all concepts, and what each concept makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from pellucid.attribution import (
    BatchBudget,
    Case,
    Passes,
    PathIntegral,
    Target,
    TargetLike,
    View,
    integrate_path,
    refine_path,
    rows_per_image,
    select_heads,
)
from pellucid.classifiers import Activation
from pellucid.concepts.cav import CAV
from pellucid.concepts.concept_explanation import DirectionScores
from pellucid.concepts.concept_scores import (
    binary_class_weights,
    class_weights,
    concept_map,
    direction_weights,
    negative_concept_map,
    reference_attribution,
    signed_contribution,
)
from pellucid.concepts.status import Status, choose_statuses
from pellucid.errors import ModelError, TargetError
from pellucid.shapes import Float

DEFAULT_TARGETS = 3
"""So many most likely classes are explained when no targets are given."""

REFERENCE_STEPS = 50
"""Intervals of the trapezoid rule in Visual-TCAV's reference algorithm."""


@dataclass(frozen=True)
class Evidence:
    """N images at a layer with T targets each.

    Attributes:
        activation: (N, C, h, w).
        reference: integrated gradients (N, T, C, h, w) of the logits from zero, 50 steps: the reference algorithm's.
        reference_gap: (N, T) their relative completeness gap.
        class_weights: (N, T) in [0, 1].
        path: mean gradients of the targets from the chosen baseline, refined.
        scores: (N, T) the explained numbers.
        labels: N tuples of T texts.
        target: what was explained, default classes filled in, so that other layers can be asked for the same.
        passes: what it cost.
    """

    activation: Float[Tensor, "N C h w"]
    reference: Float[Tensor, "N T C h w"]
    reference_gap: Float[Tensor, "N T"]
    class_weights: Float[Tensor, "N T"]
    path: PathIntegral
    scores: Float[Tensor, "N T"]
    labels: tuple[tuple[str, ...], ...]
    target: Target
    passes: Passes


@torch.inference_mode(False)
def gather_evidence(
    view: View,
    images: Tensor,
    target: TargetLike,
    *,
    baseline: Tensor | None = None,
    tolerance: float | None = None,
    max_steps: int = 400,
    budget: BatchBudget | None = None,
    activation: Activation | None = None,
) -> Evidence:
    """Compute what all concepts share for a batch of images.

    Args:
        view: the classifier seen from a layer.
        images: (N, C, H, W), few: their gradients (N, T, C, h, w) are kept together.
        target: as attribution methods take it; None for the three most likely classes. A network with one logit has two
            classes: 0 or its name, and 1 or "not " and its name; None for both.
        baseline: (C, 1, 1) or anything that broadcasts to the activation; None for zeros.
        tolerance: relative completeness gap above which steps are doubled, up to `max_steps`; None for never.
        max_steps: see `tolerance`.
        budget: bounds on the rows of one pass.
        activation: of these images, where it is known; then the part before the layer is neither run nor counted.

    Returns:
        Activation, integrated gradients and class weights of N images and T targets.

    Raises:
        TargetError: no such class, or an output that a network with one logit does not have.
        ModelError: NaN or infinite activations or logits.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> evidence = gather_evidence(view, torch.rand(2, 3, 8, 8), target=[0, 1])
        >>> tuple(evidence.reference.shape), evidence.labels[0]
        ((2, 2, 4, 6, 6), ('class 0', 'class 1'))
    """
    view = select_heads(view, target)
    prefix_rows, suffix_rows = rows_per_image(view)
    passes = Passes(0 if activation is not None else len(images) * prefix_rows, len(images) * suffix_rows)
    activation = view.activation(images) if activation is None else activation
    if not bool(activation.isfinite().all()):
        raise ModelError(f"layer {view.layer!r} is NaN or infinite for these images; check weights and input")
    with torch.no_grad():
        all_logits = view.logits(activation)
    class_count = all_logits.shape[-1]
    requested = resolved = target if isinstance(target, Target) else Target(target)
    if class_count == 1:
        sides = _sides(resolved, view.classifier.class_names[0], len(images))
        requested, resolved = replace(resolved, classes=sides), replace(resolved, classes=0)
    elif resolved.classes is None and all_logits.ndim == 2:
        requested = resolved = replace(resolved, classes=all_logits.topk(min(DEFAULT_TARGETS, class_count)).indices)
    make_case = partial(Case, view, images, activation=activation, differentiate=view.is_affine)
    logit = explained = make_case(Target(resolved.classes), budget=budget)
    reference = path = integrate_path(logit, torch.zeros(()), steps=REFERENCE_STEPS)
    if baseline is not None or resolved.output != "logit" or resolved.minus is not None:
        explained = make_case(resolved, budget=logit.budget)
        path = integrate_path(explained, torch.zeros(()) if baseline is None else baseline, steps=REFERENCE_STEPS)
    if tolerance is not None:
        path = refine_path(explained, path, tolerance, max_steps)
    evidence = Evidence(
        activation=activation,
        reference=reference.values,
        reference_gap=reference.relative_gap,
        class_weights=_of_targets(class_weights(logit.all_logits, reference.baseline_logits), logit),
        path=path,
        scores=explained.scores,
        labels=explained.target.labels,
        target=requested,
        passes=passes + logit.passes + (Passes() if explained is logit else explained.passes),
    )
    return _two_sided(evidence, sides) if class_count == 1 else evidence


def compute_concept_maps(
    activation: Float[Tensor, "N C h w"], cavs: Sequence[CAV]
) -> tuple[Float[Tensor, "N D h w"], Float[Tensor, "N D h w"]]:
    """Map where each of D concepts is seen, and where its opposite is.

    Args:
        activation: (N, C, h, w) at the layer of the CAVs.
        cavs: D concepts.

    Returns:
        Concept maps and negative concept maps, (N, D, h, w) each, in [0, 1].

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cavs = pl.concepts.fit_cavs(view, {"bright": bright + 2}, dark)
        >>> maps, negative_maps = compute_concept_maps(view.activation(bright), cavs)
        >>> tuple(maps.shape)
        (12, 1, 6, 6)
    """
    directions = torch.stack([cav.direction for cav in cavs])
    low, high = torch.tensor([cav.emblems for cav in cavs]).T
    negative_low, negative_high = torch.tensor([cav.negative_emblems for cav in cavs]).T
    return (
        concept_map(activation, directions, low, high),
        negative_concept_map(activation, directions, negative_low, negative_high),
    )


def score_directions(
    evidence: Evidence, directions: Float[Tensor, "S C"], low: float | Tensor, high: float | Tensor
) -> DirectionScores:
    """Score S directions in place of a CAV.

    Args:
        evidence: of N images and T targets.
        directions: (S, C).
        low: lower emblem, a number or (S,).
        high: upper emblem, a number or (S,).

    Returns:
        Scores (N, S, T).

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> evidence = gather_evidence(view, torch.rand(2, 3, 8, 8), target=[0, 1])
        >>> tuple(score_directions(evidence, torch.eye(4), low=0.0, high=1.0).signed.shape)
        (2, 4, 2)
    """
    reference, signed = [], []
    directions = directions.to(evidence.activation)
    # Image by image: S maps of a batch would be large at early layers.
    for image, activation in enumerate(evidence.activation):
        maps = concept_map(activation, directions, low, high)
        weights = evidence.class_weights[image]
        reference.append(reference_attribution(activation, evidence.reference[image], directions, maps, weights))
        values = evidence.path.mean[image] * evidence.path.difference[image]
        signed.append(signed_contribution(activation, values, directions, maps))
    return DirectionScores(torch.stack(reference), torch.stack(signed))


def find_statuses(
    evidence: Evidence, cavs: Sequence[CAV], maps: Tensor, scores: DirectionScores, tolerance: float | None
) -> tuple[Tensor, Tensor]:
    """Find what is known against each reference score and each signed contribution.

    Args:
        evidence: of N images and T targets.
        cavs: D concepts.
        maps: (N, D, h, w) their concept maps.
        scores: (N, D, T) their scores.
        tolerance: of the completeness gap; None for none.

    Returns:
        Codes of `Status`, (N, D, T) each.
    """
    directions = torch.stack([cav.direction for cav in cavs])
    aligned = direction_weights(evidence.activation, directions, maps).any(-1)  # (N, D)
    zero = {
        Status.NOT_SEPARABLE: torch.tensor([not cav.is_separable for cav in cavs])[None, :, None],
        Status.NO_POSITIVE_DIRECTION: ~aligned[:, :, None],
        Status.EMPTY_MAP: ~maps.flatten(2).any(-1)[:, :, None],
    }
    weak = {Status.CAV_WEAK: torch.tensor([cav.is_weak for cav in cavs])[None, :, None]}
    no_weight = evidence.class_weights[:, None] == 0
    missed = evidence.path.relative_gap[:, None] > (torch.inf if tolerance is None else tolerance)
    without_reference = {Status.CLASS_WEIGHT_ZERO: no_weight, Status.NO_EVIDENCE: scores.reference == 0}
    without_signed = {Status.NO_EVIDENCE: scores.signed == 0, Status.NOT_CONVERGED: missed}
    return choose_statuses(zero | without_reference | weak), choose_statuses(zero | without_signed | weak)


def _of_targets(per_class: Tensor, case: Case) -> Tensor:
    """Numbers per class, (N, K) or (N, heads, K), for the classes of the targets: (N, T)."""
    per_class = per_class if per_class.ndim == 3 else per_class[:, None]
    first = torch.arange(len(per_class), device=per_class.device)[:, None]
    return per_class[first, case.target.heads.to(per_class.device), case.target.classes.to(per_class.device)]


def _sides(target: Target, name: str, images: int) -> Tensor:
    """For a network with one logit: 0 for the class, 1 for the other one, (N, T)."""
    if target.output != "logit" or target.minus is not None:
        raise TargetError("a network with one logit explains that logit; leave out output= and minus=")
    if isinstance(target.classes, Tensor):
        sides = target.classes.cpu().reshape(len(target.classes), -1)
    else:
        classes = [0, 1] if target.classes is None else target.classes
        names = {name.lower(): 0, f"not {name}".lower(): 1}
        listed = classes if isinstance(classes, list) else [classes]
        sides = torch.tensor([[names.get(str(k).lower(), k if isinstance(k, int) else -1) for k in listed]])
    if not bool(((sides == 0) | (sides == 1)).all()) or len(sides) not in (1, images):
        raise TargetError(
            f"no class {target.classes!r}; with one logit the classes are 0 or {name!r}, 1 or 'not {name}'"
        )
    return sides.expand(images, -1)


def _two_sided(evidence: Evidence, sides: Tensor) -> Evidence:
    """Evidence for the one logit as evidence for the class (side 0) and against it (side 1)."""
    on_device = sides.to(evidence.activation.device)
    signs = 1.0 - 2.0 * on_device
    wide = signs[:, :, None, None, None]
    name = evidence.labels[0][0]
    return replace(
        evidence,
        reference=evidence.reference * wide,
        reference_gap=evidence.reference_gap.expand_as(signs),
        class_weights=binary_class_weights(evidence.reference[:, 0]).gather(1, on_device),
        path=replace(evidence.path, mean=evidence.path.mean * wide, delta=evidence.path.delta * signs),
        scores=evidence.scores * signs,
        labels=tuple(tuple(f"not {name}" if side else name for side in row) for row in sides.tolist()),
    )
