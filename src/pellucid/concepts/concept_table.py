"""The tidy table of concepts: one row per image, concept, layer, class and number, and the files it is written to."""

import json
import math
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.concepts.cav import CAV
from pellucid.concepts.joint import gram_matrix
from pellucid.errors import PellucidError
from pellucid.results import Passes, Result
from pellucid.storage import to_json, to_record, write_atomically

if TYPE_CHECKING:
    import pyarrow

Row = dict[str, Any]
COLUMNS = (
    *("image", "layer", "concept", "target", "number"),
    *("value", "low", "high", "p_value", "adjusted_p_value", "status"),
)
"""What a row says: which number this is (null where it belongs to all), its value, and what is known about it."""
TABLE_SUFFIXES = (".json", ".parquet")
_TEXTS = frozenset({"image", "layer", "concept", "target", "number", "status"})


class ConceptResult(Result, ABC):
    """A result on D concepts at one layer, whose rows have the columns `COLUMNS`.

    Attributes:
        cavs: the D concepts.
    """

    cavs: tuple[CAV, ...]

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of the D concepts."""
        return tuple(cav.name for cav in self.cavs)

    @property
    def gram(self) -> Tensor:
        """Cosines (D, D) between the CAVs: how far the concepts share their evidence."""
        return gram_matrix(torch.stack([cav.direction for cav in self.cavs]))

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return self.provenance.layer

    @property
    def options(self) -> Mapping[str, object]:
        """Every option with its value."""
        return self.provenance.options

    @property
    def passes(self) -> Passes:
        """What it cost."""
        return self.receipt.passes

    def to_table(self) -> "pyarrow.Table":
        """A tidy table, one row per number: kind, model, method and options (JSON), then `COLUMNS`."""
        made = self.provenance
        options = json.dumps(to_record(made.recordable().options), sort_keys=True)
        common = {"kind": self.kind, "model": made.model, "method": made.method, "options": options}
        return _to_arrow([{**common, **row} for row in self.rows()], (*common, *COLUMNS), _TEXTS | common.keys())


def make_row(number: str, value: float, **known: Any) -> Row:
    """One row of the table.

    Args:
        number: which number it is.
        value: the number.
        known: other columns; those not given are None.

    Example:
        >>> make_row("gap", 0.5, layer="head")["layer"]
        'head'
    """
    return {**dict.fromkeys(COLUMNS), **known, "number": number, "value": value}


def at_index(values: Tensor | None, index: tuple[int, ...]) -> float | None:
    """A number of a tensor for a row; None where there is no tensor, and where the number is NaN."""
    number = math.nan if values is None else float(values[index])
    return None if math.isnan(number) else number


def cav_rows(cavs: Sequence[CAV]) -> Iterator[Row]:
    """Rows of what is known of each CAV of a layer, and of its cosine to each of the others.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cavs = pl.concepts.fit_cavs(view, {"bright": bright + 2}, dark)
        >>> [row["number"] for row in cav_rows(cavs)]
        ['auc', 'auc_deviation', 'stability', 'emblem_low', 'emblem_high']
    """
    gram = gram_matrix(torch.stack([cav.direction for cav in cavs]))
    for index, cav in enumerate(cavs):
        key = {"layer": cav.layer, "concept": cav.name}
        yield make_row("auc", cav.auc, **key)
        yield make_row("auc_deviation", cav.auc_deviation, **key)
        yield make_row("stability", cav.stability, **key)
        yield make_row("emblem_low", cav.emblems.low, **key)
        yield make_row("emblem_high", cav.emblems.high, **key)
        for other, cosine in zip(cavs, gram[index].tolist(), strict=True):
            if other is not cav:
                yield make_row(f"cosine to {other.name}", cosine, **key)


def write_table(path: str | Path, rows: Iterable[Row], about: Mapping[str, Any]) -> None:
    """Write rows as JSON ({"about": ..., "rows": [...]}) or Parquet (`about` is JSON in the schema's metadata).

    All of the file or nothing. Numbers that are NaN or infinite are null.

    Args:
        path: its suffix says the format, one of `TABLE_SUFFIXES`.
        rows: with the columns `COLUMNS`.
        about: what the rows are of, plainly typed.

    Raises:
        PellucidError: another suffix, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_table(f"{folder}/gaps.json", [make_row("gap", 0.5)], {"seed": 0})
        ...     print(Path(f"{folder}/gaps.json").read_text()[:20].split())
        ['{', '"about":', '{', '"see']
    """
    path = Path(path)
    if path.suffix not in TABLE_SUFFIXES:
        raise PellucidError(f"{path}: a table is written as {' or '.join(TABLE_SUFFIXES)}, not {path.suffix!r}")
    content = {"about": to_json(about), "rows": to_json(list(rows))}
    encoded = json.dumps(content, indent=1).encode() if path.suffix == ".json" else _to_parquet(**content)
    try:
        write_atomically(path, encoded)
    except OSError as error:
        raise PellucidError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error


def _to_parquet(about: Mapping[str, Any], rows: Sequence[Row]) -> bytes:
    import pyarrow.parquet as pq

    table = _to_arrow(rows, COLUMNS, _TEXTS).replace_schema_metadata({"about": json.dumps(about)})
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _to_arrow(rows: Iterable[Row], columns: Iterable[str], texts: frozenset[str]) -> "pyarrow.Table":
    import pyarrow as pa

    schema = pa.schema([(name, pa.string() if name in texts else pa.float64()) for name in columns])
    return pa.Table.from_pylist([to_json(row) for row in rows], schema=schema)
