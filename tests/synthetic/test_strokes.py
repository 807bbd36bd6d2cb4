"""Drawn digits: pens of known thickness, brightness, slant and width; shapes that differ and can be told apart."""

import math

import pytest
import torch

from pellucid.errors import PellucidError
from pellucid.synthetic import draw_digits
from pellucid.synthetic.morphomnist import measure

DIGITS = torch.arange(10)


def _outer(mask: torch.Tensor, dim: int) -> torch.Tensor:
    """Number of rows or columns from the first to the last with ink."""
    used = mask.any(dim)
    first = used.int().argmax(1)
    last = used.shape[1] - 1 - used.flip(1).int().argmax(1)
    return last - first + 1


def test_the_pen_leaves_strokes_of_its_thickness() -> None:
    seven = torch.tensor([7])
    for thickness in (3.0, 5.5, 8.0):
        (image,) = draw_digits(seven, thickness=thickness, size=112) / 255
        bar = image[:, 56]  # through the bar of the seven, which is level before the shear and after
        top = bar[: int(16 + 2 * thickness)]
        assert top.sum().item() == pytest.approx(thickness, abs=0.01)


def test_thin_pens_leave_as_much_ink_as_they_cover() -> None:
    faint, full = (draw_digits(torch.tensor([7]), thickness=t, size=56).sum() for t in (0.25, 0.5))
    assert faint / full == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_height_and_width_are_those_asked_for(jitter: float) -> None:
    widths = torch.linspace(30, 60, 10)
    images = draw_digits(DIGITS, thickness=6.0, width=widths, size=112, jitter=jitter)
    ink = images > 127.5
    assert (_outer(ink, 2) - 80).abs().max() <= 1
    assert (_outer(ink, 1) - widths).abs().max() <= 1.5


def test_slant_is_that_of_the_measured_moments() -> None:
    for slant in (-0.4, 0.0, 0.4):
        measured = measure(draw_digits(DIGITS, thickness=2.0, slant=slant, size=112)).slant
        assert (measured - slant).abs().max() < 0.06
        assert measured.mean() == pytest.approx(slant, abs=0.02)


def test_measured_thickness_and_intensity_follow_what_was_drawn() -> None:
    labels = DIGITS.repeat(30)
    random = torch.Generator().manual_seed(0)
    thickness, intensity = 1.5 + 3 * torch.rand(300, generator=random), 80 + 175 * torch.rand(300, generator=random)
    measured = measure(draw_digits(labels, thickness=thickness, intensity=intensity, width=14.0, jitter=0.7))
    for found, asked, least in ((measured.thickness, thickness, 0.95), (measured.intensity, intensity, 0.97)):
        assert torch.corrcoef(torch.stack([found, asked]))[0, 1] > least
    assert draw_digits(labels, intensity=intensity).amax((1, 2)).allclose(intensity)


def test_nothing_is_cut_off_at_the_border() -> None:
    images = draw_digits(DIGITS.repeat(20), thickness=3.0, jitter=0.7, size=32)
    frame = torch.ones(32, 32, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    assert images[:, frame].max() == 0


def test_jitter_is_repeatable_and_makes_shapes_differ() -> None:
    labels = torch.zeros(5, dtype=torch.long)
    first = draw_digits(labels, jitter=1.0, seed=1)
    assert torch.equal(first, draw_digits(labels, jitter=1.0, seed=1))
    assert not torch.equal(first, draw_digits(labels, jitter=1.0, seed=2))
    assert (first[0] - first[1]).abs().mean() > 2
    plain = draw_digits(labels)
    assert torch.equal(plain[0], plain[1])


def test_digits_of_other_pens_are_told_apart_by_their_shapes() -> None:
    """Nearest neighbors learn from one set of jittered digits what another one shows."""
    labels = DIGITS.repeat(40)
    known = draw_digits(labels, jitter=0.7, width=14.0, seed=1).flatten(1)
    asked = draw_digits(labels, jitter=0.7, width=14.0, seed=2, thickness=3.0).flatten(1)
    found = labels[torch.cdist(asked, known).argmin(1)]
    assert (found == labels).float().mean() > 0.9


def test_drawing_is_differentiable_in_every_pen_property() -> None:
    start = torch.tensor([3.13, 200.0, 0.1, 15.0])  # off the kinks of level strokes

    def ink(values: torch.Tensor) -> torch.Tensor:
        thickness, intensity, slant, width = values
        weights = torch.linspace(-1, 1, 28).outer(torch.linspace(0, 1, 28))
        image = draw_digits(torch.tensor([2]), thickness=thickness, intensity=intensity, slant=slant, width=width)
        return (image[0] * weights).sum()

    values = start.clone().requires_grad_()
    ink(values).backward()
    for place, step in enumerate((0.02, 1.0, 0.005, 0.02)):
        up, down = start.clone(), start.clone()
        up[place] += step
        down[place] -= step
        slope = float(ink(up) - ink(down)) / (2 * step)
        assert values.grad[place].item() == pytest.approx(slope, rel=0.1, abs=1.0)


def test_pens_that_do_not_fit_and_labels_that_are_no_digits_are_refused() -> None:
    with pytest.raises(PellucidError, match="thinner than the digit"):
        draw_digits(DIGITS, thickness=6.0, width=5.0)
    with pytest.raises(PellucidError, match="thinner than the digit"):
        draw_digits(DIGITS, thickness=math.nan)
    with pytest.raises(PellucidError, match="integers from 0 to 9"):
        draw_digits(torch.tensor([10]))
    with pytest.raises(PellucidError, match=r"\(3,\) numbers for 10 digits"):
        draw_digits(DIGITS, slant=torch.zeros(3))
