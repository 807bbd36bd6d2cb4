"""A run on disk: its tables, its summaries and its aggregated maps, finished or not."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.evaluation.aggregation import AggAtt, agg_att_batches
from pellucid.evaluation.grids import GridSet
from pellucid.evaluation.sweep.metric_shard import metric_schema
from pellucid.evaluation.sweep.plan import Shard, Task
from pellucid.evaluation.sweep.run_tables import arrow, read_table, score_schema
from pellucid.evaluation.sweep.stored_maps import StoredMap, read_maps
from pellucid.evaluation.sweep.summary import (
    Correlations,
    MetricLine,
    SummaryLine,
    compare_scores,
    correlate_scores,
    summarize,
    summarize_metrics,
)
from pellucid.evaluation.sweep.sweep_folder import SweepFolder
from pellucid.evaluation.sweep.sweep_options import setting_names
from pellucid.statistics import Comparison

if TYPE_CHECKING:
    import pyarrow as pa


class Run:
    """A run folder, to be read; while the run continues, or after it was killed, what is finished so far.

    Args:
        folder: that `evaluate` wrote.

    Attributes:
        plan: all that the numbers depend on.
        root: folder of the images when the run was made; the manifests' paths are relative to it.

    Raises:
        RunError: the folder is not a run.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = SweepFolder(folder)
        self.plan, self.root = self._folder.load_plan()

    @staticmethod
    def load(folder: str | Path) -> "Run":
        """The run in a folder."""
        return Run(folder)

    @property
    def folder(self) -> Path:
        return self._folder.path

    @property
    def is_complete(self) -> bool:
        """Whether all shards are done."""
        return self._folder.table.exists()

    @property
    def progress(self) -> tuple[int, int]:
        """How many shards are done, and how many there are."""
        tasks: list[Task] = [*self.plan.shards(), *self.plan.metric_shards()]
        return sum(self._is_done(task) for task in tasks), len(tasks)

    @property
    def skipped(self) -> dict[str, str]:
        """Images of the data set that cannot be used, and why."""
        return self._folder.skipped()

    def table(self, columns: list[str] | None = None) -> "pa.Table":
        """One row per attribution, in the order of the shards (see `score_schema`).

        Args:
            columns: names of those to read; by default all.
        """
        if self.is_complete:
            return read_table(self._folder.table, columns)
        parts = [read_table(self.folder / shard.file, columns).replace_schema_metadata(None) for shard in self._done()]
        schema = score_schema()
        if columns is not None:
            schema = arrow().schema([schema.field(name) for name in columns])
        return arrow().concat_tables([schema.empty_table(), *parts])

    def metrics(self) -> "pa.Table":
        """One row per number that a metric of single images gave (see `metric_schema`); empty without such metrics."""
        if self._folder.metrics_table.exists():
            return read_table(self._folder.metrics_table)
        done = [shard for shard in self.plan.metric_shards() if self._folder.is_done(shard, self.plan)]
        parts = [read_table(self.folder / shard.file).replace_schema_metadata(None) for shard in done]
        return arrow().concat_tables([metric_schema().empty_table(), *parts])

    def metric_summary(self) -> tuple[MetricLine, ...]:
        """Means with intervals of every quantity that metrics of single images gave."""
        return summarize_metrics(self.metrics())

    def summary(self) -> tuple[SummaryLine, ...]:
        """Medians with intervals of every method and control, at every layer in every setting."""
        return summarize(self.table())

    def compare(
        self, setting: str, layer: str, *, model: str | None = None, variant: str = "trained"
    ) -> tuple[Comparison, ...]:
        """Compare every pair of methods on the same attributions (see `compare_methods`).

        Args:
            setting: by name.
            layer: as it was requested.
            model: by name; None for the only one.
            variant: "trained", or what the table calls a randomized network.

        Raises:
            PellucidError: the table has no such rows.
        """
        return compare_scores(self.table(), setting=setting, layer=layer, model=self._model(model), variant=variant)

    def correlate(self, setting: str, *, model: str | None = None, variant: str = "trained") -> Correlations:
        """Spearman's rank correlation of scores between methods and layers.

        Args:
            setting: by name.
            model: by name; None for the only one.
            variant: "trained", or what the table calls a randomized network.

        Raises:
            PellucidError: the table has no such rows.
        """
        return correlate_scores(self.table(), setting=setting, model=self._model(model), variant=variant)

    def grid_set(self, setting: str, *, model: str | None = None) -> GridSet:
        """The manifest of a setting's grids."""
        (name,) = setting_names([setting])
        return GridSet.load(self._folder.grid_set(self.plan.model_index(model), same_class=name != "GridPG"))

    def maps(
        self, setting: str, layer: str, method: str, *, cell: int = 0, kernel_size: int = 1, model: str | None = None
    ) -> Iterator[StoredMap]:
        """The maps of a method in one cell, grid by grid, as they were kept (see `StoredMap`).

        Args:
            setting: by name.
            layer: as it was requested, or its own name.
            method: what the table calls it.
            cell: the cell that is explained.
            kernel_size: of the Gaussian; 1 for none.
            model: by name; None for the only one.

        Raises:
            PellucidError: no maps of that cell were kept.
        """
        self._check_kept(cell)
        for shard in self._shards(setting, layer, model):
            yield from read_maps(self.folder / str(shard.maps_file), method, kernel_size, cell)

    def agg_att(
        self,
        setting: str,
        layer: str,
        method: str,
        *,
        cell: int = 0,
        kernel_size: int = 1,
        model: str | None = None,
        signed: bool = False,
    ) -> AggAtt:
        """Aggregate a method's maps in one cell over all finished grids (see `pellucid.evaluation.agg_att`).

        Maps are at the grid image's size, or, where they were kept at a divided one, at that. Map i of the bins is
        that of grid i. Memory does not grow with the number of grids.

        Args:
            setting: by name.
            layer: as it was asked for, or its own name.
            method: what the table calls it.
            cell: the cell that is explained.
            kernel_size: of the Gaussian; 1 for none.
            model: by name; None for the only one.
            signed: average signed maps; otherwise positive parts.

        Raises:
            PellucidError: there are no such maps.
        """
        self._check_kept(cell)
        scores, mass = self._scores(setting, layer, method, cell, kernel_size, model)
        kept = self.maps(setting, layer, method, cell=cell, kernel_size=kernel_size, model=model)
        first = next(kept, None)
        if first is None or not len(scores):
            raise PellucidError(f"the run has no maps of {method!r} with kernel {kernel_size} at {layer} in {setting}")
        size = None if first.positive is not None else self._grid_size(model)

        def batches() -> Iterator[Tensor]:
            following = 0
            for stored in chain([first], kept):
                # Grids that the method refused have no map; their score is NaN, so that zeros keep the place only.
                yield torch.zeros(stored.grid - following, *stored.values.shape)
                yield (stored.values if signed or stored.positive is None else stored.positive)[None]
                following = stored.grid + 1
            yield torch.zeros(len(scores) - following, *first.values.shape)

        return agg_att_batches(batches(), scores, mass, size=size, signed=signed)

    def _scores(
        self, setting: str, layer: str, method: str, cell: int, kernel_size: int, model: str | None
    ) -> tuple[Tensor, Tensor]:
        """Scores and masses (grids,) of one cell; NaN where there is none."""
        scores, mass = [], []
        for shard in self._shards(setting, layer, model):
            table = read_table(
                self.folder / shard.file, ["method", "kernel_size", "grid", "cell", "score", "cell_mass"]
            )
            rows = {
                row["grid"]: row
                for row in table.to_pylist()
                if row["method"] == method and row["cell"] == cell and row["kernel_size"] == kernel_size
            }
            none = {"score": torch.nan, "cell_mass": torch.nan}
            scores += [rows.get(grid, none)["score"] for grid in range(shard.start, shard.stop)]
            mass += [rows.get(grid, none)["cell_mass"] for grid in range(shard.start, shard.stop)]
        return torch.tensor(scores, dtype=torch.float64), torch.tensor(mass, dtype=torch.float64)

    def _shards(self, setting: str, layer: str, model: str | None) -> list[Shard]:
        """The finished shards of the trained model, grid by grid without a gap."""
        index = self.plan.model_index(model)
        (name,), position = setting_names([setting]), self.plan.layer_index(layer, index)
        key = (index, 0, name, position)
        done = [
            shard
            for shard in self.plan.shards()
            if (shard.model, shard.variant, shard.setting, shard.layer) == key and self._is_done(shard)
        ]
        starts = range(0, len(done) * self.plan.options.shard_size, self.plan.options.shard_size)
        return [shard for shard, start in zip(done, starts, strict=True) if shard.start == start]

    def _done(self) -> Iterator[Shard]:
        return (shard for shard in self.plan.shards() if self._is_done(shard))

    def _is_done(self, task: Task) -> bool:
        return self.is_complete or self._folder.is_done(task, self.plan)

    def _model(self, name: str | None) -> str:
        return self.plan.models[self.plan.model_index(name)].name

    def _grid_size(self, model: str | None) -> tuple[int, int]:
        _, height, width = self.plan.models[self.plan.model_index(model)].input_shape
        rows, columns = self.plan.options.grid
        return rows * height, columns * width

    def _check_kept(self, cell: int) -> None:
        kept = self.plan.options.keep_maps
        if kept == "none" or (kept == "first" and cell != 0):
            raise PellucidError(f"the maps of cell {cell} were not kept (keep_maps={kept!r}); run with keep_maps='all'")

    def __repr__(self) -> str:
        done, total = self.progress
        return f"<Run {self.folder}: {done} of {total} shards>"
