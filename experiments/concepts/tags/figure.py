"""The figure of the tag experiment: images, the truth, and what each explanation says against it."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from experiments.concepts.tags.measures import PARTS
from experiments.concepts.tags.networks import SIZE
from experiments.concepts.tags.statistics import MEASURES, Table
from pellucid.synthetic import SHAPES, draw_scenes

_SHOWN = (
    "Visual-TCAV signed",
    "Visual-TCAV signed, contrasted",
    "Visual-TCAV reference",
    "TCAV",
    "TCAV tested",
    "random CAV signed",
    "Grad-CAM mass",
    "IG mass",
)
_UNITS = {
    "Visual-TCAV signed": "logits",
    "Visual-TCAV signed, contrasted": "logits",
    "Visual-TCAV reference": "share x class weight",
    "TCAV": "share of images",
    "TCAV tested": "share, 0.5 if not significant",
    "random CAV signed": "logits",
    "Grad-CAM mass": "share in the mask",
    "IG mass": "share in the mask",
}
_COLORS = "viridis"


def draw_figure(
    table: Table, agreements: Sequence[float], compared: Sequence[Mapping[str, Any]], layer: str = "final"
) -> bytes:
    """PNG: the first row shows images and the truth, the others each explanation against it, network by network."""
    figure = Figure(figsize=(21, 11), layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 2))
    top, bottom = halves
    axes = top.subplots(1, 3, width_ratios=(1.9, 1, 1))
    _images(axes[0])
    _accuracies(axes[1], table, agreements)
    _logits(axes[2], table, agreements)
    panels = bottom.subplots(len(PARTS), len(_SHOWN), sharex="row")
    for row, part in zip(panels, PARTS, strict=True):
        for panel, name in zip(row, _SHOWN, strict=True):
            dots = _scatter(panel, table, agreements, compared, (layer, part, name))
    bottom.colorbar(dots, ax=panels, label="agreement q of tag and class", aspect=40, pad=0.01)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return file.getvalue()


def _images(axes: Axes) -> None:
    """Scenes as they are, and after each kind of intervention."""
    scenes = draw_scenes(12, SIZE, seed=7)
    strip = []
    for index, scene in enumerate(scenes):
        own, other = SHAPES[index % len(SHAPES)], SHAPES[(index + 2) % len(SHAPES)]
        column = [(own, own), (own, None), (own, other), (None, own)]
        strip.append(np.concatenate([scene.image(*pair) for pair in column]))
    axes.imshow(np.concatenate(strip, axis=1), interpolation="nearest")
    axes.set_yticks((np.arange(4) + 0.5) * SIZE, ["right tag", "tag removed", "tag swapped", "object removed"])
    axes.set_xticks([])
    axes.set_title("The images and what is done to them")


def _accuracies(axes: Axes, table: Table, agreements: Sequence[float]) -> None:
    lines = {
        "tag right": ("tag", "accuracy right"),
        "tag removed": ("tag", "accuracy removed"),
        "tag swapped": ("tag", "accuracy swapped"),
        "object removed": ("object", "accuracy removed"),
    }
    _lines(axes, {label: table["truth", *key] for label, key in lines.items()}, agreements)
    axes.set(title="Accuracy (mean and range over seeds)", xlabel="agreement q of tag and class", ylim=(0, 1))


def _logits(axes: Axes, table: Table, agreements: Sequence[float]) -> None:
    lines = {
        f"{part} {change}": table["truth", part, f"logit {change}"]
        for part in PARTS
        for change in ("removed", "swapped")
    }
    _lines(axes, lines, agreements)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(title="The truth: how far the class's logit falls", xlabel="agreement q of tag and class")


def _lines(axes: Axes, lines: Mapping[str, Any], agreements: Sequence[float]) -> None:
    levels = np.unique(agreements)
    for label, values in lines.items():
        of_level = [values[np.array(agreements) == level] for level in levels]
        (line,) = axes.plot(levels, [result.mean() for result in of_level], marker="o", label=label)
        lowest, highest = [result.min() for result in of_level], [result.max() for result in of_level]
        axes.fill_between(levels, lowest, highest, color=line.get_color(), alpha=0.15)
    axes.legend(fontsize=8)


def _scatter(
    axes: Axes,
    table: Table,
    agreements: Sequence[float],
    compared: Sequence[Mapping[str, Any]],
    key: tuple[str, str, str],
) -> PathCollection:
    layer, part, name = key
    said = table[layer if dict(MEASURES)[name] else "input", part, name]
    dots = axes.scatter(table["truth", part, "logit removed"], said, c=agreements, cmap=_COLORS, vmin=0, vmax=1, s=28)
    (row,) = (
        row for row in compared if (row["layer"], row["part"], row["measure"], row["truth"]) == (*key, "logit removed")
    )
    texts = [f"{kind[0]} {_text(row[kind.lower()])}" for kind in ("Pearson", "Spearman")]
    axes.set_title("\n".join([f"{name}: {part}", *texts]), fontsize=9)
    axes.set_xlabel(f"logit lost without the {part}", fontsize=8)
    axes.set_ylabel(_UNITS[name], fontsize=8)
    axes.tick_params(labelsize=8)
    return dots


def _text(result: Mapping[str, float]) -> str:
    if not np.isfinite(result["value"]):
        return "not defined"
    return f"{result['value']:.2f} [{result['low']:.2f}, {result['high']:.2f}]"
