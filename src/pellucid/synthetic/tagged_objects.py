"""Drawn images with a known truth: an object of a class, and a tag that names a class, rightly or not.

Object and tag can be left out or swapped while all else stays as it is, so that what a classifier makes of each can be
measured by intervention. After the captioned images of Kim et al., Interpretability Beyond Feature Attribution, ICML
2018.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pellucid.errors import PellucidError
from pellucid.synthetic.textures import NEGATIVES, draw_images

Points = NDArray[np.float64]  # (corners, 2): x, y
Color = tuple[int, int, int]

BLANK = ""
"""The tag that is a rectangle without a glyph."""
_OVERSAMPLING = 4
_SMALLEST = 32

_GLYPHS: Mapping[str, tuple[str, ...]] = {
    "arrow": (".###.", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "cross": (".####", "#....", "#....", "#....", "#....", "#....", ".####"),
    "heart": ("#...#", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "ring": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
    "star": (".####", "#....", "#....", ".###.", "....#", "....#", "####."),
    "triangle": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."),
}
"""The initial of each class, five dots wide and seven high."""


def _regular_polygon(corners: int, radius: float = 1.0, inner: float | None = None) -> Points:
    """A regular polygon; with `inner`, every second corner has that radius."""
    angles = 2 * np.pi * np.arange(corners) / corners
    radii = np.where(np.arange(corners) % 2 == 1, radius if inner is None else inner, radius)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    down = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 17
    return np.stack([0.94 * np.sin(t) ** 3, down], axis=1)


_ARROW = np.array([[1, 0], [0.1, 0.85], [0.1, 0.3], [-0.95, 0.3], [-0.95, -0.3], [0.1, -0.3], [0.1, -0.85]])
_CROSS = np.array([[3, 1], [1, 1], [1, 3], [-1, 3], [-1, 1], [-3, 1], [-3, -1], [-1, -1], [-1, -3], [1, -3], [1, -1]])
_OUTLINES: Mapping[str, tuple[Points, ...]] = {
    "arrow": (_ARROW,),
    "cross": (np.concatenate([_CROSS, [[3, -1]]]) / 10**0.5,),
    "heart": (_heart(),),
    "ring": (_regular_polygon(40), _regular_polygon(40, 0.55)),
    "star": (_regular_polygon(10, 1.0, 0.45),),
    "triangle": (_regular_polygon(3),),
}
"""Outline of each shape within the unit circle, then the hole in it."""
SHAPES = tuple(_OUTLINES)
"""The classes: shapes that an object can have and that a tag can name."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A background with a place for an object and another, apart from it, for a tag.

    Attributes:
        background: (size, size, 3) uint8.
        center, radius, angle, fill: where the object stands (pixels, radians), and its color.
        box: (left, top, right, bottom) of the tag in whole pixels.
        paper, ink: colors of the tag's rectangle and glyph.

    >>> [scene] = draw_scenes(1, size=48, seed=3)
    >>> scene.image("star", "heart").shape, bool((scene.image("star", None) == scene.image("star", "heart")).all())
    ((48, 48, 3), False)
    """

    background: NDArray[np.uint8]
    center: tuple[float, float]
    radius: float
    angle: float
    fill: Color
    box: tuple[int, int, int, int]
    paper: Color
    ink: Color

    @property
    def size(self) -> int:
        """Side in pixels."""
        return len(self.background)

    def image(self, shape: str | None, tag: str | None) -> NDArray[np.uint8]:
        """Paint the scene.

        Args:
            shape: the object, a name from `SHAPES`; None for no object.
            tag: the class that the tag names; `BLANK` for a rectangle without a glyph, None for no tag.

        Returns:
            (size, size, 3) uint8. Outside the object and the tag the image does not depend on either.
        """
        pixels = self.background.astype(np.float64)
        if shape is not None:
            pixels = _blend(pixels, self._coverage(shape), self.fill)
        if tag is not None:
            pixels = _blend(pixels, self.tag_mask.astype(np.float64), self.paper)
        if tag:
            pixels = _blend(pixels, self._glyph(tag), self.ink)
        return np.rint(pixels).astype(np.uint8)

    def shape_mask(self, shape: str) -> NDArray[np.bool_]:
        """(size, size), True where the object covers at least half of a pixel."""
        return self._coverage(shape) >= 0.5

    @property
    def tag_mask(self) -> NDArray[np.bool_]:
        """(size, size), True in the tag's rectangle."""
        mask = np.zeros((self.size, self.size), dtype=bool)
        left, top, right, bottom = self.box
        mask[top:bottom, left:right] = True
        return mask

    def _coverage(self, shape: str) -> NDArray[np.float64]:
        """Share of each pixel that the object covers."""
        canvas = Image.new("L", (self.size * _OVERSAMPLING,) * 2)
        turn = np.array([[np.cos(self.angle), np.sin(self.angle)], [-np.sin(self.angle), np.cos(self.angle)]])
        for outline, level in zip(_OUTLINES[_known(shape)], (255, 0), strict=False):
            corners = (np.array(self.center) + self.radius * outline @ turn) * _OVERSAMPLING
            ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in corners], fill=level)
        return np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.float64) / 255

    def _glyph(self, tag: str) -> NDArray[np.float64]:
        """Share of each pixel that the glyph covers; it fills the rectangle up to a margin."""
        left, top, right, bottom = self.box
        width, height = right - left, bottom - top
        dots = np.array([[dot == "#" for dot in row] for row in _GLYPHS[_known(tag)]])
        y = np.floor(((np.arange(height * _OVERSAMPLING) + 0.5) / (height * _OVERSAMPLING) * 1.4 - 0.2) * len(dots))
        x = np.floor(((np.arange(width * _OVERSAMPLING) + 0.5) / (width * _OVERSAMPLING) * 1.5 - 0.25) * dots.shape[1])
        inside = ((y >= 0) & (y < len(dots)))[:, None] & ((x >= 0) & (x < dots.shape[1]))
        rows, columns = y.clip(0, len(dots) - 1).astype(int), x.clip(0, dots.shape[1] - 1).astype(int)
        fine = dots[rows[:, None], columns] & inside
        covered = np.zeros((self.size, self.size))
        parts = fine.reshape(height, _OVERSAMPLING, width, _OVERSAMPLING)
        covered[top:bottom, left:right] = parts.mean((1, 3))
        return covered


def draw_scenes(count: int, size: int = 48, seed: int = 0) -> list[Scene]:
    """Draw scenes: backgrounds of noise, gradients, scattered shapes or strokes, and places for objects and tags.

    Object and tag vary in size, place and colors; the object in its angle too. They never overlap.

    Args:
        count: how many. Scene i is the same however many are drawn.
        size: side in pixels, at least 32.
        seed: of all that varies.

    Raises:
        PellucidError: a count or size that cannot be drawn.

    >>> len(draw_scenes(2, size=32))
    2
    """
    if count < 1 or size < _SMALLEST:
        raise PellucidError(f"{count} scenes of {size} pixels cannot be drawn; give at least 1 of at least {_SMALLEST}")
    return [
        _random_scene(np.asarray(background), np.random.default_rng([seed, index]))
        for index, background in enumerate(draw_images(NEGATIVES, count, size, seed))
    ]


def _random_scene(background: NDArray[np.uint8], random: np.random.Generator) -> Scene:
    size = len(background)
    while True:
        radius = size * random.uniform(0.18, 0.28)
        center = random.uniform(radius, size - radius, 2)
        height = round(size * random.uniform(0.2, 0.32))
        width = round(height * random.uniform(0.9, 1.3))
        left, top = int(random.integers(size - width + 1)), int(random.integers(size - height + 1))
        box = (left, top, left + width, top + height)
        nearest = np.clip(center, box[:2], box[2:])
        if np.hypot(*(center - nearest)) > radius + 1:
            break
    fill, paper = (_color(random, random.uniform(0.1, 0.9)) for _ in range(2))
    ink = _color(random, random.uniform(0.0, 0.2) if np.mean(paper) > 128 else random.uniform(0.8, 1.0))
    position = (float(center[0]), float(center[1]))
    return Scene(background, position, float(radius), float(random.uniform(-0.4, 0.4)), fill, box, paper, ink)


def _color(random: np.random.Generator, brightness: float) -> Color:
    red, green, blue = np.clip(255 * (brightness + random.uniform(-0.25, 0.25, 3)), 0, 255).astype(int).tolist()
    return red, green, blue


def _blend(pixels: NDArray[np.float64], coverage: NDArray[np.float64], color: Color) -> NDArray[np.float64]:
    blended: NDArray[np.float64] = pixels + coverage[..., None] * (np.array(color) - pixels)
    return blended


def _known(name: str) -> str:
    if name not in _OUTLINES:
        raise PellucidError(f"no shape {name!r}; choose one of {', '.join(SHAPES)}")
    return name
