"""Named tensors in a file: safetensors with a checksum, written whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.storage.checksums import CHECKSUM, UNSEALED, DamagedFileError, check_seal, seal
from pellucid.storage.files import write_atomically


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors under their names.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "file.safetensors", {"net.bias": torch.ones(2)})
    ...     read_tensors(Path(folder) / "file.safetensors")
    {'net.bias': tensor([1., 1.])}
    """
    write_atomically(path, encode_tensors(tensors))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
        PellucidError: the file is missing or damaged, or was not written by `write_tensors`.
    """
    try:
        return decode_tensors(path.read_bytes(), path)[0]
    except FileNotFoundError as error:
        raise PellucidError(f"{path} does not exist") from error


def encode_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as the content of a safetensors file.

    Args:
        tensors: by name.
        metadata: texts that are kept with them.
    """
    from safetensors.torch import save

    owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    # Its own keys are not sorted: with one more than two the bytes would change from one process to the next.
    return seal(_with_metadata(save(owned), {**(metadata or {}), CHECKSUM: UNSEALED}))


def decode_tensors(content: bytes, path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata in the content of a safetensors file.

    Args:
        content: of the whole file.
        path: of the file, for the message.

    Raises:
        DamagedFileError: it was not written by `encode_tensors`, or changed since.

    >>> import torch
    >>> decode_tensors(encode_tensors({"bias": torch.ones(2)}, {"layer": "final"}), "file")
    ({'bias': tensor([1., 1.])}, {'layer': 'final'})
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    check_seal(content, path)
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}); it has to be created again") from error
    return tensors, {name: text for name, text in metadata.items() if name != CHECKSUM}


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file with metadata in the given order, its header aligned to 8 bytes."""
    length = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(metadata), **json.loads(content[8 : 8 + length])}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning.

    >>> sorted(select_prefix({"net.weight": Tensor(), "net.bias": Tensor(), "head.bias": Tensor()}, "net."))
    ['bias', 'weight']
    """
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
