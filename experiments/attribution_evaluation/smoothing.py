"""Smoothed integrated gradients and input x gradient at the input, for every kernel from one unsmoothed map.

python -m experiments.attribution_evaluation.smoothing --data DIR --work DIR [--minutes 20] [--out DIR]

Goes on with the smoothing runs of `imagenet` and `cifar`, where Grad-CAM at the final layer is there to compare
with, and writes smoothing.json: by network, method and kernel the rank correlation with it, medians on GridPG and
DiFull, and the leak over the borders beside its closed form.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.attribution_evaluation import cifar, imagenet
from experiments.attribution_evaluation.commands import arguments, prepare
from experiments.attribution_evaluation.images import cifar_images
from experiments.attribution_evaluation.results import SMOOTHED, read_results, write_json
from experiments.attribution_evaluation.sweeps import run_jobs
from pellucid.evaluation.sweep import SummaryLine, correlate_scores, summarize

if TYPE_CHECKING:
    import pyarrow as pa

TABLES = ("imagenet", "cifar-2x2", "batchnorm")
"""Results that have smoothed maps."""

_BATCH_NORM = {"mobilenet_v2": "folded", "squeezenet": "none", "replica without": "none"}
_LEAK = 0.3614
"""Leak over one border of a uniform cell under a Gaussian cut at two deviations, in deviations per side of the cell."""


def smoothing_of(table: "pa.Table", side: int) -> list[dict[str, Any]]:
    """A row for each network, method and kernel of a table.

    Args:
        table: of runs with smoothed maps at the input.
        side: of a cell in pixels, for the closed form (1 - 0.3614 sigma / side)^2.
    """
    lines = [line for line in summarize(table) if line.method in SMOOTHED and line.layer == "input"]
    ranks = {model: _ranks(table, model) for model in dict.fromkeys(line.model for line in lines)}
    on_difull = {(line.model, line.name): line for line in lines if line.setting == "DiFull"}
    return [
        _row(line, on_difull.get((line.model, line.name)), ranks[line.model].get(line.name), side)
        for line in lines
        if line.setting == "GridPG" and line.variant == "trained"
    ]


def _row(line: SummaryLine, difull: SummaryLine | None, rank: float | None, side: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": line.model,
        "batch_norm": next((kind for name, kind in _BATCH_NORM.items() if line.model.startswith(name)), "yes"),
        "method": line.method,
        "kernel": line.kernel_size,
        "grids": line.median.grids,
        "gridpg": [line.median.estimate, line.median.low, line.median.high],
        "rank_correlation": rank,
        "leak_closed_form": (1 - _LEAK * line.kernel_size / 4 / side) ** 2 if line.kernel_size > 1 else 1.0,
    }
    if difull is not None:
        row["difull"] = [difull.median.estimate, difull.median.low, difull.median.high]
        row["attainable"] = difull.attainable
    return row


def _ranks(table: "pa.Table", model: str) -> dict[str, float]:
    """Rank correlation of every map at the input with Grad-CAM at the final layer, on GridPG."""
    correlations = correlate_scores(table, setting="GridPG", model=model)
    if ("GradCAM", "final") not in correlations.names:
        return {}
    column = correlations.names.index(("GradCAM", "final"))
    return {
        name: float(correlations.matrix[row, column])
        for row, (name, layer) in enumerate(correlations.names)
        if layer == "input"
    }


def main() -> None:
    """Go on with the runs, then write what there is."""
    chosen = arguments(__doc__)
    prepare()
    if chosen.minutes:
        half = chosen.minutes / 2
        sure = imagenet.sure(chosen.data, chosen.work)
        run_jobs(imagenet.smoothing_jobs(), sure, chosen.data, chosen.work / "imagenet", half)
        images = cifar.some_images(cifar_images(chosen.data, chosen.work / "cifar10"))
        run_jobs(cifar.smoothing_jobs(), images, chosen.data, chosen.work / "cifar", half)
        imagenet.write(chosen.work, chosen.out)
        cifar.write(chosen.work, chosen.out)
    write_json(all_rows(chosen.out), chosen.out, "smoothing")


def all_rows(out: Path) -> list[dict[str, Any]]:
    """The rows of all results that are there."""
    sides = {"imagenet": 128, "cifar-2x2": 32, "batchnorm": 32}
    tables = {name: read_results(out, name) for name in TABLES}
    return [row for name, table in tables.items() if table is not None for row in smoothing_of(table, sides[name])]


if __name__ == "__main__":
    main()
