"""Small networks from features or pictures to codes."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.surrogate.model.equalized import (
    GAIN,
    ScaledConv,
    ScaledLinear,
    channels_at,
    resolutions_to,
)


class Perceptron(nn.Module):
    """(N, inputs) to (N, outputs) through one hidden layer."""

    def __init__(self, inputs: int, outputs: int, hidden: int = 64) -> None:
        super().__init__()
        self.first = ScaledLinear(inputs, hidden)
        self.second = ScaledLinear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first.activated(x))
        return y


class ConvEncoder(nn.Module):
    """Pictures (N, channels, R, R) to (N, outputs): strided convolutions to 4 x 4, then one hidden layer."""

    def __init__(self, resolution: int, channels: int, outputs: int, *, base: int, most: int) -> None:
        super().__init__()
        widths = [channels_at(size, base, most) for size in reversed(resolutions_to(resolution))]
        self.first = ScaledConv(channels, widths[0], 3)
        pairs = pairwise(widths)
        self.convolutions = nn.ModuleList(ScaledConv(wide, narrow, 3, stride=2) for wide, narrow in pairs)
        self.read = Perceptron(widths[-1] * 16, outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(pictures), 0.2)
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x, GAIN), 0.2)
        codes: Tensor = self.read(x.flatten(1))
        return codes.float()


def frozen_call(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Run a module without gradients for its weights; gradients for its inputs stay."""
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    output: Tensor = torch.func.functional_call(module, weights, inputs)
    return output
