"""Tables and lists as people save them: any of Unicode's encodings, else a refusal that says how to save them."""

import codecs
import csv
import io
from pathlib import Path

from pellucid.errors import PellucidError

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 where it starts with a byte order mark.

    Raises:
        PellucidError: it cannot be read, or is in another encoding: nothing says in which, so none is guessed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "names.txt").write_text("\\u00e2ne", encoding="utf-16")
    ...     read_text(Path(folder, "names.txt"))
    'âne'
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PellucidError(f"cannot be read ({error.strerror}); check the path and its permissions") from error
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PellucidError(
            f"line {line} is not UTF-8 (byte 0x{content[error.start]:02x}): another encoding, such as Latin-1, cannot "
            "be inferred from the file; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise PellucidError("is no text file, or UTF-16 without a byte order mark; save it as UTF-8")
    return text


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file (of a TSV file by its suffix), each with the line that it ends on; empty ones left out.

    Raises:
        PellucidError: as `read_text`, or the cells are separated by something else.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "list.csv").write_text("file,label\\na.png,cat\\n")
    ...     read_rows(Path(folder, "list.csv"))
    [(1, ['file', 'label']), (2, ['a.png', 'cat'])]
    """
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=separator, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise PellucidError(f"line {reader.line_num}: not a row of a table ({error}); correct that line") from error
    first = rows[0][1] if rows else []
    other = next((mark for mark in _SEPARATORS if len(first) == 1 and mark in first[0]), None)
    if other is not None:
        suffix = "; or call it .tsv" if other == "\t" else ""
        raise PellucidError(
            f"looks like a table whose cells are separated by {_SEPARATORS[other]}, not by {_SEPARATORS[separator]}; "
            f"save it with {_SEPARATORS[separator]}{suffix}"
        )
    return rows
