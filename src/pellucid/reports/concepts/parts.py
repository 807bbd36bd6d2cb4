"""What both concept pages consist of: verdicts in words, quality of the CAVs, cosines."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pellucid.concepts import CAV, FEW_IMAGES, WEAK_AUC, Status, gram_matrix
from pellucid.reports.shared.html import percent
from pellucid.reports.shared.scales import format_number, format_p_value

SIGNIFICANT = 0.05
"""Adjusted p-values below this are called significant."""
_UNSTABLE = 0.5


def verdict(
    adjusted: float | None, status: Status, p_value: float | None = None, permutations: int = 0
) -> dict[str, str]:
    """Whether to believe a bar: `kind` is "yes", "no", "zero" or "open", `text` says why.

    Args:
        adjusted: p-value adjusted for the number of tests; None if not tested.
        p_value: without that adjustment; None if not tested.
        status: of the number.
        permutations: relabelings behind the p-value; it cannot fall below 1 / (1 + permutations).

    >>> verdict(0.01, Status.OK)
    {'kind': 'yes', 'text': 'significant, p = 0.01'}
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
            f"open: none of {permutations} relabelings does as well, too few for so many tests "
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
    doubt = "but none of these concepts is significant at this layer" if tested else "but nothing was tested"
    return f"{name} has the most evidence for {target} ({first['text']} logits), {doubt}."


def describe_gap(gap: float, delta: float) -> str:
    """A relative completeness gap in plain words.

    >>> describe_gap(0.01, 4.0)
    'All evidence at this layer adds up to the change in the score, 4, within 1.0 %: the amounts can be trusted.'
    """
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
        doubts.append(f"AUC below {WEAK_AUC:g}: it weakly separates the concept from other images")
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
