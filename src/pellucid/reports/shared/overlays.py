"""Maps of evidence laid over photographs, with color bars, as PNGs.

Display only: nothing here feeds back into a number. The photograph goes gray under a map, so that color is
always evidence; what the network never saw is dimmed and hatched, so that nobody reads it as "no evidence".
"""

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from torch.nn import functional

from pellucid.data import Geometry
from pellucid.reports.shared.html import data_uri
from pellucid.reports.shared.scales import (
    ALPHA,
    SCALE_PERCENTILE,
    ReportError,
    color_row,
    levels,
    palette,
    robust_scale,
    scale_ticks,
    sign_convention,
)
from pellucid.storage import write_atomically

LONG_SIDE = 1024
_SHORTEST_LONG_SIDE = 256
_NARROWEST_BAR = 240


def blank_reason(placed: Tensor) -> str | None:
    """Why a map has nothing to show, in words; None where it has.

    >>> blank_reason(torch.zeros(2, 2))
    'zero everywhere'
    """
    finite = placed.isfinite()
    if not bool(finite.any()):
        return "no finite value"
    return None if bool((finite & (placed != 0)).any()) else "zero everywhere"


def check_placed(placed: Tensor, image: Image.Image) -> None:
    """Refuse a map that has neither the image's (height, width) nor those of its `display_size`."""
    sizes = [(height, width) for width, height in (image.size, display_size(image))]
    if tuple(placed.shape) not in sizes:
        raise ReportError(
            f"map of shape {tuple(placed.shape)} does not lie on an image of shape {sizes[0]}; expected that"
            f" or its display size {sizes[1]}: place it on the original image first (Geometry.place)"
        )


def map_layer(
    placed: Tensor, scale: float, *, size: tuple[int, int], signed: bool = True, alpha: float = ALPHA
) -> Image.Image:
    """A map as a transparent layer to lay over its image.

    Args:
        placed: (H0, W0) map on the original image, NaN outside what the network saw.
        scale: |value| at which the colors end, above 0 unless the map is blank.
        size: (width, height) of the layer; each of its pixels is the mean of what was seen below it.
        signed: False for maps that are >= 0 by definition.
        alpha: opacity at the end of the scale, in (0, 1].

    Returns:
        Image of mode "P" with the RGBA colors of `palette`; pixels that are not finite are hatched.

    Raises:
        ReportError: a map that claims to be >= 0 has negative values, or the scale is not a positive number.

    >>> map_layer(torch.ones(30, 40), 1.0, size=(20, 15)).mode
    'P'
    """
    blank = blank_reason(placed) is not None
    if not blank and not 0 < scale < float("inf"):
        raise ReportError(f"color scale is {scale}; expected a positive number, such as robust_scale(map)")
    values = _resized(placed, size)
    if not signed and (lowest := float(np.nanmin(values, initial=0.0))) < -1e-3 * scale:
        raise ReportError(
            f"a map with signed=False has values down to {lowest:.3g}; give signed=True, or a map that is >= 0"
        )
    layer = Image.fromarray(levels(values, 1.0 if blank else scale, signed))
    layer.putpalette(palette(signed=signed, alpha=alpha).tobytes(), "RGBA")
    return layer


def overlay(
    image: Image.Image,
    placed: Tensor,
    *,
    scale: float | None = None,
    alpha: float = ALPHA,
    signed: bool = True,
) -> Image.Image:
    """Lay a map over its photograph.

    The photograph is shown gray. Signed maps are orange where positive and blue where negative, on one scale
    -s..+s; maps that are >= 0 run from violet to yellow. Zero has no color, pixels without a value are
    hatched, and a map that is zero everywhere or has no finite value says so.

    Args:
        image: the original photograph, W0 x H0 pixels.
        placed: (H0, W0) map on it, NaN outside what the network saw; or the same at `display_size`, which
            saves memory where images are huge.
        scale: |value| s at which the colors end; None for `robust_scale(placed)`.
        alpha: opacity at the end of the scale, in (0, 1].
        signed: False for maps that are >= 0 by definition.

    Returns:
        RGB image of the image's `display_size`.

    Raises:
        ReportError: the map does not lie on the image.

    >>> overlay(Image.new("RGB", (300, 200)), torch.rand(200, 300)).size
    (300, 200)
    """
    check_placed(placed, image)
    shown = display_image(image)
    muted = shown.convert("L").point([round(127.5 + 0.8 * (v - 127.5)) for v in range(256)]).convert("RGBA")
    limit = robust_scale(placed) if scale is None else scale
    layer = map_layer(placed, limit, size=shown.size, signed=signed, alpha=alpha)
    figure = Image.alpha_composite(muted, layer.convert("RGBA")).convert("RGB")
    reason = blank_reason(placed)
    return figure if reason is None else _stamped(figure, f"Nothing to show: {reason}")


def color_bar(scale: float, *, signed: bool = True, width: int = 480, notes: Sequence[str] = ()) -> Image.Image:
    """The key of an overlay: the colors with their numbers, and what they mean in a line.

    Args:
        scale: |value| at which the colors end; 0 where the map was blank.
        signed: as given to `overlay`.
        width: of the bar in pixels, at least 160.
        notes: lines of text under the key.

    Returns:
        RGB image of that width on white.

    >>> color_bar(2.0, width=320).width
    320
    """
    font = _font(max(11, min(20, width // 40)))
    line, pad = round(1.35 * font.size), round(0.8 * font.size)
    parts = (sign_convention(signed), *notes)
    text = [row for part in parts for row in _wrapped(part, font, width - 2 * pad)]
    bar = Image.new("RGB", (width, 2 * pad + (3 + len(text)) * line), "white")
    strip = color_row(signed=signed).resize((width - 2 * pad, line), Image.Resampling.NEAREST)
    bar.paste(strip, (pad, pad), strip)
    draw = ImageDraw.Draw(bar)
    for at, anchor, label in scale_ticks(scale, signed):
        draw.text((pad + at * (strip.width - 1), pad + 1.25 * line), label, "#1b1e24", font, anchor=anchor)
    for i, row in enumerate(text):
        draw.text((pad, pad + (2.6 + i) * line), row, "#4a4f5a", font, anchor="la")
    return bar


def save_overlay(
    path: str | os.PathLike[str],
    image: Image.Image,
    placed: Tensor,
    *,
    scale: float | None = None,
    alpha: float = ALPHA,
    signed: bool = True,
    legend: bool = True,
    note: str = "",
) -> float:
    """Write an overlay, with its color bar below it, as a PNG file: all of it or nothing.

    Args:
        path: the file; missing folders are created.
        image: as for `overlay`.
        placed: as for `overlay`.
        scale: as for `overlay`.
        alpha: as for `overlay`.
        signed: as for `overlay`.
        legend: False leaves the color bar out.
        note: a line under the color bar, for example method, layer and target.

    Returns:
        The scale that was used, 0.0 for a blank map.

    Raises:
        ReportError: the map does not lie on the image.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_overlay(f"{folder}/x.png", Image.new("RGB", (300, 200)), torch.full((200, 300), 2.0))
    2.0
    """
    limit = robust_scale(placed) if scale is None else scale
    figure = overlay(image, placed, scale=scale, alpha=alpha, signed=signed)
    if legend:
        notes = _reading_notes(placed, measured=scale is None)
        # An image may be a few pixels wide; its key must still be readable.
        bar = color_bar(limit, signed=signed, width=max(figure.width, _NARROWEST_BAR), notes=[*notes, note])
        figure = ImageOps.expand(figure, (0, 0, bar.width - figure.width, bar.height), fill="white")
        figure.paste(bar, (0, figure.height - bar.height))
    buffer = io.BytesIO()
    figure.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
    return limit


def display_size(image: Image.Image, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """(width, height) of an image when shown: at most `long_side`, thumbnails enlarged by a whole factor.

    >>> display_size(Image.new("RGB", (2048, 1024))), display_size(Image.new("RGB", (28, 28)))
    ((1024, 512), (280, 280))
    """
    longest = max(image.size)
    scale = min(long_side / longest, -(-_SHORTEST_LONG_SIDE // longest))
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def display_image(image: Image.Image) -> Image.Image:
    """The photograph in RGB at its `display_size`; enlarged without smoothing, so that pixels stay pixels.

    >>> display_image(Image.new("L", (28, 28))).size
    (280, 280)
    """
    size = display_size(image)
    shrinks = size[0] < image.width
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS if shrinks else Image.Resampling.NEAREST)


def resize_geometry(geometry: Geometry, size: tuple[int, int]) -> Geometry:
    """The geometry on the same image resized to (width, height).

    >>> resize_geometry(Geometry(200, 100, box=(50, 0, 150, 100)), (100, 50)).box
    (25.0, 0.0, 75.0, 50.0)
    """
    x, y = size[0] / geometry.width, size[1] / geometry.height
    left, top, right, bottom = geometry.box
    return replace(geometry, width=size[0], height=size[1], box=(left * x, top * y, right * x, bottom * y))


def map_uri(values: Tensor, geometry: Geometry, size: tuple[int, int], *, opposite: bool = False) -> str:
    """A concept map as a transparent layer in a page: violet to yellow, its opposite blue.

    Args:
        values: (h, w) in [0, 1].
        geometry: which part of the image the map covers.
        size: (width, height) of the layer in pixels.
        opposite: whether the map shows the opposite of the concept.

    >>> map_uri(torch.ones(2, 2), Geometry(40, 30, box=(0, 0, 40, 30)), (40, 30))[:15]
    'data:image/png;'
    """
    placed = resize_geometry(geometry, size).place(values)
    layer: Image.Image = map_layer(-placed if opposite else placed, 1.0, size=size, signed=opposite)
    return data_uri(layer, "PNG", optimize=True)


def _reading_notes(placed: Tensor, *, measured: bool) -> list[str]:
    """What else a reader of the figure must know: where the scale comes from, and what hatching means."""
    scale = f"Colors end at the {SCALE_PERCENTILE:g}th percentile of the non-zero |values|."
    hatching = "Hatched: no value, the network never saw it."
    return [scale] * measured + [hatching] * (not bool(placed.isfinite().all()))


def _resized(placed: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """The map averaged over display pixels, NaN where most of one has no value: (H0, W0) -> (h, w)."""
    values = placed.detach().to("cpu", torch.float32)
    seen = values.isfinite()
    pair = torch.stack([torch.where(seen, values, 0.0), seen.float()])
    total, share = functional.interpolate(pair[None], size=size[::-1], mode="area")[0]
    return torch.where(share >= 0.5, total / share, torch.nan).numpy()


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which is shipped: the same on every machine, with minus signs, powers and most alphabets."""
    return ImageFont.truetype(Path(__file__).parent / "fonts" / "DejaVuSans.ttf", size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Words filled into lines no wider than `width` pixels (a longer word stands alone)."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _stamped(figure: Image.Image, text: str) -> Image.Image:
    """The figure with a line of text across its middle."""
    font = _font(max(12, min(28, figure.width // 24)))
    rows = _wrapped(text, font, figure.width - 16)
    draw = ImageDraw.Draw(figure)
    height = round(1.4 * font.size)
    top = (figure.height - height * len(rows)) // 2
    draw.rectangle((0, top - 8, figure.width, top + height * len(rows) + 8), fill="#1b1e24")
    for i, row in enumerate(rows):
        draw.text((figure.width / 2, top + (i + 0.5) * height), row, "white", font, anchor="mm")
    return figure
