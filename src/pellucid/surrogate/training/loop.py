"""The loop of a training: steps, reports, checkpoints, and the way back when it goes astray."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from pellucid.storage import from_record, to_record
from pellucid.surrogate.training.checkpoint import TrainingFolder
from pellucid.surrogate.training.distributed import is_main_process, wait_for_all, world_size
from pellucid.surrogate.training.divergence import DivergedError, DivergenceMonitor
from pellucid.surrogate.training.trainer import Trainer
from pellucid.surrogate.training.training_progress import (
    LossMeter,
    ProgressCallback,
    TrainingProgress,
    write_preview,
)

PREVIEW = "preview.png"
MOST_ROLLBACKS = 3
COLLAPSED = 0.02
"""A direction of the latents with less variance than this is dead."""


def run(trainer: Trainer, folder: TrainingFolder, keep: Callable[[], None], tell: ProgressCallback) -> None:
    """Train to the end, from the last checkpoint if there is one.

    Ctrl-C ends it after the step in hand, which is kept; a second Ctrl-C ends it at once.

    Args:
        trainer: at its first step.
        folder: of the run.
        keep: writes the twin as it is.
        tell: is told of the progress.

    Raises:
        DivergedError: it went astray again after `MOST_ROLLBACKS` roll-backs.
        KeyboardInterrupt: on Ctrl-C.
    """
    options = trainer.options
    watch = _resumed(trainer, folder, keep, tell)
    meter = LossMeter(options.batch)
    with _interrupts_held() as interrupts:
        while trainer.steps < options.steps:
            losses = trainer.step()
            trouble = watch.trouble(losses)
            if trouble is not None:
                watch = _rolled_back(trainer, folder, trouble, tell)
                continue
            meter.note(losses)
            if _due(trainer, options.log_every):
                _report(meter.report(trainer.steps, options.steps), folder, tell)
            stopping = bool(interrupts)  # asked once: what stops has been saved
            if stopping or _due(trainer, options.checkpoint_every):
                _save(trainer, folder, watch, keep, tell)
            if _due(trainer, options.preview_every) and is_main_process():
                write_preview(folder.path / PREVIEW, trainer.mean.network, trainer.data)
            if stopping:
                break


@contextmanager
def _interrupts_held() -> Iterator[list[int]]:
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


def _due(trainer: Trainer, every: int) -> bool:
    return trainer.steps % every == 0 or trainer.steps == trainer.options.steps


def _report(progress: TrainingProgress, folder: TrainingFolder, tell: ProgressCallback) -> None:
    if is_main_process():
        folder.log({"step": progress.step, "speed": round(progress.speed, 2), **progress.losses})
    tell(progress)


def _say(trainer: Trainer, line: str, tell: ProgressCallback) -> None:
    tell(TrainingProgress(trainer.steps, trainer.options.steps, {}, 0.0, line))


def _resumed(
    trainer: Trainer, folder: TrainingFolder, keep: Callable[[], None], tell: ProgressCallback
) -> DivergenceMonitor:
    last = folder.last()
    if last is None:
        watch = DivergenceMonitor()
        _save(trainer, folder, watch, keep, tell)
        return watch
    watch = _taken_up(trainer, *last)
    if is_main_process():
        folder.forget_after(trainer.steps)
    _say(trainer, f"going on after step {trainer.steps} of {trainer.options.steps}", tell)
    return watch


def _taken_up(trainer: Trainer, notes: dict[str, Any], tensors: dict[str, Tensor]) -> DivergenceMonitor:
    trainer.load_state(tensors)
    trainer.steps, trainer.rollbacks = int(notes["steps"]), int(notes["rollbacks"])
    return from_record(DivergenceMonitor, notes["watch"], source="watch")


def _rolled_back(trainer: Trainer, folder: TrainingFolder, trouble: str, tell: ProgressCallback) -> DivergenceMonitor:
    """Back to the last checkpoint, with other random numbers and a slower discriminator."""
    astray, times = trainer.steps, trainer.rollbacks + 1
    line = f"step {astray} went astray: {trouble}"
    last = folder.last()
    if times > MOST_ROLLBACKS or last is None:
        raise DivergedError(
            f"{line}; {MOST_ROLLBACKS} roll-backs did not help: lower generator_rate or discriminator_rate, or raise r1"
        )
    watch = _taken_up(trainer, *last)
    trainer.rollbacks = times
    trainer.reseed(times)
    if is_main_process():
        folder.forget_after(trainer.steps)
        folder.log({"step": trainer.steps, "rolled_back": line})
    _say(trainer, f"{line}; back to step {trainer.steps}, roll-back {times}", tell)
    return watch


def _save(
    trainer: Trainer, folder: TrainingFolder, watch: DivergenceMonitor, keep: Callable[[], None], tell: ProgressCallback
) -> None:
    state = trainer.state()  # every process takes part: each has its own random numbers
    if is_main_process():
        folder.save(trainer.steps, state, {"rollbacks": trainer.rollbacks, "watch": to_record(watch)})
        keep()
        dead = _dead_latents(trainer)
        if dead and trainer.steps:
            _say(trainer, f"{dead} of the latents' directions have a variance below {COLLAPSED}", tell)
    wait_for_all()


@torch.no_grad()
def _dead_latents(trainer: Trainer) -> int:
    data, twin = trainer.data, trainer.mean.network
    latents = twin.latent(data.phi[: min(data.given, 2000)].to(trainer.device))
    return int((torch.linalg.eigvalsh(latents.T.cov().view(latents.shape[1], -1).cpu()) < COLLAPSED).sum())
