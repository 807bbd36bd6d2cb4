"""Checksums inside files: a file says what it should be, so that a changed byte anywhere in it is seen.

A writer puts `UNSEALED` where its format has room for a text (the metadata of a table or of tensors, an entry of JSON);
`seal` replaces its zeros by the digest of the file with the zeros. Whoever reads, checks the whole file.
"""

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from pellucid.storage.record_reader import RecordError

CHECKSUM = "checksum"
"""What metadata and JSON call the entry."""

_MARK, _DIGITS = b"pellucid-sha256:", 64
UNSEALED = (_MARK + b"0" * _DIGITS).decode()
"""What stands for the checksum of a file that is not known yet."""

_SEAL = re.compile(_MARK + rb"[0-9a-f]{%d}" % _DIGITS)


class DamagedFileError(RecordError):
    """A file whose content is not what was written."""


def seal(content: bytes) -> bytes:
    """The content of a file with its checksum in the place of `UNSEALED`.

    Raises:
        ValueError: there is not exactly one such place.

    >>> has_seal(seal(f"head {UNSEALED} tail".encode()))
    True
    """
    if content.count(_MARK) != 1 or UNSEALED.encode() not in content:
        raise ValueError(f"the content has {content.count(_MARK)} places for a checksum")
    return content.replace(UNSEALED.encode(), _MARK + hashlib.sha256(content).hexdigest().encode())


def has_seal(content: bytes) -> bool:
    """Whether there is a checksum in a file, right or wrong.

    >>> has_seal(b"head tail")
    False
    """
    return _MARK in content


def check_seal(content: bytes, path: str | os.PathLike[str]) -> None:
    """Check the content of a file against the checksum in it.

    Args:
        content: of the whole file.
        path: of the file, for the message.

    Raises:
        DamagedFileError: it has none, or another one.

    >>> check_seal(seal(f"head {UNSEALED} tail".encode()).replace(b"head", b"heap"), "file")
    Traceback (most recent call last):
    pellucid.storage.checksums.DamagedFileError: file is damaged (its content is not what its checksum says); ...
    """
    seals = _SEAL.findall(content)
    if len(seals) != 1 or content.count(_MARK) != 1:
        raise DamagedFileError(
            f"{path} is damaged, or not of this version of pellucid (no checksum in it); it has to be created again"
        )
    unsealed = _SEAL.sub(UNSEALED.encode(), content)
    if _MARK + hashlib.sha256(unsealed).hexdigest().encode() != seals[0]:
        raise DamagedFileError(
            f"{path} is damaged (its content is not what its checksum says); it has to be created again"
        )


def check_file(path: str | os.PathLike[str]) -> None:
    """Check a file against the checksum in it; a file that has not changed since is not read again.

    Raises:
        DamagedFileError: it has none, or another one.
        OSError: it cannot be read.
    """
    state = os.stat(path)
    _check_once(os.fspath(path), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a file is there and its content what its checksum says.

    >>> is_whole("no/such/file")
    False
    """
    try:
        check_file(path)
    except (DamagedFileError, OSError):
        return False
    return True


@lru_cache(maxsize=65536)
def _check_once(path: str, *_state: int) -> None:
    check_seal(Path(path).read_bytes(), path)
