"""Drawn concept images: repeatable, varied, smooth-edged, and with the structure that they are named for."""

import colorsys

import numpy as np
import pytest
from numpy.typing import NDArray

from pellucid.errors import PellucidError
from pellucid.synthetic import COLORS, NEGATIVES, TEXTURES, draw_images

NAMES = [*TEXTURES, *COLORS, NEGATIVES]


def _pixels(name: str, count: int, size: int = 64, seed: int = 0) -> NDArray[np.float64]:
    return np.stack([np.asarray(image) for image in draw_images(name, count, size, seed)]) / 255


@pytest.mark.parametrize("name", NAMES)
def test_images_are_repeatable_and_do_not_depend_on_how_many_are_drawn(name: str) -> None:
    three, two = _pixels(name, 3), _pixels(name, 2)
    assert three.shape == (3, 64, 64, 3)
    assert np.array_equal(three[:2], two)
    assert not np.array_equal(three, _pixels(name, 3, seed=1))
    assert not np.array_equal(three[0], three[1])


@pytest.mark.parametrize("size", [16, 33, 128])
def test_images_of_any_size_are_rgb(size: int) -> None:
    for name in (*TEXTURES, "red", NEGATIVES):
        (image,) = draw_images(name, 1, size)
        assert (image.mode, image.size) == ("RGB", (size, size))


def test_concepts_of_one_seed_do_not_share_their_variations() -> None:
    striped, dotted = _pixels("striped", 8), _pixels("dotted", 8)
    means = [np.mean(pixels, axis=(1, 2, 3)) for pixels in (striped, dotted)]
    assert abs(np.corrcoef(*means)[0, 1]) < 0.9


def _gray(name: str, count: int, size: int = 96) -> NDArray[np.float64]:
    return _pixels(name, count, size).mean(3)


def _spectrum(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power of the frequencies of an image under a soft window, the lowest left out."""
    side = len(image)
    window = np.hanning(side)[:, None] * np.hanning(side)[None]
    power = np.abs(np.fft.fftshift(np.fft.fft2((image - image.mean()) * window))) ** 2
    distance = np.hypot(*np.meshgrid(*[np.arange(side) - side // 2] * 2))
    power[distance < 3] = 0
    return power / power.sum()


def _direction_share(image: NDArray[np.float64]) -> float:
    """Share of the power within 20 degrees of the strongest direction."""
    power = _spectrum(image)
    side = len(image)
    x, y = np.meshgrid(*[np.arange(side) - side // 2] * 2)
    angles = np.arctan2(y, x)
    strongest = angles.flat[power.argmax()]
    away = np.abs((angles - strongest + np.pi / 2) % np.pi - np.pi / 2)
    return float(power[away < np.radians(20)].sum())


def test_stripes_have_one_direction_and_the_other_textures_several() -> None:
    striped = np.median([_direction_share(image) for image in _gray("striped", 12)])
    assert striped > 0.7
    for name in set(TEXTURES) - {"striped"}:
        assert np.median([_direction_share(image) for image in _gray(name, 12)]) < striped - 0.1


def _regularity(image: NDArray[np.float64]) -> float:
    """Share of the power that the twelve strongest frequencies hold, those of slow shading left out."""
    side = len(image)
    power = _spectrum(image)[np.hypot(*np.meshgrid(*[np.arange(side) - side // 2] * 2)) > 5]
    return float(np.sort(power)[-12:].sum())


def test_textures_repeat_and_negatives_do_not() -> None:
    irregular = np.median([_regularity(image) for image in _gray(NEGATIVES, 16)])
    for name in TEXTURES:
        assert np.median([_regularity(image) for image in _gray(name, 16)]) > 1.4 * irregular


@pytest.mark.parametrize("name", TEXTURES)
def test_frequency_angle_color_and_contrast_vary(name: str) -> None:
    images = _pixels(name, 24, 96)
    side, peaks = 96, []
    for image in images.mean(3):
        row, column = np.unravel_index(_spectrum(image).argmax(), (side, side))
        peaks.append(
            (float(np.hypot(row - 48, column - 48)), float(np.degrees(np.arctan2(row - 48, column - 48)) % 180))
        )
    frequencies, angles = np.array(peaks).T
    assert frequencies.max() / frequencies.min() > 1.8
    assert len(np.unique(angles // 30)) >= 4
    assert images.mean((1, 2)).std(0).min() > 0.05
    contrast = images.mean(3).std((1, 2))
    assert contrast.max() / contrast.min() > 1.5


def test_edges_are_smooth() -> None:
    """Where two flat colors meet, an image that is not anti-aliased holds those two colors and nothing between."""
    for image in _gray("chequered", 6):
        low, high = np.quantile(image, [0.05, 0.95])
        between = (image > low + 0.25 * (high - low)) & (image < low + 0.75 * (high - low))
        assert 0.03 < between.mean() < 0.6


@pytest.mark.parametrize(
    ("name", "hue"),
    [("red", 0.0), ("orange", 0.08), ("yellow", 0.16), ("green", 0.33), ("blue", 0.62), ("purple", 0.78)],
)
def test_a_color_has_its_hue_everywhere(name: str, hue: float) -> None:
    for image in _pixels(name, 6, 32):
        hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in image.reshape(-1, 3)])
        assert np.abs((hues - hue + 0.5) % 1 - 0.5).max() < 0.09


def test_black_is_dark_and_white_is_bright() -> None:
    assert _pixels("black", 6).max() < 0.25
    assert _pixels("white", 6).min() > 0.7


def test_negatives_have_no_color_in_common() -> None:
    means = _pixels(NEGATIVES, 40).mean((1, 2))
    assert means.std(0).min() > 0.1
    assert np.abs(means.mean(0) - means.mean()).max() < 0.12


@pytest.mark.parametrize(
    ("name", "count", "size", "message"),
    [
        ("paisley", 1, 64, "no drawn concept 'paisley'; choose one of striped, dotted"),
        ("striped", 0, 64, "0 images of 64 pixels"),
        ("striped", 1, 8, "of at least 16"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(name: str, count: int, size: int, message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        draw_images(name, count, size)
