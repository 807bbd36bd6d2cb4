"""Figures of the texture experiment: numbers only, no images of the data."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.concepts.textures.data import EXPECTED, PLACEBO
from experiments.concepts.textures.summary import Tables, few_ranks, places, select, textures_of
from pellucid.storage import write_atomically

_LEADER, _OTHER, _CONTROL = "#d55e00", "#4477aa", "#999999"
_LABELS = {"reference": "published score", "signed": "signed contribution (logits)"}


def draw_figures(tables: Tables, summary: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """zebra.png and few.png."""
    _draw_zebra(tables, out / "zebra.png")
    last = dict(places(tables))  # of each model the last layer
    chosen = [row for row in summary["few"] if row["score"] == "signed" and last[row["model"]] == row["layer"]]
    _draw_few(tables, chosen, out / "few.png")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    plt.close(figure)
    write_atomically(path, buffer.getvalue())


def _draw_zebra(tables: Tables, path: Path) -> None:
    """Mean and interval of every texture for the class zebra, layer by layer, both scores."""
    import matplotlib.pyplot as plt

    at, names = places(tables), [*textures_of(tables), PLACEBO]
    figure, axes = plt.subplots(
        2, len(at), figsize=(2.1 * len(at) + 1.6, 7.4), sharey=True, squeeze=False, layout="constrained"
    )
    for column, (model, layer) in enumerate(at):
        for line, score in enumerate(_LABELS):
            result = {row["concept"]: row for row in
                     select(tables["classes"], model=model, layer=layer, score=score, class_="zebra")}  # fmt: skip
            _dots(axes[line, column], [result[name] for name in names])
            if column == 0:
                axes[line, 0].set_ylabel(_LABELS[score])
        axes[0, column].set_title(f"{model}\n{layer}, {result[PLACEBO]['images']} images", fontsize=9)
    figure.suptitle(
        "How much each texture counts for the class zebra: mean and 95 % interval over images and resampled CAVs",
        fontsize=11,
    )
    save_figure(figure, path)


def _dots(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    for place, row in enumerate(rows):
        color = {"striped": _LEADER, PLACEBO: _CONTROL}.get(row["concept"], _OTHER)
        axis.plot([row["low"], row["high"]], [place, place], color=color, lw=2, solid_capstyle="butt")
        axis.plot(row["mean"], place, "o", color=color, ms=5)
    axis.axvline(0, color="black", lw=0.6)
    axis.set_yticks(range(len(rows)), [row["concept"] for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", lw=0.3)


def _draw_few(tables: Tables, chosen: Sequence[dict[str, Any]], path: Path) -> None:
    """Rank of each texture in each class with one or two images; the expected one is framed."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    textures = textures_of(tables)
    figure, axes = plt.subplots(
        1, len(chosen), figsize=(4.3 * len(chosen) + 1.5, 8.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, row in zip(axes[0], chosen, strict=True):
        every, ranks = few_ranks(tables, row["model"], row["layer"], "signed", textures)
        kept = [index for index, name in enumerate(every) if EXPECTED.get(name) in textures]
        shown = axis.imshow(ranks[kept], cmap="viridis", vmin=1, vmax=len(textures), aspect="auto")
        for line, index in enumerate(kept):
            column = textures.index(EXPECTED[every[index]])
            axis.add_patch(Rectangle((column - 0.5, line - 0.5), 1, 1, fill=False, edgecolor=_LEADER, lw=2.2))
            axis.text(column, line, f"{ranks[index, column]:g}", ha="center", va="center", fontsize=7, color="white"
                      if ranks[index, column] < len(textures) * 0.6 else "black")  # fmt: skip
        axis.set_xticks(range(len(textures)), textures, rotation=60, ha="right", fontsize=8)
        axis.set_yticks(range(len(kept)), [every[index] for index in kept], fontsize=8)
        axis.set_title(
            f"{row['model']} {row['layer']}\nmean rank {row['mean_rank']:.1f} (chance "
            f"{(len(textures) + 1) / 2:g}), p = {row['p_value']:.2g}",
            fontsize=9,
        )
    bar = figure.colorbar(shown, ax=axes[0], shrink=0.6)
    bar.set_label("rank of the texture by signed contribution (1: counts most)")
    bar.ax.invert_yaxis()
    figure.suptitle(
        "Classes with one or two images: the texture that the class's name makes one expect (framed), among all",
        fontsize=11,
    )
    save_figure(figure, path)
