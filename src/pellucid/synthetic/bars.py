"""Bars: images whose causes, counterfactuals and classifiers are known exactly.

An image shows one upright bar of some thickness, intensity and position; thick bars tend to be bright. The true
counterfactual of an image is drawn from its context:

    context = bars_model().sample(1000, seed=0)
    draw_bars(context.with_columns({"thickness": 5.0}))                      # the thickness alone is changed
    draw_bars(bars_model().counterfactual(context, {"thickness": 5.0}))  # and the intensity follows

Lengths are in sixteenths of an image's side, so that all sizes show the same bars.
"""

import torch
from torch import Tensor, nn

from pellucid.data import ContextTable
from pellucid.errors import PellucidError
from pellucid.synthetic.causal_model import CausalModel, Mechanism, Values

BAR_FEATURES = ("thickness", "intensity", "position")
"""What a bar is drawn from: its thickness and the place of its center line (in sixteenths), its gray level (0..1)."""

_UNITS = 16
_TOP, _BOTTOM = 2.0, 14.0  # of every bar
_THINNEST, _THICKNESSES, _THICKNESS_SD = 2.0, 5.0, 5 / 20**0.5
_MIDDLE = 4.5
_DARKEST, _LEVELS = 0.3, 0.7
_DRIVE_SD = ((1.4 * _THICKNESS_SD) ** 2 + 0.7**2) ** 0.5
_SHARPNESS = 50.0


def bars_model(correlation: float = 1.4 * _THICKNESS_SD / _DRIVE_SD) -> CausalModel:
    """The causal model of the bars: thickness -> intensity, and a position of its own.

    t = 2 + 5 Beta(2, 2);  i = 0.3 + 0.7 σ(a (t - 4.5) + b ε);  p uniform on 5..11. By default a = 1.4 and b = 0.7.

    Args:
        correlation: of thickness and the logit a (t - 4.5) + b ε, whose variance stays as it is by default; there the
            correlation is 0.913, and that of thickness and intensity itself 0.91.

    Raises:
        PellucidError: a correlation that leaves no noise.

    >>> bars_model().sample(2, seed=0).names
    ('thickness', 'intensity', 'position')
    """
    if not -1 < correlation < 1:
        raise PellucidError(f"the correlation of thickness and intensity must be between -1 and 1, not {correlation}")
    slope = correlation * _DRIVE_SD / _THICKNESS_SD
    spread = (1 - correlation**2) ** 0.5 * _DRIVE_SD

    def drive(values: Values) -> Tensor:
        driven: Tensor = slope * (values["thickness"] - _MIDDLE)
        return driven

    thickness = Mechanism(
        "thickness",
        (),
        lambda _, noise: _THINNEST + _THICKNESSES * noise,
        lambda _, value: (value - _THINNEST) / _THICKNESSES,
        lambda random, count: random.beta(2, 2, count),
    )
    intensity = Mechanism(
        "intensity",
        ("thickness",),
        lambda values, noise: _DARKEST + _LEVELS * torch.sigmoid(drive(values) + spread * noise),
        lambda values, value: (torch.logit((value - _DARKEST) / _LEVELS, eps=1e-9) - drive(values)) / spread,
    )
    position = Mechanism(
        "position",
        (),
        lambda _, noise: noise,
        lambda _, value: value,
        lambda random, count: random.uniform(5, 11, count),
    )
    return CausalModel("bars", (thickness, intensity, position))


def draw_bars(context: ContextTable | Tensor, size: int = 16) -> Tensor:
    """Draw bars; each pixel has the bar's intensity times the part of it that the bar covers, exactly.

    Args:
        context: a table with the columns `BAR_FEATURES`, or their values (N, 3) in that order.
        size: side of the images.

    Returns:
        (N, 1, size, size), 0..1, float32; differentiable with respect to a tensor of values.

    Raises:
        PellucidError: a column is missing, or the values are not (N, 3).

    >>> draw_bars(torch.tensor([[4.0, 0.5, 8.0]]))[0, 0, 8, 4:12]
    tensor([0.0000, 0.0000, 0.5000, 0.5000, 0.5000, 0.5000, 0.0000, 0.0000])
    """
    values = context.select(BAR_FEATURES).values if isinstance(context, ContextTable) else context
    if values.ndim != 2 or values.shape[1] != len(BAR_FEATURES) or size < 1:
        raise PellucidError(f"bars are drawn from (N, 3) values at a size above 0, not {tuple(values.shape)} at {size}")
    thickness, intensity, position = values.double()[:, :, None].unbind(1)  # (N, 1)
    columns = _coverage_of_pixels(position - thickness / 2, position + thickness / 2, size)  # (N, W)
    ends = torch.tensor([[_TOP], [_BOTTOM]], dtype=torch.float64, device=values.device)
    rows = _coverage_of_pixels(ends[:1], ends[1:], size)  # (1, H)
    return (intensity[..., None] * rows[..., None] * columns[:, None])[:, None].float()


class IntensityClassifier(nn.Module):
    """Tells bright bars (class 1) from dark ones (class 0) by the intensity alone.

    margin = slope (m - threshold), with the soft maximum m = Σ x softmax(50 x) over the pixels x; logits ∓ margin / 2.
    m is the intensity of the bar up to what its half-covered edges take away: within 3 % in images of 16 pixels or
    more, and to 1e-4 where the edges fall between pixels.

    Args:
        slope: of the margin per unit of intensity.
        threshold: the intensity at which both classes are equally probable.

    >>> bars = draw_bars(torch.tensor([[4.0, 0.4, 8.0], [4.0, 0.9, 8.0]]))
    >>> IntensityClassifier()(bars).argmax(1)
    tensor([0, 1])
    """

    def __init__(self, slope: float = 20.0, threshold: float = 0.65) -> None:
        super().__init__()
        self.slope = slope
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 2) of images (N, C, H, W), 0..1; channels are averaged."""
        return _binary_logits(self.slope * (_soft_maximum(images) - self.threshold))


class ThicknessClassifier(nn.Module):
    """Tells thick bars (class 1) from thin ones (class 0) by the thickness alone.

    margin = slope (w - threshold), with w = Σ x / (m · length of the bar) in sixteenths and the soft maximum m of
    `IntensityClassifier`; logits ∓ margin / 2. w is the thickness, as exactly as m is the intensity.

    Args:
        slope: of the margin per sixteenth of thickness.
        threshold: the thickness at which both classes are equally probable.

    >>> bars = draw_bars(torch.tensor([[3.0, 0.9, 8.0], [6.0, 0.4, 8.0]]))
    >>> ThicknessClassifier()(bars).argmax(1)
    tensor([0, 1])
    """

    def __init__(self, slope: float = 3.5, threshold: float = _MIDDLE) -> None:
        super().__init__()
        self.slope = slope
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 2) of images (N, C, H, W), 0..1; channels are averaged."""
        ink = images.mean(1).flatten(1).mean(1) * (_UNITS**2)  # intensity x area in square sixteenths
        width = ink / (_soft_maximum(images) * (_BOTTOM - _TOP)).clamp(min=1e-6)
        return _binary_logits(self.slope * (width - self.threshold))


def _coverage_of_pixels(low: Tensor, high: Tensor, size: int) -> Tensor:
    """Which part of each of `size` pixels lies between low and high, (N, size)."""
    left = torch.arange(size, dtype=low.dtype, device=low.device)
    low, high = (edge * (size / _UNITS) for edge in (low, high))
    return (torch.minimum(left + 1, high) - torch.maximum(left, low)).clamp(min=0)


def _soft_maximum(images: Tensor) -> Tensor:
    flat = images.mean(1).flatten(1)
    return (flat * torch.softmax(_SHARPNESS * flat, dim=1)).sum(1)


def _binary_logits(margin: Tensor) -> Tensor:
    return torch.stack([-margin / 2, margin / 2], dim=1)
