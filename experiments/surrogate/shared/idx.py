"""The IDX files of MNIST and its kin (Fashion-MNIST, Morpho-MNIST), plain or gzipped."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import ImageError

_KINDS = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 8


def read_idx(path: str | os.PathLike[str], *, max_bytes: int = 2**31) -> Tensor:
    """Read an IDX file: an array with its element type and shape in front.

    The content says whether a file is gzipped, never its name; no more of it is unpacked than its header promises.

    Args:
        path: the file.
        max_bytes: larger arrays are refused by their header, before anything is read.

    Returns:
        A tensor of the file's own element type and shape.

    Raises:
        ImageError: the file is missing, no IDX file, too large, cut short, damaged, or longer than it says. The
            message begins with the path.
    """
    try:
        with Path(path).open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _read_array(raw, max_bytes)
            with gzip.open(raw) as unpacked:
                return _read_array(unpacked, max_bytes)  # type: ignore[arg-type]
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError(f"{path}: cannot be read ({error}); check the path, or copy the file again") from error


def read_mnist(folder: str | os.PathLike[str], split: str = "train") -> tuple[Tensor, Tensor]:
    """Read the images and labels of a set in MNIST's layout.

    Debian's package dataset-fashion-mnist has one in /usr/share/datasets/fashion-mnist.

    Args:
        folder: with `<split>-images-idx3-ubyte` and `<split>-labels-idx1-ubyte`, each with or without `.gz`.
        split: "train" (60,000 images in MNIST) or "t10k" (10,000).

    Returns:
        Images (N, H, W) uint8 and labels (N,) int64.

    Raises:
        ImageError: a file is missing or damaged, or they are no images with one label each.
    """
    images = read_idx(_find(Path(folder), f"{split}-images-idx3-ubyte"))
    labels = read_idx(_find(Path(folder), f"{split}-labels-idx1-ubyte"))
    if images.ndim != 3 or images.dtype != torch.uint8 or labels.shape != images.shape[:1]:
        raise ImageError(
            f"{folder}: the {split} files hold {images.dtype} {tuple(images.shape)} and labels "
            f"{tuple(labels.shape)}, not 8-bit images (N, H, W) and labels (N,); they do not belong together"
        )
    return images, labels.long()


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise ImageError(f"{folder}: has neither {name}.gz nor {name}; give the folder of an MNIST-like set")


def _read_array(file: BinaryIO, max_bytes: int) -> Tensor:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _KINDS or not 1 <= magic[3] <= _MAX_DIMENSIONS:
        raise ImageError(f"is no IDX file (it begins with {magic!r}); give the file itself, plain or gzipped")
    kind, dimensions = np.dtype(_KINDS[magic[2]]), magic[3]
    shape = struct.unpack(f">{dimensions}I", _read_exactly(file, 4 * dimensions))
    size = math.prod(shape) * kind.itemsize
    if size > max_bytes:
        raise ImageError(f"declares {shape} = {size:,} bytes, more than max_bytes = {max_bytes:,}; raise it if right")
    content = _read_exactly(file, size)
    if file.read(1):
        raise ImageError(f"goes on after the {size:,} bytes of its {shape} numbers; download it again")
    array = np.frombuffer(content, kind).reshape(shape)
    return torch.from_numpy(array.astype(kind.newbyteorder("=")))


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise ImageError(f"is cut short: {size:,} bytes were to come, {len(content):,} did; download it again")
    return content
