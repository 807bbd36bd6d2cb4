"""What both concept pages are made of: bars with intervals, verdicts in words, CAV quality, cosines, maps."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.concepts import CAV, Status, gram_matrix
from pellucid.concepts.cav import WEAK_AUC
from pellucid.concepts.concept_sets import FEW_IMAGES
from pellucid.data import Geometry
from pellucid.reports.shared.colors import format_number
from pellucid.reports.shared.html import data_uri, percent
from pellucid.reports.shared.overlays import map_layer

SIGNIFICANT = 0.05
"""Adjusted p-values below this are called significant."""
_UNSTABLE = 0.5


@dataclass(frozen=True)
class Scale:
    """The range that bars share, and how numbers on it are written.

    Attributes:
        low, high: ends of the range; 0 lies in it.
    """

    low: float
    high: float

    @staticmethod
    def over(values: Iterable[float]) -> "Scale":
        """The range of some numbers and 0; a little of each side stays free."""
        finite = [value for value in values if math.isfinite(value)]
        low, high = min(finite, default=0.0), max(finite, default=0.0)
        margin = 0.03 * (max(high, 0.0) - min(low, 0.0)) or 1.0
        return Scale(min(low, 0.0) - margin * (low < 0), max(high, 0.0) + margin * (high > 0 or low >= 0))

    def place(self, value: float) -> float:
        """Where a number lies along the range, in percent."""
        return round(100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low), 2)

    def bar(self, value: float, low: float | None = None, high: float | None = None) -> dict[str, float | str | None]:
        """Ends of a bar from 0 and of its interval, in percent."""
        zero, end = self.place(0.0), self.place(value)
        known = low is not None and high is not None
        return {
            "left": min(zero, end),
            "width": round(abs(end - zero), 2),
            "sign": "for" if value >= 0 else "against",
            "zero": zero,
            "low": self.place(low) if known and low is not None else None,
            "span": round(self.place(high) - self.place(low), 2) if low is not None and high is not None else None,
        }

    def write(self, value: float, signed: bool = True) -> str:
        """A number with as many digits as the range deserves, "+0.42"."""
        if not math.isfinite(value):
            return "no number"
        size = max(self.high, -self.low)
        digits = max(0, 2 - math.floor(math.log10(size))) if size > 0 else 2
        if digits > 6:
            return format_number(value)
        text = f"{value:{'+' if signed else ''}.{digits}f}"
        text = text.lstrip("+-") if not text.strip("+-0.") else text
        return text.replace("-", "−")

    def write_range(self, low: float | None, high: float | None) -> str | None:
        """An interval, "+0.42 to +0.51"."""
        return None if low is None or high is None else f"{self.write(low)} to {self.write(high)}"

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place in percent and text of 0 and of round numbers on either side that fit."""
        step = _round_step(max(self.high, -self.low))
        numbers = [number for number in (-step, 0.0, step) if self.low <= number <= self.high]
        return [(self.place(number), format_number(number) if number else "0") for number in numbers]


def _round_step(size: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `size`."""
    power = 10.0 ** math.floor(math.log10(size))
    return float(max(step * power for step in (1, 2, 5) if step * power <= size * (1 + 1e-9)))


def verdict(
    adjusted: float | None, status: Status, p_value: float | None = None, permutations: int = 0
) -> dict[str, str]:
    """Whether to believe a bar: `kind` is "yes", "no", "zero" or "open", `text` says why.

    Args:
        adjusted, p_value: with and without adjustment for the number of tests; None if not tested.
        status: of the number.
        permutations: relabellings behind the p-value; it cannot fall below 1 / (1 + permutations).
    """
    if status not in (Status.OK, Status.CAV_WEAK, Status.NOT_CONVERGED):
        return {"kind": "zero", "text": status.explanation}
    doubt = "" if status is Status.OK else f"; {status.explanation}"
    if adjusted is None:
        return {"kind": "open", "text": f"not tested{doubt}"}
    if adjusted < SIGNIFICANT:
        return {"kind": "no" if doubt else "yes", "text": f"significant, {format_p_value(adjusted)}{doubt}"}
    if p_value is not None and p_value * (1 + permutations) < 1.5:
        text = (
            f"open: none of {permutations} relabellings does as well, too few for so many tests "
            f"({format_p_value(adjusted)})"
        )
        return {"kind": "open", "text": f"{text}{doubt}"}
    return {
        "kind": "no",
        "text": f"not significant, {format_p_value(adjusted)}: shuffled labels too often do as well{doubt}",
    }


def headline_without_evidence(rows: Sequence[Mapping[str, Any]], target: str) -> str:
    """What to say of bars of which none can be believed; `rows` go from the most evidence for the target down."""
    first = rows[0]
    if first["bar"]["sign"] == "against" or first["bar"]["width"] < 1 or first["verdict"]["kind"] == "zero":
        return f"None of these concepts can be shown to have counted for {target} at this layer."
    name = f"{first['name'][0].upper()}{first['name'][1:]}"
    tested = first["verdict"]["text"] != "not tested"
    doubt = "but none of these concepts can be told from chance at this layer" if tested else "but nothing was tested"
    return f"{name} has the most evidence for {target} ({first['text']} logits), {doubt}."


def format_p_value(p_value: float) -> str:
    """ "p = 0.03" or "p < 0.001"."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def describe_gap(gap: float, delta: float) -> str:
    """A relative completeness gap in plain words."""
    if not math.isfinite(gap):
        return f"The evidence should add up to {format_number(delta)} and does not: take no bar for an amount."
    change = f"the change in the score, {format_number(delta)},"
    if gap <= 0.02:
        return f"All evidence at this layer adds up to {change} within {percent(gap)}: the amounts can be trusted."
    if gap <= 0.1:
        return f"All evidence at this layer misses {change} by {percent(gap)}: take the amounts as rough."
    return f"All evidence at this layer misses {change} by {percent(gap)}: do not take the bars for amounts."


def quality_rows(cavs: Sequence[CAV]) -> list[dict[str, object]]:
    """What a table says of each CAV, with the reasons to doubt it."""
    return [
        {
            "name": cav.name,
            "auc": f"{cav.auc:.2f}",
            "deviation": f"{cav.auc_deviation:.2f}",
            "share": 100 * max(0.0, 2 * cav.auc - 1),
            "stability": f"{cav.stability:.2f}",
            "images": f"{len(cav.sources)} / {len(cav.negative_sources)}",
            "doubts": _doubts(cav),
        }
        for cav in cavs
    ]


def _doubts(cav: CAV) -> list[str]:
    doubts = []
    if cav.is_weak:
        doubts.append(f"AUC below {WEAK_AUC:g}: it hardly tells the concept from other images")
    if not cav.is_separable:
        doubts.append("not separable here: its map is empty")
    if cav.stability < _UNSTABLE:
        doubts.append("unstable: other images of the concept would give another direction")
    if min(len(cav.sources), len(cav.negative_sources)) < FEW_IMAGES:
        doubts.append(f"fewer than {FEW_IMAGES} images: mostly chance")
    return doubts


def cosine_table(cavs: Sequence[CAV]) -> list[tuple[str, list[dict[str, object]]]]:
    """Rows of a heat map of the cosines between CAVs: name, and a cell for each concept."""
    gram = gram_matrix(torch.stack([cav.direction for cav in cavs])).tolist()
    return [
        (
            cav.name,
            [
                {
                    "text": "" if i == j else f"{value:.2f}".replace("-", "−"),
                    "share": 0 if i == j else round(100 * min(abs(value), 1.0)),
                    "sign": "for" if value >= 0 else "against",
                }
                for j, value in enumerate(gram[i])
            ],
        )
        for i, cav in enumerate(cavs)
    ]


def layer_labels(classifier: Classifier, layers: Sequence[str]) -> Mapping[str, str]:
    """What layers are called on a page: "final: head" where there is an alias."""
    aliases = {classifier.resolve(alias): alias for alias in ("final", "middle", "input")}
    return {layer: f"{aliases[layer]}: {layer}" if aliases.get(layer, layer) != layer else layer for layer in layers}


def resize_geometry(geometry: Geometry, size: tuple[int, int]) -> Geometry:
    """The geometry on the same image resized to (width, height)."""
    x, y = size[0] / geometry.width, size[1] / geometry.height
    left, top, right, bottom = geometry.box
    return replace(geometry, width=size[0], height=size[1], box=(left * x, top * y, right * x, bottom * y))


def map_uri(values: Tensor, geometry: Geometry, size: tuple[int, int], *, opposite: bool = False) -> str:
    """A concept map (h, w) in [0, 1] as a transparent layer of a size: violet to yellow, its opposite blue."""
    placed = resize_geometry(geometry, size).place(values)
    layer: Image.Image = map_layer(-placed if opposite else placed, 1.0, size=size, signed=opposite)
    return data_uri(layer, "PNG", optimize=True)
