"""The discriminator: a residual network that also sees the classifier's features of the image to be generated."""

import math
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


class Discriminator(nn.Module):
    """Realism scores of images (N, channels, R, R): high for real ones.

    It is a projection discriminator (Miyato and Koyama 2018): score + <e(phi / ||phi||), h(x)>, so that an image must
    also be one that the classifier would have these features for: adversarial knowledge distillation.

    Args:
        resolution: R, a power of two.
        channels: Channels of the images.
        features: Length of phi.
        channel_base: Channels at a resolution are channel_base / resolution.
        max_channels: Most channels of a layer.
        equalized_lr: Equalized learning rate.

    >>> discriminator = Discriminator(16, 1, 5, channel_base=64, max_channels=8)
    >>> alone, matched = discriminator(torch.zeros(4, 1, 16, 16), torch.ones(4, 5))
    >>> alone.shape, matched.shape
    (torch.Size([4]), torch.Size([4]))
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        features: int,
        *,
        channel_base: int,
        max_channels: int,
        equalized_lr: bool = False,
    ) -> None:
        super().__init__()
        widths = [channels_at(size, channel_base, max_channels) for size in reversed(resolutions_up_to(resolution))]
        self.from_rgb = ScaledConv(channels, widths[0], 1, equalized=equalized_lr)
        pairs = pairwise(widths)
        self.blocks = nn.ModuleList(_ResidualBlock(wide, narrow, equalized=equalized_lr) for wide, narrow in pairs)
        self.last = ScaledConv(widths[-1] + 1, widths[-1], 3, equalized=equalized_lr)
        self.to_hidden = ScaledLinear(widths[-1] * 16, widths[-1], equalized=equalized_lr)
        self.score = ScaledLinear(widths[-1], 1, equalized=equalized_lr)
        self.project = ScaledLinear(features, widths[-1], equalized=equalized_lr)

    def forward(self, images: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of images alone (N,), and as images with these standardized features (N, F), (N,)."""
        x = self.from_rgb.with_activation(images)
        for block in self.blocks:
            x = block(x)
        x = self.last.with_activation(torch.cat([x, _minibatch_std(x)], dim=1))
        h = self.to_hidden.with_activation(x.flatten(1))
        alone = self.score(h).float()[:, 0]
        embedded = self.project(F.normalize(features, dim=1) * math.sqrt(features.shape[1]))
        matched: Tensor = alone + (embedded * h).float().sum(1) / math.sqrt(h.shape[1])
        return alone, matched


class _ResidualBlock(nn.Module):
    """Two convolutions and half the resolution, beside a linear shortcut."""

    def __init__(self, inputs: int, outputs: int, *, equalized: bool) -> None:
        super().__init__()
        self.first = ScaledConv(inputs, inputs, 3, equalized=equalized)
        self.second = ScaledConv(inputs, outputs, 3, equalized=equalized)
        self.shortcut = ScaledConv(inputs, outputs, 1, bias=False, equalized=equalized)

    def forward(self, x: Tensor) -> Tensor:
        # Pooling commutes with the pointwise shortcut, and is cheaper before it.
        # Their sum over sqrt 2: the branch goes without its own gain, the shortcut's weights are divided.
        y = self.second.with_activation(F.avg_pool2d(self.first.with_activation(x), 2), gain=1.0)
        shortcut: Tensor = self.shortcut(F.avg_pool2d(x, 2), gain=1 / ACTIVATION_GAIN)
        return y + shortcut


def _minibatch_std(x: Tensor, group: int = 4) -> Tensor:
    """Mean standard deviation over groups of images as one more channel: a batch of equals gives itself away."""
    members = group if len(x) % group == 0 else len(x)
    grouped = x.view(members, -1, *x.shape[1:])
    variance = (grouped - grouped.mean(0)).square().mean(0)  # var() over the first dimension is slow on a CPU
    deviation = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return deviation.repeat(members)[:, None, None, None].expand(-1, 1, *x.shape[2:])
