"""What was run, in words, and what a reader must know before trusting the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING

from pellucid.evaluation.sweep import PlannedModel, Run, SummaryLine
from pellucid.reports.shared.html import distinct

if TYPE_CHECKING:
    import pyarrow as pa


_FEW_GRIDS = 50
_PAPER_GRIDS = 500
_SKIPPED_SHOWN = 50


@dataclass(frozen=True)
class MethodFacts:
    """A method as it was run: what tables call it, its class where that differs, and its options in words."""

    label: str
    name: str
    options: str


@dataclass(frozen=True)
class Facts:
    """What was run.

    Attributes:
        models: name -> term -> words.
        choices: term -> words, for all models.
        methods: with their options.
        done: (model and variant, setting, grids finished).
        shards: units of work done, and all.
        skipped: file -> reason, as many as a page shows.
        skipped_count: of all.
    """

    models: Mapping[str, Mapping[str, str]]
    choices: Mapping[str, str]
    methods: tuple[MethodFacts, ...]
    done: tuple[tuple[str, str, str], ...]
    shards: tuple[int, int]
    skipped: Mapping[str, str]
    skipped_count: int


def facts(run: Run, table: pa.Table) -> Facts:
    """What was run, as the run's folder tells it."""
    plan, skipped = run.plan, run.skipped
    return Facts(
        models={model.name: _model(model, plan.options.layers) for model in plan.models},
        choices=_choices(run, len(skipped)),
        methods=tuple(MethodFacts(method.label, method.name, _options(method.options)) for method in plan.methods),
        done=_done(run, table),
        shards=run.progress,
        skipped=dict(list(skipped.items())[:_SKIPPED_SHOWN]),
        skipped_count=len(skipped),
    )


def caveats(run_facts: Facts, lines: Sequence[SummaryLine]) -> list[str]:
    """Reasons not to trust the numbers yet, in whole sentences."""
    sentences = []
    done, total = run_facts.shards
    if done < total:
        sentences.append(
            f"This run is not finished: {done} of {total} units of work are done. All numbers are those of the grids "
            "finished so far; the same command continues where it stopped."
        )
    own = [line for line in lines if not line.control and line.median.scores]
    fewest = min((line.median.grids for line in own), default=0)
    if 0 < fewest < _FEW_GRIDS:
        widths = [(line.median.high - line.median.low) / 2 for line in own if line.median.grids == fewest]
        widest = max((width for width in widths if isfinite(width)), default=nan)
        sentences.append(
            f"Few grids: some medians rest on {fewest} (the paper's on {_PAPER_GRIDS}), "
            + (
                f"and their intervals reach up to ±{widest:.2f}. Differences smaller than that say nothing."
                if isfinite(widest)
                else "too few for intervals: this shows how to read the page and says nothing of the methods."
            )
        )
    for status, what in (("non-finite", "hold NaN or infinite values"), ("refused", "could not be computed")):
        where = distinct(f"{line.name} at {line.layer}" for line in lines if line.status.get(status))
        count = sum(line.status.get(status, 0) for line in lines)
        if count:
            sentences.append(f"{count} maps {what} and have no score: {', '.join(where)}.")
    notes = distinct(line.note for line in lines if line.note)
    return sentences + [f"Reason given: {note}" for note in notes[:3]]


def _model(model: PlannedModel, layers: Sequence[str]) -> dict[str, str]:
    device, dtype, autocast, channels_last = model.precision.split(" ")
    extras = [f"autocast {autocast}"] * (autocast != "None") + ["channels last"] * (channels_last == "True")
    named = (
        own if own == requested else f"{requested} = {own}" for requested, own in zip(layers, model.layers, strict=True)
    )
    random = [model.variant(index) for index in range(1, len(model.steps))]
    return {
        "layers": ", ".join(named),
        "one cell": " × ".join(map(str, model.input_shape)) + " (channels × rows × columns)",
        "preprocessing": model.preprocess,
        "run on": ", ".join([device, dtype.removeprefix("torch."), *extras]),
        **({"also with random weights": ", ".join(random)} if random else {}),
        "weights (SHA-256)": model.fingerprint,
    }


def _choices(run: Run, skipped: int) -> dict[str, str]:
    options = run.plan.options
    rows, columns = options.grid
    counts = ", ".join(f"{options.grids_of(setting)} of {setting}" for setting in options.settings)
    kernels = ", ".join(map(str, options.kernel_sizes))
    pool = "images that all models are sure of" if options.pool == "common" else "images of its own for each model"
    metrics = "; ".join(" ".join([metric.name, _options(metric.options)]) for metric in run.plan.metrics)
    on_grids = {
        "grids": f"{counts}; {rows} × {columns} cells, chance {1 / (rows * columns):.3g}",
        "beside the same-class pair": "images may recur in other grids" if options.reuse else "no image is used twice",
        **({"smoothing kernels": f"{kernels} cells wide, sigma a quarter of that"} if kernels else {}),
        "order of the head": options.order,
    }
    return {
        **(on_grids if options.measures_grids else {}),
        **({f"metrics on {options.images} images": metrics} if metrics else {}),
        "images": f"{run.plan.data.images} in the data set, {skipped} of them skipped",
        "an image is used if": f"its class is predicted with probability at least {options.threshold:g}",
        **({"with several models": pool} if len(run.plan.models) > 1 else {}),
        "explained": options.output.replace("_", " "),
        "seed": str(options.seed),
        "data set (SHA-256 of names, classes and sizes)": run.plan.data.digest,
        "versions": ", ".join(f"{name} {version}" for name, version in run.plan.versions.items()),
    }


def _options(text: str) -> str:
    """All options that can change a map."""
    own = {name: value for name, value in json.loads(text).items() if name not in ("max_batch", "max_bytes")}
    return ", ".join(f"{name} = {value}" for name, value in own.items() if value not in (None, [], {}))


def _done(run: Run, table: pa.Table) -> tuple[tuple[str, str, str], ...]:
    keys = ["model", "variant", "setting", "layer"]
    counted = table.group_by(keys, use_threads=False).aggregate([("grid", "count_distinct")]).to_pylist()
    finished = {tuple(row[key] for key in keys): row["grid_count_distinct"] for row in counted}
    rows = []
    for model in run.plan.models:
        for variant in map(model.variant, range(len(model.steps))):
            for setting in run.plan.options.settings if run.plan.options.measures_grids else ():
                who = model.name if variant == "trained" else f"{model.name}, {variant}"
                counts = {
                    layer: finished.get((model.name, variant, setting, layer), 0) for layer in run.plan.options.layers
                }
                rows.append((who, setting, _counted(counts, run.plan.options.grids_of(setting))))
    return tuple(rows)


def _counted(counts: Mapping[str, int], total: int) -> str:
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values()))} of {total}"
    return ", ".join(f"{layer} {count}" for layer, count in counts.items()) + f" of {total}"
