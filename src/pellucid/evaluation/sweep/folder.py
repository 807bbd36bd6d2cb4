"""The folder of a run: what is done, written so that a kill at any moment loses one unit of work and nothing else."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.errors import PellucidError
from pellucid.evaluation.sweep.arrow import TAG, arrow, parquet
from pellucid.evaluation.sweep.plan import Plan, Task
from pellucid.evaluation.sweep.score_table import schema
from pellucid.storage import locked, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa


_FORMAT = "pellucid run"
_VERSION = 1
_PLAN, _TABLE, _LOCK, _SKIPPED = "plan.json", "table.parquet", ".lock", "skipped.json"


class RunError(PellucidError):
    """A run folder that is none, belongs to another run, is in use, or cannot be written to."""


class SweepFolder:
    """A folder with the plan of a run, the files of its finished units of work, and its table."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def table(self) -> Path:
        """The table of a finished run."""
        return self.path / _TABLE

    def grid_set(self, model: int, *, same_class: bool) -> Path:
        """The manifest of a model's grids."""
        return self.path / "grids" / f"{model}-{'same_class' if same_class else 'distinct'}.json"

    def read_plan(self) -> tuple[Plan, Path]:
        """The plan, and the folder of the images when the run was made.

        Raises:
            RunError: there is none.
        """
        record = self._read_json(_PLAN)
        if not isinstance(record, Mapping) or record.get("format") != _FORMAT:
            raise RunError(f"{self.path / _PLAN} is no plan of a run; give another folder")
        if record["version"] != _VERSION:
            raise RunError(f"{self.path} is a run of version {record['version']}; this pellucid reads {_VERSION}")
        try:
            return Plan.from_record(record["plan"]), Path(record["root"])
        except (KeyError, TypeError) as error:
            raise RunError(f"{self.path / _PLAN} is damaged ({error}); start anew in another folder") from error

    def check_same_plan(self, plan: Plan) -> None:
        """Check that the folder is empty, or a run with this plan.

        With another plan it is still free as long as nothing was explained: too few images for so many grids can be
        mended, and predictions are kept.

        Raises:
            RunError: the folder has a run with another plan, or holds something else.
        """
        if not (self.path / _PLAN).exists():
            if any(path.name != _LOCK for path in self.path.iterdir()):
                raise RunError(f"{self.path} is not empty and no run; give a new folder, or that of a run to go on")
            return
        differences = self.read_plan()[0].differences(plan)
        if differences and any(self.path.glob("shards/*.parquet")):
            raise RunError(
                f"{self.path} has a run made with other options (there; now): {'. '.join(differences)}. Give the same "
                "options to go on with it, or another folder"
            )

    def bind_plan(self, plan: Plan, root: Path) -> None:
        """Make the plan that of the folder; manifests of an earlier one are removed."""
        if (self.path / _PLAN).exists() and self.read_plan()[0] != plan:
            for manifest in self.path.glob("grids/*.json"):
                manifest.unlink()
        self._write_json(_PLAN, {"format": _FORMAT, "version": _VERSION, "root": str(root), "plan": plan.record()})

    def is_done(self, task: Task, plan: Plan) -> bool:
        """Whether a unit of work was finished: its files are there, whole, and of this plan."""
        names = [task.file] if task.maps_file is None else [task.maps_file, task.file]
        return all(_tag_of(self.path / name) == plan.tag(task) for name in names)

    def commit(self, files: Mapping[str, bytes]) -> None:
        """Write the files of a unit of work, the last of which makes it done."""
        for name, content in files.items():
            with self.disk_full_errors():
                write_atomically(self.path / name, content)

    def write_skipped(self, skipped: Mapping[str, str]) -> None:
        """Write which images cannot be used, and why."""
        self._write_json(_SKIPPED, dict(skipped))

    def skipped(self) -> dict[str, str]:
        """Images that cannot be used, and why."""
        return dict(self._read_json(_SKIPPED)) if (self.path / _SKIPPED).exists() else {}

    def merge(self, tables: Iterator[pa.Table]) -> None:
        """Write the table of the run, one shard at a time."""
        partial = self.path / f".{_TABLE}.part"
        with self.disk_full_errors():
            try:
                with parquet().ParquetWriter(partial, schema(), compression="zstd") as writer:
                    for table in _gathered(tables):
                        writer.write_table(table)
                partial.replace(self.table)
            finally:
                partial.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder; the lock ends with the process, however that ends.

        Raises:
            RunError: another process is at work there.
        """
        with self.disk_full_errors():
            self.path.mkdir(parents=True, exist_ok=True)
        taken = RunError(f"another process is at work in {self.path}; wait for it, or give another folder")
        with locked(self.path / _LOCK, taken):
            for leftover in self.path.rglob(".*.part"):
                leftover.unlink(missing_ok=True)
            yield

    @contextmanager
    def disk_full_errors(self) -> Iterator[None]:
        """Say what a full disk means for the run."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise RunError(
                f"no space is left on the disk of {self.path}; what is finished is kept and can be read. Free some "
                "space and start the same command again to go on"
            ) from error

    def _write_json(self, name: str, value: Any) -> None:
        self.commit({name: json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True).encode()})

    def _read_json(self, name: str) -> Any:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(f"{self.path} is no run: it has no {name}; make one with pellucid evaluate") from error
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}); start anew in another folder") from error


def _tag_of(path: Path) -> str:
    """What a Parquet file says that it depends on; empty if there is no such file or it is damaged."""
    try:
        tags = parquet().read_metadata(path).metadata or {}
    except (arrow().ArrowInvalid, OSError):
        return ""
    found: bytes = tags.get(TAG.encode(), b"")
    return found.decode()


def _gathered(tables: Iterator[pa.Table], rows: int = 10_000) -> Iterator[pa.Table]:
    """Small tables joined to ones of at least so many rows, so that the file has few row groups."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table.replace_schema_metadata(None))
        if sum(map(len, waiting)) >= rows:
            yield arrow().concat_tables(waiting)
            waiting = []
    if waiting:
        yield arrow().concat_tables(waiting)
