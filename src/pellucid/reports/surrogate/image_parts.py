"""Pictures of the surrogate's pages: as they are drawn, side by side, and where two of them differ."""

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pellucid.reports.shared.html import data_uri

if TYPE_CHECKING:
    from pellucid.surrogate import TwinSurrogate


_BRIGHTER, _DARKER = (18, 140, 96), (176, 38, 140)  # orange and blue stay evidence for and against
_SMALL = 128
_ENLARGED = 96


def shown_picture(twin: "TwinSurrogate", picture: Tensor) -> Image.Image:
    """A picture (C, H, W) of the classifier's input space as a person sees it, pixel for pixel: grey or RGB."""
    return Image.fromarray(_bytes(twin, picture))


def picture_uri(twin: "TwinSurrogate", picture: Tensor) -> str:
    """The same, inside a page; the page enlarges it."""
    return data_uri(shown_picture(twin, picture), "PNG", optimize=True)


def difference_uri(twin: "TwinSurrogate", before: Tensor, after: Tensor) -> str:
    """Where a picture (C, H, W) became brighter (green) and darker (magenta), on the picture in pale grey.

    Full colour is the largest change of brightness; changes of hue alone do not show.
    """
    old, new = (_bytes(twin, each).astype(np.float64) for each in (before, after))
    grey, change = (_brightness(each) for each in (old, new - old))
    largest = np.abs(change).max()
    share = np.abs(change)[..., None] / largest if largest else np.zeros((*change.shape, 1))
    colour = np.where(change[..., None] > 0, _BRIGHTER, _DARKER)
    ground = (170 + grey / 255 * 70)[..., None]
    mixed = ground * (1 - share) + colour * share
    return data_uri(Image.fromarray(mixed.round().astype(np.uint8)), "PNG", optimize=True)


def strip_png(twin: "TwinSurrogate", pictures: Tensor) -> bytes:
    """Pictures (V, C, H, W) side by side as a PNG file; small ones are enlarged, pixels stay pixels."""
    row = Image.fromarray(np.concatenate([_bytes(twin, each) for each in pictures], axis=1))
    zoom = -(-_ENLARGED // row.height) if row.height < _SMALL else 1
    buffer = io.BytesIO()
    row.resize((row.width * zoom, row.height * zoom), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _bytes(twin: "TwinSurrogate", picture: Tensor) -> NDArray[np.uint8]:
    """(H, W) where there is one channel, else (H, W, 3) of the first three."""
    shown = ((twin.space.show(picture[None])[0].clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    array: NDArray[np.uint8] = shown.permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] < 3 else np.ascontiguousarray(array[..., :3])


def _brightness(array: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = array if array.ndim == 2 else array.mean(2)
    return mean
