"""The generator: StyleGAN2 synthesis with skip outputs, driven by a code whose coordinates mean something."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pellucid.surrogate.model.network_layers import (
    ModulatedConv,
    ScaledLinear,
    activate,
    channels_at,
    resolutions_up_to,
    upsample_2x,
)


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
