"""JSON files: written whole or not at all with a checksum, and read in one place, which names the file."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

from pellucid.storage.checksums import CHECKSUM, UNSEALED, DamagedFileError, check_seal, has_seal, seal
from pellucid.storage.files import write_atomically
from pellucid.storage.record_reader import RecordError


def write_json(path: str | PathLike[str], record: object) -> None:
    """Write a record as a JSON file, whole or not at all; an object gets a checksum.

    Args:
        path: the file; it is replaced if it exists.
        record: JSON values; NaN and infinities are refused.

    Raises:
        ValueError: a number is not finite.
        OSError: the file cannot be written.
    """
    write_atomically(path, encode_json(record))


def encode_json(record: object, *, sort_keys: bool = False) -> bytes:
    """A record as the content of a JSON file; an object has its checksum as last entry.

    >>> b"pellucid-sha256:" in encode_json({"score": 0.5}), encode_json([0.5])
    (True, b'[\\n 0.5\\n]')
    """
    if not isinstance(record, dict):
        return json.dumps(record, indent=1, ensure_ascii=True, allow_nan=False).encode()
    ordered = dict(sorted(record.items())) if sort_keys else record
    text = json.dumps(
        {**ordered, CHECKSUM: UNSEALED}, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=sort_keys
    )
    # A name that is not UTF-8 has halves of surrogate pairs; these are written as JSON escapes them.
    return seal(text.encode("utf-8", "backslashreplace"))


def read_json(path: str | PathLike[str]) -> Any:
    """Read a JSON file; one with a checksum is checked against it, and the checksum left out.

    Raises:
        RecordError: it is missing, damaged, or was changed.
    """
    try:
        return decode_json(Path(path).read_bytes(), path)
    except FileNotFoundError as error:
        raise RecordError(f"{path} does not exist") from error


def decode_json(content: bytes, path: str | PathLike[str]) -> Any:
    """The record in the content of a JSON file.

    Args:
        content: of the whole file.
        path: of the file, for the message.

    Raises:
        RecordError: it is damaged, or was changed.

    >>> decode_json(encode_json({"score": 0.5}), "file.json")
    {'score': 0.5}
    """
    try:
        record = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is damaged ({error}); it has to be created again") from error
    if isinstance(record, dict) and (has_seal(content) or CHECKSUM in record):
        try:
            check_seal(content, path)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}. If you changed it yourself, delete its entry {CHECKSUM!r}") from None
        record.pop(CHECKSUM, None)
    return record
