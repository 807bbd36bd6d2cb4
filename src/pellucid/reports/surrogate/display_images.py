"""Images of the surrogate's pages: pixel for pixel, side by side, and where two of them differ."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pellucid.reports.shared.html import data_uri
from pellucid.surrogate import DisplaySpace

_BRIGHTER, _DARKER = (18, 140, 96), (176, 38, 140)  # orange and blue stay evidence for and against
_SMALL = 128
_ENLARGED = 96


def to_display_image(space: DisplaySpace, image: Tensor) -> Image.Image:
    """An image (C, H, W) of the classifier's input space as a person sees it, pixel for pixel: gray or RGB.

    >>> import torch
    >>> to_display_image(DisplaySpace((0.0,), (1.0,), "stated"), torch.ones(1, 4, 6)).size
    (6, 4)
    """
    return Image.fromarray(_bytes(space, image))


def image_uri(space: DisplaySpace, image: Tensor) -> str:
    """The same, inside a page; the page enlarges it."""
    return data_uri(to_display_image(space, image), "PNG", optimize=True)


def difference_uri(space: DisplaySpace, before: Tensor, after: Tensor) -> str:
    """Where an image became brighter (green) and darker (magenta), on the image in pale gray, inside a page.

    Full color is the largest change of brightness; changes of hue alone do not show.

    Args:
        space: how images of the classifier's input space are shown.
        before: (C, H, W) in that input space.
        after: (C, H, W), likewise.

    >>> import torch
    >>> space = DisplaySpace((0.0,), (1.0,), "stated")
    >>> difference_uri(space, torch.zeros(1, 4, 4), torch.ones(1, 4, 4))[:15]
    'data:image/png;'
    """
    old, new = (_bytes(space, image).astype(np.float64) for image in (before, after))
    gray, change = (_brightness(values) for values in (old, new - old))
    largest = np.abs(change).max()
    share = np.abs(change)[..., None] / largest if largest else np.zeros((*change.shape, 1))
    color = np.where(change[..., None] > 0, _BRIGHTER, _DARKER)
    ground = (170 + gray / 255 * 70)[..., None]
    mixed = ground * (1 - share) + color * share
    return data_uri(Image.fromarray(mixed.round().astype(np.uint8)), "PNG", optimize=True)


def traversal_png(space: DisplaySpace, images: Tensor) -> bytes:
    """Images (V, C, H, W) side by side as a PNG file; small ones are enlarged, pixels stay pixels.

    >>> import torch
    >>> traversal_png(DisplaySpace((0.0,), (1.0,), "stated"), torch.zeros(3, 1, 28, 28))[1:4]
    b'PNG'
    """
    row = Image.fromarray(np.concatenate([_bytes(space, image) for image in images], axis=1))
    zoom = -(-_ENLARGED // row.height) if row.height < _SMALL else 1
    buffer = io.BytesIO()
    row.resize((row.width * zoom, row.height * zoom), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _bytes(space: DisplaySpace, image: Tensor) -> NDArray[np.uint8]:
    """(H, W) where there is one channel, else (H, W, 3) of the first three."""
    shown = ((space.to_display(image[None])[0].clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    array: NDArray[np.uint8] = shown.permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] < 3 else np.ascontiguousarray(array[..., :3])


def _brightness(array: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = array if array.ndim == 2 else array.mean(2)
    return mean
