import gc
import io
import os
import random
import re
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from pellucid.data import (
    ImageFailure,
    find_images,
    read_image,
    read_images,
    to_rgb,
)
from pellucid.errors import ImageError

ORIENTATION = 0x0112


def colors(height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """A smooth image, (H, W, 3), with no symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 200 // width, y * 250 // height, (x + 2 * y) % 90 + 40], -1).astype(np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(width: int, height: int, rows: bytes, bits: int = 8, color_type: int = 2) -> bytes:
    """A PNG written by hand: any declared size, any pixel data."""
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    data = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def icc_profile(
    red: tuple[float, ...], green: tuple[float, ...], blue: tuple[float, ...], name: bytes = b"Made for a test"
) -> bytes:
    """A version-2 matrix profile with gamma 2.2 and the given primaries (XYZ), written by hand."""

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + b"\0" * 79
    tags = {b"desc": description + b"\0" * (-len(description) % 4), b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    tags |= {b"rXYZ": xyz(red), b"gXYZ": xyz(green), b"bXYZ": xyz(blue)}
    tags |= {b"rTRC": gamma, b"gTRC": gamma, b"bTRC": gamma}
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for kind, data in tags.items():
        table += kind + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s", offset + len(body), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += b"\0" * 12 + b"acsp" + b"\0" * 28 + struct.pack(">iii", 63190, 65536, 54061) + b"\0" * 48
    return header + table + body


SRGB_RED, SRGB_GREEN, SRGB_BLUE = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)


@pytest.fixture(autouse=True)
def _pillow_is_as_it_was() -> Iterator[None]:
    pixels, lenient = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    yield
    assert pixels == Image.MAX_IMAGE_PIXELS
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


# Kinds of images


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "webp", "jp2"])
def test_an_rgb_image_keeps_its_pixels(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    image = read_image(saved(Image.fromarray(colors()), tmp_path / f"a.{suffix}", **options))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), colors())


def test_the_content_says_what_a_file_is_not_its_name(tmp_path: Path) -> None:
    path = saved(Image.fromarray(colors()), tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(np.asarray(read_image(path)), colors())


def test_a_gray_and_a_bilevel_image_read_as_rgb(tmp_path: Path) -> None:
    gray = colors()[..., 0]
    for source in (gray, gray > 90):
        image = read_image(saved(Image.fromarray(source), tmp_path / "a.png"))
        wanted = source if source.dtype == np.uint8 else source * np.uint8(255)
        assert np.array_equal(np.asarray(image), np.repeat(wanted[..., None], 3, -1))


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm", "jp2"])
def test_a_16_bit_gray_image_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 127, 128, 129, 257, 32768, 65279, 65535]], np.uint16)
    image = read_image(saved(Image.fromarray(levels), tmp_path / f"a.{suffix}", **_lossless(suffix)))
    wanted = [0, 0, 0, 1, 1, 128, 254, 255]  # round(level / 257), by hand
    assert np.asarray(image)[0].tolist() == [[v, v, v] for v in wanted]


def _lossless(suffix: str) -> dict[str, object]:
    return {"irreversible": False} if suffix == "jp2" else {}


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_12_bits_in_16_are_refused_instead_of_read_as_black(tmp_path: Path, suffix: str) -> None:
    levels = np.linspace(0, 4095, 32 * 24).reshape(24, 32).astype(np.uint16)
    path = saved(Image.fromarray(levels), tmp_path / f"scan.{suffix}")
    with pytest.raises(ImageError, match=r"16-bit gray values up to 4095 only.*read as black.*scale"):
        read_image(path)
    scaled = saved(Image.fromarray(levels * 16), tmp_path / f"scaled.{suffix}")
    assert read_image(scaled).getextrema() == ((0, 255),) * 3
    black = saved(Image.fromarray(levels * 0), tmp_path / f"black.{suffix}")
    assert read_image(black).getextrema() == ((0, 0),) * 3


def test_12_bits_in_16_bit_colors_are_refused(tmp_path: Path) -> None:
    levels = np.linspace(300, 4000, 24 * 32 * 3).reshape(24, 96).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    (tmp_path / "scan.png").write_bytes(png_bytes(32, 24, rows, bits=16))
    with pytest.raises(ImageError, match="16-bit colors below 4096 only"):
        read_image(tmp_path / "scan.png")


def test_a_big_endian_16_bit_tiff_is_scaled(tmp_path: Path) -> None:
    levels = struct.pack(">4H", 0, 256, 32768, 65535)
    entries = [(256, 4, 4), (257, 4, 1), (258, 3, 16), (262, 3, 1), (273, 4, 8), (277, 3, 1), (279, 4, 8)]
    table = struct.pack(">H", len(entries))
    for tag, kind, value in entries:
        table += struct.pack(">HHI", tag, kind, 1) + struct.pack(">I" if kind == 4 else ">Hxx", value)
    path = tmp_path / "a.tif"
    path.write_bytes(b"MM\0*" + struct.pack(">I", 16) + levels + table + b"\0\0\0\0")
    assert np.asarray(read_image(path))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_16_bit_rgb_png_reads_as_8_bit_rgb(tmp_path: Path) -> None:
    levels = colors().astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(32, 24, rows, bits=16))
    assert np.array_equal(np.asarray(read_image(path)), colors())


def test_a_floating_point_tiff_in_0_to_1_is_scaled(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.25, 0.5, 1.0]], np.float32)
    image = read_image(saved(Image.fromarray(values), tmp_path / "a.tif"))
    assert np.asarray(image)[0, :, 1].tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.0, 300.0]], np.float32),
        np.array([[-0.1, 0.5]], np.float32),
        np.array([[np.nan, 0.5]], np.float32),
        np.array([[0, 100]], np.int32),
        np.array([[-5, 1_000_000]], np.int32),
    ],
)
def test_gray_values_without_a_standard_white_are_refused(tmp_path: Path, values: NDArray[np.generic]) -> None:
    path = saved(Image.fromarray(values), tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: has .* gray values from .* save it as 8-bit or 16-bit"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_a_cmyk_image_shows_its_colors(tmp_path: Path, suffix: str) -> None:
    inks = {(0, 0, 0, 0): (255, 255, 255), (0, 255, 255, 0): (255, 0, 0), (0, 0, 0, 255): (0, 0, 0)}
    inks |= {(255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 128): (127, 127, 127)}
    for ink, wanted in inks.items():
        path = saved(Image.new("CMYK", (16, 16), ink), tmp_path / f"a.{suffix}")
        assert np.abs(np.asarray(read_image(path)).astype(int) - wanted).max() <= 2, ink


def test_the_inverted_inks_of_an_adobe_jpeg_are_turned_back(tmp_path: Path) -> None:
    path = saved(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), tmp_path / "a.jpg")
    assert b"\xff\xee\x00\x0eAdobe" in path.read_bytes()
    with Image.open(path) as raw:  # as they are in the file: 255 stands for no ink
        raw.tile = [(*tile[:3], ("CMYK", "")) for tile in raw.tile]
        assert raw.tobytes()[:4] == b"\xff\xff\xff\xff"
    assert np.asarray(read_image(path)).min() == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode[:-1], (3, 1), (100, 100, 100) if mode == "RGBA" else 100)
    if mode == "PA":
        image.putpalette([value for value in range(256) for _ in range(3)])
    image.putalpha(Image.fromarray(np.array([[255, 0, 51]], np.uint8)))
    assert image.mode == mode
    read = to_rgb(image) if mode == "PA" else read_image(saved(image, tmp_path / "a.png"))
    assert np.asarray(read)[0, :, 0].tolist() == [100, 255, 224]  # 255 + 51/255 (100 - 255) = 224


def test_a_transparent_entry_of_a_palette_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    image.putdata([0, 1, 2])
    for name, clear in (("a.png", 1), ("a.gif", 1), ("b.png", b"\xff\x00\xff")):
        read = np.asarray(read_image(saved(image, tmp_path / name, transparency=clear)))
        assert read[0].tolist() == [[10, 20, 30], [255, 255, 255], [0, 0, 200]], name


@pytest.mark.parametrize(("mode", "clear"), [("L", 7), ("RGB", (7, 7, 7)), ("I;16", 7 * 257)])
def test_a_transparent_color_is_white(tmp_path: Path, mode: str, clear: object) -> None:
    levels = np.array([[7, 90]], np.uint8)
    image = Image.fromarray(levels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(levels)
    image = image.convert(mode) if mode == "RGB" else image
    read = np.asarray(read_image(saved(image, tmp_path / "a.png", transparency=clear)))
    assert read[0].tolist() == [[255, 255, 255], [90, 90, 90]]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "mpo"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 12), color) for color in ("red", "lime", "blue")]
    path = saved(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with Image.open(path) as opened:
        assert opened.n_frames == 3
    assert np.abs(np.asarray(read_image(path)).astype(int) - (255, 0, 0)).max() <= 3


# Orientation


def stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """How a camera stores an upright image; from the EXIF standard: where row 0 and column 0 belong."""
    transposed = upright.transpose(1, 0, 2)
    return {
        1: upright,  # row 0 is the top, column 0 the left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: transposed,  # left, top
        6: transposed[::-1],  # right, top
        7: transposed[::-1, ::-1],  # right, bottom
        8: transposed[:, ::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_reads_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    source = Image.fromarray(np.ascontiguousarray(stored(colors(), orientation)))
    image = read_image(saved(source, tmp_path / f"a.{suffix}", exif=exif, **options))
    assert image.size == (32, 24)
    tolerance = 40 if suffix == "jpg" else 0
    assert np.abs(np.asarray(image).astype(int) - colors()).max() <= tolerance
    assert not image.getexif()


def test_damaged_exif_data_count_as_none(tmp_path: Path) -> None:
    path = saved(Image.fromarray(colors()), tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\7" * 9)
    assert np.array_equal(np.asarray(read_image(path)), colors())


def test_damaged_metadata_are_no_reason_to_warn(tmp_path: Path) -> None:
    path = saved(Image.fromarray(colors()), tmp_path / "a.jpg")
    raw = path.read_bytes()
    path.write_bytes(raw[:2] + b"\xff\xe2\x00\x0cMPF\0junk??" + raw[2:])
    with pytest.warns(UserWarning, match="malformed MPO"), Image.open(path) as opened:
        wanted = np.asarray(opened.convert("RGB"))
    assert np.array_equal(np.asarray(read_image(path)), wanted)  # here warnings are errors


# Color profiles


def test_a_color_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    swapped = icc_profile(red=SRGB_GREEN, green=SRGB_RED, blue=SRGB_BLUE)
    image = Image.new("RGB", (4, 4), (220, 30, 90))
    read = read_image(saved(image, tmp_path / "a.png", icc_profile=swapped))
    assert np.abs(np.asarray(read).astype(int) - (30, 220, 90)).max() <= 6  # gamma 2.2 is nearly sRGB's curve
    assert "icc_profile" not in read.info


def test_profiles_of_srgb_change_no_pixel(tmp_path: Path) -> None:
    exact = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    simplified = icc_profile(SRGB_RED, SRGB_GREEN, SRGB_BLUE, name=b"sRGB with a plain gamma")
    for profile in (exact, simplified):
        path = saved(Image.fromarray(colors()), tmp_path / "a.png", icc_profile=profile)
        assert np.array_equal(np.asarray(read_image(path)), colors())


def test_a_damaged_or_unfitting_profile_is_ignored(tmp_path: Path) -> None:
    good = icc_profile(red=SRGB_GREEN, green=SRGB_RED, blue=SRGB_BLUE)
    for profile in (b"junk", good[:200], bytes(len(good))):
        path = saved(Image.fromarray(colors()), tmp_path / "a.png", icc_profile=profile)
        assert np.array_equal(np.asarray(read_image(path)), colors())
    gray = saved(Image.fromarray(colors()[..., 1]), tmp_path / "b.png", icc_profile=good)
    assert np.array_equal(np.asarray(read_image(gray))[..., 0], colors()[..., 1])


# Size limits


@pytest.mark.parametrize("side", [10_001, 13_000, 14_000, 50_000])
def test_a_huge_image_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_bytes(side, side, b""))  # it holds no pixels: decoding would fail in another way
    found = rf"huge\.png: has {side} x {side} = {side * side:,} pixels, more than max_pixels = 100,000,000"
    with pytest.raises(ImageError, match=f"{found}; make it smaller, or raise max_pixels"):
        read_image(path)


def test_max_pixels_is_the_only_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.fromarray(colors()), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow alone raises at 768 pixels here
    assert read_image(path, max_pixels=768).size == (32, 24)
    with pytest.raises(ImageError, match="32 x 24 = 768 pixels, more than max_pixels = 767"):
        read_image(path, max_pixels=767)
    assert Image.MAX_IMAGE_PIXELS == 100


# Bad files


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp", "ppm", "jp2"])
@pytest.mark.parametrize("lenient", [False, True])
def test_a_truncated_image_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, lenient: bool
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    path = saved(Image.fromarray(colors(80, 90)), tmp_path / f"cut.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}: is (damaged or cut short|not an image)"):
        read_image(path)


@pytest.mark.parametrize(
    "content",
    [
        b"hello, world\n" * 9,
        b"\0" * 500,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg></svg>",
        b"\xff",
    ],
)
def test_what_is_not_a_image_is_refused_with_the_formats_that_are(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"notes\.jpg: is not an image .*JPEG.*PNG.*; convert it"):
        read_image(path)


def test_missing_empty_and_folder_paths_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    for path, reason in (("gone.png", "no such file"), ("empty.png", "is empty"), (".", "is a folder")):
        with pytest.raises(ImageError) as caught:
            read_image(str(tmp_path / path))
        assert str(caught.value).startswith(f"{tmp_path / path}: {reason}")
    with pytest.raises(ImageError, match="no such file"):
        read_image("nul\0byte.png")


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.png")


def test_no_file_stays_open(tmp_path: Path) -> None:
    good = [
        saved(Image.fromarray(colors()), tmp_path / f"a.{suffix}") for suffix in ("png", "jpg", "tif", "gif", "webp")
    ]
    kept = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for path in good:
            cut = path.with_stem("cut")
            cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            kept += [outcome for _, outcome in read_images([path, cut])]
        open_files = {os.path.realpath(entry) for entry in Path("/proc/self/fd").glob("*")}
        assert not any(Path(name).parent == tmp_path.resolve() for name in open_files)
        gc.collect()
    assert not caught
    assert [type(outcome) is ImageFailure for outcome in kept] == [False, True] * len(good)


SAMPLES = {suffix: io.BytesIO() for suffix in ("jpeg", "png", "gif", "webp", "bmp", "ppm")}
for _format, _file in SAMPLES.items():
    _exif = Image.Exif()
    _exif[ORIENTATION] = 6
    _options = {"exif": _exif} if _format in ("jpeg", "png", "webp") else {}
    Image.fromarray(colors()).save(_file, _format, **_options)


@settings(max_examples=150)
@given(st.sampled_from(sorted(SAMPLES)), st.randoms(use_true_random=False), st.integers(1, 8))
def test_any_damage_gives_a_image_or_a_image_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, rng: random.Random, hits: int
) -> None:
    content = bytearray(SAMPLES[suffix].getvalue())
    for _ in range(hits):
        content[int(len(content) * rng.random() ** 2)] = rng.randrange(256)  # headers are hit more often
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    path.write_bytes(content)
    [(_, outcome)] = read_images(path, max_pixels=1_000_000)  # turns image errors, and no others, to reasons
    if isinstance(outcome, ImageFailure):
        assert re.match("is damaged|is not an image|has ", outcome.reason)
    else:
        assert outcome.mode == "RGB"
        assert not outcome.info


# Pillow itself


def test_to_rgb_leaves_its_argument_alone() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = io.BytesIO()
    Image.fromarray(colors()).save(file, "png", exif=exif)
    with Image.open(file) as image:
        assert to_rgb(image).size == (24, 32)
        assert image.size == (32, 24)
        assert image.getexif()[ORIENTATION] == 6
    rgb = Image.fromarray(colors())
    to_rgb(rgb).putpixel((0, 0), (255, 255, 255))
    assert np.array_equal(np.asarray(rgb), colors())


def test_threads_reading_at_once_do_not_mix_their_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.fromarray(colors()), tmp_path / "a.png")
    Image.init()
    limits = set()

    def wait_and_look() -> None:
        time.sleep(0.002)  # other threads get their turn
        limits.add(Image.MAX_IMAGE_PIXELS)

    monkeypatch.setattr(Image, "init", wait_and_look)  # called with the settings in place
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(read_image, [path] * 32))
    assert limits == {None}
    assert all(np.array_equal(np.asarray(image), colors()) for image in read)


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.PNG",
        "a.jpg",
        "notes.txt",
        ".hidden.png",
        "sub/c.gif",
        "sub/.secret/d.png",
        "sub.png/e.bmp",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"any")
    return tmp_path


def test_a_folder_stands_for_the_images_in_it(folder: Path) -> None:
    assert find_images([folder]) == [folder / "a.jpg", folder / "b.PNG"]
    assert find_images(str(folder)) == [folder / "a.jpg", folder / "b.PNG"]


def test_a_recursive_search_goes_down_but_not_into_hidden_folders(folder: Path) -> None:
    names = ["a.jpg", "b.PNG", "sub/c.gif", "sub.png/e.bmp"]
    assert find_images([folder], recursive=True) == sorted(folder / name for name in names)


def test_named_files_stay_as_they_are_and_come_once(folder: Path) -> None:
    paths = ["gone.xyz", folder / "b.PNG", folder, folder / "notes.txt"]
    assert find_images(paths) == [
        Path("gone.xyz"),
        folder / "b.PNG",
        folder / "a.jpg",
        folder / "notes.txt",
    ]


def test_a_folder_without_images_is_refused_with_the_suffixes_that_count(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ImageError, match=r"empty: no images .*recursive=True.*\.jpg .*\.tiff"):
        find_images([folder / "empty"])
    with pytest.raises(ImageError, match=r"no images in this folder; these count"):
        find_images([folder / "empty"], recursive=True)


def test_a_run_goes_on_and_says_what_it_skipped(tmp_path: Path) -> None:
    good = saved(Image.fromarray(colors()), tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    outcomes = list(read_images([tmp_path / "bad.jpg", tmp_path / "gone.png", str(good)]))
    assert [path.name for path, _ in outcomes] == ["bad.jpg", "gone.png", "good.png"]
    bad, gone, image = (outcome for _, outcome in outcomes)
    assert isinstance(bad, ImageFailure)
    assert bad.path == tmp_path / "bad.jpg"
    assert bad.reason.startswith("is not an image")
    assert isinstance(gone, ImageFailure)
    assert gone.reason.startswith("no such file")
    assert isinstance(image, Image.Image)
    assert np.array_equal(np.asarray(image), colors())


def test_images_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = saved(Image.fromarray(colors()), tmp_path / "a.png")
    asked: list[int] = []

    def paths() -> Iterator[Path]:
        for number in range(3):
            asked.append(number)
            yield path

    images = read_images(paths())
    assert asked == []
    next(images)
    assert asked == [0]
    next(images)
    assert asked == [0, 1]


def test_real_photographs_read(shared_data: Path) -> None:
    paths = find_images(shared_data / "zebra")[:5]
    images = dict(read_images(paths))
    assert len(images) == 5
    for path, image in images.items():
        assert isinstance(image, Image.Image), path
        with Image.open(path) as plain:  # ordinary photographs: no orientation, no wide-gamut profile
            assert np.array_equal(np.asarray(image), np.asarray(plain.convert("RGB")))
