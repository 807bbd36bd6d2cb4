"""Writing files so that a reader never sees half of one."""

import os
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
