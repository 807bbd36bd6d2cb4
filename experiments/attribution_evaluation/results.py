"""Small files out of large runs: tables with rounded numbers, and mean maps."""

import io
import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from experiments.attribution_evaluation.sweeps import Job, table_of
from pellucid.errors import PellucidError
from pellucid.evaluation import Run
from pellucid.storage import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

MAPPED = ("GradCAM", "LayerCAM", "IntegratedGradients", "LRP", "Occlusion")
"""Methods whose mean maps are kept."""

SMOOTHED = ("InputXGradient", "IntegratedGradients")
"""Methods of the smoothing study."""

_DECIMALS = 5
_LEAST_MAPS = 5


def write_results(jobs: Sequence[Job], work: Path, out: Path, name: str) -> None:
    """Write one table of all jobs, finished or not, to `out`/`name`.parquet."""
    write_table([table_of(jobs, work)], out, name)


def write_table(tables: "Sequence[pa.Table]", out: Path, name: str) -> None:
    """Write tables as one, small: rounded numbers, and smoothed maps of the methods of the smoothing study only."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pa.concat_tables([each.replace_schema_metadata(None) for each in tables])
    smoothed = pc.and_(pc.equal(table["layer"], "input"), pc.is_in(table["method"], pa.array(SMOOTHED)))
    table = table.filter(pc.or_(pc.equal(table["kernel_size"], 1), smoothed))
    for index, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table[field.name]
            rounded = pa.array(_rounded(field.name, column.to_numpy()), mask=column.is_null().to_numpy())
            table = table.set_column(index, field, rounded)
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, out / f"{name}.parquet", compression="zstd", compression_level=15)
    print(f"{name}: {len(table)} attributions", flush=True)


def _rounded(name: str, values: np.ndarray) -> np.ndarray:
    """Scores to four decimals, seconds and passes to two, masses to two significant digits."""
    if not name.endswith("mass"):
        return values.round(2 if "second" in name or "ward" in name else 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = 10.0 ** (np.floor(np.log10(np.abs(values))) - 1)
        return np.where(np.isfinite(unit) & (unit > 0), (values / unit).round() * unit, values)


def write_json(values: Any, out: Path, name: str) -> None:
    """Write numbers, rounded to 1e-5."""
    rounded = json.loads(json.dumps(values), parse_float=lambda text: round(float(text), _DECIMALS))
    write_atomically(out / f"{name}.json", json.dumps(rounded, indent=0).encode())


def read_results(out: Path, name: str) -> "pa.Table | None":
    """The table that `write_results` wrote, if it has."""
    import pyarrow.parquet as pq

    file = out / f"{name}.parquet"
    return pq.read_table(file) if file.is_file() else None


def write_mean_maps(jobs: Sequence[Job], work: Path, out: Path, name: str) -> None:
    """Write AggAtt's mean maps of the first cell, on GridPG and DiFull, to `out`/`name`-maps.npz.

    Keys are "setting/layer/method", values (bins, h, w) in [-1, 1], best bin first. Bins of fewer than five maps are
    left out, and so is the input: there a map or two would show the images themselves.
    """
    mean_maps = {}
    for job in jobs:
        if job.options.keep_maps == "none" or not (work / job.name / "plan.json").is_file():
            continue
        run = Run(work / job.name)
        layers = [layer for layer in job.options.layers if layer != "input"]
        for setting, layer, method in product(("GridPG", "DiFull"), layers, job.methods):
            if method.label in MAPPED:
                with suppress(PellucidError):  # not explained yet
                    mean = run.agg_att(setting, layer, method.label)
                    large = [index for index, size in enumerate(mean.bins.sizes) if size >= _LEAST_MAPS]
                    if large:
                        mean_maps[f"{setting}/{layer}/{method.label}"] = _small(mean.maps[large].numpy())
    np.savez_compressed(out / f"{name}-maps.npz", **mean_maps)


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """Write a matplotlib figure as a PNG of at most 160 colors, half the size."""
    import matplotlib.pyplot as plt

    content = io.BytesIO()
    figure.savefig(content, dpi=dpi)
    plt.close(figure)
    small = io.BytesIO()
    Image.open(content).convert("RGB").quantize(160, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    write_atomically(path, small.getvalue())
    print(f"wrote {path.name}", flush=True)


def _small(maps: np.ndarray, side: int = 32) -> np.ndarray:
    """Area means, so that the longer side has at most `side` cells."""
    step = -(-max(maps.shape[1:]) // side)
    height, width = (size // step for size in maps.shape[1:])
    cut = maps[:, : height * step, : width * step].reshape(len(maps), height, step, width, step)
    return cut.mean((2, 4)).astype(np.float16)
