"""Sets of digits with known causes: causal models of thickness, intensity, slant and width, and digits redrawn to them.

The model of thickness and intensity (TI) and the intervals are those of Pawlowski et al., "Deep Structural Causal
Models for Tractable Counterfactual Inference", NeurIPS 2020; the others follow its manner.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.data import ContextTable
from pellucid.errors import PellucidError
from pellucid.synthetic.causal_model import CausalModel, Mechanism, Values
from pellucid.synthetic.morphomnist.measures import measure
from pellucid.synthetic.morphomnist.morphology import check_images
from pellucid.synthetic.morphomnist.redrawing import SETTABLE, redraw

_LOWEST, _RANGE = 64.0, 191.0  # of the intensity: 64 to 255
_NARROWEST, _WIDTHS = 8.0, 12.0  # of the width: 8 to 20 pixels
_EDGE = 1e-6  # measured values outside an open interval are explained as if just inside


def thickness_to_intensity(slope: float = 2.0, center: float = 2.5, noise: float = 0.5) -> CausalModel:
    """TI: t = 0.5 + Gamma(10, rate 5);  i = 64 + 191 σ(slope (t - center) + noise ε).

    With slope -2 and center 2, thick digits are dark: the inverted variant of the paper's code.

    Args:
        slope: how steeply the effect follows the cause.
        center: thickness in pixels at which the effect is in the middle.
        noise: spread of the effect's own noise.

    >>> model = thickness_to_intensity()
    >>> model.title, model.edges, model.sample(3).values.shape
    ('TI', (('thickness', 'intensity'),), torch.Size([3, 2]))
    """
    return CausalModel("TI", (_thickness(0.5), _intensity({"thickness": (slope, center)}, noise)))


def intensity_to_thickness(slope: float = 0.3, noise: float = 0.12) -> CausalModel:
    """IT: i = 64 + 191 σ(1.36 ε_i);  t = 0.5 + 1.9 exp(slope ε_i + noise ε_t).

    Both variables are distributed about as in TI and as strongly tied; only the arrow differs.

    >>> intensity_to_thickness().edges
    (('intensity', 'thickness'),)
    """

    def brightness(values: Values) -> Tensor:
        return _logit(values["intensity"], _LOWEST, _RANGE) / 1.36

    return CausalModel(
        "IT",
        (
            Mechanism(
                "intensity",
                (),
                lambda _, noise_: _LOWEST + _RANGE * torch.sigmoid(1.36 * noise_),
                lambda _, value: _logit(value, _LOWEST, _RANGE) / 1.36,
            ),
            Mechanism(
                "thickness",
                ("intensity",),
                lambda values, noise_: 0.5 + 1.9 * torch.exp(slope * brightness(values) + noise * noise_),
                lambda values, value: (
                    (((value - 0.5).clamp(min=_EDGE) / 1.9).log() - slope * brightness(values)) / noise
                ),
            ),
        ),
    )


def thickness_to_slant(slope: float = 20.0, center: float = 2.5, noise: float = 1.0) -> CausalModel:
    """TS: t = Gamma(10, rate 5);  slant = slope (t - center) + noise ε in degrees, given in radians.

    Args:
        slope: how steeply the effect follows the cause.
        center: thickness in pixels at which the effect is in the middle.
        noise: spread of the effect's own noise.

    >>> thickness_to_slant().edges
    (('thickness', 'slant'),)
    """
    slant = Mechanism(
        "slant",
        ("thickness",),
        lambda values, noise_: (slope * (values["thickness"] - center) + noise * noise_) * (pi / 180),
        lambda values, value: (value * (180 / pi) - slope * (values["thickness"] - center)) / noise,
    )
    return CausalModel("TS", (_thickness(0.0), slant))


def thickness_slant_width_to_intensity(noise: float = 0.5) -> CausalModel:
    """TSWI: intensity has three causes, and thickness a second effect.

    t = 0.5 + Gamma(10, rate 5);  s = 0.25 ε_s;  w = 8 + 12 σ(2 (t - 2.5) + 2 ε_w);
    i = 64 + 191 σ(1.2 (t - 2.5) + 3 s + 0.12 (w - 14) + noise ε_i).

    The arrows into intensity can be found from data alone (colliders with slant); that of thickness and width cannot.
    A weight of 0.25 for the width would all but hide that edge: given the intensity, its two causes are then tied the
    other way round just as much (partial correlation -0.02; with 0.12 it is 0.18).

    >>> len(thickness_slant_width_to_intensity().edges)
    4
    """
    slant = Mechanism("slant", (), lambda _, noise_: 0.25 * noise_, lambda _, value: value / 0.25)
    width = Mechanism(
        "width",
        ("thickness",),
        lambda values, noise_: _NARROWEST + _WIDTHS * torch.sigmoid(2 * (values["thickness"] - 2.5) + 2 * noise_),
        lambda values, value: _logit(value, _NARROWEST, _WIDTHS) / 2 - (values["thickness"] - 2.5),
    )
    causes = {"thickness": (1.2, 2.5), "slant": (3.0, 0.0), "width": (0.12, 14.0)}
    return CausalModel("TSWI", (_thickness(0.5), slant, width, _intensity(causes, noise)))


def _thickness(thinnest: float) -> Mechanism:
    return Mechanism(
        "thickness",
        (),
        lambda _, noise: thinnest + noise,
        lambda _, value: value - thinnest,
        _gamma,
    )


def _gamma(random: np.random.Generator, count: int) -> NDArray[Any]:
    return random.gamma(10.0, 1 / 5, count)


def _intensity(causes: Mapping[str, tuple[float, float]], spread: float) -> Mechanism:
    """64 + 191 σ(Σ slope (cause - center) + spread ε), with slope and center of each cause."""

    def drive(values: Values) -> Tensor:
        return torch.stack([slope * (values[name] - center) for name, (slope, center) in causes.items()]).sum(0)

    return Mechanism(
        "intensity",
        tuple(causes),
        lambda values, noise: _LOWEST + _RANGE * torch.sigmoid(drive(values) + spread * noise),
        lambda values, value: (_logit(value, _LOWEST, _RANGE) - drive(values)) / spread,
    )


def _logit(value: Tensor, lowest: float, extent: float) -> Tensor:
    return torch.logit(((value - lowest) / extent).clamp(_EDGE, 1 - _EDGE))


CAUSAL_MODELS: Mapping[str, CausalModel] = {
    model.title: model
    for model in (
        thickness_to_intensity(),
        intensity_to_thickness(),
        thickness_to_slant(),
        thickness_slant_width_to_intensity(),
    )
}
"""The known causal models by name: TI, IT, TS and TSWI. Thickness and width in pixels, slant in radians, intensity in
gray levels of 255."""


@dataclass(frozen=True)
class Rendering:
    """Digits redrawn to a context.

    Attributes:
        images: (N, H, W) uint8.
        requested: the context they were to have.
        measured: the same features, measured on the images.
    """

    images: Tensor
    requested: ContextTable
    measured: ContextTable

    def within(self, tolerances: Mapping[str, float]) -> Tensor:
        """Which images (N,) came within these distances of what was requested; other features do not count."""
        close = [
            (self.measured.column(name) - self.requested.column(name)).abs() <= tolerance
            for name, tolerance in tolerances.items()
        ]
        return torch.stack(close).all(0) if close else torch.ones(len(self.requested), dtype=torch.bool)


def render(
    digits: Tensor, context: ContextTable, *, size: int | None = None, scale: int = 4, batch: int = 256
) -> Rendering:
    """Redraw digits to a context, one row each, and measure what came out.

    Not every digit can take every context (a 1 cannot be 20 pixels wide and thin): see `Rendering.reached`.

    Args:
        digits: (N, H, W) bright on dark, any number type.
        context: N rows; of its columns thickness, slant, width and intensity are set, others refused.
        size: of the images, at least that of the digits, which are put in the middle; by default the digits' own
            longer side.
        scale: of the fine grid that digits are drawn on.
        batch: most digits to draw at once; bounds the memory.

    Raises:
        PellucidError: not one row per digit, a column that cannot be set, or a size below the digits'.

    >>> from pellucid.synthetic import draw_digits
    >>> rendering = render(draw_digits(torch.tensor([3])), ContextTable.from_columns({"thickness": [4.0]}))
    >>> rendering.images.dtype, rendering.within({"thickness": 0.3}).tolist()
    (torch.uint8, [True])
    """
    unknown = [name for name in context.names if name not in SETTABLE]
    if unknown:
        raise PellucidError(f"context column {unknown[0]!r} cannot be drawn; these can: {', '.join(SETTABLE)}")
    digits = check_images(digits)
    if len(digits) != len(context):
        raise PellucidError(f"{len(digits)} digits for {len(context)} rows of context; give one each")
    thickness, slant, width, intensity = (context.column(n) if n in context.names else None for n in SETTABLE)
    images = redraw(
        _pad_to_center(digits, size),
        thickness=thickness,
        slant=slant,
        width=width,
        intensity=intensity,
        scale=scale,
        batch=batch,
    )
    images = images.round().to(torch.uint8)
    return Rendering(images, context, measure(images, scale=scale, batch=batch).table(*context.names))


def _pad_to_center(digits: Tensor, size: int | None) -> Tensor:
    height, width = digits.shape[1:]
    size = size or max(height, width)
    if size < max(height, width):
        raise PellucidError(
            f"digits of {height} x {width} do not fit into {size} x {size}; give a size at least as large"
        )
    top, left = (size - height) // 2, (size - width) // 2
    return torch.nn.functional.pad(digits, (left, size - width - left, top, size - height - top))
