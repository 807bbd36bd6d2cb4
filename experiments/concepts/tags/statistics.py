"""How well explanations follow the truth over networks: correlations with bootstrap intervals."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Table = Mapping[tuple[str, str, str], Floats]
"""(layer, part, measure) -> one number per network, the mean over its classes."""

MEASURES = (
    ("Visual-TCAV signed", True),
    ("Visual-TCAV tested", True),
    ("Visual-TCAV joint", True),
    ("Visual-TCAV reference", True),
    ("Visual-TCAV signed, contrasted", True),
    ("Visual-TCAV reference, contrasted", True),
    ("TCAV", True),
    ("TCAV tested", True),
    ("TCAV mean sensitivity", True),
    ("random CAV signed", True),
    ("Grad-CAM mass", True),
    ("concept deletion", True),
    ("IG mass", False),
    ("IG sum in mask", False),
)
"""What is compared with the truth, and whether it belongs to a layer; if not, to the input."""
RIVAL = "TCAV"
"""The sign fraction that differences of correlations are taken with."""
_RESAMPLES = 4000


def by_network(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[tuple[str, str, str], Floats]:
    """Means over the classes, in the order of the networks' names."""
    collected: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        key = row["layer"], row["part"], row["measure"]
        collected.setdefault(key, {}).setdefault(row["network"], []).append(row["value"])
    return {key: np.array([np.mean(result[name]) for name in names]) for key, result in collected.items()}


def compare(table: Table, part: str, layer: str, truth: str = "logit removed", seed: int = 0) -> list[dict[str, Any]]:
    """Correlation of every measure with the truth over the networks, and how far it is ahead of `RIVAL`.

    Intervals are 95 % percentile intervals over networks drawn with replacement, the same draws for all measures. Draws
    in which a measure does not vary define no correlation and are left out, `resamples` counts the rest; for the
    difference to the rival they count as 0, because what is the same for all networks tells none from another.

    Returns:
        One row per measure with Pearson's and Spearman's correlation, each with its interval, and with the difference
        to the rival's and the interval of that.
    """
    true = table["truth", part, truth]
    drawn = np.random.default_rng(seed).integers(len(true), size=(_RESAMPLES, len(true)))
    draws = np.concatenate([np.arange(len(true))[None], drawn])  # row 0: the networks as they are
    result = {
        name: {kind: _correlations(true[draws], said[draws], ranked=kind == "spearman") for kind in _KINDS}
        for name, said in ((name, table[layer if own else "input", part, name]) for name, own in MEASURES)
    }
    return [_row(name, result) | {"part": part, "layer": layer, "truth": truth} for name in result]


_KINDS = ("pearson", "spearman")


def _row(name: str, result: Mapping[str, Mapping[str, Floats]]) -> dict[str, Any]:
    row: dict[str, Any] = {"measure": name}
    for kind in _KINDS:
        lead = np.nan_to_num(result[name][kind]) - np.nan_to_num(result[RIVAL][kind])
        for suffix, values in (("", result[name][kind]), ("_lead", lead)):
            finite = values[1:][np.isfinite(values[1:])]
            low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (np.nan, np.nan)
            row[kind + suffix] = {"value": float(values[0]), "low": float(low), "high": float(high)}
        row[kind]["resamples"] = int(np.isfinite(result[name][kind][1:]).sum())
    return row


def _correlations(x: Floats, y: Floats, *, ranked: bool) -> Floats:
    """Correlation of each row of x (B, n) with that of y; NaN where one of them is constant."""
    if ranked:
        from scipy.stats import rankdata

        x, y = rankdata(x, axis=1), rankdata(y, axis=1)
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    scale = np.maximum(np.abs(x).max(1) * np.abs(y).max(1), np.finfo(float).tiny)
    varies = spread > 1e-12 * scale
    return np.where(varies, (x * y).sum(1) / np.where(varies, spread, 1.0), np.nan)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of the rows of one part and layer."""
    lines = ["| explanation | Pearson | Spearman | Pearson ahead of TCAV by |", "| --- | --- | --- | --- |"]
    for row in rows:
        cells = (_interval(row["pearson"]), _interval(row["spearman"]), _interval(row["pearson_lead"], "+"))
        lines.append(" | ".join([f"| {row['measure']}", *cells]) + " |")
    return "\n".join(lines)


def _interval(result: Mapping[str, float], sign: str = "") -> str:
    if not np.isfinite(result["value"]):
        return "not defined"
    return f"{result['value']:{sign}.2f} [{result['low']:{sign}.2f}, {result['high']:{sign}.2f}]"
