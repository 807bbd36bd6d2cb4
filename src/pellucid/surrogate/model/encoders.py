"""Small networks from features or images to codes, and how a regressor of that kind is fitted."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.surrogate.model.network_layers import (
    ACTIVATION_GAIN,
    ScaledConv,
    ScaledLinear,
    channels_at,
    resolutions_up_to,
)


class MLP(nn.Module):
    """A perceptron with one hidden layer, (N, inputs) -> (N, outputs).

    Args:
        inputs: Number of input features.
        outputs: Number of output features.
        hidden: Width of the hidden layer.

    >>> MLP(3, 2)(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 64) -> None:
        super().__init__()
        self.first = ScaledLinear(inputs, hidden)
        self.second = ScaledLinear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first.with_activation(x))
        return y


class ConvEncoder(nn.Module):
    """Images (N, channels, R, R) to (N, outputs): strided convolutions to 4 x 4, then an MLP.

    Args:
        resolution: R, a power of two.
        channels: Channels of the images.
        outputs: Number of outputs.
        channel_base: Channels at a resolution are channel_base / resolution.
        max_channels: Most channels of a layer.

    >>> ConvEncoder(16, 1, 3, channel_base=64, max_channels=8)(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 3])
    """

    def __init__(self, resolution: int, channels: int, outputs: int, *, channel_base: int, max_channels: int) -> None:
        super().__init__()
        widths = [channels_at(size, channel_base, max_channels) for size in reversed(resolutions_up_to(resolution))]
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


def fit_regressor(
    network: nn.Module,
    draw_batch: Callable[[], tuple[Tensor, Tensor]],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.0,
) -> None:
    """Minimize the smooth L1 distance of network(inputs) to targets, by AdamW.

    The learning rate drops to a fifth for the last quarter of the steps.

    Args:
        network: Is trained in place, and left in eval mode without gradients.
        draw_batch: Returns inputs and targets (B, K).
        steps: Number of steps.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.

    >>> network, inputs = MLP(1, 1), torch.linspace(-1, 1, 50)[:, None]
    >>> fit_regressor(network, lambda: (inputs, 2 * inputs), steps=200, learning_rate=1e-2)
    >>> bool(r2_score(network(inputs), 2 * inputs) > 0.9)
    True
    """
    network.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate if step < 0.75 * steps else 0.2 * learning_rate
        inputs, targets = draw_batch()
        loss = F.smooth_l1_loss(network(inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.eval().requires_grad_(False)


def r2_score(predicted: Tensor, true: Tensor) -> Tensor:
    """R^2 of each column of (N, K), (K,): 1 is perfect, 0 no better than the mean, negative worse.

    >>> true = torch.tensor([[0.0], [1.0], [2.0]])
    >>> r2_score(true, true), r2_score(torch.ones(3, 1), true)
    (tensor([1.]), tensor([0.]))
    """
    residual = (predicted - true).square().sum(0)
    return 1 - residual / (true - true.mean(0)).square().sum(0).clamp_min(1e-12)
