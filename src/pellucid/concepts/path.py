"""Mean gradients on a straight path in a layer's space: the integrated gradients that all concepts share."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.attribution import Case
from pellucid.attribution.integrated_gradients import quadrature_nodes

REFERENCE_STEPS = 50
"""Intervals of the trapezoid rule in Visual-TCAV's reference algorithm."""


@dataclass(frozen=True)
class PathIntegral:
    """Gradients of the scores, averaged over the straight line from a baseline to the activation.

    Attributes:
        gradient: (N, T, C, h, w) mean gradient.
        difference: (N, C, h, w) activation minus baseline.
        delta: (N, T) score minus the score at the baseline.
        baseline_logits: (N, K) or (N, heads, K).
        steps: (N,) intervals of the trapezoid rule; 0 where the gradient is the same all along the line.
    """

    gradient: Tensor
    difference: Tensor
    delta: Tensor
    baseline_logits: Tensor
    steps: Tensor

    @property
    def values(self) -> Tensor:
        """Integrated gradients (N, T, C, h, w), signed, in the unit of the score."""
        return self.gradient * self.difference[:, None]

    @property
    def gap(self) -> Tensor:
        """Relative completeness gap (N, T): |sum of the integrated gradients - delta| / |delta|; 0 where both are 0."""
        error = (torch.einsum("ntchw,nchw->nt", self.gradient, self.difference) - self.delta).abs()
        return torch.where(error == 0, 0.0, error / self.delta.abs())


def integrate_path(case: Case, baseline: Tensor, steps: int = REFERENCE_STEPS) -> PathIntegral:
    """Integrate the gradients of a case's scores from a baseline to its activation with the trapezoid rule.

    Where the score is an affine function of the activation one gradient gives the exact integral.

    Args:
        case: images with targets.
        baseline: anything that broadcasts to the activation (N, C, h, w).
        steps: intervals; there are steps + 1 nodes, ends included.
    """
    start = baseline.to(case.activation).expand(case.activation.shape)
    difference = case.activation - start
    with torch.no_grad():
        parts = torch.split(case.rows, case.budget.rows("forward"))
        baseline_logits = torch.cat([case.logits(start[rows], rows) for rows in parts])
    delta = case.scores - case.target.scores(baseline_logits)
    if case.is_affine:
        gradient, steps = case.gradients, 0
    else:
        gradient = _quadrature(case, case.rows, difference, *quadrature_nodes(steps, "trapezoid"))
    return PathIntegral(gradient, difference, delta, baseline_logits, torch.full_like(case.rows, steps))


def refine(case: Case, path: PathIntegral, tolerance: float, max_steps: int) -> PathIntegral:
    """Double the steps of the images whose completeness gap is above `tolerance`, up to `max_steps`.

    The nodes of the trapezoid rule are kept: each doubling costs the new midpoints only.
    """
    while True:
        missed = (path.gap > tolerance).any(1).cpu() & (path.steps > 0) & (2 * path.steps <= max_steps)
        if not bool(missed.any()):
            return path
        # Images that miss the tolerance have been doubled together, so that they have the same number of steps.
        rows = case.rows[missed]
        nodes, weights = quadrature_nodes(int(path.steps[missed][0]), "midpoint")
        middle = _quadrature(case, rows, path.difference, nodes, weights)
        gradient = path.gradient.clone()
        gradient[rows] = (gradient[rows] + middle) / 2
        path = replace(path, gradient=gradient, steps=torch.where(missed, 2 * path.steps, path.steps))


def _quadrature(case: Case, images: Tensor, difference: Tensor, nodes: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums over the nodes of the gradients of some of the images: (P, T, C, h, w)."""
    total = difference.new_zeros(len(case), case.target_count, *difference.shape[1:])
    for rows, chosen in case.variants(len(nodes), "gradient", images):
        remaining = (1 - nodes[chosen, None, None, None]).to(difference)
        points = case.activation[rows] - remaining * difference[rows]
        for target, gradient in enumerate(case.gradients_at(points, rows)):
            total[:, target] += case.sum_by_image(gradient, rows, weights[chosen])
    return total[images]
