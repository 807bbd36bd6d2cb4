"""Image files, read as upright 8-bit RGB images or refused with a reason that says how to fix it."""

import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from pellucid.errors import ImageError

MAX_PIXELS = 100_000_000
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2"),
)
# Only formats that announce themselves in their first bytes and that Pillow decodes by itself.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "JPEG2000")
_pillow_settings = threading.Lock()
_WHITE_16 = 65535.0
_DARKEST_WHITE = 4096
_TOO_DARK = (
    ", as a device of 12 bits or fewer writes them, and would read as black: nothing says which is white; scale its "
    "own white to 65535, or save it as 8-bit gray"
)


@dataclass(frozen=True)
class ImageFailure:
    """A file that was skipped, and why."""

    path: Path
    reason: str


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a file as an upright 8-bit RGB image without metadata.

    Of an animation or a file with several pages the first is read; colors and depths are converted as in
    `to_rgb`. The content says what a file is, never its name. Pillow's global settings neither matter nor
    change.

    Args:
        path: an image file.
        max_pixels: larger images are refused by their header, before anything is decoded. Decoding takes up
            to 20 bytes per pixel.

    Returns:
        An image of mode "RGB" that no longer depends on the file.

    Raises:
        ImageError: the file is missing, a folder, empty, not an image, damaged, cut short or too large, or
            `to_rgb` refuses it. The message begins with the path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (3, 2), 128).save(f"{folder}/gray.png")
    ...     read_image(f"{folder}/gray.png").getpixel((0, 0))
    (128, 128, 128)
    """
    path = Path(path)
    try:
        with _open(path) as file, _strict_pillow():
            return _decode(file, max_pixels)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error.__cause__


def read_images(
    paths: str | Path | Iterable[str | Path], *, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[Path, Image.Image | ImageFailure]]:
    """Read files one after the other, going on where one cannot be read.

    Lazy: one image is in memory at a time, unless the caller keeps them.

    Args:
        paths: image files, as `find_images` gives them; a folder among them is a failure.
        max_pixels: as in `read_image`.

    Yields:
        Each path with its image, or with the reason why there is none.

    >>> [(path, failure)] = read_images("none.png")
    >>> failure.reason
    'no such file; check the path'
    """
    for path in _as_paths(paths):
        outcome: Image.Image | ImageFailure
        try:
            outcome = read_image(path, max_pixels=max_pixels)
        except ImageError as error:
            outcome = ImageFailure(path, str(error).removeprefix(f"{path}: "))
        yield path, outcome


def find_images(paths: str | Path | Iterable[str | Path], *, recursive: bool = False) -> list[Path]:
    """The image files that paths stand for: files as they are, folders as the images in them.

    In a folder, an image is what ends in one of `SUFFIXES`, in either case; hidden files and folders are
    skipped.

    Args:
        paths: files and folders. Files are not looked at, so that reading can report them one by one.
        recursive: also search the folders inside a folder, at any depth.

    Returns:
        Paths in the order given, those of a folder sorted, none twice.

    Raises:
        ImageError: a folder has no images or cannot be listed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.jpg", "notes.txt"):
    ...         (Path(folder) / name).touch()
    ...     [path.name for path in find_images(folder)]
    ['a.jpg', 'b.png']
    """
    lists = (_in_folder(path, recursive) if os.path.isdir(path) else [path] for path in _as_paths(paths))
    return list(dict.fromkeys(chain.from_iterable(lists)))


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright 8-bit RGB copy of a Pillow image of any kind, without metadata.

    - The EXIF orientation is applied; damaged EXIF data counts as none.
    - Transparency is laid over white.
    - 16-bit gray is scaled by 255 / 65535, floating-point gray in 0..1 by 255.
    - An embedded color profile (wide-gamut RGB, CMYK, gray) is converted to sRGB with the perceptual
      intent. sRGB itself is left as it is to the bit; a profile that is damaged or belongs to another kind of
      image is ignored.
    - CMYK without a profile is converted as Pillow does: R = (1 - C)(1 - K), and so on.

    Raises:
        ImageError: gray values with no standard white: integers of 32 bits or with a sign, floating-point
            numbers outside 0..1, 16-bit integers that are all below 4096 (12 bits in 16 would read as black).

    >>> to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    image.load()
    upright = image.copy()
    # Pillow turns the pixels before it rewrites the tags, where a damaged one raises.
    with suppress(Exception):
        ImageOps.exif_transpose(upright, in_place=True)
    if upright.mode == "F" or upright.mode.startswith("I"):
        upright = _to_8_bit_gray(upright, is_tiff=image.format == "TIFF")
    if upright.has_transparency_data:
        upright = _over_white(upright)
    rgb = _to_srgb(upright, image.info.get("icc_profile")).convert("RGB")
    # Left behind, a profile would be saved with pixels that are no longer in it.
    rgb.info.clear()
    return rgb


def _as_paths(paths: str | Path | Iterable[str | Path]) -> Iterator[Path]:
    return map(Path, [paths] if isinstance(paths, str | Path) else paths)


def _open(path: Path) -> BinaryIO:
    if os.path.isdir(path):
        raise ImageError("is a folder; name the images in it, or list them with find_images")
    if not os.path.exists(path):
        raise ImageError("no such file; check the path")
    if not os.path.isfile(path):
        raise ImageError("is not a regular file; copy the image into one")
    if os.path.getsize(path) == 0:
        raise ImageError("is empty; copy or download it again")
    try:
        return path.open("rb")
    except OSError as error:
        raise ImageError(f"cannot be opened ({error.strerror}); check its permissions") from error


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Pillow without its own size limit, leniency to cut files, and warnings; one thread at a time."""
    with _pillow_settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _decode(file: BinaryIO, max_pixels: int) -> Image.Image:
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with Image.open(file, formats=formats) as image:
            _check_size(*image.size, max_pixels)
            Image.MAX_IMAGE_PIXELS = max_pixels  # for what a file declares inside, such as tiles
            is_deep_color = any(";16" in str(tile) for tile in image.tile) and not image.mode.startswith("I")
            rgb = to_rgb(image)
            if is_deep_color and 0 < np.asarray(rgb).max() < _DARKEST_WHITE // 256:
                raise ImageError(f"has 16-bit colors below {_DARKEST_WHITE} only{_TOO_DARK}")
            return rgb
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"is not an image that can be read here ({', '.join(formats)}); convert it to PNG or JPEG"
        ) from error
    except Exception as error:  # decoders raise whatever a damaged file provokes
        raise ImageError(f"is damaged or cut short ({type(error).__name__}: {error}); copy or save it again") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height == 0:
        raise ImageError(f"has no pixels ({width} x {height}); save it again")
    if width * height > max_pixels:
        raise ImageError(
            f"has {width} x {height} = {width * height:,} pixels, more than max_pixels = {max_pixels:,}; "
            "make it smaller, or raise max_pixels if you trust the file"
        )


def _to_8_bit_gray(image: Image.Image, *, is_tiff: bool) -> Image.Image:
    levels = np.asarray(image)
    low, high, white = levels.min(), levels.max(), 1.0 if image.mode == "F" else _WHITE_16
    # Pillow gives 16-bit PNG and PPM as "I" too; in a TIFF it means 32-bit or signed integers.
    if not (low >= 0 and high <= white) or (image.mode == "I" and is_tiff):
        kind = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise ImageError(
            f"has {kind} gray values from {low:g} to {high:g}, and nothing says which is white; "
            "save it as 8-bit or 16-bit gray, or as floating point in 0..1"
        )
    if white == _WHITE_16 and 0 < high < _DARKEST_WHITE:
        raise ImageError(f"has 16-bit gray values up to {high:g} only{_TOO_DARK}")
    gray = Image.fromarray(np.rint(levels.astype(np.float32) * (255 / white)).astype(np.uint8))
    if "transparency" in image.info:
        opaque = levels != image.info["transparency"]
        gray.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return gray


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if not profile:
        return image
    source = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
    try:
        embedded = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(embedded):
            return image
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(source, embedded, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    assert converted is not None  # it is None only for in-place conversion
    return converted


def _in_folder(folder: Path, recursive: bool) -> list[Path]:
    try:
        entries = sorted(folder.rglob("*") if recursive else folder.iterdir())
        images = [path for path in entries if path.suffix.lower() in SUFFIXES and path.is_file()]
    except OSError as error:
        raise ImageError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    visible = [p for p in images if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not visible:
        inside = (
            "" if recursive else " (folders inside it are not searched: name them, or give recursive=True in Python)"
        )
        raise ImageError(f"{folder}: no images in this folder{inside}; these count: {' '.join(SUFFIXES)}")
    return visible
