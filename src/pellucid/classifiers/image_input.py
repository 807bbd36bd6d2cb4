"""From an image to one input of a network, whatever a preprocessing of another library returns."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.data import to_rgb
from pellucid.errors import ImageError, ModelError

_PIXELS = "pixel_values"
_EXPECTED = "return a tensor or an array (C, H, W), or a dict that holds one under pixel_values"


def prepare_image(preprocess: Callable[[Image.Image], Any], image: Image.Image, channels: int) -> Tensor:
    """One input (C, H, W) float32 on the CPU.

    Args:
        preprocess: of the classifier: it gets an upright RGB image.
        image: of any mode; its camera's rotation is applied.
        channels: that the network takes.

    Raises:
        ImageError: no image, or one that cannot be read.
        ModelError: what `preprocess` returns is no such input.

    >>> def processor(image):
    ...     return {"pixel_values": np.zeros((1, 3, image.height, image.width))}
    >>> prepare_image(processor, Image.new("L", (4, 2)), 3).shape
    torch.Size([3, 2, 4])
    """
    if not isinstance(image, Image.Image):
        raise ImageError(f"a {type(image).__name__} is neither a file nor a PIL image; see PIL.Image.fromarray")
    try:
        upright = to_rgb(image)
    except OSError as error:
        raise ImageError(f"the PIL image is damaged or cut short ({error}); copy or save it again") from error
    return _as_input(preprocess(upright), channels)


def _as_input(output: Any, channels: int) -> Tensor:
    """What a preprocessing returned, as (C, H, W): a tensor or an array, alone or as the pixels of a processor."""
    inner = output
    if isinstance(inner, Mapping):
        keys = list(inner)
        inner = inner.get(_PIXELS, inner[keys[0]] if len(keys) == 1 else None)
    if isinstance(inner, list | tuple) and len(inner) == 1:
        inner = inner[0]
    if isinstance(inner, np.ndarray):
        inner = torch.from_numpy(np.ascontiguousarray(inner))
    if not isinstance(inner, Tensor):
        raise ModelError(f"preprocess returns {_describe(output)}; {_EXPECTED}")
    single = inner[0] if inner.ndim == 4 and len(inner) == 1 else inner
    if single.ndim != 3 or single.shape[0] != channels:
        last = single.ndim == 3 and single.shape[-1] == channels
        hint = "its channels come last: permute them, as in permute(2, 0, 1)" if last else _EXPECTED
        raise ModelError(f"preprocess returns shape {tuple(single.shape)} for a network of {channels} channels; {hint}")
    if not single.is_floating_point():
        raise ModelError(f"preprocess returns {single.dtype}, not floats; scale and normalize as in training")
    return single.detach().float().cpu()


def _describe(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with {', '.join(map(repr, output)) or 'nothing'}"
    return f"a {type(output).__name__}"


def stack_inputs(inputs: list[Tensor]) -> Tensor:
    """Inputs in one batch (N, C, H, W).

    Raises:
        ModelError: they differ in size.

    >>> stack_inputs([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]).shape
    torch.Size([2, 3, 2, 2])
    """
    sizes = list(dict.fromkeys(tuple(each.shape) for each in inputs))
    if len(sizes) > 1:
        raise ModelError(
            f"preprocess returns inputs of different sizes, {sizes[0]} and {sizes[1]}; let it resize and crop every "
            "image to one size, or read images one by one"
        )
    return torch.stack(inputs)
