"""Integrated Gradients at any layer, with the completeness gap reported and, on request, driven below a tolerance."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pellucid.attribution.cases import Case
from pellucid.attribution.method import Attribution, Method
from pellucid.attribution.path_integral import PathIntegral, Quadrature, integrate_path, quadrature_nodes
from pellucid.attribution.view import View
from pellucid.errors import PellucidError


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
