"""The figure of the known causal models: what interventions do by the fitted models, against the true equations."""

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_UNITS = {"thickness": "pixels", "width": "pixels", "slant": "radians", "intensity": "grey level"}
_STYLES: Mapping[str, tuple[str, str]] = {
    "true": ("#0072B2", "fitted to the variables as drawn"),
    "measured": ("#E69F00", "fitted to what is measured on the digits"),
    "perceived": ("#CC3377", "fitted to what is read off a CNN"),
}
_COLUMNS = 4


def draw_figure(cases: Mapping[str, Any]) -> bytes:
    """PNG: one panel for each model and edge, with the mean effect under do(cause = value), a line for each seed."""
    panels = [(model, row["edge"]) for model, seeds in cases.items() for row in seeds["0"]["true"]["effects"]]
    rows = -(-(len(panels) + 1) // _COLUMNS)
    figure = Figure(figsize=(3.5 * _COLUMNS, 3.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [axis for line in figure.subplots(rows, _COLUMNS, squeeze=False) for axis in line]
    for axis, (model, edge) in zip(axes, panels, strict=False):
        _panel(axis, model, edge, cases[model])
    for axis in axes[len(panels) :]:
        axis.axis("off")
    handles = {line.get_label(): line for axis in axes[: len(panels)] for line in axis.get_lines() if _named(line)}
    axes[len(panels)].legend(handles.values(), handles.keys(), loc="center left", frameon=False, fontsize=10)
    figure.suptitle("What an intervention does: fitted structural models against the true equations", fontsize=13)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _panel(axis: Axes, model: str, edge: str, seeds: Mapping[str, Any]) -> None:
    cause, effect = edge.split(" → ")
    for level, (color, label) in _STYLES.items():
        result = [row for levels in seeds.values() for row in levels.get(level, {}).get("effects", ())]
        for index, row in enumerate(row for row in result if row["edge"] == edge):
            axis.plot(row["levels"], row["found"], color=color, linewidth=1.1, alpha=0.75, label="" if index else label)
    (true,) = (row for row in seeds["0"]["true"]["effects"] if row["edge"] == edge)
    axis.plot(true["levels"], true["true"], "k--", linewidth=1.8, label="the true equation", zorder=5)
    axis.set_title(f"{model}: do({cause}) on {effect}", fontsize=10)
    axis.set_xlabel(f"{cause} ({_UNITS[cause]})", fontsize=9)
    axis.set_ylabel(f"{effect} ({_UNITS[effect]})", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _named(line: Any) -> bool:
    return bool(line.get_label()) and not str(line.get_label()).startswith("_")
