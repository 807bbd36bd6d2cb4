"""Checkpoints of a training: safetensors and JSON, written so that a kill at any moment loses only steps."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.storage import RunFolder, RunFolderError, read_tensors, write_atomically, write_tensors

LAST, LOG = "checkpoint.json", "log.jsonl"


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
        """Write a state, then make it the last one; of older ones the last but one is kept.

        Args:
            steps: Number of steps made.
            tensors: The state, by name.
            notes: What else is needed to resume, as JSON has it.
        """
        name = f"checkpoint-{steps:07d}.safetensors"
        write_tensors(self.path / name, tensors)
        self.write_json(LAST, {"steps": steps, "file": name, **notes})
        for old in sorted(self.path.glob("checkpoint-*.safetensors"))[:-2]:
            old.unlink()

    def last(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Notes and tensors of the last state; None if there is none yet."""
        if not (self.path / LAST).exists():
            return None
        notes = self.read_json(LAST)
        return notes, read_tensors(self.path / str(notes["file"]))

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


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):  # half a line, of a killed run
        return 2**62
