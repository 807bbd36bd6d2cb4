"""One self-contained HTML page per evaluation run: what was run, every number and every map.

The page loads nothing: style, script and images are inside, its content security policy forbids the rest. It can be
written again from the run's folder at any time, finished or not; nothing is explained again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pellucid.evaluation import METRICS
from pellucid.evaluation.sweep import (
    MetricLine,
    Run,
    SummaryLine,
    correlate_scores,
    summarize,
)
from pellucid.reports.evaluation.facts import caveats, facts
from pellucid.reports.evaluation.map_strips import (
    BIN_NAMES,
    GridImages,
    MapStrip,
    Place,
    make_strip,
)
from pellucid.reports.evaluation.page_tables import (
    comparisons,
    costs,
    metrics,
    results,
    sanity,
)
from pellucid.reports.evaluation.plots import (
    BoxPanel,
    CurvePanel,
    Heat,
    box_panel,
    curve_panel,
    heat,
)
from pellucid.reports.shared.html import distinct, render_html
from pellucid.reports.shared.scales import ReportError
from pellucid.storage import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa


PAGE = "report.html"
"""Name of the page in the folder of a run."""


def write_evaluation(run: Run, out: str | os.PathLike[str] | None = None) -> Path:
    """Write the page of a run: all of it or nothing.

    Args:
        run: finished or not.
        out: the file; by default report.html in the run's folder.

    Returns:
        The file.

    Raises:
        ReportError: nothing of the run is finished yet.
    """
    path = run.folder / PAGE if out is None else Path(out)
    write_atomically(path, render_evaluation(run).encode())
    return path


def render_evaluation(run: Run) -> str:
    """The page of a run as one HTML document that needs no other file and no network."""
    source = _Source.of(run)
    images = GridImages(run)
    rows = list(_strips(source, images))
    run_facts = facts(run, source.table)
    values = {
        "title": " and ".join(model.name for model in run.plan.models),
        "facts": run_facts,
        "caveats": caveats(run_facts, source.lines),
        "cells": source.cells,
        "results": results(source.lines, source.layer_names),
        "sanity": sanity(source.lines),
        "metrics": metrics(source.metric_lines, {name: metric.description for name, metric in METRICS.items()}),
        "boxes_found": list(_boxes(source)),
        "strips": [
            (name, [row for row in rows if row.setting == name]) for name in distinct(row.setting for row in rows)
        ],
        "bins": BIN_NAMES,
        "keep_maps": run.plan.options.keep_maps,
        "layers": run.plan.options.layers,
        "images": images,
        "heats": list(_heats(source)),
        "pairs": comparisons(source.table, source.lines),
        "curves_found": list(_curves(source)),
        "costs": costs(source.table),
    }
    name = "evaluation/evaluation_page"
    style = {"images": images.uris, "aspect": images.aspect}
    return render_html(f"{name}.html", f"{name}.js", f"{name}.css", style, **values)


@dataclass(frozen=True)
class _Source:
    """What all parts of the page draw on."""

    run: Run
    table: pa.Table
    lines: tuple[SummaryLine, ...]
    metric_lines: tuple[MetricLine, ...]

    @staticmethod
    def of(run: Run) -> _Source:
        table, metric_lines = run.table(), run.metric_summary()
        if not len(table) and not metric_lines:
            raise ReportError(f"nothing of the run {run.folder} is finished yet; go on with it first")
        return _Source(run, table, summarize(table), metric_lines)

    @property
    def cells(self) -> int:
        rows, columns = self.run.plan.options.grid
        return rows * columns

    @property
    def layer_names(self) -> dict[tuple[str, str], str]:
        """(model, layer as requested) -> the layer's own name."""
        plan = self.run.plan
        return {
            (model.name, requested): own
            for model in plan.models
            for requested, own in zip(plan.options.layers, model.layers, strict=True)
        }

    @property
    def plain(self) -> list[SummaryLine]:
        """Methods on the trained networks, without controls and smoothing."""
        return [line for line in self.methods if line.kernel_size == 1]

    @property
    def methods(self) -> list[SummaryLine]:
        """Methods on the trained networks, without controls."""
        return [line for line in self.lines if line.variant == "trained" and not line.control]

    def rows(self, **values: object) -> pa.Table:
        """The rows of the table with these values, of the trained networks without smoothing."""
        import pyarrow.compute as pc

        keep = None
        for name, value in {"variant": "trained", "kernel_size": 1, **values}.items():
            own = pc.equal(self.table[name], value)
            keep = own if keep is None else pc.and_(keep, own)
        return self.table.filter(keep)

    def places(self) -> list[tuple[str, str]]:
        """(model, setting) of everything measured."""
        return list(dict.fromkeys((line.model, line.setting) for line in self.plain))


@dataclass(frozen=True)
class _StripRow:
    """The strips of one method in one setting, layer by layer; None where there are no maps."""

    model: str
    setting: str
    method: str
    strips: tuple[MapStrip | None, ...]


def _boxes(source: _Source) -> Iterator[tuple[str, str, list[BoxPanel]]]:
    for model, setting in source.places():
        lines = [line for line in source.plain if (line.model, line.setting) == (model, setting)]
        panels = []
        for layer in distinct(line.layer for line in lines):
            rows = source.rows(model=model, setting=setting, layer=layer, control=False)
            own = [line for line in lines if line.layer == layer]
            panels.append(box_panel(layer, own, _scores(rows), 1 / source.cells))
        yield model, setting, panels


def _scores(rows: pa.Table) -> dict[str, NDArray[np.float64]]:
    names, scores = np.array(rows["method"].to_pylist()), rows["score"].to_numpy()
    return {str(name): scores[names == name] for name in np.unique(names)}


def _strips(source: _Source, images: GridImages) -> Iterator[_StripRow]:
    if source.run.plan.options.keep_maps == "none":
        return
    for model, setting in source.places():
        for method in distinct(line.method for line in source.plain):
            strips = []
            for layer in source.run.plan.options.layers:
                place = Place(model, setting, layer, method)
                rows = source.rows(model=model, setting=setting, layer=layer, method=method, cell=0)
                strips.append(make_strip(source.run, rows, place, images) if len(rows) else None)
            yield _StripRow(model, setting, method, tuple(strips))


def _heats(source: _Source) -> Iterator[tuple[str, str, Heat]]:
    for model, setting in source.places():
        rows = source.rows(model=model, setting=setting, control=False)
        correlations = correlate_scores(rows, setting=setting, model=model)
        if len(correlations.names) > 1:
            yield model, setting, heat(correlations)


def _curves(source: _Source) -> Iterator[tuple[str, CurvePanel]]:
    """The smoothing study at the input: of IntGrad and IxG, or, where neither was run, of every method."""
    for model, setting in source.places():
        at_input = [
            line
            for line in source.methods
            if (line.model, line.setting) == (model, setting) and source.layer_names[model, line.layer] == "input"
        ]
        studied = [line for line in at_input if line.method in ("IntegratedGradients", "InputXGradient")] or at_input
        if len({line.kernel_size for line in studied}) > 1:
            yield model, curve_panel(setting, studied, _grad_cam(source, model, setting), 1 / source.cells)


def _grad_cam(source: _Source, model: str, setting: str) -> float | None:
    """Median of Grad-CAM at the final layer."""
    key = (model, setting, "final", "GradCAM")
    lines = [line for line in source.plain if (line.model, line.setting, line.layer, line.method) == key]
    return lines[0].median.estimate if lines and lines[0].median.scores else None
