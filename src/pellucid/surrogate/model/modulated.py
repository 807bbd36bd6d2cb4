"""Modulated convolution (Karras et al. 2020, section 2.2) around one ordinary convolution, without custom operators."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.surrogate.model.equalized import ScaledLinear, scaled_weight, upsample_2x


def modulated_conv(x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, grow: bool = False) -> Tensor:
    """Convolve each image with its own modulated weight w_oi = s_i W_oi / ||s W_o||.

    Scaling the input channels by s and the output channels by 1 / ||s W_o|| is the same sum in another order, and
    leaves one ordinary convolution for the whole batch in place of one group per image.

    Args:
        x: (N, I, H, W).
        weight: (O, I, k, k), k odd.
        style: (N, I).
        demodulate: divide by the norm of each output channel's weights.
        grow: double the resolution first.

    Returns:
        (N, O, H, W), or (N, O, 2 H, 2 W) where it grows; zero padding.
    """
    x = x * style[:, :, None, None]
    x = upsample_2x(x) if grow else x  # commutes with the scaling, which is four times cheaper before it
    y = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    if not demodulate:
        return y
    with torch.autocast(x.device.type, enabled=False):
        energy = style.float().square() @ weight.float().square().sum(dim=(2, 3)).T  # (N, O)
        return y * torch.rsqrt(energy + 1e-8)[:, :, None, None].to(y.dtype)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by an affine function of a code."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, code: int, *, demodulate: bool = True, equalized: bool = False
    ) -> None:
        super().__init__()
        self.weight, self._factor = scaled_weight(outputs, inputs, kernel, kernel, equalized=equalized)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = ScaledLinear(code, inputs, bias=1.0, equalized=equalized)
        self._demodulate = demodulate

    def forward(self, x: Tensor, code: Tensor, *, grow: bool = False) -> Tensor:
        """Images (N, I, H, W) and codes (N, code) to (N, O, H, W), or (N, O, 2 H, 2 W) where they grow."""
        weight = self.weight * self._factor
        y = modulated_conv(x, weight, self.style(code), demodulate=self._demodulate, grow=grow)
        return y + self.bias[:, None, None].to(y.dtype)
