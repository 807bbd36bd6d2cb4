"""Methods that read a gradient at the layer: Gradient, Input x Gradient, Guided Backprop, SmoothGrad."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pellucid.attribution.case import Case, View
from pellucid.attribution.guided import guided_relus
from pellucid.attribution.method import Attribution, Method
from pellucid.errors import PellucidError

__all__ = ["Gradient", "GuidedBackprop", "InputXGradient", "SmoothGrad", "sum_channels"]


def sum_channels(values: Tensor) -> Tensor:
    """(N, T, C, h, w) -> (N, T, h, w)."""
    return values.sum(2)


@dataclass(frozen=True, kw_only=True)
class Gradient(Method):
    """Sum over channels of |d score / d activation| (Simonyan et al., 2014).

    Attributes:
        absolute: False keeps the sign and sums the gradient itself.
    """

    absolute: bool = True

    def needs_gradients(self, view: View) -> bool:
        """Always."""
        return True

    @property
    def signed(self) -> bool:  # type: ignore[override]
        return not self.absolute

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        return Attribution(sum_channels(case.gradients.abs() if self.absolute else case.gradients))


@dataclass(frozen=True, kw_only=True)
class InputXGradient(Method):
    """Sum over channels of activation x gradient (Shrikumar et al., 2017)."""

    def needs_gradients(self, view: View) -> bool:
        """Always."""
        return True

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        return Attribution(sum_channels(case.activation[:, None] * case.gradients))


@dataclass(frozen=True, kw_only=True)
class GuidedBackprop(Method):
    """Gradient with ReLUs that also drop negative gradients on the way back (Springenberg et al., 2015).

    Acts on every ReLU and ReLU6 after the layer, whether module, function, reused or in place. Networks without them
    (GELU, SiLU) have no guided backprop; the map is then the gradient, and a note says so.

    Attributes:
        absolute: False keeps the sign and sums the guided gradient itself.
    """

    absolute: bool = True

    @property
    def signed(self) -> bool:  # type: ignore[override]
        return not self.absolute

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        _, gradients = case.gradient(case.activation, case.rows, guided_relus)
        return Attribution(sum_channels(gradients.abs() if self.absolute else gradients))


@dataclass(frozen=True, kw_only=True)
class SmoothGrad(Method):
    """Gradient averaged over noisy copies of the activation (Smilkov et al., 2017), then as `Gradient`.

    Attributes:
        samples: noisy copies of each picture.
        noise: standard deviation of the noise in units of each picture's own max - min at the layer.
        statistic: "mean" of the gradient; "square", the mean of its square; "variance".
        times_activation: average activation x gradient, signed, in place of the gradient.
        absolute: take absolute values per channel after averaging ("mean" without `times_activation` only).
        seed: of the noise; picture n of a batch has the noise of seed and n, whatever the batch size.
    """

    samples: int = 15
    noise: float = 0.15
    statistic: Literal["mean", "square", "variance"] = "mean"
    times_activation: bool = False
    absolute: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or self.noise < 0 or self.statistic not in ("mean", "square", "variance"):
            raise PellucidError(
                "SmoothGrad needs samples >= 1, noise >= 0 and statistic mean, square or variance, not "
                f"samples={self.samples}, noise={self.noise}, statistic={self.statistic!r}"
            )

    @property
    def signed(self) -> bool:  # type: ignore[override]
        return self.statistic == "mean" and (self.times_activation or not self.absolute)

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        shape = (len(case), case.target_count, *case.activation.shape[1:])
        first, second = case.activation.new_zeros(shape), case.activation.new_zeros(shape)
        low, high = case.activation.flatten(1).amin(1), case.activation.flatten(1).amax(1)
        spread = self.noise * (high - low)
        generators = [torch.Generator().manual_seed(self.seed + index) for index in range(len(case))]
        for picture, samples in case.variants(self.samples):
            rows = torch.full_like(samples, picture)
            one = case.activation[picture]
            noise = torch.randn(len(samples), *one.shape, generator=generators[picture]).to(one.device)
            noisy = one + spread[picture] * noise
            gradients = case.gradient(noisy, rows)[1]
            if self.times_activation:
                gradients = noisy[:, None] * gradients
            first[picture] += gradients.sum(0) / self.samples
            second[picture] += gradients.square().sum(0) / self.samples
        return Attribution(sum_channels(self._statistic(first, second)))

    def _statistic(self, first: Tensor, second: Tensor) -> Tensor:
        if self.statistic == "square":
            return second
        if self.statistic == "variance":
            return (second - first.square()).clamp(min=0.0)
        return first.abs() if self.absolute and not self.times_activation else first
