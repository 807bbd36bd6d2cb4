"""Integrated Gradients at any layer, with the completeness gap reported and, on request, driven below a tolerance."""

from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution.case import Case
from pellucid.attribution.gradient import sum_channels
from pellucid.attribution.method import Attribution, Method
from pellucid.attribution.view import View
from pellucid.errors import PellucidError

Quadrature = Literal["gauss_legendre", "trapezoid", "midpoint", "left", "right"]


@cache
def quadrature_nodes(steps: int, rule: Quadrature = "gauss_legendre") -> tuple[Tensor, Tensor]:
    """Nodes and weights that integrate over [0, 1].

    Args:
        steps: number of nodes; for "trapezoid" the number of intervals, so that there are steps + 1 nodes.
        rule: quadrature rule.

    Returns:
        (nodes, weights), float64, weights summing to 1.
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
        baseline = self._baseline(case)
        difference = case.activation - baseline
        start = [case.score(baseline[rows], rows) for rows in torch.split(case.rows, case.budget.rows("forward"))]
        delta = case.scores - torch.cat(start)
        if case.is_affine:
            return Attribution(sum_channels(difference[:, None] * case.gradients), delta)
        values, notes = self._refine(case, baseline, difference, delta)
        return Attribution(values, delta, notes)

    def _baseline(self, case: Case) -> Tensor:
        """The baseline of every image (N, C, h, w)."""
        activation = case.activation
        baseline = torch.as_tensor(self.baseline, dtype=activation.dtype, device=activation.device).detach()
        if baseline.ndim == 4 and len(baseline) == case.total:
            baseline = baseline[case.first : case.first + len(case)]
        elif baseline.ndim == 4 and len(baseline) > 1:
            raise PellucidError(f"baselines for {len(baseline)} images were given with {case.total} images")
        try:
            return baseline.expand(activation.shape)
        except RuntimeError as error:
            raise PellucidError(
                f"a baseline of shape {tuple(baseline.shape)} does not fit activations {tuple(activation.shape)}"
            ) from error

    def _refine(
        self, case: Case, baseline: Tensor, difference: Tensor, delta: Tensor
    ) -> tuple[Tensor, dict[int, tuple[str, ...]]]:
        """Maps (N, T, h, w), and remarks on the images whose tolerance was not met."""
        values = difference.new_zeros(*delta.shape, *difference.shape[2:])
        steps, open_images = self.steps, case.rows
        while True:
            values[open_images] = self._integrate(case, baseline, difference, open_images, steps)
            if self.tolerance is None:
                return values, {}
            gap = (values.sum((2, 3)) - delta).abs()
            missed = (gap > self.tolerance * delta.abs()).any(1).cpu()
            open_images = missed.nonzero().flatten()
            if not len(open_images) or 2 * steps > self.max_steps:
                break
            steps *= 2
        worst = torch.where(gap == 0, 0.0, gap / delta.abs()).amax(1).tolist()
        text = "completeness gap {:.2g} of the score's change after {} steps, above the tolerance {:g}"
        return values, {i: (text.format(worst[i], steps, self.tolerance),) for i in open_images.tolist()}

    def _integrate(self, case: Case, baseline: Tensor, difference: Tensor, images: Tensor, steps: int) -> Tensor:
        """Maps (P, T, h, w) of some of the images."""
        nodes, weights = quadrature_nodes(steps, self.quadrature)
        values = difference.new_zeros(len(case), case.target_count, *difference.shape[2:])
        for rows, chosen in case.variants(len(nodes), "gradient", images):
            way, at = difference[rows], nodes[chosen, None, None, None].to(difference)
            for target, gradient in enumerate(case.gradients_at(baseline[rows] + at * way, rows)):
                values[:, target] += case.sum_by_image((way * gradient).sum(1), rows, weights[chosen])
        return values[images]
