"""Three small figures that say the most, fit for a front page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.attribution_evaluation.results import read_results, save_figure
from pellucid.evaluation.sweep import SummaryLine, summarize

_METHODS = (
    *("Gradient", "GuidedBackprop", "InputXGradient", "IntegratedGradients", "SmoothGrad", "LRP"),
    *("GradCAM", "GradCAMPlusPlus", "AblationCAM", "ScoreCAM", "LayerCAM", "Occlusion", "RISE"),
)
_LRP = (
    ("GridPG: batch norm merged", ("rules", "GridPG", "batch norm merged")),
    ("GridPG: batch norm as a convolution", ("rules", "GridPG", "batch norm as a diagonal convolution")),
    ("GridPG: z+ in the head too", ("rules", "GridPG", "z+ everywhere")),
    ("GridPG: epsilon everywhere", ("rules", "GridPG", "epsilon everywhere")),
    ("GridPG: head forgotten", ("cascading randomization", "GridPG", "linear")),
    ("GridPG: z+ layers forgotten, head kept", ("cascading randomization of z+ layers", "GridPG", "layer1")),
    ("DiFull: zero weights, z+ in the head", ("heads", "DiFull", "zero weights, z+ in the head")),
    ("DiFull: cancelling units, epsilon in the head", ("heads", "DiFull", "cancelling units, epsilon in the head")),
    ("DiFull: cancelling units, z+ in the head", ("heads", "DiFull", "cancelling units, z+ in the head")),
)
_LAYERS = ("input", "middle", "final")


def draw_summaries(out: Path) -> None:
    """Draw summary-localization.png, summary-batchnorm.png and summary-lrp.png of what there is."""
    import pyarrow.compute as pc

    table = read_results(out, "imagenet")
    if table is not None:
        plain = table.filter(pc.equal(table["kernel_size"], 1))
        lines = [line for line in summarize(plain) if line.variant == "trained"]
        _draw_medians(lines, out / "summary-localization.png")
    if (out / "smoothing.json").is_file():
        rows = json.loads((out / "smoothing.json").read_text())
        _draw_batch_norm(rows, out / "summary-batchnorm.png")
    lrp = read_results(out, "lrp_invariance")
    if lrp is not None:
        _draw_lrp(summarize(lrp), out / "summary-lrp.png")


def _draw_medians(lines: Sequence[SummaryLine], path: Path) -> None:
    """A heat map for GridPG and one for DiFull: methods by layers of every network."""
    import matplotlib.pyplot as plt

    models = list(dict.fromkeys(line.model for line in lines))
    medians = {(line.model, line.setting, line.layer, line.method): line.median.estimate for line in lines}
    figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.6), sharey=True, layout="constrained")
    for axes, setting in zip(panels, ("GridPG", "DiFull"), strict=True):
        columns = [(model, layer) for model in models for layer in _LAYERS]
        values = np.array([[medians.get((m, setting, at, name), np.nan) for m, at in columns] for name in _METHODS])
        image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                color = "white" if value < 0.6 else "black"
                axes.text(
                    column,
                    row,
                    f"{value:.2f}"[-3:] if value < 1 else "1",
                    ha="center",
                    va="center",
                    color=color,
                    fontsize=7,
                )
        axes.set_xticks(range(len(columns)), [layer for _, layer in columns], rotation=90, fontsize=8)
        axes.set_yticks(range(len(_METHODS)), _METHODS, fontsize=8)
        for index, model in enumerate(models):
            axes.text(3 * index + 1, -0.8, model, ha="center", va="bottom", fontsize=8)
            axes.axvline(3 * index - 0.5, color="white", lw=2)
        axes.set_title(setting + "\n", fontsize=11)
    figure.colorbar(image, ax=panels, shrink=0.8, label="median localization score (chance 0.25)")
    save_figure(figure, path, 90)


def _draw_batch_norm(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Gain of smoothing on GridPG over kernels, replica networks with and without BatchNorm."""
    import matplotlib.pyplot as plt

    own = [row for row in rows if row["model"].startswith("replica")]
    if not own:
        return
    figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    for axes, method in zip(panels, ("InputXGradient", "IntegratedGradients"), strict=True):
        for model in dict.fromkeys(row["model"] for row in own):
            chosen = [row for row in own if (row["model"], row["method"]) == (model, method)]
            color = "#c8461e" if chosen[0]["batch_norm"] == "yes" else "#1a5fd0"
            values = np.array([row["gridpg"] for row in chosen])
            kernels = range(len(chosen))
            name = model.removeprefix("replica ")
            label = name.removesuffix(" 0") if name.endswith(" 0") else None
            axes.plot(kernels, values[:, 0], "o-", color=color, ms=4, label=label)
            axes.fill_between(kernels, values[:, 1], values[:, 2], color=color, alpha=0.12)
        axes.set_xticks(kernels, ["none" if row["kernel"] == 1 else str(row["kernel"]) for row in chosen])
        axes.axhline(0.25, color="#33363d", lw=0.8, ls="--")
        axes.set_title(f"S-{method} at the input", fontsize=10)
        axes.set_xlabel("kernel, pixels")
    panels[0].set_ylabel("median score, GridPG")
    panels[0].legend(fontsize=8, title="two networks each", title_fontsize=8)
    save_figure(figure, path, 90)


def _draw_lrp(lines: Sequence[SummaryLine], path: Path) -> None:
    """Medians with intervals of LRP written in other ways, of forgotten networks, and with cancelling units."""
    import matplotlib.pyplot as plt

    medians = {(line.model, line.setting, line.method): line.median for line in lines}
    shown = [(text, medians[key]) for text, key in _LRP if key in medians][::-1]
    figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
    values = [median.estimate for _, median in shown]
    errors = [[max(m.estimate - m.low, 0) for _, m in shown], [max(m.high - m.estimate, 0) for _, m in shown]]
    colors = ["#1a5fd0" if "DiFull" in text else "#8fb4e8" for text, _ in shown]
    axes.barh(range(len(shown)), values, xerr=errors, color=colors, height=0.62, error_kw={"lw": 1})
    axes.set_yticks(range(len(shown)), [text for text, _ in shown], fontsize=8)
    axes.axvline(0.25, color="#33363d", lw=0.8, ls="--")
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("median localization score of LRP at the input, ResNet-20 on CIFAR-10 (dashed: chance)", fontsize=9)
    save_figure(figure, path, 90)
