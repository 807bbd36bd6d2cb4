"""Concept deletion and insertion: how a score changes when a concept is removed from a layer, or put back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution import BatchLimits, Case, Passes, TargetLike, View, iterate_cases
from pellucid.concepts import CAV, check_cavs, project_activation
from pellucid.errors import PellucidError
from pellucid.statistics import spearman_matrix


@dataclass(frozen=True, eq=False)
class ConceptCurves:
    """Scores of N images and T targets while each of D concepts is removed from the layer.

    Attributes:
        concepts: D names.
        targets: N tuples of T texts.
        fractions: (S + 1,) t, from 0 to 1.
        scores: (N, D, T, S + 1) float64, the score at F - t D: what deletion shows.
        clamped: (N,) whether what fell below 0 was set to 0.
        passes: what it cost.
    """

    concepts: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]
    fractions: Tensor
    scores: Tensor
    clamped: Tensor
    passes: Passes

    @property
    def insertion(self) -> Tensor:
        """(N, D, T, S + 1) the score at F - (1 - t) D minus that at F - D: the same points in the other order."""
        return self.scores.flip(-1) - self.scores[..., -1:]

    @property
    def deletion_area(self) -> Tensor:
        """(N, D, T) area under the scores, in their unit: small where the concept counts for the target."""
        return torch.trapezoid(self.scores, self.fractions)

    @property
    def insertion_area(self) -> Tensor:
        """(N, D, T) area under `insertion`: large where the concept counts for the target."""
        return torch.trapezoid(self.insertion, self.fractions)


def remove_concepts(
    view: View,
    images: Tensor,
    cavs: Sequence[CAV],
    target: TargetLike = None,
    *,
    steps: int = 10,
    clamp: bool | None = None,
    max_batch: int = 16,
    max_bytes: int | None = None,
) -> ConceptCurves:
    """Remove concepts from an activation step by step, each on its own, and follow the scores.

    With F the activation and p the CAV, alpha_ij = <F_ij, p> / |p|^2 says how much of the concept a cell holds, and
    beta, its mean over all cells of the images without the concept, how much a cell holds anyway. What is taken out
    is D_ij = ReLU(alpha_ij - beta) p. The images go through the part before the layer once.

    Args:
        view: the classifier seen from the layer of the CAVs.
        images: (N, C, H, W).
        cavs: D concepts, fitted to pooled features.
        target: as attribution methods take it.
        steps: S equal steps of t.
        clamp: set what falls below 0 to 0, as behind a ReLU; None does so for the images whose own activation is
            nowhere negative.
        max_batch: most rows that go through the network at once.
        max_bytes: most bytes that the tensors of one pass may take; None for no bound.

    Returns:
        Scores (N, D, T, S + 1) along the way, and the areas under them.

    Raises:
        PellucidError: no images, or a CAV of another layer, of flattened features, or of length zero.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cav = pl.concepts.fit_cav(view, bright + 2, dark)
        >>> curves = remove_concepts(view, bright[:2], [cav], target=1, steps=4)
        >>> tuple(curves.scores.shape), tuple(curves.deletion_area.shape)
        ((2, 1, 1, 5), (2, 1, 1))
    """
    check_cavs(view, cavs)
    if steps < 1 or not len(images):
        raise PellucidError(f"{steps} steps and {len(images)} images; expected at least 1 of each")
    limits = BatchLimits(max_batch=max_batch, max_bytes=max_bytes)
    fractions = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    labels: list[tuple[str, ...]] = []
    scores, clamped, passes = [], [], Passes()
    with torch.no_grad():
        for case in iterate_cases(view, images, target, [limits]):
            is_clamped = case.activation.flatten(1).amin(1) >= 0 if clamp is None else torch.full((len(case),), clamp)
            scores.append(_follow(case, cavs, fractions, is_clamped.to(case.activation.device)).cpu())
            clamped.append(is_clamped.cpu())
            labels += case.target.labels
            passes += case.claim_passes()
    names = tuple(cav.name for cav in cavs)
    return ConceptCurves(names, tuple(labels), fractions, torch.cat(scores), torch.cat(clamped), passes)


def concept_amounts(activation: Tensor, cav: CAV) -> Tensor:
    """Measure how much more of a concept each cell holds than cells of images without it: ReLU(alpha - beta).

    Args:
        activation: (N, C, h, w).
        cav: the concept; one cell that is `direction` itself holds 1 - beta.

    Returns:
        (N, h, w), >= 0, in lengths of the CAV.

    Raises:
        PellucidError: a CAV of flattened features, or of length zero.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cav = pl.concepts.fit_cav(view, bright + 2, dark)
        >>> tuple(concept_amounts(view.activation(bright), cav).shape)
        (12, 6, 6)
    """
    squared = float(cav.direction.double().square().sum())
    if not cav.is_pooled or squared == 0:
        what = "has length zero" if cav.is_pooled else "was fitted to flattened features"
        raise PellucidError(f"CAV {cav.name!r} {what}: there is nothing to remove from a cell")
    usual = float(cav.negative_features.double().mean(0) @ cav.direction.double()) / squared
    return (project_activation(activation, cav.direction) / squared - usual).relu()


def deletion_rank_correlation(attributions: Tensor, curves: ConceptCurves) -> Tensor:
    """Correlate the concepts' attributions with their deletion areas, by rank (Spearman).

    Args:
        attributions: (N, D, T), such as the `reference` or `signed` of an explanation of the same images.
        curves: from `remove_concepts`.

    Returns:
        (N, T) float64 in [-1, 1]. -1 is right: the more a concept counts, the less is left without it. NaN
        with one concept, or where all are alike.

    Raises:
        PellucidError: attributions of another shape than the areas.

    Example:
        >>> areas = torch.tensor([3.0, 1.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 2).double()
        >>> ends, unclamped = torch.tensor([0.0, 1.0]).double(), torch.tensor([False])
        >>> curves = ConceptCurves(("a", "b"), (("cat",),), ends, areas, unclamped, Passes())
        >>> round(deletion_rank_correlation(torch.tensor([0.1, 0.9]).reshape(1, 2, 1), curves).item(), 6)
        -1.0
    """
    areas = curves.deletion_area
    if attributions.shape != areas.shape:
        raise PellucidError(
            f"attributions {tuple(attributions.shape)} and areas {tuple(areas.shape)}; expected (N, D, T) of the same "
            "images, concepts and targets"
        )
    correlations = np.full((areas.shape[0], areas.shape[2]), np.nan)
    for n, t in np.ndindex(*correlations.shape):
        pair = {"attribution": attributions[n, :, t].double().cpu().numpy(), "area": areas[n, :, t].numpy()}
        correlations[n, t] = spearman_matrix(pair)[0, 1]
    return torch.from_numpy(correlations)


def _follow(case: Case, cavs: Sequence[CAV], fractions: Tensor, clamped: Tensor) -> Tensor:
    """Scores (N, D, T, S + 1) of one case; those at t = 0 are known."""
    steps, activation = len(fractions) - 1, case.activation.as_subclass(Tensor)
    amounts = torch.stack([concept_amounts(activation, cav) for cav in cavs], dim=1)  # (N, D, h, w)
    directions = torch.stack([cav.direction for cav in cavs]).to(activation)
    scores = case.scores.new_zeros(len(case), len(cavs), steps + 1, case.target_count, dtype=torch.float64)
    scores[:, :, 0] = case.scores[:, None].double()
    for rows, pairs in case.perturbed_batches(len(cavs) * steps, "forward"):
        concept, step = pairs // steps, 1 + pairs % steps
        removed = fractions[step, None, None].to(activation) * amounts[rows, concept]
        points = activation[rows] - removed[:, None] * directions[concept, :, None, None]
        points = torch.where(clamped[rows, None, None, None], points.relu(), points)
        scores[rows, concept, step] = case.score(points, rows).double()
    return scores.movedim(2, 3)
