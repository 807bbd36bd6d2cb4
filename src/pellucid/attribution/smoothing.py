"""Gaussian smoothing of maps, and any attribution method followed by it (S-IntGrad, S-IxG, ...)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.attribution.cases import Case
from pellucid.attribution.method import Attribution, Method
from pellucid.attribution.view import View
from pellucid.errors import PellucidError
from pellucid.shapes import Float


def gaussian_weights(kernel_size: int) -> Tensor:
    """Normalized weights (K,) of a Gaussian with sigma = K / 4, cut at the window.

    >>> [round(weight, 3) for weight in gaussian_weights(3).tolist()]
    [0.226, 0.549, 0.226]
    """
    offsets = torch.arange(kernel_size, dtype=torch.float64) - (kernel_size - 1) / 2
    weights = torch.exp(-0.5 * (offsets / (kernel_size / 4)).square())
    return weights / weights.sum()


def smooth(values: Tensor, kernel_size: int) -> Float[Tensor, "... h w"]:
    """Convolve maps with a Gaussian, sigma = kernel_size / 4, reflect padding, along one axis and then the other.

    Reflection continues at the far side where the kernel is longer than the map: any odd kernel fits any map. Source:
    Rao et al., Towards Better Understanding Attribution Methods, CVPR 2022, section on smoothing.

    Args:
        values: (..., h, w), signed.
        kernel_size: odd number of cells.

    Returns:
        (..., h, w).

    Raises:
        PellucidError: an even kernel, or maps of whole numbers.

    >>> map = torch.zeros(5, 5)
    >>> map[2, 2] = 1.0
    >>> [round(value, 3) for value in smooth(map, 3)[2].tolist()]
    [0.0, 0.124, 0.301, 0.124, 0.0]
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise PellucidError(f"the kernel size must be an odd number of cells, not {kernel_size}")
    if not values.is_floating_point():
        raise PellucidError(f"only floating-point maps can be smoothed, not {values.dtype}")
    weights = gaussian_weights(kernel_size).to(values)
    for axis in (-2, -1):
        values = _along(values.movedim(axis, -1), weights).movedim(-1, axis)
    return values


def _along(values: Tensor, weights: Tensor) -> Tensor:
    half, size = len(weights) // 2, values.shape[-1]
    source = torch.arange(-half, size + half, device=values.device)
    period = max(2 * (size - 1), 1)
    source = source.remainder(period)
    source = torch.minimum(source, period - source) if size > 1 else torch.zeros_like(source)
    padded = values[..., source]
    rows = padded.reshape(-1, 1, padded.shape[-1])
    return F.conv1d(rows, weights[None, None]).reshape(values.shape)


@dataclass(frozen=True, kw_only=True)
class Smoothed(Method):
    """The maps of another method, smoothed at the layer's own resolution; that method's memory bounds hold.

    Attributes:
        method: the method whose maps are smoothed.
        kernel_size: odd number of cells; sigma is a quarter of it.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> method = pl.attribution.Smoothed(method=pl.attribution.GradCAM(), kernel_size=3)
    >>> method(view, torch.rand(2, 1, 32, 32), "7").method
    'GradCAM smoothed over 3'
    """

    method: Method
    kernel_size: int

    def __post_init__(self) -> None:
        gaussian_weights(self.kernel_size)
        object.__setattr__(self, "max_batch", self.method.max_batch)
        object.__setattr__(self, "max_bytes", self.method.max_bytes)

    @property
    def signed(self) -> bool:
        """As of the smoothed method."""
        return self.method.signed

    @property
    def label(self) -> str:
        """What reports call the method."""
        return f"{self.method.label} smoothed over {self.kernel_size}"

    def needs_gradients(self, view: View) -> bool:
        """Where the smoothed method does."""
        return self.method.needs_gradients(view)

    def options(self) -> dict[str, object]:
        """The smoothed method's options and the kernel size."""
        return {**self.method.options(), "kernel_size": self.kernel_size}

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case; smoothed maps promise no completeness, so there is no delta."""
        attribution = self.method.attribute(case)
        return replace(attribution, values=smooth(attribution.values, self.kernel_size), delta=None)
