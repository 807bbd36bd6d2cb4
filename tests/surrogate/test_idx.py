"""IDX files: read as they are, or refused with the reason."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments.surrogate.shared.idx import read_idx, read_mnist

from pellucid.errors import ImageError


def _idx(array: np.ndarray, code: int) -> bytes:
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + shape + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("code", "kind"),
    [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")],
)
def test_arrays_of_every_type_come_back_whole(tmp_path: Path, code: int, kind: str, packed: bool) -> None:
    array = np.arange(-30, 30).astype(kind).reshape(3, 4, 5)
    path = tmp_path / "array"  # the name says nothing of gzip
    path.write_bytes(gzip.compress(_idx(array, code)) if packed else _idx(array, code))
    assert np.array_equal(read_idx(path).numpy(), array)
    assert read_idx(path).numpy().dtype == array.dtype


GOOD = _idx(np.zeros((2, 3), np.uint8), 0x08)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\x89PNG\r\n\x1a\n", "no IDX file"),
        (bytes([0, 0, 0x0A, 1, 0, 0, 0, 1, 0]), "no IDX file"),
        (GOOD[:6], "cut short"),
        (GOOD[:-1], "cut short: 6 bytes were to come, 5 did"),
        (GOOD + b"x", "goes on after the 6 bytes"),
        (bytes([0, 0, 0x0E, 2]) + b"\xff" * 8, "more than max_bytes"),
        (gzip.compress(GOOD, mtime=0)[:-9], "cannot be read"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"\0" * 8, "cannot be read"),
        (gzip.compress(GOOD + bytes(10**6), mtime=0), "goes on"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "damaged.gz"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_idx(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        read_idx(tmp_path / "missing")


def test_a_set_is_read_packed_or_not_and_must_fit_together(tmp_path: Path) -> None:
    images, labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array([7, 1], dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(images, 8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(_idx(labels, 8))
    read, predicted = read_mnist(tmp_path)
    assert np.array_equal(read.numpy(), images)
    assert predicted.dtype == torch.int64
    assert predicted.tolist() == [7, 1]
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(_idx(labels[:1], 8))
    with pytest.raises(ImageError, match="do not belong together"):
        read_mnist(tmp_path)
    with pytest.raises(ImageError, match=r"t10k-images-idx3-ubyte\.gz"):
        read_mnist(tmp_path, "t10k")


def test_the_real_test_digits_have_their_known_labels(shared_data: Path) -> None:
    images, labels = read_mnist(shared_data / "mnist", "t10k")
    assert images.shape == (10_000, 28, 28)
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_fashion_mnist_of_debian_is_read_where_it_is_installed() -> None:
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    images, labels = read_mnist(folder, "t10k")
    assert images.shape == (10_000, 28, 28)
    assert labels.bincount().tolist() == [1000] * 10
