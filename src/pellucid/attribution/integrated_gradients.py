"""The one path integral: gradients of a case's scores, averaged over the straight line from a baseline.

Integrated Gradients is that integral at any layer, with its completeness gap reported and, on request, driven below a
tolerance.
"""

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution.cases import Case
from pellucid.attribution.method import Attribution, Method
from pellucid.attribution.view import View
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
        path: from `integrate_path`.
        tolerance: see `integrate_path`.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegratedGradients(Method):
    """(activation - baseline) x mean gradient on the straight line between them (Sundararajan et al., 2017).

    Where the logits are affine in the activation and the target is linear in the logits, the gradient is the same all
    along the line and one backward pass gives the exact integral.

    Attributes:
        steps: nodes of the quadrature.
        baseline: number or tensor to start from: (C, h, w), or anything that broadcasts to it, for all images, or
            (N, C, h, w), image by image. Zero is the mean-grey image at the input of the usual normalization, and
            no activation elsewhere.
        quadrature: "gauss_legendre", "trapezoid", "midpoint", "left" or "right".
        tolerance: double the steps of an image until |gap| <= tolerance x |score - score at the baseline|.
        max_steps: where that doubling ends; a note says for which images the tolerance was not met.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> explanation = pl.attribution.IntegratedGradients(steps=10, tolerance=0.05)(view, torch.rand(2, 1, 32, 32), "7")
    >>> explanation.values.shape, explanation.gap.shape
    (torch.Size([2, 1, 8, 8]), torch.Size([2]))
    """

    steps: int = 20
    baseline: float | Tensor = 0.0
    quadrature: Quadrature = "gauss_legendre"
    tolerance: float | None = None
    max_steps: int = 320

    def __post_init__(self) -> None:
        super().__post_init__()
        quadrature_nodes(self.steps, self.quadrature)
        if self.tolerance is not None and not self.tolerance > 0:
            raise PellucidError(f"tolerance is {self.tolerance}; it must be above 0, or None for no refinement")

    def __eq__(self, other: object) -> bool:
        """Same options; a tensor baseline equals itself alone."""
        return type(other) is type(self) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        values = (getattr(self, item.name) for item in fields(self))
        return tuple(id(value) if isinstance(value, Tensor) else value for value in values)

    def options(self) -> dict[str, object]:
        """Every option with its value; a tensor baseline by its shape and mean."""
        options = super().options()
        if isinstance(self.baseline, Tensor):
            options["baseline"] = f"tensor {tuple(self.baseline.shape)}, mean {float(self.baseline.mean()):.6g}"
        return options

    def needs_gradients(self, view: View) -> bool:
        """Where the logits are affine in the activation."""
        return view.is_affine

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        path = integrate_path(
            case,
            self._baseline(case),
            steps=self.steps,
            quadrature=self.quadrature,
            tolerance=self.tolerance,
            max_steps=self.max_steps,
            sum_channels=True,
        )
        return Attribution(path.values, path.delta, self._notes(path))

    def _notes(self, path: PathIntegral) -> dict[int, tuple[str, ...]]:
        """Remarks on the images whose tolerance was not met."""
        if self.tolerance is None:
            return {}
        gaps = path.relative_gap.amax(1).tolist()
        return {
            image: (
                f"completeness gap {gap:.2g} of the score's change after {steps} steps, above the tolerance "
                f"{self.tolerance:g}",
            )
            for image, (gap, steps) in enumerate(zip(gaps, path.steps.tolist(), strict=True))
            if steps and gap > self.tolerance
        }

    def _baseline(self, case: Case) -> Tensor:
        """The baseline of every image (N, C, h, w)."""
        activation = case.activation
        baseline = torch.as_tensor(self.baseline, dtype=activation.dtype, device=activation.device).detach()
        if baseline.ndim == 4 and len(baseline) == case.total:
            baseline = baseline[case.offset : case.offset + len(case)]
        elif baseline.ndim == 4 and len(baseline) > 1:
            raise PellucidError(f"baselines for {len(baseline)} images were given with {case.total} images")
        try:
            return baseline.expand(activation.shape)
        except RuntimeError as error:
            raise PellucidError(
                f"a baseline of shape {tuple(baseline.shape)} does not fit activations {tuple(activation.shape)}"
            ) from error
