"""Figures out of the committed results: box plots, mean maps, rank correlations and curves over kernels.

python -m experiments.attribution_evaluation.figures [--out DIR]
"""

import argparse
import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.attribution_evaluation.commands import RESULTS
from experiments.attribution_evaluation.results import MAPPED, read_results, save_figure
from experiments.attribution_evaluation.summary_figures import draw_summaries
from pellucid.evaluation.sweep import correlate_scores

if TYPE_CHECKING:
    import pyarrow as pa

LAYERS = ("input", "middle", "final")
SETTINGS = ("GridPG", "DiFull", "DiPart")
_INK, _BOX, _LINE = "#33363d", "#8fb4e8", "#c8461e"


def draw_boxes(table: "pa.Table", model: str, path: Path) -> None:
    """Scores of every method and control, settings below each other and layers side by side."""
    import matplotlib.pyplot as plt

    rows = [row for row in table.to_pylist() if _is_plain(row, model)]
    names = list(dict.fromkeys(row["method"] for row in sorted(rows, key=lambda row: row["control"])))
    cells = 1 + max(row["cell"] for row in rows)
    figure, panels = plt.subplots(3, 3, figsize=(14, 10), sharey=True, sharex=True, layout="constrained")
    for (setting, layer), axes in zip([(s, at) for s in SETTINGS for at in LAYERS], panels.flat, strict=True):
        own = [row for row in rows if (row["setting"], row["layer"]) == (setting, layer)]
        scores = [[row["score"] for row in own if row["method"] == name and isfinite(row["score"])] for name in names]
        grids = len({row["grid"] for row in own})
        axes.axhline(1 / cells, color=_LINE, lw=1, ls="--")
        axes.axhline(1, color=_INK, lw=0.6)
        axes.boxplot(
            scores,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": _BOX, "edgecolor": _INK},
            medianprops={"color": _INK, "lw": 1.8},
        )
        axes.set_title(f"{setting}, {layer} (up to {grids} grids)", fontsize=10)
        axes.set_xticks(range(1, len(names) + 1), names, rotation=90, fontsize=8)
        axes.set_ylim(-0.02, 1.05)
    figure.suptitle(f"Localization scores of {model}; dashed: chance, 1 / {cells}", fontsize=12)
    save_figure(figure, path, 80)


def draw_ranks(table: "pa.Table", model: str, path: Path) -> None:
    """Spearman's rank correlation between methods and layers on GridPG."""
    import matplotlib.pyplot as plt
    import pyarrow.compute as pc

    correlations = correlate_scores(table.filter(pc.equal(table["kernel_size"], 1)), setting="GridPG", model=model)
    order = sorted(range(len(correlations.names)), key=lambda index: LAYERS.index(correlations.names[index][1]))
    labels = [f"{correlations.names[index][0]}, {correlations.names[index][1]}" for index in order]
    figure, axes = plt.subplots(figsize=(10, 9), layout="constrained")
    image = axes.imshow(correlations.matrix[np.ix_(order, order)], cmap="PuOr_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set_title(f"Rank correlation of scores on GridPG, {model} (white also where none is defined)", fontsize=11)
    figure.colorbar(image, shrink=0.6)
    save_figure(figure, path, 80)


def draw_mean_maps(file: Path, model: str, path: Path) -> None:
    """AggAtt of the top left cell: the mean of the best and of the worst bin that have enough maps."""
    import matplotlib.pyplot as plt

    maps = dict(np.load(file)) if file.is_file() else {}
    places = [(s, at) for s in SETTINGS for at in LAYERS if any(key.startswith(f"{s}/{at}/") for key in maps)]
    if not places:
        return
    columns = 2 * len(places)
    size = (1.1 * columns + 0.5, 1.15 * len(MAPPED) + 0.6)
    figure, panels = plt.subplots(len(MAPPED), columns, figsize=size, squeeze=False, layout="constrained")
    for row, method in zip(panels, MAPPED, strict=True):
        for column, place in enumerate(places):
            _draw_pair(row[2 * column : 2 * column + 2], maps.get("/".join((*place, method))))
        row[0].set_ylabel(method, fontsize=7)
    for column, (setting, layer) in enumerate(places):
        panels[0][2 * column].set_title(f"{setting}, {layer}\nbetter half", fontsize=7)
        panels[0][2 * column + 1].set_title("\nworse half", fontsize=7)
    figure.suptitle(f"Mean evidence for the top left cell, {model}", fontsize=10)
    save_figure(figure, path, 80)


def _draw_pair(axes: Sequence[Any], maps: np.ndarray | None) -> None:
    for panel in axes:
        panel.set_xticks([])
        panel.set_yticks([])
    if maps is None:
        return
    for panel, shown in zip(axes, (maps[0], maps[-1]), strict=True):
        panel.imshow(shown.astype(float), cmap="PuOr_r", vmin=-1, vmax=1)
        panel.add_patch(_frame(len(shown)))


def _frame(side: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((-0.5, -0.5), side / 2, side / 2, fill=False, edgecolor="#1a5fd0", lw=1.2)


def draw_smoothing(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Over kernels: rank correlation with Grad-CAM, median on GridPG, median on DiFull with the closed form."""
    import matplotlib.pyplot as plt

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, panels = plt.subplots(
        len(models), 3, figsize=(12, 2.4 * len(models)), squeeze=False, layout="constrained", sharex=False
    )
    for line, model in zip(panels, models, strict=True):
        for method, color in (("InputXGradient", _LINE), ("IntegratedGradients", "#1a5fd0")):
            own = [row for row in rows if row["model"] == model and row["method"] == method]
            kernels = [row["kernel"] for row in own]
            line[0].plot(kernels, [_number(row["rank_correlation"]) for row in own], "o-", color=color, ms=4)
            for axes, name in ((line[1], "gridpg"), (line[2], "difull")):
                values = np.array([row.get(name) or [np.nan] * 3 for row in own])
                axes.plot(kernels, values[:, 0], "o-", color=color, ms=4, label=f"S-{method}")
                axes.fill_between(kernels, values[:, 1], values[:, 2], color=color, alpha=0.15)
        line[1].axhline(0.25, color=_INK, lw=0.8, ls="--")
        line[2].plot(kernels, [row["leak_closed_form"] for row in own], color=_INK, lw=1, label="leak, closed form")
        norm = f"BatchNorm: {own[0]['batch_norm']}"
        line[0].set_ylabel(f"{model}\n{norm}", fontsize=8)
        for axes in line:
            axes.set_xscale("log", base=2)
            axes.set_xticks(kernels, [str(kernel) if kernel > 1 else "none" for kernel in kernels], fontsize=7)
    titles = ("rank correlation with Grad-CAM at final", "median on GridPG", "median on DiFull")
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    panels[0][2].legend(fontsize=7)
    figure.supxlabel("kernel of the Gaussian at the input, pixels", fontsize=9)
    save_figure(figure, path, 80)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _is_plain(row: dict[str, Any], model: str) -> bool:
    return row["model"] == model and row["variant"] == "trained" and row["kernel_size"] == 1


def main() -> None:
    """Draw whatever there are results for."""
    import matplotlib as mpl

    mpl.use("Agg")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    out = parser.parse_args().out
    for name in ("imagenet", "cifar-2x2", "cifar-3x3"):
        table = read_results(out, name)
        for model in dict.fromkeys(table["model"].to_pylist()) if table is not None else ():
            draw_boxes(table, model, out / f"boxes-{model}{name.removeprefix('imagenet').removeprefix('cifar')}.png")
            if name == "imagenet":
                draw_ranks(table, model, out / f"ranks-{model}.png")
                draw_mean_maps(out / f"{model}-maps.npz", model, out / f"mean-maps-{model}.png")
    if (out / "smoothing.json").is_file():
        draw_smoothing(json.loads((out / "smoothing.json").read_text()), out / "smoothing.png")
    draw_summaries(out)


if __name__ == "__main__":
    main()
