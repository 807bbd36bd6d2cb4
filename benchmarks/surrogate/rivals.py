"""What pellucid's surrogate is measured against: its convolutions alone, a plain StyleGAN2, and StylEx's search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.surrogate.model import ModulatedConv, channels_at, resolutions_up_to

# --- The bound: the convolutions of a step with nothing around them

_FORWARD, _BACKWARD = torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default


@dataclass(frozen=True)
class Convolutions:
    """The convolutions that were run, in their order.

    Attributes:
        calls: operator and arguments; one tensor stands for all of its shape and memory order.
        forward, backward: how many there are of each.
    """

    calls: tuple[tuple[Any, tuple[Any, ...]], ...]
    forward: int
    backward: int

    def run(self) -> None:
        """Run them all again, on random numbers."""
        with torch.no_grad():
            for operator, arguments in self.calls:
                operator(*arguments)


def recorded(run: Callable[[], object]) -> Convolutions:
    """The convolutions that `run` executes, those of its backward passes included, as the dispatcher sees them."""
    recorder = _Recorder()
    with recorder:
        run()
    forward = sum(operator is _FORWARD for operator, _ in recorder.calls)
    return Convolutions(tuple(recorder.calls), forward, len(recorder.calls) - forward)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every convolution with tensors of the same shapes and memory order in place of its own."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []
        self._random = torch.Generator().manual_seed(0)
        self._stand_ins: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        if function in (_FORWARD, _BACKWARD):
            assert not named, "a convolution with named arguments would be run again without them"
            self.calls.append((function, tuple(self._stand_in(argument) for argument in arguments)))
        return function(*arguments, **(named or {}))

    def _stand_in(self, argument: Any) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        kind = (tuple(argument.shape), argument.stride())
        if kind not in self._stand_ins:
            extent = 1 + sum((size - 1) * stride for size, stride in zip(*kind, strict=True))
            self._stand_ins[kind] = torch.randn(extent, generator=self._random).as_strided(*kind)
        return self._stand_ins[kind]


# --- StyleGAN2 as it is usually written


def grouped_conv(x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, grow: bool = False) -> Tensor:
    """Modulated convolution with a weight for each image: one convolution with a group per image.

    Args:
        x: (N, I, H, W).
        weight: (O, I, k, k), k odd.
        style: (N, I).
        demodulate: divide by the norm of each output channel's weights.
        grow: transposed convolution of stride 2, as StyleGAN2 grows its maps; to be blurred.

    Returns:
        (N, O, H, W), zero padding; (N, O, 2 H + 1, 2 W + 1) where it grows.
    """
    count, inputs, height, width = x.shape
    outputs, _, kernel, _ = weight.shape
    own = weight * style[:, None, :, None, None]  # (N, O, I, k, k)
    if demodulate:
        own = own * torch.rsqrt(own.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    row = x.reshape(1, count * inputs, height, width)
    if grow:
        turned = own.transpose(1, 2).reshape(count * inputs, outputs, kernel, kernel)
        y = F.conv_transpose2d(row, turned, stride=2, groups=count)
    else:
        y = F.conv2d(row, own.reshape(count * outputs, inputs, kernel, kernel), padding=kernel // 2, groups=count)
    return y.view(count, outputs, *y.shape[2:])


class _GroupedConv(ModulatedConv):
    """The same weights as a modulated convolution, applied image by image; then StyleGAN2's blur if it grows."""

    def forward(self, x: Tensor, code: Tensor, *, upsample: bool = False) -> Tensor:
        y = grouped_conv(x, self.weight * self._factor, self.style(code), demodulate=self._demodulate, grow=upsample)
        return (_blurred(y) if upsample else y) + self.bias[:, None, None]


class PlainStyleGAN2(nn.Module):
    """StyleGAN2 synthesis with skip outputs, in place of `pellucid.surrogate.model.Generator`: same arguments.

    Maps grow by transposed convolution and a blur of [1, 3, 3, 1], images by zero insertion and that blur, both as
    depthwise convolutions. As in pellucid's there is no mapping network, no noise, and tanh(1.5 rgb) at the end.
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
        if noise_inputs or brightness_column is not None:
            raise NotImplementedError("the rival has neither noise nor gain; cpu-32 wants neither")
        widths = [channels_at(size, channel_base, max_channels) for size in resolutions_up_to(resolution)]
        self.start = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        before = [widths[0], *widths[:-1]]
        sizes = list(zip(before, widths, strict=True))
        self.growing = nn.ModuleList(
            _GroupedConv(wide, narrow, 3, code, equalized=equalized_lr) for wide, narrow in sizes[1:]
        )
        self.staying = nn.ModuleList(_GroupedConv(width, width, 3, code, equalized=equalized_lr) for width in widths)
        self.to_rgb = nn.ModuleList(
            _GroupedConv(width, channels, 1, code, demodulate=False, equalized=equalized_lr) for width in widths
        )

    def forward(self, code: Tensor, random: torch.Generator | None = None) -> Tensor:
        x = _activated(self.staying[0](self.start.repeat(len(code), 1, 1, 1), code))
        rgb: Tensor = self.to_rgb[0](x, code)
        for grow, stay, to_rgb in zip(self.growing, self.staying[1:], self.to_rgb[1:], strict=True):
            x = _activated(stay(_activated(grow(x, code, upsample=True)), code))
            rgb = _grown(rgb) + to_rgb(x, code)
        return torch.tanh(1.5 * rgb)


_TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])
_BLUR = _TAPS[:, None] * _TAPS / _TAPS.sum() ** 2 * 4  # of maps of which three quarters were zeros


def _blurred(x: Tensor) -> Tensor:
    return F.conv2d(x, _BLUR.expand(x.shape[1], 1, 4, 4), padding=1, groups=x.shape[1])


def _grown(rgb: Tensor) -> Tensor:
    return F.conv_transpose2d(rgb, _BLUR.expand(rgb.shape[1], 1, 4, 4), stride=2, padding=1, groups=rgb.shape[1])


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * 2**0.5


# --- StylEx


@dataclass(frozen=True)
class Searched:
    """What the search found for one image.

    Attributes:
        effects: (S, 2) gain of the target's probability with each coordinate set low, set high.
        chosen: coordinates set together in the end, the one that gains most first.
        flipped: whether the image drawn with them is of the target class.
    """

    effects: Tensor
    chosen: Sequence[int]
    flipped: bool


def coordinate_search(
    draw: Callable[[Tensor], Tensor],
    logits: Callable[[Tensor], Tensor],
    coordinates: Tensor,
    low: Tensor,
    high: Tensor,
    target: int,
    most: int = 10,
) -> Searched:
    """AttFind for one image, as its published loop goes: a coordinate and a direction at a time, an image at a time.

    Then the coordinates that gain most are set together, one more each time, until the class is the target.
    Source: Lang et al., Explaining in Style (ICCV 2021), section 3.3, independent selection.

    Args:
        draw: from coordinates (1, S) to an image.
        logits: the classifier.
        coordinates: (1, S), the image's.
        low, high: (S,) extremes over the data.
        target: class requested.
        most: coordinates set together, at most.
    """

    def seen(changed: Tensor) -> Tensor:
        with torch.no_grad():
            return logits(draw(changed))[0].softmax(0)

    before, count = seen(coordinates)[target], coordinates.shape[1]
    effects = torch.empty(count, 2)
    for column in range(count):
        for side, value in enumerate((low[column], high[column])):
            changed = coordinates.clone()
            changed[0, column] = value
            effects[column, side] = seen(changed)[target] - before
    gains, sides = effects.max(1)
    together, chosen, flipped = coordinates.clone(), list[int](), False
    for column in gains.argsort(descending=True)[:most].tolist():
        together[0, column] = (low, high)[int(sides[column])][column]
        chosen.append(column)
        flipped = int(seen(together).argmax()) == target
        if flipped:
            break
    return Searched(effects, chosen, flipped)
