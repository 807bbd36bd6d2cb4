"""Checkpoints of a training: safetensors and JSON, written so that a kill at any moment loses only steps."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.storage import locked, write_atomically
from pellucid.storage.tensors import read_tensors, write_tensors

FORMAT, VERSION = "pellucid surrogate run", 1
RUN, LAST, LOG, LOCK = "run.json", "checkpoint.json", "log.jsonl", ".lock"


class CheckpointError(PellucidError):
    """A folder that holds another training, another classifier's, or a damaged one."""


class RunFolder:
    """The folder of a training.

    `run.json` says what is trained; `checkpoint.json` names the last complete state, and is replaced only once that is
    written; `log.jsonl` has a line of losses for every so many steps.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings out of the folder; it is made.

        Raises:
            CheckpointError: another process trains there, or it is full of something else.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if {file.name for file in self.path.iterdir()} - {LOCK} and not (self.path / RUN).exists():
            raise CheckpointError(f"{self.path} is not empty and no run of a surrogate; give a new folder")
        taken = CheckpointError(f"another process trains in {self.path}; wait for it, or give another folder")
        with locked(self.path / LOCK, taken):
            yield

    def bind_plan(self, identity: Mapping[str, Any]) -> None:
        """Make this the folder of a training, or check that it is.

        Args:
            identity: what must be the same for the training to go on, as JSON has it.

        Raises:
            CheckpointError: the folder holds something else; the message names the differences.
        """
        record = json.loads(json.dumps({"format": FORMAT, "version": VERSION, **identity}))
        if not (self.path / RUN).exists():
            self._write(RUN, record)
            return
        found = self._read(RUN)
        if found.get("classifier") != record["classifier"]:
            raise CheckpointError(
                f"{self.path} is the surrogate of another classifier (weights {_short(found)}, now {_short(record)}); "
                "give another folder"
            )
        differences = [f"{name}: {a} there, {b} now" for name, a, b in _differences(found, record)]
        if differences:
            raise CheckpointError(
                f"{self.path} was begun otherwise: {'; '.join(differences[:6])}. Give the same options and images to "
                "go on with it, or another folder"
            )

    def save(self, steps: int, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Write the state after so many steps, then make it the last one; of older ones the last but one is kept."""
        name = f"checkpoint-{steps:07d}.safetensors"
        write_tensors(self.path / name, tensors)
        self._write(LAST, {"steps": steps, "file": name, **notes})
        for old in sorted(self.path.glob("checkpoint-*.safetensors"))[:-2]:
            old.unlink()

    def last(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Notes and tensors of the last state; None if there is none yet."""
        if not (self.path / LAST).exists():
            return None
        notes = self._read(LAST)
        return notes, read_tensors(self.path / str(notes["file"]))

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, steps: int) -> None:
        """Drop the log's lines of steps after so many: they will be made again."""
        path = self.path / LOG
        if path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= steps]
            write_atomically(path, "".join(f"{line}\n" for line in lines).encode())

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        write_atomically(self.path / name, json.dumps(record, indent=1, sort_keys=True).encode())

    def _read(self, name: str) -> dict[str, Any]:
        try:
            record = json.loads((self.path / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{self.path / name} is damaged ({error}); start anew in another folder") from error
        return dict(record)


def digest_of(names: Sequence[str], tensors: Sequence[Tensor]) -> str:
    """SHA-256 of names and of the bytes of tensors: which data a training is of."""
    digest = hashlib.sha256("\n".join(names).encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):  # half a line, of a killed run
        return 2**62


def _short(record: Mapping[str, Any]) -> str:
    return str(record.get("classifier"))[:12]


def _differences(found: Any, wanted: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Where two JSON values differ: dotted name and both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        parts = (_differences(found.get(key), wanted.get(key), f"{name}.{key}".strip(".")) for key in keys)
        return [difference for part in parts for difference in part]
    return [] if found == wanted else [(name, found, wanted)]
