"""The table of a run: one row per attribution, and how rows are collected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pellucid.attribution import Passes
from pellucid.evaluation.sweep.arrow import arrow
from pellucid.evaluation.sweep.scoring import MapScores

if TYPE_CHECKING:
    import pyarrow as pa


def schema() -> pa.Schema:
    """Columns of the table.

    - model, variant ("trained", or what is random), setting, layer (as asked for), layer_name, method, kernel_size (of
      the Gaussian; 1 for none), options (JSON), control (whether the method is one): what was run.
    - grid, cell, label: which grid of the set, which of its cells, the class explained there.
    - score, score_native: localization score in the cell after up-sampling, and at the map's own resolution.
    - attainable: the score of a map that is uniform in the cell and zero elsewhere, up-sampled and smoothed alike.
    - mirror_share: share of the mass outside the cell that lies in the twin's; null without twins.
    - positive_mass, cell_mass: of the up-sampled map and of its cell.
    - status: "ok"; "zero", without positive evidence (score 0); "non-finite", a map with NaN or infinite values, and
      "refused", the method cannot explain this (both without a score: NaN); non_finite; note, the reason.
    - suffix_forward, suffix_backward, network_forward, seconds: what this attribution cost beyond what the methods
      share: passes through the part after the layer there and back and through the whole network, counted in images
      of the size of a cell, and time. The maps of all cells of a grid are made together, and their cost is divided
      among them. Smoothed maps cost no pass.
    - shared_...: what all methods at the layer share, the part before it, one forward and one gradient, likewise.
    """
    pa = arrow()
    texts = ("model", "variant", "setting", "layer", "layer_name", "method", "options", "status", "note")
    whole = ("kernel_size", "grid", "cell", "label")
    flags = ("control", "non_finite")
    kinds = dict.fromkeys(texts, pa.string()) | dict.fromkeys(whole, pa.int32()) | dict.fromkeys(flags, pa.bool_())
    return pa.schema([(name, kinds.get(name, pa.float64())) for name in _COLUMNS])


_COLUMNS = (
    *("model", "variant", "setting", "layer", "layer_name", "method", "kernel_size", "options", "control"),
    *("grid", "cell", "label"),
    *("score", "score_native", "attainable", "mirror_share", "positive_mass", "cell_mass"),
    *("status", "non_finite", "note"),
    *("suffix_forward", "suffix_backward", "network_forward", "seconds"),
    *("shared_prefix_forward", "shared_suffix_forward", "shared_suffix_backward", "shared_seconds"),
)


@dataclass(frozen=True)
class Cost:
    """Passes and seconds of one attribution."""

    passes: Passes
    seconds: float

    def columns(self, share: int) -> dict[str, float]:
        """A method's own columns, when `share` attributions were made together."""
        own = self.passes
        return {
            "suffix_forward": own.suffix_forward / share,
            "suffix_backward": own.suffix_backward / share,
            "network_forward": own.network_forward / share,
            "seconds": self.seconds / share,
        }

    def shared_columns(self, share: int) -> dict[str, float]:
        """The columns of what methods share."""
        own = self.passes
        return {
            "shared_prefix_forward": own.prefix_forward / share,
            "shared_suffix_forward": own.suffix_forward / share,
            "shared_suffix_backward": own.suffix_backward / share,
            "shared_seconds": self.seconds / share,
        }


class Rows:
    """Collects rows; `common` holds the columns that all of them share."""

    def __init__(self, **common: object) -> None:
        self._common = common
        self._rows: list[dict[str, Any]] = []

    def add(self, scores: MapScores, grids: Sequence[int], cells: Sequence[int], labels: Any, **columns: Any) -> None:
        """Add scored maps of some grids.

        Args:
            scores: (N, T).
            grids: N numbers.
            cells: T cells.
            labels: N lists of T class indices.
            columns: the same for all these rows.
        """
        for row, grid in enumerate(grids):
            for target, cell in enumerate(cells):
                status = scores.status(row, target)
                self._rows.append(
                    {
                        **self._common,
                        **columns,
                        "grid": grid,
                        "cell": cell,
                        "label": labels[row][target],
                        "score": float(scores.score[row, target]),
                        "score_native": float(scores.native[row, target]),
                        "attainable": float(scores.attainable[target]),
                        "mirror_share": None if scores.mirror is None else float(scores.mirror[row, target]),
                        "positive_mass": float(scores.mass[row, target]),
                        "cell_mass": float(scores.cell_mass[row, target]),
                        "status": status,
                        "non_finite": status == "non-finite",
                        "note": "",
                    }
                )

    def refuse(
        self, reason: str, grids: Sequence[int], cells: Sequence[int], labels: Any, *, same_class: bool, **columns: Any
    ) -> None:
        """Add rows without scores: the method cannot explain these grids, for this reason."""
        nothing = dict.fromkeys(("score", "score_native", "attainable", "positive_mass", "cell_mass"), float("nan"))
        state = {
            "status": "refused",
            "non_finite": False,
            "note": reason,
            "mirror_share": float("nan") if same_class else None,
        }
        for row, grid in enumerate(grids):
            for target, cell in enumerate(cells):
                place = {"grid": grid, "cell": cell, "label": labels[row][target]}
                self._rows.append({**self._common, **columns, **nothing, **state, **place})

    def table(self) -> pa.Table:
        """The rows, in the order in which they came."""
        return arrow().Table.from_pylist(self._rows, schema=schema())
