"""One unit of work of the metrics: a few single images at a layer, explained with every method and measured."""

import time
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from pellucid.attribution import ImageBatch, Method, Target, explain_case, iterate_cases
from pellucid.errors import MissingExtraError, PellucidError
from pellucid.evaluation.metrics import CONTROLS, METRICS, ExplainedImages, MeasuredImages, Metric, image_controls
from pellucid.evaluation.sweep.plan import MetricShard, Plan
from pellucid.evaluation.sweep.run_tables import arrow

if TYPE_CHECKING:
    import pyarrow as pa

CONCEPT_METHOD = "VisualTCAV"
"""What the table calls the method of metrics that score concepts, not the maps of a method."""


def metric_schema() -> "pa.Schema":
    """Columns of the table of metrics.

    - model, layer (as requested), layer_name, method, options (JSON), control (whether the method is one): what made
      the map. Metrics that need no maps have one method, "VisualTCAV".
    - image (path in the data set), label (the class explained).
    - metric, quantity (what the number is), metric_options (JSON), higher_is_better.
    - score; chance, what a map without information reaches, NaN where that is not known.
    - status: "ok"; "undefined" (no score: the map is not finite or constant, or the image has no region); "refused",
      the method or the metric cannot do it; note, the reason.
    - seconds: of measuring, beyond the map, for one image.
    """
    pa = arrow()
    texts = ("model", "layer", "layer_name", "method", "options", "image", "metric", "quantity", "metric_options")
    kinds = dict.fromkeys((*texts, "status", "note"), pa.string()) | {"label": pa.int32()}
    kinds |= dict.fromkeys(("control", "higher_is_better"), pa.bool_())
    return pa.schema([(name, kinds.get(name, pa.float64())) for name in _COLUMNS])


_COLUMNS = (
    *("model", "layer", "layer_name", "method", "options", "control", "image", "label"),
    *("metric", "quantity", "metric_options", "higher_is_better"),
    *("score", "chance", "status", "note", "seconds"),
)


def measure_shard(
    plan: Plan,
    shard: MetricShard,
    images: MeasuredImages,
    names: Sequence[str],
    methods: Sequence[Method],
    metrics: Mapping[str, Metric],
) -> "tuple[pa.Table, tuple[str, ...]]":
    """Explain the images of a shard with every method and control, and measure every map.

    Args:
        plan: of the run.
        shard: which images, where.
        images: the shard's N images, seen from the layer, with their classes and regions.
        names: N paths in the data set.
        methods: of the plan's methods.
        metrics: of the plan's metrics, by name.

    Returns:
        The table, a row for each number, and what could not be measured, with the reason.
    """
    rows = _MetricRows(plan, shard, images, names)
    map_metrics = {name: metric for name, metric in metrics.items() if metric.uses_maps}
    if map_metrics:
        _measure_maps(rows, plan, images, methods, map_metrics)
    for name, metric in metrics.items():
        if not metric.uses_maps:
            rows.measure(CONCEPT_METHOD, name, metric, images, slice(0, len(names)))
    return rows.table(), tuple(rows.problems)


def _measure_maps(
    rows: "_MetricRows",
    plan: Plan,
    images: MeasuredImages,
    methods: Sequence[Method],
    metrics: Mapping[str, Metric],
) -> None:
    """Measure the maps of every method and control; the part before the layer is run once for all of them."""
    labeled = {planned.label: method for planned, method in zip(plan.methods, methods, strict=True)}
    labeled |= {method.label: method for method in image_controls(plan.options.seed)}

    def refuse(batch: ImageBatch, error: PellucidError) -> None:
        for label, metric in product(labeled, metrics):
            rows.refuse(label, metric, str(error), batch.rows)

    output, offset = plan.options.output, images.offset
    target = Target(images.targets, output)
    everyone, total = list(labeled.values()), plan.options.images
    shared: dict[Hashable, Any] = {}
    for case in iterate_cases(
        images.view, images.images, target, everyone, offset=offset, total=total, on_error=refuse
    ):
        part = slice(case.offset - offset, case.offset - offset + len(case))
        for label, method in labeled.items():
            try:
                values = explain_case(case, method).values[:, 0]
            except MissingExtraError:
                raise
            except PellucidError as error:
                for name in metrics:
                    rows.refuse(label, name, str(error), part)
                continue
            explained = ExplainedImages(
                view=images.view,
                images=case.images,
                targets=images.targets[part],
                masks=None if images.masks is None else images.masks[part],
                offset=case.offset,
                method=method,
                values=values,
                output=output,
                shared=shared,
            )
            for name, metric in metrics.items():
                rows.measure(label, name, metric, explained, part)


class _MetricRows:
    """Collects the rows of a shard of metrics."""

    def __init__(self, plan: Plan, shard: MetricShard, images: MeasuredImages, names: Sequence[str]) -> None:
        model, layer = plan.models[shard.model], plan.options.layers[shard.layer]
        self._common = {"model": model.name, "layer": layer, "layer_name": model.layers[shard.layer]}
        self._methods = {method.label: method.options for method in plan.methods}
        self._metrics = {metric.name: metric.options for metric in plan.metrics}
        self._names, self._labels = names, images.targets.tolist()
        self._rows: list[dict[str, Any]] = []
        self.problems: dict[str, None] = {}

    def measure(self, label: str, name: str, metric: Metric, images: MeasuredImages, part: slice) -> None:
        """Measure some images, or note why that cannot be done."""
        started = time.perf_counter()
        try:
            results = metric(images)
        except MissingExtraError:
            raise
        except PellucidError as error:
            self.refuse(label, name, str(error), part)
            return
        seconds = (time.perf_counter() - started) / len(images.images)
        for result in results:
            for row, score, chance in zip(
                range(part.start, part.stop), result.scores.tolist(), result.chance.tolist(), strict=True
            ):
                status = "ok" if isfinite(score) else "undefined"
                numbers = {"quantity": result.quantity, "score": score, "chance": chance, "seconds": seconds}
                self._add(label, name, row, status=status, note="", **numbers)

    def refuse(self, label: str, name: str, reason: str, part: slice) -> None:
        """Note why some images have no number."""
        self.problems[f"{name} of {label} at {self._common['layer']}: {reason}"] = None
        for row in range(part.start, part.stop):
            nothing = {"quantity": "", "score": nan, "chance": nan, "seconds": 0.0}
            self._add(label, name, row, status="refused", note=reason, **nothing)

    def table(self) -> "pa.Table":
        """The rows, in the order in which they came."""
        return arrow().Table.from_pylist(self._rows, schema=metric_schema())

    def _add(self, label: str, name: str, row: int, **columns: Any) -> None:
        self._rows.append(
            {
                **self._common,
                "method": label,
                "options": self._methods.get(label, "{}"),
                "control": label in CONTROLS,
                "image": self._names[row],
                "label": self._labels[row],
                "metric": name,
                "metric_options": self._metrics[name],
                "higher_is_better": METRICS[name].higher_is_better,
                **columns,
            }
        )
