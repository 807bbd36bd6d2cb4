"""Images in, whatever a preprocessing of another library makes of them, and whichever way the camera was held."""

from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import pellucid as pl
from pellucid.data import Preprocess, to_rgb
from pellucid.errors import ImageError, ModelError

NET = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
COLORS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def to_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float64).transpose(2, 0, 1) / 255


def reading(preprocess: Callable[[Image.Image], Any]) -> pl.Classifier:
    return pl.Classifier(NET, preprocess=preprocess, input_size=(6, 8))


@pytest.mark.parametrize(
    "preprocess",
    [
        to_array,
        lambda image: torch.from_numpy(to_array(image)),
        lambda image: to_array(image)[None],
        lambda image: {"pixel_values": to_array(image)[None], "pixel_mask": np.ones((1, 6, 8))},
        lambda image: UserDict(pixel_values=[to_array(image)]),  # a processor without return_tensors
        lambda image: {"image": torch.from_numpy(to_array(image))},
        lambda image: [torch.from_numpy(to_array(image)).requires_grad_()],
        lambda image: to_array(image)[:, ::-1][:, ::-1],  # strides that torch does not take
    ],
)
def test_tensors_arrays_and_processors_give_one_input(preprocess: Callable[[Image.Image], Any]) -> None:
    inputs = reading(preprocess).read(Image.fromarray(COLORS))
    expected = torch.from_numpy(COLORS.astype(np.float32) / 255).permute(2, 0, 1)
    assert inputs.dtype == torch.float32
    assert not inputs.requires_grad
    torch.testing.assert_close(inputs[0], expected)
    assert reading(preprocess).geometry(8, 6).box == pytest.approx((0, 0, 8, 6), abs=0.1)


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        (lambda image: np.asarray(image, np.float32), r"shape \(6, 8, 3\) for a network of 3 channels; .*come last"),
        (lambda image: to_array(image)[:1], r"shape \(1, 6, 8\) for a network of 3 channels; return"),
        (lambda image: np.asarray(image).transpose(2, 0, 1), "torch.uint8, not floats"),
        (lambda image: {"a": 1, "b": 2}, "a dict with 'a', 'b'; return a tensor or an array"),
        (lambda image: None, "a NoneType; return a tensor"),
        (lambda image: image, "a Image; return a tensor"),
    ],
)
def test_what_is_no_input_is_a_clear_error(preprocess: Callable[[Image.Image], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        reading(preprocess).read(Image.fromarray(COLORS))


def test_inputs_of_two_sizes_are_a_clear_error() -> None:
    with pytest.raises(ModelError, match=r"different sizes, \(3, 6, 8\) and \(3, 8, 6\); let it resize"):
        reading(to_array).read([Image.new("RGB", (8, 6)), Image.new("RGB", (6, 8))])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_mode_are_read_as_rgb(mode: str) -> None:
    image = Image.fromarray(COLORS).convert(mode)
    expected = np.asarray(to_rgb(image), np.float32).transpose(2, 0, 1) / 255
    torch.testing.assert_close(reading(to_array).read(image)[0], torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_an_opened_image_is_as_upright_as_its_file(
    tmp_path: Path, orientation: int, turned: Callable[[np.ndarray], np.ndarray]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLORS).save(tmp_path / "phone.png", exif=exif)
    expected = torch.from_numpy(np.ascontiguousarray(turned(COLORS)).astype(np.float32) / 255).permute(2, 0, 1)
    classifier = reading(to_array)
    torch.testing.assert_close(classifier.read(tmp_path / "phone.png")[0], expected)
    with Image.open(tmp_path / "phone.png") as opened:
        torch.testing.assert_close(classifier.read(opened)[0], expected)
        if orientation != 1:
            with pytest.raises(ImageError, match="stored rotated"):
                Preprocess((6, 8))(opened)


def test_what_is_no_image_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="a ndarray is neither a file nor a PIL image"):
        reading(to_array).read(COLORS)  # type: ignore[arg-type]
    Image.fromarray(np.tile(COLORS, (40, 40, 1))).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    with Image.open(tmp_path / "cut.png") as opened, pytest.raises(ImageError, match="damaged or cut short"):
        reading(to_array).read(opened)


def test_a_network_of_one_channel_takes_gray_of_its_own_preprocessing() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    gray: Tensor = pl.Classifier(net, preprocess=Preprocess((6, 8), mean=(0,), std=(1,))).read(
        Image.new("L", (8, 6), 51)
    )
    torch.testing.assert_close(gray, torch.full((1, 1, 6, 8), 0.2))
