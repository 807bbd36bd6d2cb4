"""Gaussian smoothing of maps (S-IntGrad, S-IxG)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import PellucidError


def gaussian_weights(kernel_size: int) -> Tensor:
    """Normalized weights (K,) of a Gaussian with sigma = K / 4, cut at the window."""
    offsets = torch.arange(kernel_size, dtype=torch.float64) - (kernel_size - 1) / 2
    weights = torch.exp(-0.5 * (offsets / (kernel_size / 4)).square())
    return weights / weights.sum()


def smooth(values: Tensor, kernel_size: int) -> Tensor:
    """Convolve maps with a Gaussian, sigma = kernel_size / 4, reflect padding, along one axis and then the other.

    Reflection goes on at the far side where the kernel is longer than the map, so any odd kernel fits any map. Source:
    Rao et al., Towards Better Understanding Attribution Methods, CVPR 2022, section on smoothing.

    Args:
        values: (..., h, w), signed.
        kernel_size: odd number of cells.

    Returns:
        (..., h, w).

    Raises:
        PellucidError: an even kernel, or maps of whole numbers.
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
