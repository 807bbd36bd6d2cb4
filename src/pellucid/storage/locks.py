"""Locks between processes: two writers never meet in one folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def is_lock_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path can be that of a lock: there is nothing yet, or an empty file.

    A link, or a file with something in it, is somebody else's: taking the lock would empty it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, ".lock").write_text("mine")
    ...     is_lock_file(Path(folder, ".lock")), is_lock_file(Path(folder, ".free"))
    (False, True)
    """
    path = Path(path)
    if path.is_symlink():
        return False
    return not path.exists() or (path.is_file() and path.stat().st_size == 0)


@contextmanager
def hold_lock(path: str | os.PathLike[str], taken: Exception) -> Iterator[None]:
    """Hold a lock file; a process that ends in whatever way lets go of it.

    Args:
        path: of the lock file; it is created, and may stay. Its folder must exist.
        taken: raised where another process, or another part of this one, holds the lock.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder, hold_lock(Path(folder) / ".lock", RuntimeError("in use")):
    ...     with hold_lock(Path(folder) / ".lock", RuntimeError("in use")):
    ...         pass
    Traceback (most recent call last):
    RuntimeError: in use
    """
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise taken from None
    try:
        yield
    finally:
        lock.release()
