"""Writing files so that a reader never sees half of one."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file under a temporary name beside it, then rename: a reader never sees half a file.

    Args:
        path: the file; it is replaced if it exists, and its folder is created.
        data: its content.

    Raises:
        OSError: it cannot be written; the file is then as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "new" / "file.txt", b"whole")
    ...     (Path(folder) / "new" / "file.txt").read_text()
    'whole'
    """
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside a file, to write to; what was written takes the file's name at the end.

    It is on the disk before it gets the name, so that not even a power cut leaves the name with half the content.

    Args:
        path: the file; it is replaced if it exists, and its folder is created.

    Raises:
        OSError: it cannot be written; the file is then as it was.
    """
    target = Path(path)
    if not target.name:  # "/" and "."
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(target), None  # the name that was asked for
        raise
    finally:
        partial.unlink(missing_ok=True)


def leftovers(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """What killed processes left half written in a folder and those below it: names that `replacing` gives, no others.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in (".plan.json.123.part", ".thesis.part", "film.part"):
    ...         Path(folder, name).touch()
    ...     [file.name for file in leftovers(folder)]
    ['.plan.json.123.part']
    """
    for parent, _, names in os.walk(folder):  # which does not follow links to other folders
        yield from (Path(parent, name) for name in names if is_leftover(name))


def is_leftover(name: str) -> bool:
    """Whether a file's name is one that `replacing` gives."""
    return _PARTIAL.fullmatch(name) is not None


_PARTIAL = re.compile(r"\..+\.\d+\.part")


def _sync_folder(folder: Path) -> None:
    """Put the new name of a file on the disk; where folders cannot be opened (Windows), the system does."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
