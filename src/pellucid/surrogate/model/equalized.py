"""Linear and convolution layers with He scaling, at the start or (equalized) at run time."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATION_GAIN = math.sqrt(2)


def scaled_weight(*shape: int, equalized: bool) -> tuple[nn.Parameter, float]:
    """A weight (out, in, ...) of variance 1/fan_in and the factor it is used with.

    With an equalized learning rate (Karras et al. 2018) the weight has unit variance and the factor is 1/sqrt(fan_in),
    so that Adam moves all layers at one relative speed; else the weight is scaled once and the factor is 1.
    """
    scale = 1 / math.sqrt(math.prod(shape[1:]))
    weight = torch.randn(*shape)
    return nn.Parameter(weight if equalized else weight * scale), scale if equalized else 1.0


class ScaledLinear(nn.Module):
    """(..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, equalized: bool = False) -> None:
        super().__init__()
        self.weight, self._factor = scaled_weight(outputs, inputs, equalized=equalized)
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        return F.linear(x, self.weight * (self._factor * gain), self.bias if gain == 1 else self.bias * gain)

    def with_activation(self, x: Tensor) -> Tensor:
        """With a leaky ReLU of slope 0.2 that keeps the variance; see `ScaledConv.with_activation`."""
        return F.leaky_relu(self(x, ACTIVATION_GAIN), 0.2)


class ScaledConv(nn.Module):
    """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride), zero padding."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, bias: bool = True, equalized: bool = False
    ) -> None:
        super().__init__()
        self.weight, self._factor = scaled_weight(outputs, inputs, kernel, kernel, equalized=equalized)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self._stride, self._padding = stride, kernel // 2

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        bias = self.bias if self.bias is None or gain == 1 else self.bias * gain
        return F.conv2d(x, self.weight * (self._factor * gain), bias, self._stride, self._padding)

    def with_activation(self, x: Tensor, gain: float = ACTIVATION_GAIN) -> Tensor:
        """With a leaky ReLU of slope 0.2; the gain, sqrt 2 to keep the variance, costs less on the small weights."""
        return F.leaky_relu(self(x, gain), 0.2)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 that keeps the variance."""
    return F.leaky_relu(x, 0.2) * ACTIVATION_GAIN


def upsample_2x(x: Tensor) -> Tensor:
    """Twice the resolution, bilinear, which is also the blur of StyleGAN2."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def channels_at(resolution: int, base: int, most: int) -> int:
    """Number of channels at a resolution: base / resolution, at most `most` (StyleGAN2's rule)."""
    return max(1, min(most, base // resolution))


def to_channels_last(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, four-dimensional weights in channels-last order.

    What they are applied to then comes in that order too: convolution, pooling and upsampling of small images are up
    to ten times faster in it on a CPU, and suit the tensor cores of GPUs.
    """
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def resolutions_up_to(resolution: int) -> list[int]:
    """4, 8, ... up to `resolution`, a power of two."""
    return [2**power for power in range(2, int(math.log2(resolution)) + 1)]
