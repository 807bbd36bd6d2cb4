"""Methods that read a gradient at the layer: Gradient, Input x Gradient, Guided Backprop, SmoothGrad."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pellucid.attribution.cases import Case
from pellucid.attribution.method import Attribution, Method
from pellucid.attribution.view import View
from pellucid.errors import PellucidError
from pellucid.shapes import Float

_NO_RELU = "no ReLU comes after this layer, so that the map is the plain gradient's"


def sum_channels(values: Float[Tensor, "N T C h w"]) -> Float[Tensor, "N T h w"]:
    """(N, T, C, h, w) -> (N, T, h, w).

    >>> sum_channels(torch.ones(1, 2, 3, 4, 4)).unique().tolist()
    [3.0]
    """
    return values.sum(2)


@dataclass(frozen=True, kw_only=True)
class Gradient(Method):
    """Sum over channels of |d score / d activation| (Simonyan et al., 2014).

    Attributes:
        absolute: False keeps the sign and sums the gradient itself.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.Gradient()(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

    absolute: bool = True

    def needs_gradients(self, view: View) -> bool:
        """Always."""
        return True

    @property
    def signed(self) -> bool:
        """With `absolute` maps are >= 0."""
        return not self.absolute

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        return Attribution(sum_channels(case.gradients.abs() if self.absolute else case.gradients))


@dataclass(frozen=True, kw_only=True)
class InputXGradient(Method):
    """Sum over channels of activation x gradient (Shrikumar et al., 2017).

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.InputXGradient()(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

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

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.GuidedBackprop()(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

    absolute: bool = True

    @property
    def signed(self) -> bool:
        """With `absolute` maps are >= 0."""
        return not self.absolute

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        values = case.activation.new_zeros(len(case), case.target_count, *case.activation.shape[2:])
        guided = GuidedReLUs()
        for rows in torch.split(case.rows, case.budget.rows("gradient")):
            gradients = case.gradients_at(case.activation[rows], rows, lambda: guided)
            for target, gradient in enumerate(gradients):
                values[rows, target] = (gradient.abs() if self.absolute else gradient).sum(1)
        return Attribution(values, notes={} if guided.count else dict.fromkeys(case.rows.tolist(), (_NO_RELU,)))


@dataclass(frozen=True, kw_only=True)
class SmoothGrad(Method):
    """Gradient averaged over noisy copies of the activation (Smilkov et al., 2017), then as `Gradient`.

    Attributes:
        samples: noisy copies of each image.
        noise: standard deviation of the noise in units of each image's own max - min at the layer.
        statistic: "mean" of the gradient; "square", the mean of its square; "variance".
        times_activation: average activation x gradient, signed, in place of the gradient.
        absolute: take absolute values per channel after averaging ("mean" without `times_activation` only).
        seed: of the noise. Sample i has the noise of seed and i for every image, so that a map does not depend on the
            images beside it or on their order.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.SmoothGrad(samples=4)(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

    samples: int = 15
    noise: float = 0.15
    statistic: Literal["mean", "square", "variance"] = "mean"
    times_activation: bool = False
    absolute: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        is_known = self.statistic in ("mean", "square", "variance")
        if self.samples < 1 or not self.noise >= 0 or self.seed < 0 or not is_known:
            raise PellucidError(
                "SmoothGrad needs samples >= 1, noise >= 0, seed >= 0 and statistic mean, square or variance, not "
                f"samples={self.samples}, noise={self.noise}, seed={self.seed}, statistic={self.statistic!r}"
            )

    @property
    def signed(self) -> bool:
        """Means of signed values alone are signed."""
        return self.statistic == "mean" and (self.times_activation or not self.absolute)

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        activation = case.activation
        # E[g^2] - E[g]^2 cancels where gradients hardly vary; double precision keeps what is left.
        precision = torch.float64 if self.statistic == "variance" else activation.dtype
        shape = (len(case), case.target_count, *activation.shape[1:])
        first = torch.zeros(shape, dtype=precision, device=activation.device)
        second = torch.zeros_like(first) if self.statistic != "mean" else None
        spread = self.noise * (activation.flatten(1).amax(1) - activation.flatten(1).amin(1))
        for rows, samples in case.perturbed_batches(self.samples, "gradient"):
            noise = torch.stack([draw_noise(self.seed, index, activation.shape[1:]) for index in samples.tolist()])
            noisy = activation[rows] + spread[rows, None, None, None] * noise.to(activation)
            weights = torch.full((len(rows),), 1 / self.samples, dtype=torch.float64)
            for target, gradient in enumerate(case.gradients_at(noisy, rows)):
                sample = (noisy * gradient if self.times_activation else gradient).to(precision)
                first[:, target] += case.sum_by_image(sample, rows, weights)
                if second is not None:
                    second[:, target] += case.sum_by_image(sample.square(), rows, weights)
        return Attribution(sum_channels(self._statistic(first, second)))

    def _statistic(self, first: Tensor, second: Tensor | None) -> Tensor:
        if second is None:
            return first.abs() if self.absolute and not self.times_activation else first
        return second if self.statistic == "square" else (second - first.square()).clamp(min=0.0)


def draw_noise(seed: int, sample: int, shape: torch.Size) -> Tensor:
    """Standard normal noise (C, h, w), a function of seed and sample alone.

    Args:
        seed: of all samples.
        sample: its number.
        shape: (C, h, w).

    >>> shape = torch.Size([1, 2, 2])
    >>> torch.equal(draw_noise(0, 3, shape), draw_noise(0, 3, shape))
    True
    """
    mixed = int(np.random.SeedSequence((seed, sample)).generate_state(1)[0])
    return torch.randn(shape, generator=torch.Generator().manual_seed(mixed))


# What modules, functions and in-place calls arrive as, with their arguments in order. nn.ReLU6 arrives as hardtanh.
_ARGUMENTS: dict[Callable[..., Any], tuple[str, ...]] = {
    F.relu: ("input", "inplace"),
    torch.relu: ("input",),
    Tensor.relu: ("input",),
    F.relu6: ("input", "inplace"),
    F.hardtanh: ("input", "min_val", "max_val", "inplace"),
    F.relu_: ("input",),
    torch.relu_: ("input",),
    Tensor.relu_: ("input",),
    F.hardtanh_: ("input", "min_val", "max_val"),
}
_HARDTANH = (F.hardtanh, F.hardtanh_)
_IN_PLACE = (F.relu_, torch.relu_, Tensor.relu_, F.hardtanh_)


class _GuidedReLU(torch.autograd.Function):
    """min(max(x, 0), limit), whose backward passes only positive gradients of active units."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        return x.clamp(0.0, limit)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        active = x > 0 if ctx.limit is None else (x > 0) & (x < ctx.limit)
        return gradient.clamp(min=0.0) * active, None


_guided_relu: Callable[[Tensor, float | None], Tensor] = _GuidedReLU.apply


class GuidedReLUs(TorchFunctionMode):
    """While this is entered, ReLU and ReLU6 are guided (Springenberg et al., Striving for Simplicity, 2015).

    It answers the calls where the network runs, so traced and replayed networks, modules, functions and in-place calls
    are alike; a hardtanh from 0 counts as one. A ReLU written as `clamp` or `threshold` is not taken for one.

    Attributes:
        count: how many ReLUs have been guided so far.

    >>> x = torch.tensor([1.0, 2.0, -1.0], requires_grad=True)
    >>> with GuidedReLUs() as guided:
    ...     y = (x.relu() * torch.tensor([1.0, -1.0, 1.0])).sum()
    >>> torch.autograd.grad(y, x)[0].tolist(), guided.count
    ([1.0, 0.0, 0.0], 1)
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        arguments = dict(zip(_ARGUMENTS.get(func, ()), args, strict=False)) | kwargs
        if func not in _ARGUMENTS or (func in _HARDTANH and arguments.get("min_val", -1.0) != 0):
            return func(*args, **kwargs)
        self.count += 1
        limit = 6.0 if func is F.relu6 else arguments.get("max_val", 1.0 if func in _HARDTANH else None)
        if func in _IN_PLACE or arguments.get("inplace", False):
            return arguments["input"].copy_(_guided_relu(arguments["input"].clone(), limit))
        return _guided_relu(arguments["input"], limit)
