"""The folder of a run: what is done, written so that a kill at any moment loses one unit of work and nothing else."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.evaluation.grids import GridSet
from pellucid.evaluation.sweep.plan import Plan, Task
from pellucid.evaluation.sweep.run_tables import arrow, parquet, read_tag
from pellucid.storage import (
    CHECKSUM,
    UNSEALED,
    RunFolder,
    RunFolderError,
    find_differences,
    from_record,
    is_whole,
    replacing,
    seal,
    to_record,
)

if TYPE_CHECKING:
    import pyarrow as pa

_TABLE, _METRICS, _SKIPPED = "table.parquet", "metrics.parquet", "skipped.json"


class RunError(RunFolderError):
    """A run folder that is none, belongs to another run, is in use, or cannot be written to."""


class SweepFolder(RunFolder):
    """A folder with the plan of a run, the files of its finished units of work, and its table.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, kind="pellucid run", version=1, error=RunError)

    @property
    def table(self) -> Path:
        """The table of a finished run."""
        return self.path / _TABLE

    @property
    def metrics_table(self) -> Path:
        """The table of metrics of a finished run that has any."""
        return self.path / _METRICS

    def grid_set(self, model: int, *, same_class: bool) -> Path:
        """The manifest of a model's grids."""
        return self.path / "grids" / f"{model}-{'same_class' if same_class else 'distinct'}.json"

    def load_plan(self) -> tuple[Plan, Path]:
        """The plan, and the folder of the images when the run was created.

        Raises:
            RunError: there is none, or it is damaged.
        """
        stored = self.read_plan()
        return from_record(Plan, stored.get("plan"), source=self.path / self.plan_file), Path(stored.get("root", ""))

    def check_same_plan(self, plan: Plan) -> None:
        """Check that the folder has no plan, or this one.

        With another plan it is still free as long as nothing was explained: too few images for that many grids can be
        put right, and predictions are kept.

        Raises:
            RunError: the folder has a run with another plan; the message names the differences.
        """
        if self.is_bound and any(next(self.path.glob(f"{name}/*.parquet"), None) for name in ("shards", "metrics")):
            stored = to_record(self.load_plan()[0])
            if differences := find_differences(stored, to_record(plan)):
                self.refuse(differences)

    def replace_plan(self, plan: Plan, root: Path) -> None:
        """Make the plan that of the folder; manifests of an earlier one are removed.

        Args:
            plan: what `check_same_plan` has passed.
            root: folder of the images.
        """
        if self.is_bound and self.load_plan()[0] != plan:
            for manifest in self.path.glob("grids/*.json"):
                manifest.unlink()
        self.write_plan({"root": str(root), "plan": to_record(plan)})

    def is_finished(self) -> bool:
        """Whether the run's tables are there, and whole."""
        return is_whole(self.table) and (is_whole(self.metrics_table) or not self.metrics_table.exists())

    def images_in_grids(self) -> set[str]:
        """Every image of the manifests, relative to the folder of the images."""
        manifests = map(GridSet.load, sorted(self.path.glob("grids/*.json")))
        return {cell.path for grids in manifests for row in grids.cells for cell in row}

    def is_done(self, task: Task, plan: Plan) -> bool:
        """Whether a unit of work was finished: its files are there, whole, and of this plan."""
        names = [task.file] if task.maps_file is None else [task.maps_file, task.file]
        return all(read_tag(self.path / name) == plan.tag(task) for name in names)

    def write_skipped(self, skipped: Mapping[str, str]) -> None:
        """Write which images cannot be used, and why."""
        self.write_json(_SKIPPED, dict(skipped))

    def skipped(self) -> dict[str, str]:
        """Images that cannot be used, and why."""
        return dict(self.read_json(_SKIPPED)) if (self.path / _SKIPPED).exists() else {}

    def merge(self, path: Path, schema: "pa.Schema", tables: "Iterator[pa.Table]") -> None:
        """Write a table of the run, whole or not at all, one shard at a time.

        Args:
            path: the file, `table` or `metrics_table`.
            schema: its columns.
            tables: of the shards, in their order.
        """
        with self.disk_full_errors(), replacing(path) as partial:
            schema = schema.with_metadata({CHECKSUM: UNSEALED})
            with parquet().ParquetWriter(partial, schema, compression="zstd") as writer:
                for table in _join_small(tables):
                    writer.write_table(table.cast(schema))
            partial.write_bytes(seal(partial.read_bytes()))


def _join_small(tables: "Iterator[pa.Table]", rows: int = 10_000) -> "Iterator[pa.Table]":
    """Small tables joined to ones of at least `rows` rows, so that the file has few row groups."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table.replace_schema_metadata(None))
        if sum(map(len, waiting)) >= rows:
            yield arrow().concat_tables(waiting)
            waiting = []
    if waiting:
        yield arrow().concat_tables(waiting)
