"""Morphometry: known strokes measure what they are, scikit-image agrees, and real digits match their table."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments.surrogate.shared.idx import read_mnist
from scipy import ndimage
from tests.synthetic.perturbed_digits import neighbor_counts

from pellucid.data import read_context
from pellucid.errors import PellucidError
from pellucid.synthetic.morphomnist import MEASURES, measure, measure_intensity
from pellucid.synthetic.morphomnist.morphology import (
    binarize,
    downscale,
    medial_axis,
    signed_distances,
    squared_distances,
    upscale,
)


def _stroke(
    thickness: float, length: float, slant: float, size: int = 48, intensity: float = 200.0, fine: int = 16
) -> torch.Tensor:
    """A straight bar `length` high with level ends, leaning by `slant`, and `thickness` across; (1, size, size)."""
    grid = (torch.arange(size * fine) + 0.5) / fine - size / 2
    x, y = grid[None, :], grid[:, None]
    inside = ((x + math.tan(slant) * y).abs() <= thickness / math.cos(slant) / 2) & (y.abs() <= length / 2)
    return intensity * torch.nn.functional.avg_pool2d(inside.float()[None, None], fine)[0]


def _blobs(count: int = 8, size: int = 40) -> torch.Tensor:
    noise = np.random.default_rng(0).normal(size=(count, size, size))
    smooth = np.stack([ndimage.gaussian_filter(n, 2.5) for n in noise])
    return torch.from_numpy(smooth > 0.02)


@pytest.mark.parametrize("thickness", [2.0, 3.0, 5.0])
@pytest.mark.parametrize("slant", [-0.4, 0.0, 0.3])
def test_a_straight_stroke_measures_what_it_is(thickness: float, slant: float) -> None:
    length = 30.0
    found = measure(_stroke(thickness, length, slant))
    across = thickness / math.cos(slant)
    assert found.area.item() == pytest.approx(across * length, rel=0.06)
    assert found.thickness.item() == pytest.approx(thickness, abs=0.3)
    # Along the stroke, less what the medial axis forks off into the corners; a digital line is up to 8 % longer.
    along = length / math.cos(slant)
    assert along - 1.5 * thickness < found.length.item() < 1.09 * along + 1.5 * thickness
    # u11 / u02 of a parallelogram with level ends is exactly its shear.
    assert found.slant.item() == pytest.approx(slant, abs=0.005)
    # A pixel's gray is spread over all of it, which widens a stroke by up to a pixel and the shear within a row.
    assert 0.98 * across - 0.1 < found.width.item() < across + 1.05 + abs(math.tan(slant))
    assert found.height.item() == pytest.approx(0.98 * length, abs=0.05)


def test_width_and_height_of_a_block_are_98_percent_of_its_sides() -> None:
    image = torch.zeros(1, 30, 30)
    image[:, 5:25, 8:18] = 1.0
    found = measure(image)
    assert found.width.item() == pytest.approx(9.8, abs=1e-3)
    assert found.height.item() == pytest.approx(19.6, abs=1e-3)
    assert found.area.item() == pytest.approx(200, rel=0.02)


def test_a_ring_has_the_length_of_its_circle() -> None:
    line = torch.arange(48) - 23.5
    radius = torch.hypot(line[:, None], line[None])
    found = measure((2 - (radius - 15).abs()).clamp(0, 1)[None])  # 3 thick
    assert found.thickness.item() == pytest.approx(3, abs=0.2)
    assert found.length.item() == pytest.approx(2 * math.pi * 15, rel=0.08)  # a digital circle is a little longer
    assert found.slant.item() == pytest.approx(0, abs=1e-4)


def test_intensity_is_the_median_of_the_bright_half() -> None:
    random = torch.Generator().manual_seed(0)
    images = (torch.rand(20, 9, 9, generator=random) * 255).round()
    expected = []
    for image in images.numpy():
        low, high = image.min(), image.max()
        expected.append(np.median(image[image >= low + (high - low) / 2]))
    assert measure_intensity(images).tolist() == pytest.approx(expected)


def test_slant_is_that_of_the_moments_written_out() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(5, 12, 10, generator=random)
    for image, slant in zip(images.double().numpy(), measure(images).slant.tolist(), strict=True):
        y, x = np.mgrid[:12, :10]
        mass = image.sum()
        dx, dy = x - (image * x).sum() / mass, y - (image * y).sum() / mass
        assert slant == pytest.approx(math.atan(-(image * dx * dy).sum() / (image * dy * dy).sum()), abs=1e-5)


def test_distances_are_exactly_those_of_scipy() -> None:
    shapes = _blobs()
    expected = np.stack([ndimage.distance_transform_edt(shape) for shape in shapes.numpy()])
    squared = squared_distances(shapes)
    assert np.allclose(squared.numpy(), expected**2)
    near = squared_distances(shapes, reach=2)
    assert torch.equal((near <= 4), (squared <= 4))
    assert torch.equal(near[near <= 4], squared[near <= 4])
    assert bool((squared_distances(torch.ones(1, 5, 7, dtype=torch.bool)) == 144).all())


def test_signed_distances_are_half_a_pixel_beside_the_outline() -> None:
    shape = torch.zeros(1, 1, 9, dtype=torch.bool)
    shape[..., 3:6] = True
    assert signed_distances(shape)[0, 0].tolist() == [-2.5, -1.5, -0.5, 0.5, 1.5, 0.5, -0.5, -1.5, -2.5]


def test_skeletons_are_thin_and_as_connected_as_their_shapes() -> None:
    shapes = _blobs()
    skeletons = medial_axis(shapes, squared_distances(shapes))
    eight = np.ones((3, 3))
    for shape, skeleton in zip(shapes.numpy(), skeletons.numpy(), strict=True):
        assert not (skeleton & ~shape).any()
        assert ndimage.label(skeleton, eight)[1] == ndimage.label(shape, eight)[1]
        holes = [ndimage.label(np.pad(~mask, 1, constant_values=True))[1] for mask in (skeleton, shape)]
        assert holes[0] == holes[1]
    thick = torch.nn.functional.avg_pool2d(skeletons[:, None].float(), 3, 1)  # no full 3 x 3 block
    assert thick.max() < 0.99


def test_neighbors_are_counted_without_the_pixel_itself() -> None:
    cross = torch.tensor([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]]).bool()
    assert neighbor_counts(cross)[0].tolist() == [[3, 3, 3], [3, 4, 3], [3, 3, 3]]


def test_scikit_image_finds_the_same_thickness_and_area(shared_data: Path) -> None:
    morphology = pytest.importorskip("skimage.morphology")
    transform = pytest.importorskip("skimage.transform")
    images = read_mnist(shared_data / "mnist", "t10k")[0][:60]
    fine = upscale(images.float(), 4)
    found = measure(images)
    differences = []
    for n, image in enumerate(images.numpy().astype(np.float64)):
        expected = transform.pyramid_expand(image, upscale=4, order=3)
        shape = expected >= expected.min() + 0.5 * np.ptp(expected)
        assert np.abs(expected - fine[n].numpy()).max() < 1e-2
        assert (shape != binarize(fine[n : n + 1])[0].numpy()).sum() <= 2
        skeleton, distance = morphology.medial_axis(shape, return_distance=True, rng=0)
        differences.append(found.thickness[n].item() - 2 * distance[skeleton].mean() / 4)
        assert found.area[n].item() == pytest.approx(shape.sum() / 16, abs=0.2)
    # Its ties are broken at random, which alone moves the thickness by up to 0.1.
    assert np.abs(differences).max() < 0.25
    assert np.abs(differences).mean() < 0.03


def test_downscaling_is_that_of_scikit_image(shared_data: Path) -> None:
    transform = pytest.importorskip("skimage.transform")
    images = read_mnist(shared_data / "mnist", "t10k")[0][:5]
    fine = upscale(images.float(), 4)
    for image, coarse in zip(fine.numpy().astype(np.float64), downscale(fine, 4).numpy(), strict=True):
        assert np.abs(transform.pyramid_reduce(image, downscale=4, order=3) - coarse).max() < 1e-2


def test_measured_digits_match_the_table_they_were_made_from(shared_data: Path) -> None:
    """The table holds what was asked of its makers' own setter; it reaches the mean thickness to about 0.1."""
    images = read_mnist(shared_data / "morphomnist_ti", "t10k")[0][::10]
    table = read_context(shared_data / "morphomnist_ti" / "t10k-morpho.csv", columns=["thickness", "intensity"])
    found = measure(images)
    for name, correlation, error in (("thickness", 0.96, 0.13), ("intensity", 0.9999, 0.6)):
        asked, measured = table.column(name)[::10], getattr(found, name).double()
        assert torch.corrcoef(torch.stack([asked, measured]))[0, 1] > correlation
        assert (asked - measured).abs().mean() < error
        slope = ((asked - asked.mean()) * measured).sum() / ((asked - asked.mean()) ** 2).sum()
        assert slope == pytest.approx(1, abs=0.13)
    # What others measured on this set: area 97, length 40, thickness 2.6, slant 0.09, width 12.7, height 18.8.
    assert [round(getattr(found, name).mean().item(), 1) for name in ("thickness", "slant")] == [2.6, 0.1]
    for name, mean in (("area", 97), ("length", 40), ("width", 12.7), ("height", 18.8)):
        assert getattr(found, name).mean().item() == pytest.approx(mean, rel=0.03)


def test_measures_do_not_depend_on_batches_brightness_or_number_type() -> None:
    images = torch.cat([_stroke(3, 20, 0.2), _stroke(4, 30, -0.1), _stroke(2, 24, 0.0)])
    together = measure(images)
    for other in (measure(images, batch=1), measure(images.double())):
        for name in MEASURES:
            assert torch.allclose(getattr(other, name), getattr(together, name), atol=1e-4)
    dimmer = measure(images / 4)
    assert torch.allclose(dimmer.intensity * 4, together.intensity)
    for name in MEASURES[:-1]:
        assert torch.allclose(getattr(dimmer, name), getattr(together, name), atol=1e-3)
    assert len(measure(images.round().to(torch.uint8))) == 3


def test_faint_ground_can_be_left_out() -> None:
    clean = _stroke(3, 20, 0.2)
    smudged = clean.clone()
    smudged[:, 2:8, 2:8] = 20.0
    found, expected = measure(smudged, background=0.2), measure(clean, background=0.2)
    assert found.width.item() == pytest.approx(expected.width.item(), abs=1e-5)
    assert measure(smudged).width.item() > expected.width.item() + 5


def test_an_even_image_has_no_measures_and_fits_no_table() -> None:
    found = measure(torch.cat([torch.zeros(1, 48, 48), _stroke(3, 20, 0.0)]))
    for name in MEASURES:
        assert getattr(found, name).isnan().tolist() == [True, False]
    with pytest.raises(PellucidError, match="row 0, column 'slant'"):
        found.table("slant")


def test_measures_become_a_context_table() -> None:
    found = measure(_stroke(3, 20, 0.2))
    assert found.table().names == MEASURES
    assert found.table("slant", "area").values.tolist() == [[found.slant.item(), found.area.item()]]
    with pytest.raises(PellucidError, match=r"no measure 'weight'.*thickness"):
        found.table("weight")


def test_what_is_no_stack_of_gray_images_is_refused() -> None:
    with pytest.raises(PellucidError, match=r"not \(2, 3, 8, 8\)"):
        measure(torch.zeros(2, 3, 8, 8))
    with pytest.raises(PellucidError, match="NaN"):
        measure(torch.full((1, 8, 8), torch.nan))
    with pytest.raises(PellucidError, match="scale"):
        measure(torch.zeros(1, 8, 8), scale=0)
