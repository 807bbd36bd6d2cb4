"""Small networks from features or images to codes."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.surrogate.model.equalized import (
    ACTIVATION_GAIN,
    ScaledConv,
    ScaledLinear,
    channels_at,
    resolutions_up_to,
)


class MLP(nn.Module):
    """(N, inputs) to (N, outputs) through one hidden layer."""

    def __init__(self, inputs: int, outputs: int, hidden: int = 64) -> None:
        super().__init__()
        self.first = ScaledLinear(inputs, hidden)
        self.second = ScaledLinear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first.with_activation(x))
        return y


class ConvEncoder(nn.Module):
    """Images (N, channels, R, R) to (N, outputs): strided convolutions to 4 x 4, then one hidden layer."""

    def __init__(self, resolution: int, channels: int, outputs: int, *, base: int, most: int) -> None:
        super().__init__()
        widths = [channels_at(size, base, most) for size in reversed(resolutions_up_to(resolution))]
        self.first = ScaledConv(channels, widths[0], 3)
        pairs = pairwise(widths)
        self.convolutions = nn.ModuleList(ScaledConv(wide, narrow, 3, stride=2) for wide, narrow in pairs)
        self.read = MLP(widths[-1] * 16, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(images), 0.2)
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x, ACTIVATION_GAIN), 0.2)
        codes: Tensor = self.read(x.flatten(1))
        return codes.float()


def call_frozen(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Run a module without gradients for its weights; gradients for its inputs stay."""
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    output: Tensor = torch.func.functional_call(module, weights, inputs)
    return output
