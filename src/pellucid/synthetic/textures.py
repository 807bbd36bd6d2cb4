"""Concept images drawn from a seed: textures, colors, and images without any of them.

They stand in for folders of photographs, so that concepts can be tried without a download. Every image varies
frequency, angle, colors, contrast, lighting and distortion; what the images of a texture share is the texture.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pellucid.errors import PellucidError

Field = NDArray[np.floating[Any]]
Range = tuple[float, float]
Pattern = Callable[[Field, Field, np.random.Generator], tuple[Field, Field]]

NEGATIVES = "negatives"
"""The name of images without regular texture and without one color: noise, gradients, shapes, scattered strokes."""
_OVERSAMPLING = 3
_DARKEST, _BRIGHTEST = 0.03, 0.97

_HUES: Mapping[str, tuple[float, Range, Range]] = {  # hue, saturation, value
    "red": (0.0, (0.75, 1.0), (0.45, 1.0)),
    "orange": (0.075, (0.8, 1.0), (0.75, 1.0)),
    "yellow": (0.155, (0.65, 1.0), (0.8, 1.0)),
    "green": (0.34, (0.5, 1.0), (0.25, 0.9)),
    "blue": (0.62, (0.6, 1.0), (0.35, 1.0)),
    "purple": (0.78, (0.5, 1.0), (0.3, 0.9)),
    "pink": (0.92, (0.3, 0.6), (0.85, 1.0)),
    "brown": (0.07, (0.55, 0.85), (0.2, 0.5)),
    "black": (0.0, (0.0, 0.2), (0.0, 0.18)),
    "white": (0.1, (0.0, 0.06), (0.85, 1.0)),
}


def draw_images(name: str, count: int, size: int = 224, seed: int = 0) -> list[Image.Image]:
    """Draw images of a texture or color, or without either.

    Args:
        name: a name from `TEXTURES` or `COLORS`, or `NEGATIVES`.
        count: how many. Image i is the same however many are drawn.
        size: side in pixels, at least 16; the pattern scales with it.
        seed: of all that varies.

    Returns:
        `count` RGB images of size x size.

    Raises:
        PellucidError: unknown name, or a count or size that cannot be drawn.

    >>> [image.size for image in draw_images("striped", 2, size=32, seed=1)]
    [(32, 32), (32, 32)]
    """
    if name not in _PAINTERS:
        raise PellucidError(f"no drawn concept {name!r}; choose one of {', '.join(_PAINTERS)}")
    if count < 1 or size < 16:
        raise PellucidError(f"{count} images of {size} pixels cannot be drawn; give at least 1 of at least 16")
    generators = (np.random.default_rng([seed, crc32(name.encode()), index]) for index in range(count))
    return [_PAINTERS[name](size, generator) for generator in generators]


def _striped(x: Field, y: Field, random: np.random.Generator) -> tuple[Field, Field]:
    bend = random.uniform(0, 0.35) * np.sin(2 * np.pi * (y / random.uniform(5, 12) + random.random()))
    return _band(x + bend, random.uniform(0.35, 0.65)), np.ones_like(x)


def _zigzagged(x: Field, y: Field, random: np.random.Generator) -> tuple[Field, Field]:
    wave = random.uniform(1.4, 2.6)
    height = random.uniform(0.55, 1.0) * wave
    return _band(y + height * _triangle(x / wave), random.uniform(0.35, 0.65)), np.ones_like(x)


def _dotted(x: Field, y: Field, random: np.random.Generator) -> tuple[Field, Field]:
    shift = random.choice([0.0, 0.5])  # square or staggered
    row = np.floor(y)
    along = x + shift * (row % 2)
    distance = np.hypot(along - np.floor(along) - 0.5, y - row - 0.5)
    return (distance < random.uniform(0.22, 0.38)).astype(np.float32), np.ones_like(x)


def _chequered(x: Field, y: Field, random: np.random.Generator) -> tuple[Field, Field]:
    stretch = random.uniform(0.8, 1.25)
    return ((np.floor(x * stretch) + np.floor(y)) % 2).astype(np.float32), np.ones_like(x)


def _honeycombed(x: Field, y: Field, random: np.random.Generator) -> tuple[Field, Field]:
    nearest, second = _hexagons(x, y)
    inside = second - nearest > random.uniform(0.1, 0.22)
    bulge = 1 - random.uniform(0.2, 0.6) * (nearest / 0.58) ** 2
    return inside.astype(np.float32), np.where(inside, bulge, 1.0)


def _woven(x: Field, y: Field, random: np.random.Generator) -> tuple[Field, Field]:
    strands = random.integers(2, 5)  # that run side by side, over and under as many others
    stretch = 2 / (1 + strands) ** 0.5
    x, y = x / stretch, y / stretch
    over = (np.floor(x) + np.floor(y)) % 2 == 0
    across, along = np.where(over, x, y) * strands, np.where(over, y, x)
    edge = np.abs(across - np.floor(across) - 0.5) * 2  # 0 in the middle of a strand, 1 at its edge
    arch = np.sin(np.pi * (along - np.floor(along)))  # a strand is highest where it lies over the others
    shade = np.sqrt(np.clip(1 - 0.9 * edge**2, 0, 1)) * (0.35 + 0.65 * arch**0.6)
    shade = np.where(edge < random.uniform(0.8, 0.95), shade, 0.1)
    # Both directions of strands have nearly the same color: relief, not color, shows the weave.
    return random.uniform(0, 0.3) * over.astype(np.float32), shade.astype(np.float32)


TEXTURES: Mapping[str, Pattern] = {
    "striped": _striped,
    "dotted": _dotted,
    "chequered": _chequered,
    "zigzagged": _zigzagged,
    "honeycombed": _honeycombed,
    "woven": _woven,
}
"""Textures by name. A pattern takes coordinates in periods and gives the share of the second color and a shading."""
COLORS = tuple(_HUES)
"""Names of the colors."""


def _paint_texture(pattern: Pattern, size: int, random: np.random.Generator) -> Image.Image:
    side = size * _OVERSAMPLING
    x, y = _warped_coordinates(side, random)
    periods = np.exp(random.uniform(np.log(5), np.log(16)))
    share, shade = pattern(x * periods + random.random(), y * periods + random.random(), random)
    first, second = _two_colors(random)
    if shade.std() > share.std():  # relief in a dark color could not be seen
        second, first = sorted((first, second), key=_brightness)
    colors = first + share[..., None] * (second - first)
    return _finish(colors * shade[..., None], size, random)


def _paint_color(hue: float, saturation: Range, value: Range, size: int, random: np.random.Generator) -> Image.Image:
    structure = np.asarray(_paint_negative(size, random).convert("L"), dtype=np.float32) / 255
    structure = (structure - structure.min()) / max(float(np.ptp(structure)), 1e-6)
    wander = _noise(size, random, random.uniform(1.5, 2.5))
    low, high = np.sort(random.uniform(*value, 2))
    values = low + (high - low) * structure
    saturations = saturation[0] + (saturation[1] - saturation[0]) * wander
    hues = hue + random.uniform(-0.02, 0.02) + 0.03 * (wander - 0.5)
    return _to_image(_hsv(hues, saturations, values))


def _paint_negative(size: int, random: np.random.Generator) -> Image.Image:
    painter = random.choice(np.array([_paint_noise, _paint_gradient, _paint_shapes, _paint_strokes], dtype=object))
    painted: Image.Image = painter(size, random)
    return painted


def _paint_noise(size: int, random: np.random.Generator) -> Image.Image:
    """Noise whose spectrum falls with frequency as that of photographs does."""
    slope = random.uniform(0.8, 2.2)
    first, second = _two_colors(random)
    common = _noise(size, random, slope)[..., None]
    own = np.stack([_noise(size, random, slope) for _ in range(3)], axis=-1)
    mix = random.uniform(0, 0.6)
    return _to_image(first + (second - first) * common * (1 - mix) + mix * (own - 0.5))


def _paint_gradient(size: int, random: np.random.Generator) -> Image.Image:
    x, y = _warped_coordinates(size, random)
    way = np.hypot(x - random.uniform(-0.5, 0.5), y - random.uniform(-0.5, 0.5)) if random.random() < 0.5 else x + 0.5
    stops = np.linspace(0, 1, 3)
    colors = np.stack([_color(random) for _ in stops])
    mixed = np.stack([np.interp(way, stops, colors[:, channel]) for channel in range(3)], axis=-1)
    return _to_image(mixed + 0.03 * (_noise(size, random, 1.0)[..., None] - 0.5))


def _paint_shapes(size: int, random: np.random.Generator) -> Image.Image:
    """Ellipses and polygons of many sizes anywhere."""
    side = size * _OVERSAMPLING
    canvas = _paint_gradient(size, random).resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for _ in range(random.integers(4, 25)):
        center, radius = random.uniform(0, side, 2), side * np.exp(random.uniform(np.log(0.03), np.log(0.35)))
        corners = 48 if random.random() < 0.4 else random.integers(3, 7)
        angles = np.sort(random.uniform(0, 2 * np.pi, corners))
        reach = radius * (random.uniform(0.5, 1.0, corners) if corners < 48 else np.ones(corners))
        points = center + reach[:, None] * np.stack([np.cos(angles), random.uniform(0.5, 1) * np.sin(angles)], axis=1)
        draw.polygon([(float(px), float(py)) for px, py in points], fill=_to_bytes(_color(random)))
    return canvas.reduce(_OVERSAMPLING)


def _paint_strokes(size: int, random: np.random.Generator) -> Image.Image:
    """Straight strokes of all directions and widths: edges without order."""
    side = size * _OVERSAMPLING
    canvas = Image.new("RGB", (side, side), _to_bytes(_color(random)))
    draw = ImageDraw.Draw(canvas)
    for _ in range(random.integers(15, 60)):
        start, angle = random.uniform(0, side, 2), random.uniform(0, 2 * np.pi)
        end = start + side * random.uniform(0.1, 0.9) * np.array([np.cos(angle), np.sin(angle)])
        width = int(side * np.exp(random.uniform(np.log(0.004), np.log(0.05))))
        draw.line([*map(float, start), *map(float, end)], fill=_to_bytes(_color(random)), width=max(1, width))
    return canvas.reduce(_OVERSAMPLING)


_PAINTERS: Mapping[str, Callable[[int, np.random.Generator], Image.Image]] = {
    **{name: partial(_paint_texture, pattern) for name, pattern in TEXTURES.items()},
    **{name: partial(_paint_color, *ranges) for name, ranges in _HUES.items()},
    NEGATIVES: _paint_negative,
}


def _warped_coordinates(side: int, random: np.random.Generator) -> tuple[Field, Field]:
    """Coordinates -0.5 to 0.5 over the image, turned, seen a little from the side, and gently bent."""
    line = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    x, y = np.meshgrid(line, line)
    angle = random.uniform(0, 2 * np.pi)
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    depth = 1 + random.uniform(-0.35, 0.35) * x + random.uniform(-0.35, 0.35) * y
    x, y = x / depth, y / depth
    bend, phase = random.uniform(0, 0.02, 2), random.uniform(0, 2 * np.pi, 2)
    return (
        (x + bend[0] * np.sin(2 * np.pi * 1.5 * y + phase[0])).astype(np.float32),
        (y + bend[1] * np.sin(2 * np.pi * 1.5 * x + phase[1])).astype(np.float32),
    )


def _band(x: Field, share: float) -> Field:
    return (x - np.floor(x) < share).astype(np.float32)


def _triangle(x: Field) -> Field:
    """Triangle wave of period 1 from -0.5 to 0.5."""
    wave: Field = 2 * np.abs(x - np.floor(x) - 0.5) - 0.5
    return wave


def _hexagons(x: Field, y: Field) -> Field:
    """Distances to the nearest and the second nearest center of a lattice of hexagons 1 wide."""
    height = np.float32(np.sqrt(3) / 2)
    distances = []
    lowest = np.floor(y / height)
    for row in (lowest - 1, lowest, lowest + 1, lowest + 2):
        offset = 0.5 * (row % 2)
        for step in (0, 1):
            column = np.floor(x - offset) + step
            distances.append(np.hypot(x - offset - column, y - row * height))
    return np.sort(np.stack(distances), axis=0)[:2]


def _noise(size: int, random: np.random.Generator, slope: float) -> Field:
    """Noise with amplitude 1 / frequency^slope, from 0 to 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.standard_normal((size, size))) / frequency**slope
    field = np.fft.irfft2(spectrum, s=(size, size))
    scaled: Field = (field - field.min()) / np.ptp(field)
    return scaled


def _color(random: np.random.Generator) -> Field:
    return _hsv(np.array(random.random()), np.array(random.uniform(0, 0.9)), np.array(random.uniform(0.05, 1.0)))


def _two_colors(random: np.random.Generator) -> tuple[Field, Field]:
    """Two colors that differ in brightness by a varied but visible amount; now and then black and white."""
    if random.random() < 0.25:
        pair = np.array([[_DARKEST] * 3, [_BRIGHTEST] * 3]) + random.uniform(-0.03, 0.03, (2, 3))
        return (pair[0], pair[1]) if random.random() < 0.5 else (pair[1], pair[0])
    contrast = random.uniform(0.3, 0.8)
    while True:
        first, second = _color(random), _color(random)
        if abs(_brightness(first) - _brightness(second)) >= contrast:
            return first, second


def _brightness(color: Field) -> float:
    return float(color @ np.array([0.299, 0.587, 0.114]))


def _hsv(hue: Field, saturation: Field, value: Field) -> Field:
    """Hue, saturation and value to (..., 3) RGB, all from 0 to 1."""
    sector = (np.asarray(hue)[..., None] * 6 + np.array([5, 3, 1])) % 6
    ramp = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    color: Field = value[..., None] * (1 - saturation[..., None] * ramp)
    return color


def _finish(colors: Field, size: int, random: np.random.Generator) -> Image.Image:
    """Light from one side, averaging of the fine pixels (anti-aliasing), and a little grain."""
    light = 1 + random.uniform(0, 0.5) * _warped_coordinates(len(colors), random)[0]
    fine = np.clip(colors * light[..., None], 0, 1)
    averaged = fine.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING, 3).mean((1, 3))
    return _to_image(averaged + random.uniform(0, 0.03) * random.standard_normal((size, size, 1)))


def _to_bytes(color: Field) -> tuple[int, int, int]:
    red, green, blue = (int(level) for level in np.clip(color * 255, 0, 255))
    return red, green, blue


def _to_image(colors: Field) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8))
