"""Checkpoints of a training: safetensors and JSON, written so that a kill at any moment loses only steps."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.storage import RunFolder, RunFolderError, read_tensors, write_atomically, write_tensors

LAST, LOG = "checkpoint.json", "log.jsonl"
PREVIOUS = "previous"
"""Entry of `checkpoint.json` with the record of the state before."""


class CheckpointError(RunFolderError):
    """A folder that holds another training, another classifier's, or a damaged one."""


class TrainingFolder(RunFolder):
    """The folder of a training.

    `run.json` says what is trained; `checkpoint.json` names the last complete state, and is replaced only once that is
    written; `log.jsonl` has a line of losses for every so many steps.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(
            path,
            kind="pellucid surrogate run",
            version=1,
            plan_file="run.json",
            noun="training of a surrogate",
            error=CheckpointError,
        )
        self._last_good: dict[str, Any] | None = None  # the record of the state that was written or read last

    def bind_plan(self, plan: Mapping[str, Any], *, ignored: Collection[str] = ()) -> None:
        """Make this the folder of a training, or check that it is.

        Args:
            plan: what must be the same for the training to resume, as JSON has it; "classifier" is the digest of its
                weights.
            ignored: entries that may differ.

        Raises:
            CheckpointError: the folder holds something else; the message names the differences.
        """
        if self.is_bound and (stored := self.read_plan().get("classifier")) != plan["classifier"]:
            raise CheckpointError(
                f"{self.path} is the surrogate of another classifier (weights {str(stored)[:12]}, now "
                f"{str(plan['classifier'])[:12]}); give another folder"
            )
        super().bind_plan(plan, ignored=ignored)

    def save(self, steps: int, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Write a state, then make it the last one; of older ones the last but one is kept, for `last`.

        Args:
            steps: Number of steps made.
            tensors: The state, by name.
            notes: What else is needed to resume, as JSON has it.
        """
        name = f"checkpoint-{steps:07d}.safetensors"
        write_tensors(self.path / name, tensors)
        record = {"steps": steps, "file": name, "sha256": _digest_of_file(self.path / name), **notes}
        self.write_json(LAST, {**record, PREVIOUS: self._last_good})
        kept = {name, self._last_good["file"] if self._last_good else name}
        for old in self.path.glob("checkpoint-*.safetensors"):
            if old.name not in kept:
                old.unlink()
        self._last_good = record

    def last(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Notes and tensors of the last state that is whole; None if there is none yet.

        Where the last file is damaged, the notes of the state before it say so under "damaged".

        Raises:
            CheckpointError: the files of both states are damaged or missing.
        """
        if not (self.path / LAST).exists():
            return None
        record = self.read_json(LAST)
        problems: list[str] = []
        for state in (record, record.get(PREVIOUS)):
            if state is None:
                continue
            try:
                tensors = self._read_state(state)
            except PellucidError as error:
                problems.append(str(error))
                continue
            self._last_good = {name: value for name, value in state.items() if name != PREVIOUS}
            return self._last_good | ({"damaged": problems[0]} if problems else {}), tensors
        raise CheckpointError(f"no state to resume from is whole: {'; '.join(problems)}. Train in another folder")

    def _read_state(self, record: Mapping[str, Any]) -> dict[str, Tensor]:
        path = self.path / str(record["file"])
        if path.exists() and record.get("sha256") not in (None, _digest_of_file(path)):
            raise CheckpointError(f"{path} is damaged (it is not the file that was written)")
        return read_tensors(path)

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, steps: int) -> None:
        """Drop the lines of the log after a step: these steps will be made again."""
        path = self.path / LOG
        if path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= steps]
            write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def digest_of(names: Sequence[str], tensors: Sequence[Tensor]) -> str:
    """SHA-256 of names and of the bytes of tensors: which data a training is of.

    >>> digest_of(["a"], [torch.zeros(2)]) == digest_of(["a"], [torch.ones(2)])
    False
    """
    digest = hashlib.sha256("\n".join(names).encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):  # half a line, of a killed run
        return 2**62
