"""Overlays: the right color at the right pixel, a stated scale, no color where there is no evidence."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.reports.shared.overlays import (
    blank_reason,
    color_bar,
    display_image,
    display_size,
    map_layer,
    overlay,
    save_overlay,
)
from pellucid.reports.shared.scales import (
    ReportError,
    format_number,
    palette,
    robust_scale,
)
from pellucid.storage import write_atomically

SIDE = 300
NAN = float("nan")


def grey_image(value: int = 128, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def quadrants() -> torch.Tensor:
    """Upper left +2, upper right -2, lower left 0, lower right not seen."""
    half = SIDE // 2
    placed = torch.zeros(SIDE, SIDE)
    placed[:half, :half], placed[:half, half:], placed[half:, half:] = 2.0, -2.0, NAN
    return placed


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_positive_is_orange_and_negative_is_blue_on_any_photograph(ground: int) -> None:
    shown = pixels(overlay(grey_image(ground), quadrants()))
    positive, negative = shown[:150, :150], shown[:150, 150:]
    assert (positive[..., 0] > positive[..., 2] + 60).all()
    assert (negative[..., 2] > negative[..., 0] + 60).all()


def test_zero_leaves_the_photograph_grey_and_uncolored() -> None:
    photograph = Image.new("RGB", (SIDE, SIDE), (200, 90, 30))
    untouched = pixels(overlay(photograph, quadrants()))[150:, :150]
    assert (untouched.min(axis=2) == untouched.max(axis=2)).all()
    assert len(np.unique(untouched)) == 1


def test_the_unseen_part_is_hatched_and_has_no_evidence_color() -> None:
    unseen = pixels(overlay(grey_image(255), quadrants()))[150:, 150:]
    assert len(np.unique(unseen.reshape(-1, 3), axis=0)) >= 3
    assert (unseen.max(axis=2) - unseen.min(axis=2) <= 12).all()
    assert unseen.max() < 200  # dimmed: the photograph is white


def test_the_photograph_shows_through_the_strongest_evidence() -> None:
    placed = torch.ones(SIDE, SIDE)
    dark, light = (pixels(overlay(grey_image(v), placed))[0, 0] for v in (0, 255))
    assert (light - dark > 15).all()


def test_opposite_values_are_equally_opaque_and_opacity_grows_with_magnitude() -> None:
    alpha = palette(signed=True)[:253, 3].astype(int)
    assert (alpha == alpha[::-1]).all()
    assert alpha[126] == 0
    assert (np.diff(alpha[126:]) >= 0).all()
    assert alpha[-1] == round(0.88 * 255)
    assert (np.diff(palette(signed=False)[:253, 3].astype(int)) >= 0).all()


# Machado, Oliveira, Fernandes 2009: what linear RGB becomes for a full protan, deutan and tritan deficiency.
COLOR_VISION = {
    "common": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def seen_as(rgb: np.ndarray, vision: str) -> np.ndarray:
    """OKLab (Ottosson 2020) of sRGB colors in 0..255 as an eye with that deficiency sees them."""
    linear = np.where(rgb <= 10, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.asarray(COLOR_VISION[vision]).T, 0, 1)
    cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.cbrt(linear @ np.asarray(cones).T) @ np.asarray(lab).T


@pytest.mark.parametrize("vision", COLOR_VISION)
@pytest.mark.parametrize("ground", [30, 128, 225])
def test_signs_and_strengths_stay_apart_for_every_color_vision(vision: str, ground: int) -> None:
    ramp = torch.linspace(-1, 1, SIDE).expand(SIDE, -1)
    signed = seen_as(pixels(overlay(grey_image(ground), ramp, scale=1.0))[0], vision)
    apart = np.linalg.norm(signed - signed[::-1], axis=1)
    assert apart[0] > 0.2  # -s against +s; 0.02 is just noticeable
    assert apart[SIDE // 4] > 0.1  # -s/2 against +s/2
    sequential = seen_as(pixels(overlay(grey_image(ground), ramp.abs(), scale=1.0, signed=False))[0], vision)
    half, full, none = sequential[SIDE // 4], sequential[0], sequential[SIDE // 2]
    assert min(np.linalg.norm(a - b) for a, b in ((half, full), (half, none), (full, none))) > 0.06


def test_negating_a_map_mirrors_its_palette_indices() -> None:
    placed = torch.randn(SIDE, SIDE)
    indices, negated = (np.asarray(map_layer(v, 2.5, size=(SIDE, SIDE))).astype(int) for v in (placed, -placed))
    assert (indices + negated == 252).all()


def test_the_scale_is_the_stated_percentile_of_the_non_zero_magnitudes() -> None:
    values = torch.cat([torch.arange(1.0, 1001.0), -torch.arange(1.0, 1001.0), torch.zeros(5000)])
    assert robust_scale(values) == pytest.approx(np.percentile(np.tile(np.arange(1, 1001), 2), 99.5))
    assert robust_scale(values, percentile=100) == 1000


def test_one_outlier_does_not_set_the_scale_but_a_lone_pixel_does() -> None:
    values = torch.ones(100, 100)
    values[0, 0] = 1e6
    assert robust_scale(values) == 1
    lone = torch.zeros(100, 100)
    lone[3, 4] = -0.25
    assert robust_scale(lone) == 0.25


def test_scale_ignores_unseen_and_infinite_values() -> None:
    assert robust_scale(torch.tensor([NAN, float("inf"), -3.0])) == 3
    assert robust_scale(torch.tensor([NAN, 0.0])) == 0


def test_values_beyond_the_scale_take_its_last_color() -> None:
    image = grey_image()
    at_end, beyond = (overlay(image, torch.full((SIDE, SIDE), v), scale=1.0) for v in (1.0, 50.0))
    assert at_end.tobytes() == beyond.tobytes()


def test_non_negative_maps_get_colors_of_their_own_and_zero_stays_clear() -> None:
    placed = torch.zeros(SIDE, SIDE)
    placed[:150] = 1.0
    shown = pixels(overlay(grey_image(), placed, signed=False))
    red, green, blue = shown[0, 0]
    assert min(red, green) > blue + 60  # yellow
    assert len(set(shown[-1, 0])) == 1


def test_a_non_negative_map_with_negative_values_is_refused() -> None:
    with pytest.raises(ReportError, match=r"values down to -2.*signed=True"):
        overlay(grey_image(), quadrants(), signed=False)


@pytest.mark.parametrize(
    ("fill", "reason"),
    [(0.0, "zero everywhere"), (NAN, "no finite value"), (float("inf"), "no finite value")],
)
def test_a_blank_map_says_so_and_shows_no_color(fill: float, reason: str) -> None:
    placed = torch.full((SIDE, SIDE), fill)
    assert blank_reason(placed) == reason
    shown = pixels(overlay(grey_image(), placed))
    assert (shown.max(axis=2) - shown.min(axis=2) <= 12).all()
    band = shown[140:160]
    assert band.max() > 240
    assert band.min() < 40  # white letters on a dark band


def test_a_map_with_evidence_is_not_blank() -> None:
    assert blank_reason(quadrants()) is None


def test_a_map_of_another_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(ReportError, match=r"\(7, 7\).*\(300, 300\)"):
        overlay(grey_image(), torch.ones(7, 7))


@pytest.mark.parametrize("scale", [0.0, -1.0, NAN, float("inf")])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ReportError, match="positive number"):
        overlay(grey_image(), quadrants(), scale=scale)


@pytest.mark.parametrize("alpha", [0.0, 1.5, NAN])
def test_an_opacity_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ReportError, match="alpha"):
        overlay(grey_image(), quadrants(), alpha=alpha)


def test_large_images_are_shown_with_a_long_side_of_1024() -> None:
    placed = torch.zeros(1500, 3000)
    placed[:, :1500] = 1.0
    shown = overlay(grey_image(size=(3000, 1500)), placed)
    assert shown.size == (1024, 512)
    assert pixels(shown)[256, 500, 0] > pixels(shown)[256, 500, 2] + 60
    assert len(set(pixels(shown)[256, 520])) == 1


def test_a_map_placed_at_display_size_gives_the_overlay_of_the_full_size() -> None:
    image = grey_image(size=(2048, 1024))
    small = torch.randn(512, 1024)
    full = small.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert display_size(image) == (1024, 512)
    assert overlay(image, small, scale=2.0).tobytes() == overlay(image, full, scale=2.0).tobytes()


def test_shrinking_averages_over_finite_values_only() -> None:
    placed = torch.full((4, 4), NAN)
    placed[:2, :2] = torch.tensor([[1.0, 3.0], [2.0, float("inf")]])
    indices = np.asarray(map_layer(placed, 4.0, size=(2, 2)))
    assert indices[0, 0] == 126 + 63  # mean 2 of the three finite values, half of the scale
    assert (indices[[0, 1, 1], [1, 0, 1]] >= 253).all()


def test_thumbnails_are_enlarged_pixel_by_pixel() -> None:
    thumbnail = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    shown = display_image(thumbnail)
    assert shown.size == (256, 256)
    assert (np.asarray(shown)[::8, ::8] == np.asarray(thumbnail)).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_images_of_any_mode_can_lie_below_a_map(mode: str) -> None:
    assert overlay(grey_image().convert(mode), quadrants()).mode == "RGB"


def test_half_precision_maps_that_need_gradients_are_drawn() -> None:
    placed = quadrants().bfloat16().requires_grad_()
    assert overlay(grey_image(), placed).tobytes() == overlay(grey_image(), quadrants()).tobytes()


def test_the_color_bar_shows_both_ends_and_its_middle_is_clear() -> None:
    bar = pixels(color_bar(0.5, signed=True, width=400))
    row = bar[bar.shape[0] // 8]
    left, middle, right = row[12], row[200], row[387]
    assert left[2] > left[0] + 60
    assert right[0] > right[2] + 60
    assert (middle > 230).all()


def test_color_bars_of_different_scales_print_different_numbers() -> None:
    assert color_bar(0.5).tobytes() != color_bar(0.25).tobytes()
    assert color_bar(0.5, signed=True).tobytes() != color_bar(0.5, signed=False).tobytes()


def test_a_narrow_color_bar_wraps_its_text_instead_of_cutting_it() -> None:
    assert color_bar(1.0, width=160).height > color_bar(1.0, width=480).height
    edge = pixels(color_bar(1.0, width=160))[:, -4:]
    assert (edge == 255).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.0523, "−0.0523"), (1234567.0, "1.23×10⁶"), (-1.5e-7, "−1.5×10⁻⁷"), (12.0, "12")],
)
def test_numbers_print_with_three_digits_and_a_real_minus(value: float, text: str) -> None:
    assert format_number(value) == text


def test_saving_returns_the_scale_and_appends_the_color_bar(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "overlay.png"
    assert save_overlay(path, grey_image(), quadrants(), note="GradCAM at final") == 2.0
    with Image.open(path) as saved:
        assert saved.format == "PNG"
        assert saved.width == SIDE
        assert saved.height > SIDE
        assert saved.convert("RGB").crop((0, 0, SIDE, SIDE)).tobytes() == overlay(grey_image(), quadrants()).tobytes()


def test_saving_without_legend_writes_the_overlay_alone(tmp_path: Path) -> None:
    save_overlay(tmp_path / "a.png", grey_image(), quadrants(), legend=False)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.size == (SIDE, SIDE)


def test_a_blank_map_can_be_saved_with_its_legend(tmp_path: Path) -> None:
    assert save_overlay(tmp_path / "zero.png", grey_image(), torch.zeros(SIDE, SIDE)) == 0.0
    assert (tmp_path / "zero.png").stat().st_size > 0


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_overlay(tmp_path / name, grey_image(), quadrants())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(b"old")

    def full_disk(self: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_an_image_a_few_pixels_wide_has_a_readable_key(tmp_path: Path) -> None:
    thin = grey_image(size=(20, 1500))
    save_overlay(tmp_path / "thin.png", thin, torch.ones(1500, 20))
    with Image.open(tmp_path / "thin.png") as figure:
        assert figure.width == 240
        assert figure.height > 1024
        assert figure.getpixel((120, 500)) == (255, 255, 255)  # beside the image
        assert figure.getpixel((5, 500)) != (255, 255, 255)
