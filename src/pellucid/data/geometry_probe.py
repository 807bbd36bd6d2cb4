"""Find out which part of an image someone's own preprocessing shows, by looking at ramps through it."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.data.geometry import Geometry
from pellucid.errors import PellucidError

_RAMP_TOP = 254  # with a phase below 1 added, levels stay in 0..254
_RAMP_SHADES = 8
_UNMEASURED = "the geometry of this preprocessing cannot be measured"


def probe_geometry(preprocess: Callable[[Image.Image], Tensor], width: int, height: int) -> Geometry:
    """Find out which part of an image someone's own preprocessing shows, by looking at ramps through it.

    A black and a white image give each output's offset and gain; ramps along x and along y then tell where
    in the image it comes from, and a straight line is fitted to that. Each ramp comes in eight shades, an
    eighth of a level apart, so that 8-bit rounding averages out: the box is right to a tenth of a pixel of
    the input or of the image, whichever is larger (mostly to a hundredth; nearest neighbor: to a quarter).
    That takes 19 calls, so keep the result.

    Args:
        preprocess: from an RGB image to (C, H, W), such as a torchvision Compose: any resize and crop along
            the axes, padding with a constant, and per-channel changes of scale, all of them fixed.
        width: of the images to measure for; those of another size may have another geometry.
        height: of the images to measure for.

    Returns:
        The geometry for images of that size; its box reaches beyond the image where there is padding.

    Raises:
        PellucidError: the callable returns something else than (C, H, W), or is not of that kind: random,
            mirrored, rotated, padded with image content, or dependent on brightness in another way.

    >>> from pellucid.data import Preprocess
    >>> geometry = probe_geometry(Preprocess((32, 32), resize=40), width=80, height=80)
    >>> [round(edge) for edge in geometry.box]
    [8, 8, 72, 72]
    """
    plain = [Image.new("RGB", (width, height), color) for color in ("black", "white")]
    ramps = chain(_ramps(width, 0, height), _ramps(height, 1, width))
    first_again = islice(_ramps(width, 0, height), 1)
    black, white, *shades, repeated = _respond(preprocess, chain(plain, ramps, first_again))
    gain = white - black  # (C, H, W)
    strongest = gain.abs().amax((1, 2), keepdim=True)
    # Constant padding does not react, and pixels that an interpolation mixes with it only in part.
    reacts = gain.abs() > 0.99 * strongest.clamp(min=1e-3 * float(strongest.max()))
    channels = reacts.any(2).any(1)
    seen = reacts.any(0)  # (H, W)
    rows, columns = _run(seen.any(1)), _run(seen.any(0))
    if not torch.equal(repeated, shades[0]):
        raise PellucidError(f"{_UNMEASURED}: it gives two results for one image; leave out random steps")
    if not reacts[channels][:, rows, columns].all():
        raise PellucidError(f"{_UNMEASURED}: it hides parts of the image inside its window; leave out such steps")
    levels = torch.stack([(shade - black) / gain for shade in shades])[:, channels, rows, columns].mean(1)
    share = levels * 255 / _RAMP_TOP  # (shades, rows, columns), 0..1 along the image
    left, right = _fit(share[:_RAMP_SHADES] * width, columns, gain.shape[2], width)
    top, bottom = _fit(share[_RAMP_SHADES:].mT * height, rows, gain.shape[1], height)
    return Geometry(width, height, (left, top, right, bottom))


def _ramps(extent: int, axis: int, across: int) -> Iterator[Image.Image]:
    """Images that brighten evenly to the right (axis 0) or downwards (axis 1), in all shades."""
    ramp = _RAMP_TOP * (np.arange(extent) + 0.5) / extent
    size = (extent, across) if axis == 0 else (across, extent)
    for shade in range(_RAMP_SHADES):
        # Over the shades, floor(level + phase) averages to the level.
        levels = np.floor(ramp + (shade + 0.5) / _RAMP_SHADES).astype(np.uint8)
        line = Image.fromarray(np.expand_dims(levels, axis))
        yield line.resize(size, Image.Resampling.NEAREST).convert("RGB")


def _respond(preprocess: Callable[[Image.Image], Tensor], images: Iterable[Image.Image]) -> list[Tensor]:
    outputs = [preprocess(image) for image in images]
    kinds = {str(tuple(out.shape)) if isinstance(out, Tensor) else type(out).__name__ for out in outputs}
    if len(kinds) > 1 or not isinstance(outputs[0], Tensor) or outputs[0].ndim != 3:
        raise PellucidError(
            f"{_UNMEASURED}: it returns {' or '.join(sorted(kinds))}; return one tensor of shape (C, H, W)"
        )
    return [output.detach().double().cpu() for output in outputs]


def _run(seen: Tensor) -> slice:
    where = seen.nonzero().flatten().tolist()
    if len(where) < 4:
        raise PellucidError(
            f"{_UNMEASURED}: fewer than 4 x 4 outputs differ between a black and a white image; "
            "normalize with fixed numbers, not with the image's own"
        )
    return slice(where[0], where[-1] + 1)


def _fit(positions: Tensor, seen: slice, length: int, extent: int) -> tuple[float, float]:
    """Where the window of `length` outputs starts and stops along an axis of `extent` pixels.

    `positions` (shades, lines, outputs): where along the axis the outputs `seen` say that they come from.
    """
    outputs = torch.arange(length, dtype=torch.float64)[seen] + 0.5
    mean = positions.mean(0)
    from_center = outputs - outputs.mean()
    pitch = float((from_center @ mean.mean(0)) / (from_center @ from_center))  # least squares
    start = float(mean.mean() - pitch * outputs.mean())
    jitter = float((positions - mean).abs().max())
    bend = float((mean - (start + pitch * outputs)).abs().max())
    # An edge or a nearest neighbor moves an output by half a pixel, 8-bit rounding by one or two levels.
    level, step = extent / _RAMP_TOP, 0.75 * max(1.0, abs(pitch))
    if jitter > step + 2.5 * level:
        raise PellucidError(
            f"{_UNMEASURED}: its crop moves by {jitter:.1f} pixels between calls; leave out random steps"
        )
    if bend > step + level / 4:
        raise PellucidError(
            f"{_UNMEASURED}: its outputs lie up to {bend:.1f} pixels of the image off an even grid along "
            "the axes; leave out rotation, warping and changes of contrast"
        )
    if pitch <= 0:
        raise PellucidError(f"{_UNMEASURED}: it mirrors the image; leave out the flip")
    return start, start + pitch * length
