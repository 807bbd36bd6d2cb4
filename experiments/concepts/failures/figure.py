"""The figure of the failures: one panel each, what misleads beside the fix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.concepts.textures.figures import save_figure

_BEFORE, _FIX, _TRUTH, _THIRD = "#999999", "#4477aa", "#d55e00", "#228833"
_REASONS = {
    "class weight zero": "#bbbbbb",
    "empty map": "#66ccee",
    "not separable": "#ccbb44",
    "no positive direction": "#aa3377",
    "no evidence in the map": "#ee6677",
}


def draw_figure(result: Mapping[str, Any], path: Path) -> None:
    """One figure of six panels."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(15, 9), layout="constrained")
    panels = {
        "silent_zeros": _zeros,
        "hidden_sign": _sign,
        "baselines": _baseline,
        "gauge": _gauge,
        "correlated": _correlated,
        "chance": _chance,
    }
    for axis, (key, panel) in zip(axes.flat, panels.items(), strict=True):
        panel(axis, result[key])
        axis.tick_params(labelsize=8)
    figure.suptitle("Ways in which concept scores mislead, on EfficientNet-Lite0, and what fixes them", fontsize=13)
    save_figure(figure, path)


def _zeros(axis: Any, result: Mapping[str, Any]) -> None:
    rows = result["layers"]
    left = [0.0] * len(rows)
    for reason, color in _REASONS.items():
        shares = [row["reasons"].get(reason, 0) / row["cells"] for row in rows]
        if any(shares):
            axis.barh(range(len(rows)), shares, left=left, color=color, label=reason)
            left = [before + share for before, share in zip(left, shares, strict=True)]
    axis.set_yticks(range(len(rows)), [row["layer"] for row in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, max(*left, 0.05) * 1.15)
    axis.set_xlabel("share of published scores that are exactly 0")
    axis.legend(fontsize=8, title="the reason, now given", title_fontsize=8)
    axis.set_title("1 Silent zeros", fontsize=11)


def _sign(axis: Any, result: Mapping[str, Any]) -> None:
    row = next(row for row in result["rows"] if row["output"] == "log_probability")
    classes = [one["class"] for one in row["striped"]]
    bars = {
        "published score x 10": ([10 * one["reference"] for one in row["striped"]], _BEFORE),
        "signed, log-probability": ([one["signed"] for one in row["striped"]], _FIX),
        "truth: loss by removal": ([one["effect_of_removal"] for one in row["striped"]], _TRUTH),
    }
    _grouped(axis, classes, bars)
    axis.set_title("2 Hidden sign: striped, on images of zebras", fontsize=11)
    axis.set_ylabel(f"at {row['layer']}")


def _baseline(axis: Any, result: Mapping[str, Any]) -> None:
    layers = list(dict.fromkeys(row["layer"] for row in result["layers"]))
    bars = {
        label: ([row["oddness"] for row in result["layers"] if row["baseline"] == name], color)
        for label, name, color in (("zero", "zero", _BEFORE), ("mean of ordinary images", "negatives", _FIX))
    }
    _grouped(axis, layers, bars)
    axis.axhline(1, color="black", lw=0.7, ls=":")
    axis.set_ylabel("distance of its logits from ordinary ones\n(1: as far as an ordinary image's)")
    axis.set_title("3 Baseline", fontsize=11)


def _gauge(axis: Any, result: Mapping[str, Any]) -> None:
    rows = result["gauges"]
    bars = {
        "published score x 10": ([10 * row["reference_striped"] for row in rows], _BEFORE),
        "signed, logit": ([row["signed_striped"]["logit"] for row in rows], _THIRD),
        "signed, log-probability": ([row["signed_striped"]["log_probability"] for row in rows], _FIX),
    }
    _grouped(axis, [f"logits minus\n{row['logits_minus']}" if place else row["logits_minus"]
                    for place, row in enumerate(rows)], bars, turned=False)  # fmt: skip
    axis.set_title("4 Gauge: the same probabilities, other logits", fontsize=11)
    axis.set_ylabel("striped for zebra")


def _correlated(axis: Any, result: Mapping[str, Any]) -> None:
    by_key = {(row["striped"], row["joint"]): row for row in result["rows"]}
    counts = ("once", "twice")
    bars = {
        "single scores, added": ([by_key[count, "least_squares"]["single_striped"] for count in counts], _BEFORE),
        "joint, least squares": ([by_key[count, "least_squares"]["joint_striped"] for count in counts], _FIX),
        "joint, Shapley": ([by_key[count, "shapley"]["joint_striped"] for count in counts], _THIRD),
    }
    _grouped(axis, ["striped once", "striped twice\n(two halves of the images)"], bars, turned=False)
    axis.set_ylabel("all that striped gets, in logits of zebra")
    axis.set_ylim(0, 6.6)
    axis.set_title(f"5 Correlated concepts (cosine {result['cosine_of_halves']:.2f})", fontsize=11)


def _chance(axis: Any, result: Mapping[str, Any]) -> None:
    concepts = list(dict.fromkeys(row["concept"] for row in result["rows"]))
    kinds = dict.fromkeys(row["chance"] for row in result["rows"])
    for (kind, color), marker in zip(zip(kinds, (_BEFORE, _TRUTH, _FIX, _THIRD), strict=True), "svo.", strict=True):
        p_values = [row["p_value"] for row in result["rows"] if row["chance"] == kind]
        axis.plot(p_values, marker, color=color, ms=6, label=kind)
    axis.axhline(0.05, color="black", lw=0.7, ls=":")
    axis.set_yscale("log")
    axis.set_xticks(range(len(concepts)), concepts, rotation=45, ha="right")
    axis.set_ylabel("p-value for zebra (the last concept is a placebo)")
    axis.set_ylim(0.003, 15)
    axis.legend(fontsize=8, title="chance: directions from", title_fontsize=8, loc="upper left")
    axis.set_title("6 What chance is", fontsize=11)


def _grouped(
    axis: Any, labels: Sequence[str], bars: Mapping[str, tuple[Sequence[float], str]], *, turned: bool = True
) -> None:
    width = 0.8 / len(bars)
    for place, (label, (values, color)) in enumerate(bars.items()):
        shift = (place - (len(bars) - 1) / 2) * width
        axis.bar([index + shift for index in range(len(labels))], values, width, color=color, label=label)
    axis.axhline(0, color="black", lw=0.7)
    axis.set_xticks(range(len(labels)), labels, rotation=45 if turned else 0, ha="right" if turned else "center")
    axis.legend(fontsize=8)
