"""The folder of a long computation: one plan, one process at a time, and files that are whole or not there.

A run is resumed by starting the same command again. The folder refuses a plan with other options and names what
differs, so that the numbers of two computations never mix.
"""

import errno
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.errors import PellucidError
from pellucid.storage.files import is_leftover, leftovers, write_atomically
from pellucid.storage.json_files import decode_json, encode_json
from pellucid.storage.locks import hold_lock, is_lock_file
from pellucid.storage.record_reader import RecordError

LOCK = ".lock"
_SHOWN = 6  # differences in a message
_LONGEST = 60  # of a value in a message


class RunFolderError(PellucidError):
    """A folder that holds something else, another run or a damaged one, is in use, or cannot be written to."""


@dataclass(frozen=True)
class Difference:
    """One entry in which two plans differ.

    Attributes:
        name: dotted, such as "options.seed" or "models.0.fingerprint".
        stored: the value in the folder; None if it is absent.
        current: the value now; None if it is absent.
    """

    name: str
    stored: Any
    current: Any

    def __str__(self) -> str:
        return f"{self.name}: {_shorten(self.stored)} there, {_shorten(self.current)} now"


class RunFolder:
    """A folder with the plan of a run and its files.

    Args:
        path: the folder; it is created by `locked`.
        kind: what is computed, such as "pellucid run"; stands in the plan's file.
        version: of the format of the folder.
        plan_file: name of the file that holds the plan.
        noun: what messages call a folder of this kind.
        error: what is raised.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as path:
    ...     folder = RunFolder(path, kind="squares", version=1)
    ...     with folder.locked():
    ...         folder.bind_plan({"seed": 0})
    ...         folder.bind_plan({"seed": 1})
    Traceback (most recent call last):
    pellucid.storage.run_folder.RunFolderError: ... created with different options (seed: 0 there, 1 now)...
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kind: str,
        version: int,
        plan_file: str = "plan.json",
        noun: str = "run",
        error: type[RunFolderError] = RunFolderError,
    ) -> None:
        self.path = Path(path)
        self.kind = kind
        self.version = version
        self.plan_file = plan_file
        self.noun = noun
        self.error = error

    @property
    def is_bound(self) -> bool:
        """Whether the folder has a plan."""
        return (self.path / self.plan_file).exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder; the lock ends with the process, however that ends.

        The folder is created, and what an earlier process left half written is removed. Nothing is touched in a folder
        that is no run of this kind.

        Raises:
            RunFolderError: another process is at work there, or the folder is full of something else.
        """
        with self.disk_full_errors():
            self.path.mkdir(parents=True, exist_ok=True)
        if self.is_bound:
            self.read_plan()  # refuses that of something else
        elif any(file.name != LOCK and not is_leftover(file.name) for file in self.path.iterdir()):
            raise self.error(
                f"{self.path} is not empty and not a {self.noun}; give a new folder, or that of a {self.noun} to resume"
            )
        if not is_lock_file(self.path / LOCK):
            raise self.error(f"{self.path / LOCK} is not the lock of a {self.noun}; move it, or give another folder")
        taken = self.error(f"another process is at work in {self.path}; wait for it, or give another folder")
        with hold_lock(self.path / LOCK, taken):
            for leftover in leftovers(self.path):
                leftover.unlink(missing_ok=True)
            yield

    def bind_plan(self, plan: Mapping[str, Any], *, ignored: Collection[str] = ()) -> None:
        """Give the folder its plan, or check that it has the same one.

        Args:
            plan: all that the results depend on, as JSON values.
            ignored: entries that may differ from those stored, which stay.

        Raises:
            RunFolderError: the folder has another plan; the message names the differences.
        """
        if not self.is_bound:
            self.write_plan(plan)
        elif differences := find_differences(self.read_plan(), plan, ignored=ignored):
            self.refuse(differences)

    def refuse(self, differences: Sequence[Difference]) -> None:
        """Refuse to work here, as the plan of the folder is another.

        Raises:
            RunFolderError: always; the message names the first few differences.
        """
        shown = [str(difference) for difference in differences[:_SHOWN]]
        rest = len(differences) - len(shown)
        raise self.error(
            f"{self.path} was created with different options ({'; '.join(shown)}{f'; {rest} more' if rest else ''}). "
            "Give the same options to resume it, or another folder"
        )

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Write the plan, whatever was there before."""
        self.write_json(self.plan_file, {"format": self.kind, "version": self.version, **plan})

    def read_plan(self) -> dict[str, Any]:
        """The plan as JSON values.

        Raises:
            RunFolderError: there is none, it is damaged, or of another kind or version.
        """
        record = self.read_json(self.plan_file)
        if not isinstance(record, dict) or record.get("format") != self.kind:
            raise self.error(f"{self.path / self.plan_file} is not the plan of a {self.noun}; give another folder")
        if record.get("version") != self.version:
            raise self.error(
                f"{self.path} is a {self.noun} of version {record.get('version')}; this pellucid reads {self.version}"
            )
        return {name: value for name, value in record.items() if name not in ("format", "version")}

    def commit(self, files: Mapping[str, bytes]) -> None:
        """Write files in their order, each whole or not at all.

        Args:
            files: name within the folder -> content; the last one is what shows that all of them are there.

        Raises:
            RunFolderError: no space is left on the disk.
        """
        for name, content in files.items():
            with self.disk_full_errors():
                write_atomically(self.path / name, content)

    def write_json(self, name: str, value: object) -> None:
        """Write JSON values, whole or not at all, in a form that does not depend on the order of entries."""
        self.commit({name: encode_json(value, sort_keys=True)})

    def read_json(self, name: str) -> Any:
        """Read JSON values.

        Raises:
            RunFolderError: the file is missing or damaged.
        """
        path = self.path / name
        try:
            return decode_json(path.read_bytes(), path)
        except FileNotFoundError as error:
            raise self.error(f"{self.path} is not a {self.noun}: it has no {name}") from error
        except RecordError as error:
            raise self.error(f"{error}: start again in another folder") from error

    @contextmanager
    def disk_full_errors(self) -> Iterator[None]:
        """Say what a full disk, or a folder that cannot be written to, means for the run.

        Raises:
            RunFolderError: no space is left, the quota is used up, or writing is not allowed.
        """
        try:
            yield
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                place = error.filename or self.path
                raise self.error(
                    f"{place} cannot be written or read ({error.strerror}); what is finished is kept. Change the "
                    f"permissions, or give another folder than {self.path}"
                ) from error
            if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
                raise
            raise self.error(
                f"no space is left on the disk of {self.path}; what is finished is kept and can be read. Free some "
                "space and start the same command again to resume"
            ) from error


def find_differences(stored: Any, current: Any, *, ignored: Collection[str] = ()) -> list[Difference]:
    """Where two JSON values differ: objects and lists of objects entry by entry, all else as a whole.

    Args:
        stored: a JSON value; tuples count as lists.
        current: the JSON value to compare with it.
        ignored: dotted names of entries that may differ.

    >>> [str(difference) for difference in find_differences({"seed": 0, "layers": ["a"]}, {"seed": 1, "layers": ["a"]})]
    ['seed: 0 there, 1 now']
    """
    before, now = (dict(_leaves(json.loads(json.dumps(value)), "")) for value in (stored, current))
    return [
        Difference(name, before.get(name), now.get(name))
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name) and name not in ignored
    ]


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every entry of a record that is not itself an object or a list of objects."""
    if isinstance(value, dict):
        entries: list[tuple[str | int, Any]] = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        entries = list(enumerate(value))
    else:
        yield name, value
        return
    for key, item in entries:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def _shorten(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
