"""Redrawn and perturbed digits measure what was asked, and nothing else moves that need not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from experiments.surrogate.shared.idx import read_mnist
from scipy import ndimage
from tests.synthetic.perturbed_digits import fracture, swell, thicken, thin
from torch import Tensor

from pellucid.data import ContextTable
from pellucid.errors import PellucidError
from pellucid.synthetic import draw_digits
from pellucid.synthetic.morphomnist import (
    CAUSAL_MODELS,
    measure,
    redraw,
    render,
    set_intensity,
    set_slant,
    set_thickness,
    set_width,
)
from pellucid.synthetic.morphomnist.morphology import binarize, upscale


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """Drawn digits of several shapes, pens and shades."""
    labels = torch.arange(10).repeat(3)
    random = torch.Generator().manual_seed(0)
    pen, level = 2 + 1.5 * torch.rand(30, generator=random), 120 + 130 * torch.rand(30, generator=random)
    return draw_digits(labels, thickness=pen, intensity=level, width=13.0, jitter=0.6)


def _uniform(low: float, high: float, count: int = 30) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=torch.Generator().manual_seed(1))


def test_thickness_set_is_thickness_measured(digits: Tensor) -> None:
    asked = _uniform(1.8, 4.0)
    before, after = measure(digits), measure(set_thickness(digits, asked))
    assert (after.thickness - asked).abs().mean() < 0.1
    assert (after.thickness - asked).abs().max() < 0.4
    assert (after.intensity - before.intensity).abs().max() < 2
    assert (after.slant - before.slant).abs().max() < 0.06


def test_slant_set_is_slant_measured(digits: Tensor) -> None:
    asked = _uniform(-0.4, 0.4)
    before, after = measure(digits), measure(set_slant(digits, asked))
    assert (after.slant - asked).abs().max() < 0.02
    assert (after.intensity - before.intensity).abs().max() < 1
    assert (after.height - before.height).abs().max() < 1.1
    assert (after.thickness - before.thickness).abs().mean() < 0.1


def test_width_set_is_width_measured(digits: Tensor) -> None:
    asked = _uniform(10, 18)
    before, after = measure(digits), measure(set_width(digits, asked))
    kept = measure(set_width(digits, asked, keep_thickness=True))
    assert (after.width - asked).abs().max() < 0.3
    assert (kept.width - asked).abs().mean() < 0.15
    assert (after.slant - before.slant).abs().max() < 0.03
    assert (kept.thickness - before.thickness).abs().mean() < 0.15
    assert (after.intensity - before.intensity).abs().max() < 1


def test_a_plain_stretch_widens_upright_strokes_with_the_digit() -> None:
    (one,) = draw_digits(torch.tensor([1]), thickness=3.0, width=10.0).unbind()
    before = measure(one[None])
    plain, kept = (measure(set_width(one[None], 2 * before.width, keep_thickness=k)) for k in (False, True))
    assert plain.width.item() == pytest.approx(2 * before.width.item(), abs=0.1)
    assert plain.thickness.item() > 1.25 * before.thickness.item()
    assert kept.thickness.item() == pytest.approx(before.thickness.item(), abs=0.2)


def test_intensity_set_is_intensity_measured_even_where_gray_is_cut(digits: Tensor) -> None:
    asked = _uniform(64, 255)
    before, after = measure(digits), measure(set_intensity(digits, asked))
    assert (after.intensity - asked).abs().max() < 1
    assert set_intensity(digits, asked).amax() <= 255
    assert (after.thickness - before.thickness).abs().mean() < 0.1


def test_all_four_can_be_set_together(digits: Tensor) -> None:
    after = measure(redraw(digits, thickness=2.5, slant=0.2, width=14.0, intensity=150.0))
    for found, asked, near in (
        (after.thickness, 2.5, 0.15),
        (after.slant, 0.2, 0.03),
        (after.width, 14.0, 0.4),
        (after.intensity, 150.0, 1.0),
    ):
        assert (found - asked).abs().mean() < near


def test_real_digits_reach_what_is_asked(shared_data: Path) -> None:
    images = read_mnist(shared_data / "mnist", "t10k")[0][:100]
    context = CAUSAL_MODELS["TI"].sample(100, seed=2)
    rendering = render(images, context, size=32)
    assert rendering.images.shape == (100, 32, 32)
    assert rendering.images.dtype == torch.uint8
    again = measure(rendering.images).table("thickness", "intensity")
    assert torch.equal(rendering.measured.values, again.values)
    assert rendering.within({"thickness": 0.15, "intensity": 3.0}).float().mean() > 0.9
    for name in context.names:
        pair = torch.stack([rendering.requested.column(name), rendering.measured.column(name)])
        assert torch.corrcoef(pair)[0, 1] > 0.97


def test_what_was_not_reached_is_known() -> None:
    one, eight = draw_digits(torch.tensor([7, 8]), thickness=2.5)
    context = ContextTable.from_columns({"width": [14.0, 14.0], "thickness": [2.5, 20.0]})
    rendering = render(torch.stack([one, eight]), context)
    assert rendering.within({"thickness": 0.3, "width": 1.0}).tolist() == [True, False]
    assert rendering.within({}).tolist() == [True, True]


def test_render_refuses_what_it_cannot_draw(digits: Tensor) -> None:
    with pytest.raises(PellucidError, match=r"'color' cannot be drawn.*thickness"):
        render(digits, ContextTable.from_columns({"color": torch.zeros(30).numpy()}))
    with pytest.raises(PellucidError, match="30 digits for 2 rows"):
        render(digits, ContextTable.from_columns({"thickness": [2.0, 3.0]}))
    with pytest.raises(PellucidError, match="do not fit into 20 x 20"):
        render(digits[:2], ContextTable.from_columns({"thickness": [2.0, 3.0]}), size=20)


def test_redraw_refuses_values_out_of_range(digits: Tensor) -> None:
    for options in ({"thickness": 0.0}, {"intensity": 300.0}, {"slant": 2.0}, {"width": torch.nan}):
        with pytest.raises(PellucidError, match=f"{next(iter(options))} must be"):
            redraw(digits, **options)
    with pytest.raises(PellucidError, match=r"thickness has shape \(3,\)"):
        redraw(digits, thickness=torch.ones(3))


def test_asking_for_nothing_changes_nothing(digits: Tensor) -> None:
    assert torch.allclose(redraw(digits), digits, atol=1e-3)


def test_results_do_not_depend_on_batches(digits: Tensor) -> None:
    asked = _uniform(1.8, 4.0)
    assert torch.allclose(redraw(digits, thickness=asked, batch=7), redraw(digits, thickness=asked), atol=0.5)


def test_thin_takes_away_the_stated_radius(digits: Tensor) -> None:
    before, after = measure(digits), measure(thin(digits, 0.4))
    radius = (4 * 0.4 * before.thickness / 2).floor() / 4
    assert bool((after.area < before.area).all())
    assert ((before.thickness - after.thickness) - 2 * radius).abs().mean() < 0.3
    assert (after.intensity - before.intensity).abs().max() < 2
    # An erosion leaves a part of what there was.
    assert not (binarize(upscale(thin(digits, 0.4), 4)) & ~binarize(upscale(digits, 4))).float().mean() > 1e-3


def test_thicken_adds_the_stated_radius() -> None:
    bar = torch.zeros(1, 40, 40)
    bar[:, 6:34, 18:22] = 200.0
    before = measure(bar).thickness.item()
    radius = int(4 * 1.0 * before / 2) / 4
    after = measure(thicken(bar, 1.0))
    assert after.thickness.item() == pytest.approx(before + 2 * radius, abs=0.3)
    assert after.height.item() == pytest.approx(0.98 * (28 + 2 * radius), abs=0.4)
    assert after.intensity.item() == pytest.approx(200, abs=1)


def test_swelling_magnifies_within_its_radius_and_nowhere_else(digits: Tensor) -> None:
    before, swollen = measure(digits), swell(digits, seed=3)
    after = measure(swollen)
    assert (after.area > before.area).float().mean() > 0.9
    changed = (swollen - swell(digits, strength=1.0)).abs() > 30
    for mask, thickness in zip(changed, before.thickness, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        reach = 7 * float(thickness) ** 0.5 / 2
        assert 4 < rows.max() - rows.min() <= 2 * reach + 2
        assert columns.max() - columns.min() <= 2 * reach + 2
    assert torch.equal(swollen, swell(digits, seed=3))
    assert not torch.equal(swollen, swell(digits, seed=4))
    shape = binarize(upscale(swell(digits, strength=1.0), 4))
    assert (shape != binarize(upscale(digits, 4))).float().mean() < 0.01


def test_fractures_break_strokes_apart() -> None:
    bar = torch.zeros(4, 48, 48)
    bar[:, 4:44, 22:26] = 200.0
    for cuts in (1, 2, 3):
        broken = fracture(bar, cuts, width=2.0, seed=5)
        shapes = binarize(upscale(broken, 4)).numpy()
        assert [ndimage.label(shape)[1] for shape in shapes] == [cuts + 1] * 4
        lost = measure(bar).area - measure(broken).area
        assert torch.allclose(lost, torch.full((4,), cuts * 2.0 * 4), rtol=0.2)  # corners round off
        # Two pixels off the ends nothing is cut; the skeleton's own ends lie half a thickness inside.
        assert bool((broken[:, 5:7, 23:25] > 190).all())
    assert torch.equal(broken, fracture(bar, 3, width=2.0, seed=5))
    assert not torch.equal(broken, fracture(bar, 3, width=2.0, seed=6))


def test_fractures_cross_slanted_strokes_squarely() -> None:
    line = torch.arange(48) - 23.5
    along, across = (line[:, None] + line[None]) / 2**0.5, (line[:, None] - line[None]) / 2**0.5
    bar = 200 * ((2.5 - across.abs()).clamp(0, 1) * (along.abs() < 18))[None]
    lost = measure(bar).area - measure(fracture(bar, 1, width=2.0, seed=1)).area
    assert lost.item() == pytest.approx(2.0 * 4, rel=0.25)


def test_perturbations_refuse_blank_images_and_bad_options(digits: Tensor) -> None:
    blank = torch.zeros(1, 28, 28)
    for change in (thin, thicken, swell, fracture):
        with pytest.raises(PellucidError, match="image 0 is of one even gray"):
            change(blank)
    for change, options in (
        (thin, {"amount": 1.0}),
        (thicken, {"amount": 0.0}),
        (swell, {"strength": 0.5}),
        (fracture, {"cuts": 0}),
    ):
        with pytest.raises(PellucidError, match="not"):
            change(digits, **options)


def test_a_digit_asked_to_be_thinner_than_can_be_drawn_is_not_thinned_away(digits: Tensor) -> None:
    drawn = set_thickness(digits, 0.05)
    assert bool((drawn.amax((1, 2)) > drawn.amin((1, 2))).all())
    assert (measure(drawn).thickness < measure(digits).thickness).all()


def test_uneven_strokes_made_thin_do_not_fall_to_pieces() -> None:
    """A heavy blob on a fine stroke: eroding it to a fine mean thickness would leave a speck of the blob alone."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    stem = ((x - 16).abs() < 1.5) & (y > 4) & (y < 28)
    blob = (x - 16).square() + (y - 24).square() < 36
    club = 255.0 * (stem | blob)[None]
    thin_club = redraw(club, thickness=1.8, rounds=20)
    measured = measure(thin_club)
    assert measured.thickness.item() == pytest.approx(1.8, abs=0.3)
    assert measured.height.item() > 0.8 * measure(club).height.item()
    shape = binarize(upscale(thin_club, 4))[0].numpy()
    assert ndimage.label(shape, np.ones((3, 3)))[1] == 1


def test_digits_made_thin_keep_their_parts(digits: Tensor) -> None:
    parts = [
        [ndimage.label(shape.numpy(), np.ones((3, 3)))[1] for shape in binarize(upscale(seen, 4))]
        for seen in (digits, set_thickness(digits, 1.3))
    ]
    assert parts[0] == parts[1]
