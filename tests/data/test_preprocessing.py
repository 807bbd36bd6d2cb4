import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from pellucid.data import Geometry, Preprocess, probe_geometry
from pellucid.errors import ImageError, PellucidError

LITE0 = Preprocess(
    (224, 224), crop_fraction=224 / 256, interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3
)
SQUASH = Preprocess((64, 96))
WAYS = [Preprocess.imagenet(64, 72), Preprocess((48, 64), resize=64, interpolation="bicubic"), LITE0, SQUASH]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def resized(image: Image.Image) -> Tensor:
    """Someone's own preprocessing, at its plainest."""
    return torch.from_numpy(np.array(image.resize((80, 60)), dtype=np.float32)).permute(2, 0, 1)


def boxes_differ(found: Geometry, wanted: Geometry, outputs: tuple[int, int]) -> float:
    """Largest distance between edges, in pixels of the input or of the image, whichever are larger."""
    pitches = [(wanted.box[i + 2] - wanted.box[i]) / outputs[1 - i] for i in (0, 1)]
    return max(abs(f - w) / max(1, pitches[i % 2]) for i, (f, w) in enumerate(zip(found.box, wanted.box, strict=True)))


# Image -> input


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]))
def test_resize_and_center_crop_equal_torchvision_to_the_bit(width: int, height: int, interpolation: str) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    scale = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    filter_ = transforms.InterpolationMode(interpolation)
    image = noise(width, height)
    if max(width, height) < 50 * min(width, height):
        theirs = transforms.Compose([transforms.Resize(32, filter_), transforms.CenterCrop((28, 31)), *scale])
        ours = Preprocess((28, 31), resize=32, interpolation=interpolation, mean=mean, std=std)
        assert torch.equal(ours(image), theirs(image))
    theirs = transforms.Compose([transforms.Resize((28, 31), filter_), *scale])
    ours = Preprocess((28, 31), interpolation=interpolation, mean=mean, std=std)
    assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize(("width", "height"), [(300, 200), (201, 333), (256, 256), (17, 40)])
def test_the_efficientnet_crop_equals_one_cut_by_hand(width: int, height: int) -> None:
    image = noise(width, height)
    side = math.floor(min(width, height) * 224 / 256)
    left, top = math.ceil((width - side) / 2), math.ceil((height - side) / 2)
    square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    by_hand = (torch.from_numpy(np.array(square)).double() - 127) / 128
    assert torch.allclose(LITE0(image).double(), by_hand.permute(2, 0, 1), atol=1e-6)


def test_an_input_is_contiguous_float32_in_channels_first_order() -> None:
    x = Preprocess((2, 3))(Image.new("RGB", (9, 9), (255, 0, 51)))
    assert (x.dtype, x.is_contiguous()) == (torch.float32, True)
    assert torch.equal(x, torch.tensor([1.0, 0.0, 0.2])[:, None, None].expand(3, 2, 3))


def test_one_channel_means_gray_input() -> None:
    gray = Preprocess((5, 5), mean=(0.5,), std=(0.25,))
    assert gray.channels == 1
    x = gray(Image.new("RGB", (9, 9), (255, 0, 0)))
    assert x.shape == (1, 5, 5)
    assert torch.allclose(x, torch.tensor((76 / 255 - 0.5) / 0.25))  # luma of pure red: 0.299
    assert torch.equal(gray(noise(20, 30).convert("L")), gray(noise(20, 30)))


@pytest.mark.parametrize("way", WAYS)
def test_denormalize_undoes_the_normalization(way: Preprocess) -> None:
    image = noise(120, 90)
    plain = Preprocess(way.input_size, way.resize, way.crop_fraction, way.interpolation)
    batch = way(image)[None]
    assert torch.allclose(way.denormalize(batch), plain(image)[None], atol=1e-6)
    assert way.denormalize((batch - 0.5) * 1e3).aminmax() == (0, 1)


def test_denormalize_refuses_another_number_of_channels() -> None:
    with pytest.raises(PellucidError, match=r"shape \(\.\.\., 3, H, W\), not \(1, 8, 8\)"):
        SQUASH.denormalize(torch.zeros(1, 8, 8))


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "P", "CMYK"])
def test_an_image_of_another_mode_is_refused_with_the_mend(mode: str) -> None:
    with pytest.raises(ImageError, match=f"mode '{mode}'.*to_rgb"):
        SQUASH(Image.new(mode, (9, 9)))


def test_an_image_too_long_to_resize_is_refused() -> None:
    with pytest.raises(ImageError, match="2 x 900000 would become 256 x 115200000"):
        Preprocess.imagenet()(Image.new("L", (2, 900_000)))


def test_a_large_image_is_cut_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 300)
    image = Image.new("RGB", (400, 500), "white")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(way(image).shape[1:] == way.input_size for way in WAYS)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"input_size": (0, 5)}, "input_size"),
        ({"resize": 256, "crop_fraction": 0.9}, "two ways"),
        ({"resize": 223}, "give at least 224"),
        ({"crop_fraction": 1.1}, "not in"),
        ({"crop_fraction": 0.0}, "not in"),
        ({"crop_fraction": 0.9, "input_size": (4, 5)}, "cuts a square"),
        ({"mean": (0.5,)}, "per channel"),
        ({"mean": (0.5,) * 3, "std": (1.0, 1.0, 0.0)}, "std above 0"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'; choose one of nearest.*bicubic"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(PellucidError, match=reason):
        Preprocess(**{"input_size": (224, 224), **options})


# Input -> where in the image


def test_geometry_of_each_way_by_hand() -> None:
    # 400 x 300 -> 341 x 256 -> 224 x 224 at (58, 16): round half to even
    x, y = 400 / 341, 300 / 256
    assert Preprocess.imagenet().geometry(400, 300).box == pytest.approx((58 * x, 16 * y, 282 * x, 240 * y))
    assert LITE0.geometry(400, 300).box == (69, 19, 331, 281)  # 262 of 300
    assert SQUASH.geometry(400, 300).box == (0, 0, 400, 300)


@settings(max_examples=60)
@given(
    st.sampled_from(WAYS),
    st.integers(80, 700),
    st.integers(80, 700),
    st.floats(0.05, 0.95),
    st.floats(0.05, 0.95),
)
def test_a_dot_in_the_image_comes_back_to_its_place(
    way: Preprocess, width: int, height: int, x_share: float, y_share: float
) -> None:
    geometry = way.geometry(width, height)
    left, top, right, bottom = geometry.box
    x, y = int(left + x_share * (right - left)), int(top + y_share * (bottom - top))
    pitch = max((right - left) / way.input_size[1], (bottom - top) / way.input_size[0])
    levels = np.zeros((height, width, 3), np.uint8)
    reach = math.ceil(pitch)
    levels[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1] = 255
    values = way.denormalize(way(Image.fromarray(levels))).mean(0)
    placed = geometry.place(values).nan_to_num(-1)
    assert placed.shape == (height, width)
    brightest = (placed > 0.9 * placed.max()).nonzero().double().mean(0)
    assert (brightest - torch.tensor([y, x])).abs().max() <= max(1.0, pitch)


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 30), st.integers(1, 30))  # torch 2.13: zeros at width 1
def test_a_map_of_the_whole_image_is_placed_as_torch_resizes(h: int, w: int, width: int, height: int) -> None:
    values = torch.randn(2, 3, h, w)
    placed = Geometry(width, height, (0, 0, width, height)).place(values)
    assert torch.allclose(placed, interpolate(values, (height, width), mode="bilinear", antialias=True), atol=1e-5)


def test_a_map_is_placed_inside_the_box_only() -> None:
    values = torch.randn(1, 7, 7)
    placed = Geometry(60, 40, (11, 5, 46, 33)).place(values)
    assert torch.allclose(placed[:, 5:33, 11:46], interpolate(values[None], (28, 35), mode="bilinear")[0], atol=1e-6)
    outside = torch.ones(40, 60, dtype=torch.bool)
    outside[5:33, 11:46] = False
    assert torch.equal(placed.isnan()[0], outside)


@settings(max_examples=60)
@given(st.floats(0, 20), st.floats(0, 20), st.floats(12, 60), st.floats(12, 60), st.integers(1, 12), st.integers(1, 12))
def test_edges_between_pixels_are_honored(
    left: float, top: float, box_width: float, box_height: float, w: int, h: int
) -> None:
    """A map linear in the image's own coordinates is met at pixel centers, wherever the box's edges are."""
    right, bottom = left + box_width, top + box_height
    x = left + (torch.arange(w, dtype=torch.float64) + 0.5) * box_width / w
    y = top + (torch.arange(h, dtype=torch.float64) + 0.5) * box_height / h
    placed = Geometry(70, 65, (left, top, right, bottom)).place(3 * x[None, :] - 2 * y[:, None])
    px, py = torch.arange(70, dtype=torch.float64) + 0.5, torch.arange(65, dtype=torch.float64)[:, None] + 0.5
    seen = (px >= left) & (px < right) & (py >= top) & (py < bottom)
    assert torch.equal(~placed.isnan(), seen)
    half_x, half_y = box_width / w / 2, box_height / h / 2  # further out, the outermost cells are continued
    inner = (px - left >= half_x) & (right - px >= half_x) & (py - top >= half_y) & (bottom - py >= half_y)
    assert torch.allclose(placed[inner], (3 * px - 2 * py)[inner], atol=1e-9)


def test_a_box_beyond_the_image_shows_the_part_inside() -> None:
    values = torch.arange(16.0).reshape(4, 4)
    placed = Geometry(8, 6, (-4, -3, 12, 9)).place(values, mode="nearest")
    wanted = values.repeat_interleave(3, 0).repeat_interleave(4, 1)[3:9, 4:12]
    assert torch.equal(placed, wanted)


def test_nearest_shows_the_cells_as_they_are() -> None:
    placed = Geometry(6, 4, (1, 0, 5, 4)).place(torch.tensor([[1.0, -2.0], [3.0, 4.0]]), mode="nearest")
    nan = math.nan
    wanted = [[nan, 1, 1, -2, -2, nan]] * 2 + [[nan, 3, 3, 4, 4, nan]] * 2
    assert torch.equal(placed.nan_to_num(99), torch.tensor(wanted).nan_to_num(99))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_scale_sign_type_and_batch_axes_are_kept(mode: str) -> None:
    geometry = Preprocess.imagenet().geometry(300, 200)
    for constant in (-1e-6, 0.0, 5e4):
        placed = geometry.place(torch.full((2, 5, 7, 7), constant), mode=mode)
        assert placed.shape == (2, 5, 200, 300)
        assert torch.allclose(placed[~placed.isnan()], torch.tensor(constant), rtol=1e-6)
    assert geometry.place(torch.ones(3, 3, dtype=torch.float64), mode=mode).dtype == torch.float64
    for dtype in (torch.bool, torch.int64, torch.bfloat16):
        assert geometry.place(torch.ones(3, 3, dtype=dtype), mode=mode).dtype == torch.float32


def test_a_fine_map_is_averaged_not_sampled() -> None:
    values = torch.zeros(100, 100)
    values[::2] = 1.0
    placed = Geometry(10, 10, (0, 0, 10, 10)).place(values)
    assert torch.allclose(placed, torch.full((10, 10), 0.5), atol=0.02)


def test_maps_that_cannot_be_placed_are_refused() -> None:
    geometry = Geometry(4, 4, (0, 0, 4, 4))
    for shape in ((7,), (0, 7)):
        with pytest.raises(PellucidError, match=r"\(\.\.\., h, w\)"):
            geometry.place(torch.zeros(shape))
    with pytest.raises(PellucidError, match="unknown place mode 'cubic'; choose one of bilinear, nearest"):
        geometry.place(torch.zeros(2, 2), mode="cubic")
    for box in ((3, 0, 3, 4), (0, 4, 4, 0), (0, 0, math.nan, 4)):
        with pytest.raises(PellucidError, match="left < right"):
            Geometry(4, 4, box)


# Someone's own preprocessing


@pytest.mark.parametrize(("width", "height"), [(100, 80), (333, 500), (1500, 1001)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("window", [{"resize": 128}, {"crop_fraction": 0.875}, {}])
def test_measuring_finds_the_geometry_it_is_known_to_be(
    width: int, height: int, interpolation: str, window: dict[str, object]
) -> None:
    way = Preprocess((112, 112), interpolation=interpolation, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), **window)
    found = probe_geometry(way, width, height)
    assert (found.width, found.height) == (width, height)
    tolerance = 0.1 if interpolation == "nearest" else 0.05
    assert boxes_differ(found, way.geometry(width, height), way.input_size) < tolerance


def test_measuring_is_right_for_a_image_of_4000_pixels() -> None:
    way = Preprocess((224, 224), resize=256)
    assert boxes_differ(probe_geometry(way, 4000, 300), way.geometry(4000, 300), way.input_size) < 0.03
    assert boxes_differ(probe_geometry(SQUASH, 300, 4000), SQUASH.geometry(300, 4000), (64, 96)) < 0.03


def test_measuring_sees_through_a_torchvision_compose() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    scale = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    usual = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *scale])
    assert boxes_differ(probe_geometry(usual, 640, 480), Preprocess.imagenet().geometry(640, 480), (224, 224)) < 0.03
    gray = transforms.Compose(
        [transforms.Grayscale(), transforms.Resize((50, 100)), transforms.CenterCrop(50), *scale[:1]]
    )
    wanted = Geometry(600, 300, (150, 0, 450, 300))
    assert boxes_differ(probe_geometry(gray, 600, 300), wanted, (50, 50)) < 0.05
    padded = transforms.Compose([transforms.Pad((30, 10, 50, 70), fill=200), transforms.Resize((90, 120)), *scale])
    wanted = Geometry(300, 200, (-30, -10, 350, 270))
    assert boxes_differ(probe_geometry(padded, 300, 200), wanted, (90, 120)) < 0.05


def test_measuring_sees_through_scale_order_and_type_of_channels() -> None:
    def bytes_in_bgr(image: Image.Image) -> Tensor:
        cut = image.crop((10, 20, 200, 190)).resize((112, 64))
        return torch.from_numpy(np.array(cut)[..., ::-1].copy()).permute(2, 0, 1)

    def negative_with_a_constant_channel(image: Image.Image) -> Tensor:
        x = bytes_in_bgr(image)[:2].half()
        return torch.cat([-x * 3 + 7, torch.full_like(x[:1], 0.5)])

    for preprocess in (bytes_in_bgr, negative_with_a_constant_channel):
        found = probe_geometry(preprocess, 300, 200)
        assert boxes_differ(found, Geometry(300, 200, (10, 20, 200, 190)), (64, 112)) < 0.05


def _hidden(image: Image.Image) -> Tensor:
    x = resized(image)
    x[:, 20:30, 20:30] = 0
    return x


def _random(crop: bool) -> Callable[[Image.Image], Tensor]:
    rng = np.random.default_rng(1)

    def preprocess(image: Image.Image) -> Tensor:
        if crop:
            left, top = (float(v) for v in rng.uniform(0, 3, 2))
            return resized(image.resize((200, 200), box=(left, top, left + 200, top + 150)))
        x = resized(image)
        return x.flip(2) if rng.random() < 0.5 else x

    return preprocess


def _own_statistics(image: Image.Image) -> Tensor:
    x = resized(image)
    return (x - x.mean()) / (x.std() + 1e-6)


@pytest.mark.parametrize(
    ("preprocess", "reason"),
    [
        (lambda image: resized(image).flip(2), "it mirrors the image"),
        (lambda image: resized(image).flip(1), "it mirrors the image"),
        (lambda image: resized(image).mT, "off an even grid"),
        (
            lambda image: resized(image.rotate(2, Image.Resampling.BILINEAR).crop((20, 20, 280, 180))),
            "even grid",
        ),
        (lambda image: resized(image) ** 2.2, "off an even grid"),
        (_random(crop=True), "random"),
        (_random(crop=False), "random"),
        (_hidden, "hides parts"),
        (_own_statistics, "normalize with fixed numbers"),
        (lambda image: resized(image) * 0, "normalize with fixed numbers"),
        (np.asarray, r"returns ndarray; return one tensor of shape \(C, H, W\)"),
        (lambda image: resized(image)[None], r"returns \(1, 3, 60, 80\)"),
        (lambda image: resized(image)[:, :2, :2], "fewer than 4 x 4"),
    ],
)
def test_what_is_no_upright_resize_and_crop_is_refused_with_what_was_found(
    preprocess: Callable[[Image.Image], Tensor], reason: str
) -> None:
    with pytest.raises(PellucidError, match=f"geometry of this preprocessing cannot be measured: .*{reason}"):
        probe_geometry(preprocess, 300, 200)


def test_a_preprocessing_of_varying_size_is_refused() -> None:
    sizes = iter(range(10, 100))

    def growing(image: Image.Image) -> Tensor:
        return torch.zeros(3, next(sizes), 10)

    with pytest.raises(PellucidError, match=r"returns \(3, 10, 10\) or \(3, 11, 10\)"):
        probe_geometry(growing, 300, 200)


def test_measuring_shows_the_callable_rgb_images_of_the_asked_size_only() -> None:
    sizes = set()

    def spying(image: Image.Image) -> Tensor:
        sizes.add((image.mode, *image.size))
        return resized(image)

    probe_geometry(spying, 123, 77)
    assert sizes == {("RGB", 123, 77)}
