"""Layers of the surrogate's networks: He scaling (or equalized learning rate), and modulated convolution."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATION_GAIN = math.sqrt(2)
"""Factor by which a leaky ReLU must be scaled for its output to keep the variance of its input."""


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """Seed torch's global generator (of initial weights); its state is restored afterwards.

    >>> with temporary_seed(0):
    ...     first = torch.rand(1)
    >>> with temporary_seed(0):
    ...     bool(torch.rand(1) == first)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def scaled_weight(*shape: int, equalized: bool) -> tuple[nn.Parameter, float]:
    """A weight (out, in, ...) of variance 1/fan_in and the factor it is used with.

    With an equalized learning rate (Karras et al. 2018) the weight has unit variance and the factor is 1/sqrt(fan_in),
    so that Adam moves all layers at one relative speed; else the weight is scaled once and the factor is 1.

    >>> weight, factor = scaled_weight(2, 4, 3, 3, equalized=True)
    >>> weight.shape, round(factor, 3)
    (torch.Size([2, 4, 3, 3]), 0.167)
    """
    scale = 1 / math.sqrt(math.prod(shape[1:]))
    weight = torch.randn(*shape)
    return nn.Parameter(weight if equalized else weight * scale), scale if equalized else 1.0


class ScaledLinear(nn.Module):
    """A linear layer with He scaling, (..., inputs) -> (..., outputs).

    Args:
        inputs: Number of input features.
        outputs: Number of output features.
        bias: Initial value of the bias.
        equalized: Equalized learning rate.

    >>> ScaledLinear(3, 2)(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

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
    """A convolution with He scaling and zero padding, (N, inputs, H, W) -> (N, outputs, H / stride, W / stride).

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        kernel: Size of the kernel, odd.
        stride: Step of the kernel.
        bias: Whether there is a bias.
        equalized: Equalized learning rate.

    >>> ScaledConv(3, 2, 3, stride=2)(torch.ones(1, 3, 8, 8)).shape
    torch.Size([1, 2, 4, 4])
    """

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


def modulated_conv(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, upsample: bool = False
) -> Tensor:
    """Convolve each image with its own modulated weight w_oi = s_i W_oi / ||s W_o|| (Karras et al. 2020, section 2.2).

    Scaling the input channels by s and the output channels by 1 / ||s W_o|| is the same sum in another order, and
    leaves one ordinary convolution for the whole batch in place of one group per image.

    Args:
        x: (N, I, H, W).
        weight: (O, I, k, k), k odd.
        style: (N, I).
        demodulate: Divide by the norm of each output channel's weights.
        upsample: Double the resolution first.

    Returns:
        (N, O, H, W), or (N, O, 2 H, 2 W) where it is upsampled; zero padding.

    >>> modulated_conv(torch.ones(2, 3, 4, 4), torch.ones(5, 3, 3, 3), torch.ones(2, 3), upsample=True).shape
    torch.Size([2, 5, 8, 8])
    """
    x = x * style[:, :, None, None]
    x = upsample_2x(x) if upsample else x  # commutes with the scaling, which is four times cheaper before it
    y = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    if not demodulate:
        return y
    with torch.autocast(x.device.type, enabled=False):
        energy = style.float().square() @ weight.float().square().sum(dim=(2, 3)).T  # (N, O)
        return y * torch.rsqrt(energy + 1e-8)[:, :, None, None].to(y.dtype)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by an affine function of a code.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        kernel: Size of the kernel, odd.
        code: Length of the code.
        demodulate: Divide by the norm of each output channel's weights.
        equalized: Equalized learning rate.

    >>> ModulatedConv(3, 2, 3, 5)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 5)).shape
    torch.Size([1, 2, 4, 4])
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, code: int, *, demodulate: bool = True, equalized: bool = False
    ) -> None:
        super().__init__()
        self.weight, self._factor = scaled_weight(outputs, inputs, kernel, kernel, equalized=equalized)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = ScaledLinear(code, inputs, bias=1.0, equalized=equalized)
        self._demodulate = demodulate

    def forward(self, x: Tensor, code: Tensor, *, upsample: bool = False) -> Tensor:
        """Maps (N, I, H, W) and codes (N, code) to (N, O, H, W), or (N, O, 2 H, 2 W) where they are upsampled."""
        weight = self.weight * self._factor
        y = modulated_conv(x, weight, self.style(code), demodulate=self._demodulate, upsample=upsample)
        return y + self.bias[:, None, None].to(y.dtype)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 that keeps the variance.

    >>> activate(torch.tensor([-1.0, 1.0]))
    tensor([-0.2828,  1.4142])
    """
    return F.leaky_relu(x, 0.2) * ACTIVATION_GAIN


def upsample_2x(x: Tensor) -> Tensor:
    """Twice the resolution, bilinear, which is also the blur of StyleGAN2: (N, C, H, W) -> (N, C, 2 H, 2 W).

    >>> upsample_2x(torch.zeros(1, 3, 4, 4)).shape
    torch.Size([1, 3, 8, 8])
    """
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def channels_at(resolution: int, channel_base: int, max_channels: int) -> int:
    """Number of channels at a resolution: channel_base / resolution, at most `max_channels` (StyleGAN2's rule).

    Args:
        resolution: Height and width.
        channel_base: Channels times resolution.
        max_channels: Upper limit.

    >>> [channels_at(resolution, 512, 64) for resolution in (4, 8, 16, 32)]
    [64, 64, 32, 16]
    """
    return max(1, min(max_channels, channel_base // resolution))


def resolutions_up_to(resolution: int) -> list[int]:
    """4, 8, ... up to `resolution`, a power of two.

    >>> resolutions_up_to(32)
    [4, 8, 16, 32]
    """
    return [2**power for power in range(2, int(math.log2(resolution)) + 1)]


def to_channels_last(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, four-dimensional weights in channels-last order.

    What they are applied to then comes in that order too: convolution, pooling and upsampling of small images are up
    to ten times faster in it on a CPU, and suit the tensor cores of GPUs.
    """
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def call_frozen(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Run a module without gradients for its weights; gradients for its inputs stay.

    >>> layer, x = nn.Linear(2, 1), torch.zeros(1, 2, requires_grad=True)
    >>> call_frozen(layer, x).sum().backward()
    >>> x.grad is not None, layer.weight.grad is None
    (True, True)
    """
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    output: Tensor = torch.func.functional_call(module, weights, inputs)
    return output
