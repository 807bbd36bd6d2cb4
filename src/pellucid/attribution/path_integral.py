"""The one path integral: gradients of a case's scores, averaged over the straight line from a baseline."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution.cases import Case
from pellucid.errors import PellucidError
from pellucid.shapes import Float, Int

Quadrature = Literal["gauss_legendre", "trapezoid", "midpoint", "left", "right"]
_NESTED = ("trapezoid", "left", "right")
"""Rules whose nodes are among those of twice the steps; the new ones are the midpoint rule's."""


@cache
def quadrature_nodes(steps: int, rule: Quadrature = "gauss_legendre") -> tuple[Tensor, Tensor]:
    """Nodes and weights that integrate over [0, 1].

    Args:
        steps: number of nodes; for "trapezoid" the number of intervals, so that there are steps + 1 nodes.
        rule: quadrature rule.

    Returns:
        (nodes, weights), float64, weights summing to 1.

    Raises:
        PellucidError: no steps, or an unknown rule.

    Example:
        >>> nodes, weights = quadrature_nodes(2, "trapezoid")
        >>> nodes.tolist(), weights.tolist()
        ([0.0, 0.5, 1.0], [0.25, 0.5, 0.25])
    """
    if steps < 1:
        raise PellucidError(f"integrated gradients need at least one step, not {steps}")
    if rule == "gauss_legendre":
        nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(steps))
        return (nodes + 1) / 2, weights / 2
    if rule == "trapezoid":
        weights = torch.full((steps + 1,), 1 / steps, dtype=torch.float64)
        weights[[0, -1]] /= 2
        return torch.linspace(0, 1, steps + 1, dtype=torch.float64), weights
    offsets = {"midpoint": 0.5, "left": 0.0, "right": 1.0}
    if rule not in offsets:
        raise PellucidError(f"unknown quadrature {rule!r}: gauss_legendre, trapezoid, midpoint, left or right")
    nodes = (torch.arange(steps, dtype=torch.float64) + offsets[rule]) / steps
    return nodes, torch.full((steps,), 1 / steps, dtype=torch.float64)


@dataclass(frozen=True, eq=False, kw_only=True)
class PathIntegral:
    """Gradients of the scores, averaged over the straight line from a baseline to the activation.

    Attributes:
        mean: (N, T, C, h, w) mean gradient; with `sum_channels` (N, T, h, w), the mean of gradient x difference summed
            over channels, which keeps C times less.
        baseline: (N, C, h, w) where the line starts.
        difference: (N, C, h, w) activation minus baseline.
        delta: (N, T) score minus the score at the baseline.
        baseline_logits: (N, K) or (N, heads, K).
        steps: (N,) steps of the rule; 0 where the gradient is the same all along the line.
        quadrature: the rule.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> case = pl.attribution.Case(view, torch.rand(2, 1, 32, 32), "7")
    >>> path = integrate_path(case, torch.zeros(()), steps=4)
    >>> path.values.shape, path.steps.tolist()
    (torch.Size([2, 1, 64, 8, 8]), [4, 4])
    """

    mean: Float[Tensor, "N T ..."]
    baseline: Float[Tensor, "N C h w"]
    difference: Float[Tensor, "N C h w"]
    delta: Float[Tensor, "N T"]
    baseline_logits: Float[Tensor, "N ..."]
    steps: Int[Tensor, " N"]
    quadrature: Quadrature

    @property
    def values(self) -> Tensor:
        """Integrated gradients, signed, in the unit of the score: (N, T, C, h, w), or (N, T, h, w) over channels."""
        return self.mean if self._is_summed else self.mean * self.difference[:, None]

    @property
    def relative_gap(self) -> Float[Tensor, "N T"]:
        """Completeness gap (N, T): |sum of the integrated gradients - delta| / |delta|; 0 where both are 0."""
        if self._is_summed:
            total = self.mean.sum((2, 3))
        else:
            total = torch.einsum("ntchw,nchw->nt", self.mean, self.difference)
        gap = (total - self.delta).abs()
        return torch.where(gap == 0, 0.0, gap / self.delta.abs())

    @property
    def _is_summed(self) -> bool:
        return self.mean.ndim == self.difference.ndim


def integrate_path(
    case: Case,
    baseline: Tensor,
    *,
    steps: int,
    quadrature: Quadrature = "trapezoid",
    tolerance: float | None = None,
    max_steps: int = 400,
    sum_channels: bool = False,
) -> PathIntegral:
    """Integrate the gradients of a case's scores from a baseline to its activation.

    Where the score is an affine function of the activation one gradient gives the exact integral.

    Args:
        case: images with targets.
        baseline: anything that broadcasts to the activation (N, C, h, w).
        steps: nodes of the rule; of "trapezoid" intervals, so that there are steps + 1 nodes, ends included.
        quadrature: "gauss_legendre", "trapezoid", "midpoint", "left" or "right".
        tolerance: relative completeness gap above which steps are doubled, image by image; None for never.
        max_steps: where that doubling ends.
        sum_channels: keep gradient x difference summed over channels in place of the mean gradient; memory then does
            not grow with the channels.

    Returns:
        The mean gradient, the difference, and how well they add up.

    Raises:
        PellucidError: no steps, or an unknown rule.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> case = pl.attribution.Case(view, torch.rand(2, 1, 32, 32), "7")
    >>> integrate_path(case, torch.zeros(()), steps=4, sum_channels=True).values.shape
    torch.Size([2, 1, 8, 8])
    """
    start = baseline.to(case.activation).expand(case.activation.shape)
    difference = case.activation - start
    with torch.no_grad():
        parts = torch.split(case.rows, case.budget.rows("forward"))
        baseline_logits = torch.cat([case.logits(start[rows], rows) for rows in parts])
    if case.is_affine:
        steps = 0
        mean = (difference[:, None] * case.gradients).sum(2) if sum_channels else case.gradients
    else:
        shape = (len(case), case.target_count, *difference.shape[2 if sum_channels else 1 :])
        mean = difference.new_zeros(shape)
    path = PathIntegral(
        mean=mean,
        baseline=start,
        difference=difference,
        delta=case.scores - case.target.scores(baseline_logits),
        baseline_logits=baseline_logits,
        steps=torch.full_like(case.rows, steps),
        quadrature=quadrature,
    )
    if steps:
        path = replace(path, mean=_integrate(case, path, case.rows, *quadrature_nodes(steps, quadrature)))
    return path if tolerance is None else refine_path(case, path, tolerance, max_steps)


def refine_path(case: Case, path: PathIntegral, tolerance: float, max_steps: int) -> PathIntegral:
    """Double the steps of the images whose relative completeness gap is above `tolerance`, up to `max_steps`.

    The nodes of "trapezoid", "left" and "right" are kept: each doubling costs the new midpoints only.

    Args:
        case: what the path was integrated for.
        path: from `path_integral`.
        tolerance: see `path_integral`.
        max_steps: no image gets more steps.

    Returns:
        The path with more steps; `steps` says how many each image got.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> case = pl.attribution.Case(view, torch.rand(1, 1, 32, 32), "7")
    >>> path = integrate_path(case, torch.zeros(()), steps=2)
    >>> refine_path(case, path, tolerance=1e-9, max_steps=8).steps.tolist()
    [8]
    """
    while True:
        missed = (path.relative_gap > tolerance).any(1).cpu() & (path.steps > 0) & (2 * path.steps <= max_steps)
        if not bool(missed.any()):
            return path
        # Images that miss the tolerance have been doubled together, so that they have the same number of steps.
        rows, steps = case.rows[missed], int(path.steps[missed][0])
        mean = path.mean.clone()
        if path.quadrature in _NESTED:
            mean[rows] = (mean[rows] + _integrate(case, path, rows, *quadrature_nodes(steps, "midpoint"))) / 2
        else:
            mean[rows] = _integrate(case, path, rows, *quadrature_nodes(2 * steps, path.quadrature))
        path = replace(path, mean=mean, steps=torch.where(missed, 2 * path.steps, path.steps))


def _integrate(case: Case, path: PathIntegral, images: Tensor, nodes: Tensor, weights: Tensor) -> Tensor:
    """The mean over the nodes for some of the images: (P, T, C, h, w) or (P, T, h, w), as `path.mean` is."""
    total = torch.zeros_like(path.mean)
    for rows, steps in case.perturbed_batches(len(nodes), "gradient", images):
        difference = path.difference[rows]
        points = path.baseline[rows] + nodes[steps, None, None, None].to(difference) * difference
        for target, gradient in enumerate(case.gradients_at(points, rows)):
            values = (difference * gradient).sum(1) if path._is_summed else gradient
            total[:, target] += case.sum_by_image(values, rows, weights[steps])
    return total[images]
