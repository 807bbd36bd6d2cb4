"""Maps on disk: small enough to keep for every grid, and enough for AggAtt."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.evaluation.localization import upsample
from pellucid.evaluation.sweep.run_tables import arrow, read_table

if TYPE_CHECKING:
    import pyarrow as pa


LARGEST_SIDE = 112
"""Maps with longer sides are kept as area means of their positive and negative parts, at most this many cells wide."""


@dataclass(frozen=True)
class StoredMap:
    """A map as it was kept.

    Attributes:
        grid, cell: where it belongs.
        values: (h, w) float32, signed, at the layer's resolution or a divided one; NaN where the map was not finite.
        positive: (h, w) the area mean of the positive part at a divided resolution; None where `values` is the map.
    """

    grid: int
    cell: int
    values: Tensor
    positive: Tensor | None


class MapRows:
    """Collects the maps of a shard; one method and kernel after the other."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def add(self, values: Tensor, size: tuple[int, int], **keys: object) -> None:
        """Keep a map (h, w), made for a grid image of `size`, under `keys`: method, kernel_size, grid, cell."""
        planes = _planes(values, size)
        largest = float(planes.abs().max())
        finite = np.isfinite(largest)
        scaled = planes / largest if finite and largest > 0 else torch.zeros_like(planes)
        self._rows.append(
            {
                **keys,
                "scale": largest if finite else float("nan"),
                "planes": len(planes),
                "height": planes.shape[1],
                "width": planes.shape[2],
                "values": scaled.to(torch.float16).numpy().tobytes(),
            }
        )

    def table(self) -> "pa.Table":
        """The rows; those of one method and kernel follow each other, so that they are read without the others."""
        order = {key: position for position, key in enumerate(dict.fromkeys(map(_method_key, self._rows)))}
        rows = sorted(self._rows, key=lambda row: order[_method_key(row)])
        return arrow().Table.from_pylist(rows, schema=_map_schema())


def read_maps(path: Path, method: str, kernel_size: int, cell: int) -> Iterator[StoredMap]:
    """Read the maps of a method in one shard, one for each grid.

    Args:
        path: the file of the shard's maps.
        method: what the table calls it.
        kernel_size: of the Gaussian; 1 for none.
        cell: the cell that is explained.
    """
    filters = [("method", "=", method), ("kernel_size", "=", kernel_size), ("cell", "=", cell)]
    for row in read_table(path, filters=filters).to_pylist():
        shape = (row["planes"], row["height"], row["width"])
        values = np.frombuffer(row["values"], dtype=np.float16).reshape(shape)
        planes = torch.from_numpy(values.astype(np.float64)) * row["scale"]
        positive = planes[0].float() if len(planes) == 2 else None
        signed = planes[0] - planes[1] if len(planes) == 2 else planes[0]
        yield StoredMap(row["grid"], row["cell"], signed.float(), positive)


def _method_key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["method"], row["kernel_size"]


def _planes(values: Tensor, size: tuple[int, int]) -> Tensor:
    """A small map as it is (1, h, w); of a large one the area means of both parts, up-sampled first (2, h', w')."""
    if max(values.shape) <= LARGEST_SIDE:
        return values.double()[None]
    large = upsample(values[None], size)
    factor = -(-max(size) // LARGEST_SIDE)
    parts = torch.stack([large.clamp(min=0), (-large).clamp(min=0)], dim=1)
    return F.adaptive_avg_pool2d(parts, (-(-size[0] // factor), -(-size[1] // factor)))[0]


def _map_schema() -> "pa.Schema":
    pa = arrow()
    return pa.schema(
        [
            ("method", pa.string()),
            ("kernel_size", pa.int32()),
            ("grid", pa.int32()),
            ("cell", pa.int32()),
            ("scale", pa.float64()),
            ("planes", pa.int8()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("values", pa.binary()),
        ]
    )
