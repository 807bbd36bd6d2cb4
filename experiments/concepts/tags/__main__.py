"""The tag experiment: networks that lean on a tag more or less; which explanation says how much?

python -m experiments.concepts.tags --out DIR [--seeds 3] [--agreements 0 0.2 0.4 0.6 0.8 1]

A tag is written on drawn images and names their class with probability q. One small CNN is trained for each q and
seed (about 20 seconds each). How far it leans on tag and object is measured by intervention, and compared with what
explanations say. Networks and measurements are kept in DIR, so that a run that was broken off goes on; the results are
DIR/tags.json, DIR/tags.parquet, DIR/tags.md and DIR/tags.png.
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

import pellucid
from experiments.concepts.tags import measures, networks
from experiments.concepts.tags.figure import draw_figure
from experiments.concepts.tags.measures import LAYERS, PARTS, Exhibits, measure
from experiments.concepts.tags.networks import Recipe, classifier_for
from experiments.concepts.tags.statistics import by_network, compare, markdown
from pellucid.concepts import ConceptWarning
from pellucid.storage import write_atomically

AGREEMENTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_CODE = sha256(b"".join(Path(str(part.__file__)).read_bytes() for part in (measures, networks))).hexdigest()
TRUTHS = ("logit removed", "logit swapped", "accuracy removed")


def main() -> None:
    """Train, measure and report what is not there yet."""
    parser = argparse.ArgumentParser(prog="python -m experiments.concepts.tags", description="The tag experiment.")
    parser.add_argument("--out", type=Path, required=True, help="folder for networks, measurements and results")
    parser.add_argument("--agreements", type=float, nargs="+", default=AGREEMENTS)
    parser.add_argument("--seeds", type=int, default=3, help="networks for each agreement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipes = [Recipe(q, seed) for seed in range(options.seeds) for q in options.agreements]
    exhibits = Exhibits()
    rows = []
    for index, recipe in enumerate(recipes, start=1):
        print(f"{index}/{len(recipes)} {recipe.name}", flush=True)
        rows += measurements(recipe, exhibits, options.out)
    report(recipes, exhibits, rows, options.out)
    print(f"wrote {options.out}/tags.json, .parquet, .md and .png")


def measurements(recipe: Recipe, exhibits: Exhibits, out: Path) -> list[dict[str, Any]]:
    """The tidy rows of one network, measured or read from an earlier run of the same code and settings."""
    file = out / "measurements" / f"{recipe.name}.json"
    settings = {"recipe": asdict(recipe), "exhibits": asdict(exhibits), "code": _CODE, "pellucid": pellucid.__version__}
    if file.exists():
        kept = json.loads(file.read_text())
        if kept["settings"] == settings:
            return list(kept["rows"])
    with warnings.catch_warnings():
        # The AUC of every CAV is among the measurements.
        warnings.simplefilter("ignore", ConceptWarning)
        result = measure(classifier_for(recipe, out / "networks"), exhibits)
    rows = [{"network": recipe.name, "agreement": recipe.agreement, "seed": recipe.seed, **row} for row in result]
    write_atomically(file, json.dumps({"settings": settings, "rows": rows}).encode())
    return rows


def report(recipes: Sequence[Recipe], exhibits: Exhibits, rows: list[dict[str, Any]], out: Path) -> None:
    """Write the table, the figure and the rows behind them."""
    table = by_network(rows, [recipe.name for recipe in recipes])
    compared = [
        row for truth in TRUTHS for layer in LAYERS for part in PARTS for row in compare(table, part, layer, truth)
    ]
    summary = {
        "recipe": {key: value for key, value in asdict(recipes[0]).items() if key not in ("agreement", "seed")},
        "exhibits": asdict(exhibits),
        "versions": {"pellucid": pellucid.__version__, "torch": torch.__version__},
        "networks": [recipe.name for recipe in recipes],
        "means": {" | ".join(key): values.round(4).tolist() for key, values in table.items()},
        "comparison": compared,
    }
    write_atomically(out / "tags.json", json.dumps(summary, indent=1).encode())
    sections = [
        f"### {part} at {layer}\n\n{markdown([row for row in compared if _is(row, part, layer, TRUTHS[0])])}\n"
        for layer in LAYERS
        for part in PARTS
    ]
    write_atomically(out / "tags.md", "\n".join(sections).encode())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd")
    write_atomically(out / "tags.parquet", sink.getvalue().to_pybytes())
    agreements = [recipe.agreement for recipe in recipes]
    write_atomically(out / "tags.png", draw_figure(table, agreements, compared))


def _is(row: dict[str, Any], part: str, layer: str, truth: str) -> bool:
    return (row["part"], row["layer"], row["truth"]) == (part, layer, truth)


if __name__ == "__main__":
    main()
