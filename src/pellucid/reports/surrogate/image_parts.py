"""Images of the surrogate's pages: as they are drawn, side by side, and where two of them differ."""

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pellucid.reports.shared.html import data_uri

if TYPE_CHECKING:
    from pellucid.surrogate import SurrogateExplainer


_BRIGHTER, _DARKER = (18, 140, 96), (176, 38, 140)  # orange and blue stay evidence for and against
_SMALL = 128
_ENLARGED = 96


def to_display_image(explainer: "SurrogateExplainer", image: Tensor) -> Image.Image:
    """An image (C, H, W) of the classifier's input space as a person sees it, pixel for pixel: grey or RGB."""
    return Image.fromarray(_bytes(explainer, image))


def image_uri(explainer: "SurrogateExplainer", image: Tensor) -> str:
    """The same, inside a page; the page enlarges it."""
    return data_uri(to_display_image(explainer, image), "PNG", optimize=True)


def difference_uri(explainer: "SurrogateExplainer", before: Tensor, after: Tensor) -> str:
    """Where an image (C, H, W) became brighter (green) and darker (magenta), on the image in pale grey.

    Full color is the largest change of brightness; changes of hue alone do not show.
    """
    old, new = (_bytes(explainer, each).astype(np.float64) for each in (before, after))
    gray, change = (_brightness(each) for each in (old, new - old))
    largest = np.abs(change).max()
    share = np.abs(change)[..., None] / largest if largest else np.zeros((*change.shape, 1))
    color = np.where(change[..., None] > 0, _BRIGHTER, _DARKER)
    ground = (170 + gray / 255 * 70)[..., None]
    mixed = ground * (1 - share) + color * share
    return data_uri(Image.fromarray(mixed.round().astype(np.uint8)), "PNG", optimize=True)


def traversal_png(explainer: "SurrogateExplainer", images: Tensor) -> bytes:
    """Images (V, C, H, W) side by side as a PNG file; small ones are enlarged, pixels stay pixels."""
    row = Image.fromarray(np.concatenate([_bytes(explainer, each) for each in images], axis=1))
    zoom = -(-_ENLARGED // row.height) if row.height < _SMALL else 1
    buffer = io.BytesIO()
    row.resize((row.width * zoom, row.height * zoom), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _bytes(explainer: "SurrogateExplainer", image: Tensor) -> NDArray[np.uint8]:
    """(H, W) where there is one channel, else (H, W, 3) of the first three."""
    shown = ((explainer.surrogate.space.to_display(image[None])[0].clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    array: NDArray[np.uint8] = shown.permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] < 3 else np.ascontiguousarray(array[..., :3])


def _brightness(array: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = array if array.ndim == 2 else array.mean(2)
    return mean
