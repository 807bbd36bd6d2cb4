"""One shard: the maps of every method for a few grids at a layer, scored."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.attribution import Case, ImageBatch, Method, Passes, Target, explain_case, iterate_cases, smooth
from pellucid.errors import MissingExtraError, PellucidError
from pellucid.evaluation.grids import GridSet
from pellucid.evaluation.metrics import CONTROLS, grid_controls
from pellucid.evaluation.settings import GridSettingView
from pellucid.evaluation.sweep.labeled_images import grid_targets
from pellucid.evaluation.sweep.plan import Plan, Shard
from pellucid.evaluation.sweep.run_tables import Cost, ScoreRows, score_maps
from pellucid.evaluation.sweep.stored_maps import MapRows

if TYPE_CHECKING:
    import pyarrow as pa


def evaluate_shard(
    plan: Plan, shard: Shard, view: GridSettingView, grids: GridSet, images: Tensor, methods: tuple[Method, ...]
) -> "ShardResult":
    """Explain and score the grids of a shard.

    The part before the layer is run once for each grid, and all methods and targets share it; so do they the gradient.

    Args:
        plan: of the run.
        shard: which grids, where.
        view: the setting seen from the layer, with the evaluated heads.
        grids: the set that the shard's grids belong to.
        images: (N, C, H, W) the shard's grid images.
        methods: of the plan's methods.
    """
    result = ShardResult(plan, shard, grids, methods)

    def refuse(batch: ImageBatch, error: PellucidError) -> None:
        result.refuse_all(str(error), batch.rows)

    differentiate = any(method.needs_gradients(view) for method in result.methods)
    total = plan.options.grids_of(shard.setting)
    target = Target(result.targets, plan.options.output)
    prepared = iterate_cases(view, images, target, result.methods, offset=shard.start, total=total, on_error=refuse)
    started = time.perf_counter()
    for case in prepared:
        shared = prepare_case(case, differentiate, started)
        start = case.offset - shard.start
        for label, method in zip(result.labels, result.methods, strict=True):
            result.explain(label, method, case, slice(start, start + len(case)), shared)
        started = time.perf_counter()
    return result


class ShardResult:
    """The rows and maps of a shard in the making.

    Args:
        plan: of the run.
        shard: which grids, where.
        grids: the set that they belong to.
        methods: of the plan's methods.
    """

    def __init__(self, plan: Plan, shard: Shard, grids: GridSet, methods: tuple[Method, ...]) -> None:
        planned = plan.models[shard.model]
        self._shard, self._options = shard, plan.options
        self._grid, self._cells, self._same_class = grids.grid, grids.evaluated_cells, grids.same_class
        self.targets = grid_targets(grids, range(shard.start, shard.stop), single_head=shard.setting == "GridPG")
        self.methods = (*methods, *grid_controls(grids.grid, grids.evaluated_cells, plan.options.seed))
        self.labels = (*(method.label for method in plan.methods), *CONTROLS)
        self._options_of = {method.label: method.options for method in plan.methods}
        self._problems: dict[str, None] = {}
        self._maps = MapRows()
        self._rows = ScoreRows(
            model=planned.name,
            variant=planned.variant(shard.variant),
            setting=shard.setting,
            layer=self._options.layers[shard.layer],
            layer_name=planned.layers[shard.layer],
        )

    def explain(self, label: str, method: Method, case: Case, rows: slice, shared: Cost) -> None:
        """Explain a case with one method, and score the maps, with every kernel from the same ones.

        Args:
            label: what the table calls the method.
            method: with its options.
            case: some of the shard's grids.
            rows: which of them.
            shared: what all methods share.
        """
        started = time.perf_counter()
        try:
            explanation = explain_case(case, method)
        except MissingExtraError:
            raise
        except PellucidError as error:
            self._refuse(label, str(error), rows)
            return
        cost = Cost(explanation.passes, time.perf_counter() - started)
        self._score(label, 1, explanation.values, case, rows, cost, shared)
        if label in CONTROLS:
            return
        for kernel in self._options.kernel_sizes:
            if kernel <= max(explanation.values.shape[2:]):
                started = time.perf_counter()
                values = smooth(explanation.values, kernel)
                cost = Cost(Passes(), time.perf_counter() - started)
                self._score(label, kernel, values, case, rows, cost, shared)

    def refuse_all(self, reason: str, rows: slice) -> None:
        """Nothing at all can be explained for some grids."""
        for label in self.labels:
            self._refuse(label, reason, rows)

    @property
    def table(self) -> "pa.Table":
        """A row for every attribution."""
        return self._rows.table()

    @property
    def maps(self) -> "pa.Table":
        """The maps that are kept; those of controls are not."""
        return self._maps.table()

    @property
    def maps_of_method(self) -> int:
        """How many maps are kept of one method with one kernel."""
        return (self._shard.stop - self._shard.start) * len(self._kept_cells)

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be explained, and why."""
        return tuple(self._problems)

    @property
    def _kept_cells(self) -> tuple[int, ...]:
        return self._cells[:1] if self._options.keep_maps == "first" else self._cells

    def _score(
        self, label: str, kernel: int, values: Tensor, case: Case, rows: slice, cost: Cost, shared: Cost
    ) -> None:
        size = (case.images.shape[2], case.images.shape[3])
        scores = score_maps(values, self._grid, self._cells, size, same_class=self._same_class, kernel_size=kernel)
        share = values.shape[0] * values.shape[1]
        columns = self._columns(label, kernel) | cost.columns(share) | shared.shared_columns(share)
        self._rows.add(scores, self._numbers(rows), self._cells, self._classes(rows), **columns)
        if self._shard.keeps_maps and label not in CONTROLS:
            for maps, grid in zip(values, self._numbers(rows), strict=True):
                for own_map, cell in zip(maps, self._kept_cells, strict=False):
                    self._maps.add(own_map, size, method=label, kernel_size=kernel, grid=grid, cell=cell)

    def _refuse(self, label: str, reason: str, rows: slice) -> None:
        self._problems[f"{label} at {self._options.layers[self._shard.layer]} in {self._shard.setting}: {reason}"] = (
            None
        )
        none = Cost(Passes(), 0.0)
        columns = self._columns(label, 1) | none.columns(1) | none.shared_columns(1)
        numbers, classes = self._numbers(rows), self._classes(rows)
        self._rows.add_refused(reason, numbers, self._cells, classes, same_class=self._same_class, **columns)

    def _columns(self, label: str, kernel: int) -> dict[str, object]:
        options = self._options_of.get(label, "{}")
        return {"method": label, "kernel_size": kernel, "options": options, "control": label in CONTROLS}

    def _numbers(self, rows: slice) -> range:
        return range(self._shard.start + rows.start, self._shard.start + rows.stop)

    def _classes(self, rows: slice) -> list[list[int]]:
        classes: list[list[int]] = self.targets[rows, :, 1].tolist()
        return classes


def prepare_case(case: Case, differentiate: bool, started: float) -> Cost:
    """Run what all methods share, and measure its cost.

    Args:
        case: some grids or images.
        differentiate: whether a method needs the gradient.
        started: when the case was begun, by `time.perf_counter`.
    """
    if differentiate:
        with suppress(PellucidError):  # those methods that need the gradient will say why there is none
            _ = case.gradients
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Cost(case.claim_passes(), time.perf_counter() - started)
