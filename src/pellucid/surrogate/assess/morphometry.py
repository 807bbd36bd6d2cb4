"""Contexts of digits measured by code and set by code: measures that no generator can be trained to please."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.surrogate.assess.leakage import Measure
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.surrogate import Surrogate
from pellucid.surrogate.training_options import Rerender
from pellucid.synthetic.morphomnist import measure, redraw

BACKGROUND = 0.1
"""Share of the brightest gray that counts as black in generated images: they are not quite black around the digit."""

_ROUNDS = 3  # of redrawing; the result is measured, so that it need not be exactly what was requested


def measure_digits(displayed: Tensor, names: Sequence[str], background: float = 0.0) -> Tensor:
    """Measures (N, K) of bright digits on black; NaN where there is nothing to measure.

    Args:
        displayed: (N, C, H, W), display space.
        names: of `pellucid.synthetic.morphomnist.MEASURES`.
        background: share of an image's brightest gray that counts as black.

    >>> from pellucid.synthetic import draw_digits
    >>> digits = draw_digits(torch.tensor([1, 1]), thickness=torch.tensor([2.0, 4.0]))[:, None] / 127.5 - 1
    >>> thin, thick = measure_digits(digits, ["thickness"])[:, 0].tolist()
    >>> thin < thick
    True
    """
    measures = measure(_to_gray(displayed), background=background)
    return torch.stack([getattr(measures, name) for name in names], dim=1)


def digit_measure(surrogate: Surrogate) -> Measure:
    """What measures the digits that a surrogate generates; all its contexts must be measures of digits.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> digit_measure(digit_surrogate().surrogate)(digits).shape
    torch.Size([2, 4])
    """

    def measure_context(images: Tensor) -> Tensor:
        displayed = surrogate.space.to_display(images)
        return surrogate.standard_context(measure_digits(displayed, surrogate.context_names, BACKGROUND))

    return measure_context


def digit_rerender(names: Sequence[str], low: Tensor, high: Tensor, space: DisplaySpace) -> Rerender:
    """What redraws digits with contexts drawn evenly and independently between bounds, and measures the result.

    Args:
        names: of `pellucid.synthetic.morphomnist.SETTABLE`.
        low: (K,) lower bounds.
        high: (K,) upper bounds.
        space: display space of the images.

    >>> space = DisplaySpace((-1.0,), (1.0,), "digits")
    >>> rerender = digit_rerender(["slant"], torch.tensor([-0.3]), torch.tensor([0.3]), space)
    >>> from pellucid.synthetic import draw_digits
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> images, context = rerender(digits, torch.Generator().manual_seed(0))
    >>> images.shape, context.shape
    (torch.Size([2, 1, 32, 32]), torch.Size([2, 1]))
    """

    def rerender(images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        requested = low + (high - low) * torch.rand(len(images), len(names), generator=random)
        settings = dict(zip(names, requested.T, strict=True))
        gray = redraw(_to_gray(space.to_display(images)), rounds=_ROUNDS, **settings)
        displayed = (gray / 127.5 - 1)[:, None].expand_as(images)
        return space.from_display(displayed), measure_digits(displayed, names)

    return rerender


def _to_gray(displayed: Tensor) -> Tensor:
    """Images (N, C, H, W) of display space as gray (N, H, W), 0..255."""
    return ((displayed.mean(1) + 1) * 127.5).clamp(0, 255)
