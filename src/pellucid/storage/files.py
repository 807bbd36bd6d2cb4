"""Writing files so that a reader never sees half of one, and folders so that two writers never meet."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file under a temporary name beside it, then rename: a reader never sees half a file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(target), None  # the name that was asked for
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def locked(path: str | os.PathLike[str], taken: Exception) -> Iterator[None]:
    """Hold a lock file; a process that ends in whatever way lets go of it.

    Args:
        path: of the lock file; it is made, and stays.
        taken: raised where another process holds it.
    """
    with Path(path).open("w") as file:
        if not _lock(file):
            raise taken
        yield


def _lock(file: IO[str]) -> bool:
    """Lock a file for as long as it is open; where the system has no such locks, nothing is locked."""
    with suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
