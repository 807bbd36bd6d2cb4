"""Parquet: tables to bytes and back, through pyarrow, which is imported when it is first needed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.errors import PellucidError

if TYPE_CHECKING:
    import pyarrow as pa


TAG = "pellucid.tag"
"""Where a file says what its content depends on (see `Plan.tag`)."""


def arrow() -> Any:
    """The module `pyarrow`."""
    return importlib.import_module("pyarrow")


def parquet() -> Any:
    """The module `pyarrow.parquet`."""
    return importlib.import_module("pyarrow.parquet")


def encode(table: pa.Table, tags: Mapping[str, str], rows_per_group: int | None = None) -> bytes:
    """A table as a Parquet file, tagged with what it belongs to; the same table always gives the same bytes."""
    tagged = table.replace_schema_metadata(dict(tags))
    # Neither a dictionary nor the least and largest value is of use for the bytes of a map.
    plain = [field.name for field in table.schema if field.type != arrow().binary()]
    sink = arrow().BufferOutputStream()
    parquet().write_table(
        tagged,
        sink,
        compression="zstd",
        use_dictionary=plain,
        write_statistics=plain,
        row_group_size=rows_per_group or max(1, len(table)),
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read(path: Path, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """A Parquet file; raises PellucidError if it is none."""
    try:
        # Neither threads nor a memory map: files are small, and may be replaced while others are read.
        return parquet().ParquetFile(path).read(columns) if filters is None else _filtered(path, columns, filters)
    except (arrow().ArrowInvalid, OSError) as error:
        raise PellucidError(f"{path} cannot be read ({error}); start the same command again to make it anew") from error


def _filtered(path: Path, columns: list[str] | None, filters: Any) -> pa.Table:
    return parquet().read_table(path, columns=columns, filters=filters)
