"""The networks that are trained together: encoders of latents and nuisance, head, and generator; and their opponent.

The generator is StyleGAN2 synthesis driven by a code whose coordinates mean something; its opponent, the
discriminator, is a residual network that also sees the classifier's features of the image to be generated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import PellucidError
from pellucid.surrogate.model.codes import Codes
from pellucid.surrogate.model.encoders import MLP, ConvEncoder
from pellucid.surrogate.model.network_layers import (
    ACTIVATION_GAIN,
    ModulatedConv,
    ScaledConv,
    ScaledLinear,
    activate,
    channels_at,
    resolutions_up_to,
    temporary_seed,
    upsample_2x,
)
from pellucid.surrogate.training_options import TrainingOptions


class Generator(nn.Module):
    """Codes (N, D) to images (N, channels, R, R) in [-1, 1].

    There is no mapping network: every style is an affine function of the code, so that each concept keeps an axis. The
    output is tanh(1.5 rgb): flat saturated backgrounds cost nothing, and cannot carry faint smudges.

    Args:
        code: D, length of the code.
        resolution: R, a power of two.
        channels: Channels of the images.
        channel_base: Channels at a resolution are channel_base / resolution.
        max_channels: Most channels of a layer.
        noise_inputs: Add noise of learned strength (0 at first) to every convolution; without a generator of random
            numbers the noise is a fixed one, so that decoding is a function.
        brightness_column: Coordinate of the code that also scales the brightness of the whole image above black.
        equalized_lr: Equalized learning rate.

    >>> Generator(5, 16, 1, channel_base=64, max_channels=8)(torch.zeros(2, 5)).shape
    torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        code: int,
        resolution: int,
        channels: int,
        *,
        channel_base: int,
        max_channels: int,
        noise_inputs: bool = False,
        brightness_column: int | None = None,
        equalized_lr: bool = False,
    ) -> None:
        super().__init__()
        widths = [channels_at(size, channel_base, max_channels) for size in resolutions_up_to(resolution)]
        self.start = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.blocks = nn.ModuleList(
            _Block(wide, narrow, code, channels, 4 * 2**level, noise_inputs=noise_inputs, equalized=equalized_lr)
            for level, (wide, narrow) in enumerate(zip([widths[0], *widths], widths, strict=False))
        )
        self.gain = _BrightnessGain(brightness_column) if brightness_column is not None else None

    def forward(self, code: Tensor, random: torch.Generator | None = None) -> Tensor:
        x = self.start.expand(len(code), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        rgb: Tensor | None = None
        for block in self.blocks:
            x, rgb = block(x, rgb, code, random)
        assert rgb is not None
        image = torch.tanh(1.5 * rgb.float())
        return image if self.gain is None else self.gain(image, code)


class _Block(nn.Module):
    """One resolution: upsample, two modulated convolutions, and what they add to the image."""

    def __init__(
        self, inputs: int, outputs: int, code: int, channels: int, size: int, *, noise_inputs: bool, equalized: bool
    ) -> None:
        super().__init__()
        first = [] if size == 4 else [ModulatedConv(inputs, outputs, 3, code, equalized=equalized)]
        self.convolutions = nn.ModuleList([*first, ModulatedConv(outputs, outputs, 3, code, equalized=equalized)])
        self.noises = nn.ModuleList(_Noise(size) for _ in self.convolutions) if noise_inputs else None
        self.to_rgb = ModulatedConv(outputs, channels, 1, code, demodulate=False, equalized=equalized)
        self._upsamples = size > 4

    def forward(
        self, x: Tensor, rgb: Tensor | None, code: Tensor, random: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x, code, upsample=self._upsamples and index == 0)
            x = activate(x if self.noises is None else self.noises[index](x, random))
        added = self.to_rgb(x, code)
        return x, added if rgb is None else upsample_2x(rgb) + added


class _Noise(nn.Module):
    """Adds noise of learned strength."""

    fixed: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("fixed", torch.randn(1, 1, size, size))

    def forward(self, x: Tensor, random: torch.Generator | None) -> Tensor:
        noise = self.fixed
        if random is not None:
            noise = torch.randn(len(x), 1, *x.shape[2:], generator=random, device=random.device).to(x.device)
        return x + self.strength.to(x.dtype) * noise.to(x.dtype)


class _BrightnessGain(nn.Module):
    """Scales an image's height above black (-1) by a factor in (0, 1) that one coordinate of the code sets."""

    def __init__(self, column: int) -> None:
        super().__init__()
        self._column = column
        self.scale = ScaledLinear(1, 1, bias=2.0)
        nn.init.constant_(self.scale.weight, 0.5)

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        columns: Sequence[int] = [self._column]
        factor = torch.sigmoid(self.scale(code[:, columns].float()))
        return (image + 1) * factor[:, :, None, None] - 1


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


@dataclass(frozen=True)
class DataSizes:
    """What the data says about a surrogate's shape.

    Attributes:
        channels: Channels of the images.
        features: Length of phi, the classifier's pooled features.
        classes: Number of logits of the classifier.
        context_names: Names of the contexts.
    """

    channels: int
    features: int
    classes: int
    context_names: tuple[str, ...]


class SurrogateNetworks(nn.Module):
    """Encoders of latents and nuisance, the head that reproduces the classifier, and the generator.

    Args:
        sizes: Sizes of the data.
        options: Options of the training.

    >>> from pellucid.surrogate import PRESETS
    >>> networks = SurrogateNetworks(DataSizes(1, 8, 3, ("thickness",)), PRESETS["ci-16"])
    >>> codes = Codes(torch.zeros(2, 1), torch.zeros(2, 4), torch.zeros(2, 4))
    >>> networks.generate(codes).shape
    torch.Size([2, 1, 16, 16])
    """

    def __init__(self, sizes: DataSizes, options: TrainingOptions) -> None:
        super().__init__()
        contexts = len(sizes.context_names)
        self.blocks = (contexts, options.latent_dim, options.nuisance_dim)
        width = {"channel_base": options.encoder_channel_base, "max_channels": options.encoder_max_channels}
        with temporary_seed(options.seed):
            self.latent = MLP(sizes.features, options.latent_dim)
            self.nuisance = ConvEncoder(options.resolution, sizes.channels, options.nuisance_dim, **width)
            self.head = MLP(contexts + options.latent_dim, sizes.classes)
            self.generator = Generator(
                sum(self.blocks),
                options.resolution,
                sizes.channels,
                channel_base=options.channel_base,
                max_channels=options.max_channels,
                noise_inputs=options.noise_inputs,
                brightness_column=find_brightness_column(options.brightness_context, sizes.context_names),
                equalized_lr=options.equalized_lr,
            )

    def generate(self, codes: Codes, random: torch.Generator | None = None) -> Tensor:
        """Images (N, C, R, R) of codes, display space."""
        images: Tensor = self.generator(codes.to_vector(), random)
        return images


def make_discriminator(sizes: DataSizes, options: TrainingOptions) -> Discriminator:
    """The discriminator of a training."""
    with temporary_seed(options.seed + 7):
        return Discriminator(
            options.resolution,
            sizes.channels,
            sizes.features,
            channel_base=options.channel_base,
            max_channels=options.max_channels,
            equalized_lr=options.equalized_lr,
        )


def find_brightness_column(name: str | None, context_names: Sequence[str]) -> int | None:
    """The column of the context that drives the generator's brightness; None without one.

    >>> find_brightness_column("intensity", ("thickness", "intensity"))
    1

    Raises:
        PellucidError: There is no such context.
    """
    if name is None:
        return None
    if name not in context_names:
        there = ", ".join(context_names) or "none"
        raise PellucidError(f"brightness_context={name!r} is not a context; there are {there}")
    return list(context_names).index(name)
