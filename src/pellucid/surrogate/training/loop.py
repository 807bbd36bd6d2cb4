"""The loop of a training: steps, reports, checkpoints, and the roll-back when it diverges."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.storage import from_record, to_record
from pellucid.surrogate.training.checkpoint import TrainingFolder
from pellucid.surrogate.training.distributed import is_main_process, wait_for_all, world_size
from pellucid.surrogate.training.trainer import Trainer
from pellucid.surrogate.training.training_progress import (
    LossMeter,
    ProgressCallback,
    TrainingProgress,
    write_preview,
)

PREVIEW = "preview.png"
MAX_ROLLBACKS = 3

DEAD_VARIANCE = 0.02
"""A direction of the latents with less variance than this is dead."""

SMOOTHING = 0.95
"""Of the running means that are monitored: about twenty steps."""

SPIKE = 5.0
"""A discriminator loss above this is no longer that of a game (at balance it is 2 ln 2 = 1.4)."""

COLLAPSE, PATIENCE = 0.02, 300
"""A discriminator loss below the first, for PATIENCE steps in a row, leaves the generator without gradients."""

WORSENING = 2.0
"""Reconstructions WORSENING times as far from the images as they have been are lost."""


class DivergedError(PellucidError):
    """A training diverged again after it was rolled back."""


@dataclass
class DivergenceMonitor:
    """Running means that show when a training diverges.

    Attributes:
        discriminator: Running mean of the discriminator's loss on real images and reconstructions; None at first.
        collapsed_steps: Steps in a row with next to no such loss.
        pixel: Running mean of the pixel loss; None at first.
        best_pixel: Least value of that mean so far.

    >>> DivergenceMonitor().check({"pixel": float("nan")})
    'pixel is nan'
    """

    discriminator: float | None = None
    collapsed_steps: int = 0
    pixel: float | None = None
    best_pixel: float | None = None

    def check(self, losses: Mapping[str, float]) -> str | None:
        """Add the losses and gradient norms of a step; what is wrong, in words, or None."""
        wild = [name for name, value in losses.items() if not isfinite(value)]
        if wild:
            return f"{wild[0]} is {losses[wild[0]]}"
        self.pixel = _smooth(self.pixel, losses["pixel"])
        self.best_pixel = min(self.pixel, self.best_pixel if self.best_pixel is not None else self.pixel)
        if "real" in losses:
            self.discriminator = _smooth(self.discriminator, losses["real"] + losses["fake"])
            self.collapsed_steps = self.collapsed_steps + 1 if self.discriminator < COLLAPSE else 0
        return self._verdict()

    def _verdict(self) -> str | None:
        if self.discriminator is not None and self.discriminator > SPIKE:
            return f"the discriminator's loss rose to {self.discriminator:.1f}"
        if self.collapsed_steps >= PATIENCE:
            return f"the discriminator's loss was below {COLLAPSE} for {PATIENCE} steps: it has won"
        if self.pixel is not None and self.best_pixel is not None and self.pixel > WORSENING * self.best_pixel + 0.1:
            return f"the pixel loss rose from {self.best_pixel:.2f} to {self.pixel:.2f}"
        return None


def _smooth(mean: float | None, value: float) -> float:
    return value if mean is None else SMOOTHING * mean + (1 - SMOOTHING) * value


def run_training(
    trainer: Trainer, folder: TrainingFolder, *, save_surrogate: Callable[[], None], on_progress: ProgressCallback
) -> None:
    """Train to the end, from the last checkpoint if there is one.

    Ctrl-C ends it after the current step, which is kept; a second Ctrl-C ends it at once.

    Args:
        trainer: At its first step.
        folder: Folder of the run.
        save_surrogate: Writes the surrogate as it is.
        on_progress: Called with the progress.

    Raises:
        DivergedError: It diverged again after `MAX_ROLLBACKS` roll-backs.
        KeyboardInterrupt: On Ctrl-C.
    """
    run = _Run(trainer, folder, save_surrogate, on_progress)
    options = trainer.options
    run.start_or_resume()
    meter = LossMeter(options.batch_size)
    with _deferred_interrupts() as interrupts:
        while trainer.steps < options.steps:
            losses = trainer.step()
            problem = run.monitor.check(losses)
            if problem is not None:
                run.roll_back(problem)
                continue
            meter.update(losses)
            if run.is_due(options.log_every):
                run.report(meter.report(trainer.steps, options.steps))
            stopping = bool(interrupts)  # read once: the run stops only where it has been saved
            if stopping or run.is_due(options.checkpoint_every):
                run.save()
            if run.is_due(options.preview_every) and is_main_process():
                write_preview(folder.path / PREVIEW, trainer.averaged_networks, trainer.data)
            if stopping:
                break


class _Run:
    """A training with its folder and who is notified of it; see `run_training`."""

    def __init__(
        self,
        trainer: Trainer,
        folder: TrainingFolder,
        save_surrogate: Callable[[], None],
        on_progress: ProgressCallback,
    ) -> None:
        self.trainer, self.folder = trainer, folder
        self.save_surrogate, self.on_progress = save_surrogate, on_progress
        self.monitor = DivergenceMonitor()

    def is_due(self, interval: int) -> bool:
        """Whether something that is done at every so many steps, and at the end, is to be done now."""
        return self.trainer.steps % interval == 0 or self.trainer.steps == self.trainer.options.steps

    def report(self, progress: TrainingProgress) -> None:
        """Log a report and pass it on."""
        if is_main_process():
            self.folder.log({"step": progress.step, "speed": round(progress.speed, 2), **progress.losses})
        self.on_progress(progress)

    def start_or_resume(self) -> None:
        """Save the start of a new training, or restore the last checkpoint."""
        last = self.folder.last()
        if last is None:
            self.save()
            return
        self._restore(*last)
        if is_main_process():
            self.folder.forget_after(self.trainer.steps)
            self.save_surrogate()  # a kill may have come between the checkpoint and it, or it was damaged since
        if "damaged" in last[0]:
            self._note(f"{last[0]['damaged']}: the checkpoint before it is used")
        self._note(f"resuming after step {self.trainer.steps} of {self.trainer.options.steps}")

    def roll_back(self, problem: str) -> None:
        """Return to the last checkpoint, with other random numbers and a slower discriminator."""
        step, rollbacks = self.trainer.steps, self.trainer.rollbacks + 1
        line = f"step {step} diverged: {problem}"
        last = self.folder.last()
        if rollbacks > MAX_ROLLBACKS or last is None:
            raise DivergedError(
                f"{line}; {MAX_ROLLBACKS} roll-backs did not help: lower generator_lr or discriminator_lr, or raise r1"
            )
        self._restore(*last)
        self.trainer.rollbacks = rollbacks
        self.trainer.reseed(rollbacks)
        if is_main_process():
            self.folder.forget_after(self.trainer.steps)
            self.folder.log({"step": self.trainer.steps, "rolled_back": line})
        self._note(f"{line}; back to step {self.trainer.steps}, roll-back {rollbacks}")

    def save(self) -> None:
        """Write a checkpoint and the surrogate."""
        state = self.trainer.state()  # every process takes part: each has its own random numbers
        if is_main_process():
            notes = {"rollbacks": self.trainer.rollbacks, "monitor": to_record(self.monitor)}
            self.folder.save(self.trainer.steps, state, notes)
            self.save_surrogate()
            dead = _count_dead_latents(self.trainer)
            if dead and self.trainer.steps:
                self._note(f"{dead} of the latents' directions have a variance below {DEAD_VARIANCE}")
        wait_for_all()

    def _restore(self, notes: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.trainer.load_state(tensors)
        self.trainer.steps, self.trainer.rollbacks = int(notes["steps"]), int(notes["rollbacks"])
        self.monitor = from_record(DivergenceMonitor, notes["monitor"], source="monitor")

    def _note(self, line: str) -> None:
        self.on_progress(TrainingProgress(self.trainer.steps, self.trainer.options.steps, {}, 0.0, line))


@contextmanager
def _deferred_interrupts() -> Iterator[list[int]]:
    """Note Ctrl-C and raise it at the end: in the middle of a step some networks are a step ahead of others.

    A second one is raised at once. Where another handler is set, or torchrun's other processes would have to stop at
    the same step, Ctrl-C is left as it is.
    """
    noted: list[int] = []
    usual = signal.getsignal(signal.SIGINT)
    elsewhere = threading.current_thread() is not threading.main_thread()  # where no handler can be set
    if elsewhere or usual is not signal.default_int_handler or world_size() > 1:
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, usual)
    if noted:
        raise KeyboardInterrupt


@torch.no_grad()
def _count_dead_latents(trainer: Trainer) -> int:
    data, networks = trainer.data, trainer.averaged_networks
    latents = networks.latent(data.phi[: min(data.num_images, 2000)].to(trainer.device))
    covariance = latents.T.cov().view(latents.shape[1], -1)
    return int((torch.linalg.eigvalsh(covariance.cpu()) < DEAD_VARIANCE).sum())
