"""Contexts of digits measured by code and set by code: judges that no generator can please."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.surrogate.assess.leakage import Measure
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.training_options import Rerender
from pellucid.synthetic.morphomnist import measure, redraw

if TYPE_CHECKING:
    from pellucid.surrogate.surrogate import SurrogateExplainer


GROUND = 0.1
"""Share of the brightest grey that counts as black in drawn images: they are not quite black around the digit."""

_ROUNDS = 3  # of redrawing; what was reached is measured, so that it need not be what was asked


def measure_digits(shown: Tensor, names: Sequence[str], ground: float = 0.0) -> Tensor:
    """Measures (N, K) of bright digits on black (N, C, H, W), display space; NaN where there is nothing to measure.

    Args:
        shown: the images.
        names: of `pellucid.synthetic.morphomnist.MEASURES`.
        ground: share of an image's brightest grey that counts as black.
    """
    found = measure(_gray(shown), background=ground)
    return torch.stack([getattr(found, name) for name in names], dim=1)


def digit_measure(surrogate: "SurrogateExplainer") -> Measure:
    """What re-measures the digits that a twin draws; all its contexts must be measures of digits."""
    return lambda images: surrogate.standard_context(
        measure_digits(surrogate.space.to_display(images), surrogate.context_names, GROUND)
    )


def digit_rerender(names: Sequence[str], low: Tensor, high: Tensor, space: DisplaySpace) -> Rerender:
    """What redraws digits with contexts drawn evenly and independently between bounds, and measures what came of it.

    Args:
        names: of `pellucid.synthetic.morphomnist.SETTABLE`.
        low, high: (K,) bounds.
        space: display space of the images.
    """

    def anew(images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        asked = low + (high - low) * torch.rand(len(images), len(names), generator=random)
        settings = dict(zip(names, asked.T, strict=True))
        gray = redraw(_gray(space.to_display(images)), rounds=_ROUNDS, **settings)
        shown = (gray / 127.5 - 1)[:, None].expand_as(images)
        return space.from_display(shown), measure_digits(shown, names)

    return anew


def _gray(shown: Tensor) -> Tensor:
    """Images (N, C, H, W) of display space as grey (N, H, W), 0..255."""
    return ((shown.mean(1) + 1) * 127.5).clamp(0, 255)
