"""Integrated Gradients at any layer, with the completeness gap reported and, on request, driven below a tolerance."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution.case import Case, View
from pellucid.attribution.gradient import sum_channels
from pellucid.attribution.method import Attribution, Method
from pellucid.errors import PellucidError

__all__ = ["IntegratedGradients", "quadrature_nodes"]

Quadrature = Literal["gauss_legendre", "trapezoid", "midpoint", "left", "right"]


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
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    if rule == "trapezoid":
        weights = torch.full((steps + 1,), 1 / steps, dtype=torch.float64)
        weights[[0, -1]] /= 2
        return torch.linspace(0, 1, steps + 1, dtype=torch.float64), weights
    offsets = {"midpoint": 0.5, "left": 0.0, "right": 1.0}
    if rule not in offsets:
        raise PellucidError(f"unknown quadrature {rule!r}: gauss_legendre, trapezoid, midpoint, left or right")
    nodes = (torch.arange(steps, dtype=torch.float64) + offsets[rule]) / steps
    return nodes, torch.full((steps,), 1 / steps, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(Method):
    """(activation - baseline) x mean gradient on the straight line between them (Sundararajan et al., 2017).

    Where the logits are affine in the activation and the target is linear in the logits, the gradient is the same all
    along the line and one backward pass gives the exact integral.

    Attributes:
        steps: nodes of the quadrature.
        baseline: number or tensor ((C, h, w), or anything that broadcasts to the activation) to start from. Zero is the
            mean-grey picture at the input of the usual normalisation, and no activation elsewhere.
        quadrature: "gauss_legendre", "trapezoid", "midpoint", "left" or "right".
        tolerance: double the steps of a picture until |gap| <= tolerance x |score - score at the baseline|.
        max_steps: where that doubling ends; a note says for which pictures the tolerance was not met.
    """

    steps: int = 20
    baseline: float | Tensor = field(default=0.0, compare=False)
    quadrature: Quadrature = "gauss_legendre"
    tolerance: float | None = None
    max_steps: int = 320

    def __post_init__(self) -> None:
        super().__post_init__()
        quadrature_nodes(self.steps, self.quadrature)

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
        delta = case.scores - torch.cat([case.score(baseline[rows], rows) for rows in case.rows.split(self.max_batch)])
        if case.view.is_affine and case.target.is_linear:
            return Attribution(sum_channels(difference[:, None] * case.gradients), delta)
        values = torch.empty(len(case), case.target_count, *case.activation.shape[2:], device=difference.device)
        notes = {}
        for picture in range(len(case)):
            values[picture], missed = self._integrate(case, picture, baseline[picture], delta[picture])
            if missed is not None:
                notes[picture] = (missed,)
        return Attribution(values, delta, notes)

    def _baseline(self, case: Case) -> Tensor:
        baseline = torch.as_tensor(self.baseline, dtype=torch.float32, device=case.activation.device)
        try:
            return baseline.expand(case.activation.shape)
        except RuntimeError as error:
            raise PellucidError(
                f"a baseline of shape {tuple(baseline.shape)} does not fit activations {tuple(case.activation.shape)}"
            ) from error

    def _integrate(self, case: Case, picture: int, baseline: Tensor, delta: Tensor) -> tuple[Tensor, str | None]:
        """Maps (T, h, w) of one picture, and a remark if the tolerance was not met."""
        steps = self.steps
        while True:
            values = self._quadrature_sum(case, picture, baseline, steps)
            gap = (values.sum((1, 2)) - delta).abs()
            if self.tolerance is None or bool((gap <= self.tolerance * delta.abs()).all()):
                return values, None
            if 2 * steps > self.max_steps:
                worst = float((gap / delta.abs()).max())
                return values, f"completeness gap {worst:.2g} of delta after {steps} steps, above {self.tolerance:g}"
            steps *= 2

    def _quadrature_sum(self, case: Case, picture: int, baseline: Tensor, steps: int) -> Tensor:
        nodes, weights = quadrature_nodes(steps, self.quadrature)
        difference = case.activation[picture] - baseline
        mean = torch.zeros(case.target_count, *difference.shape, device=difference.device)
        for chunk in torch.arange(len(nodes)).split(self.max_batch):
            at = nodes[chunk].to(difference)[:, None, None, None]
            rows = torch.full_like(chunk, picture)
            gradients = case.gradient(baseline + at * difference, rows)[1]  # (r, T, C, h, w)
            mean += torch.einsum("r,rtchw->tchw", weights[chunk].to(difference), gradients)
        return (difference * mean).sum(1)
