"""Checkpoints: a killed training goes on bit for bit, and no other training is taken for it."""

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.surrogate.support import Bars, bars, classifier_of, small_cnn
from torch import Tensor, nn

from pellucid.errors import ModelError
from pellucid.surrogate import CheckpointError, DivergedError, SurrogateExplainer, TrainingOptions, train
from pellucid.surrogate.model import Discriminator
from pellucid.surrogate.surrogate import Surrogate
from pellucid.surrogate.training.checkpoint import TrainingFolder
from pellucid.surrogate.training.loop import PATIENCE, DivergenceMonitor
from pellucid.surrogate.training.step import GeneratedImages, StepLosses
from pellucid.surrogate.training.trainer import Trainer
from pellucid.surrogate.training.training_batches import Batch
from pellucid.surrogate.training.training_progress import TrainingProgress
from pellucid.surrogate.training_options import PRESETS

TINY = PRESETS["ci-16"].replace(
    steps=8,
    warmup_steps=2,
    batch_size=8,
    latent_dim=3,
    nuisance_dim=3,
    channel_base=64,
    max_channels=8,
    encoder_channel_base=64,
    encoder_max_channels=8,
    use_discriminator=True,
    predictor_steps=10,
    checkpoint_every=4,
    preview_every=4,
    log_every=1,
    lazy_reg_interval=3,
)


class KilledError(Exception):
    pass


def run(
    out: Path,
    options: TrainingOptions = TINY,
    network: nn.Module | None = None,
    data: Bars | None = None,
    killed_at: int | None = None,
    says: list[str] | None = None,
) -> SurrogateExplainer:
    data = bars(64, 0, 0.5) if data is None else data

    def report(progress: TrainingProgress) -> None:
        if says is not None:
            says.append(str(progress))
        if progress.step == killed_at and not progress.note:
            raise KilledError

    return train(classifier_of(network or small_cnn()), data.images, data.context, options, out, on_progress=report)


def state_of(out: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    notes, tensors = TrainingFolder(out).last()
    return {name: value for name, value in notes.items() if name not in ("file", "sha256")}, tensors


def test_two_trainings_never_share_a_folder(tmp_path: Path) -> None:
    with TrainingFolder(tmp_path).locked(), pytest.raises(CheckpointError, match="another process is at work in"):
        run(tmp_path)
    assert run(tmp_path).surrogate.finished


@pytest.mark.parametrize("killed_at", [1, 5, 7])
def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path, killed_at: int) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "killed", killed_at=killed_at)
    resumed = run(tmp_path / "killed")
    (notes, tensors), (wanted_notes, expected) = state_of(tmp_path / "killed"), state_of(tmp_path / "whole")
    assert notes == wanted_notes
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert any(name.startswith("optimizer.discriminator") for name in expected)
    images = bars(5, 1, 0.5).images
    assert torch.equal(resumed.reconstruct(images), whole.reconstruct(images))


def finished_files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("surrogate.safetensors", "surrogate.json")}


def test_a_training_killed_between_its_last_checkpoint_and_the_surrogate_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole")
    original = Surrogate.save

    def save(self: Surrogate, folder: Path) -> None:
        if self.steps == TINY.steps:
            raise KilledError
        original(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Surrogate, "save", save)
        with pytest.raises(KilledError):
            run(tmp_path / "killed")
    assert state_of(tmp_path / "killed")[0]["steps"] == TINY.steps
    assert finished_files(tmp_path / "killed") != finished_files(tmp_path / "whole")
    run(tmp_path / "killed")
    assert finished_files(tmp_path / "killed") == finished_files(tmp_path / "whole")


@pytest.mark.parametrize(
    "name", ["surrogate.safetensors", "surrogate.json", "auxiliary_models.safetensors", "quality.json"]
)
@pytest.mark.parametrize("missing", [True, False])
def test_a_damaged_file_of_a_finished_training_is_made_again(tmp_path: Path, name: str, missing: bool) -> None:
    run(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.suffix in (".safetensors", ".json")}
    if missing:
        (tmp_path / name).unlink()
    else:
        changed = bytearray(before[name])
        changed[len(changed) // 2] ^= 1
        (tmp_path / name).write_bytes(changed)
    assert run(tmp_path).surrogate.finished
    assert {file: (tmp_path / file).read_bytes() for file in before} == before


@pytest.fixture
def usual_interrupts() -> Iterator[None]:
    """Python's own handler of Ctrl-C, whatever the test runner has set."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(monkeypatch: pytest.MonkeyPatch, at_step: int, times: int = 1) -> None:
    """Press Ctrl-C when the step's surrogate is a step ahead of its discriminator."""
    original = StepLosses.discriminator_losses

    def discriminator(
        self: StepLosses, adversary: Discriminator, batch: Batch, fakes: GeneratedImages, step: int
    ) -> dict[str, Tensor]:
        if step == at_step - 1:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return original(self, adversary, batch, fakes, step)

    monkeypatch.setattr(StepLosses, "discriminator_losses", discriminator)


@pytest.mark.usefixtures("usual_interrupts")
def test_ctrl_c_in_the_middle_of_a_step_keeps_the_whole_step_and_the_training_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted(patch, at_step=6)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped")
    assert state_of(tmp_path / "stopped")[0]["steps"] == 6
    says = []
    run(tmp_path / "stopped", says=says)
    assert "resuming after step 6 of 8" in says
    (notes, tensors), (wanted_notes, expected) = state_of(tmp_path / "stopped"), state_of(tmp_path / "whole")
    assert notes == wanted_notes
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("usual_interrupts")
def test_a_second_ctrl_c_ends_the_training_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, at_step=6, times=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert state_of(tmp_path)[0]["steps"] == 4


@pytest.mark.usefixtures("usual_interrupts")
def test_ctrl_c_while_the_last_step_is_written_is_not_lost_and_works_as_ever_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = TrainingFolder.save

    def press(self: TrainingFolder, steps: int, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        if steps == TINY.steps:
            signal.raise_signal(signal.SIGINT)
        save(self, steps, tensors, notes)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingFolder, "save", press)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(tmp_path).surrogate.finished


def test_a_handler_of_the_programs_own_is_left_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pressed = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        interrupted(monkeypatch, at_step=6)
        assert run(tmp_path).surrogate.finished
        assert pressed == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_log_of_a_resumed_training_has_every_step_once(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, killed_at=6)
    run(tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))


def test_a_finished_training_is_not_made_again(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "checkpoint.json").stat().st_mtime_ns
    assert run(tmp_path).surrogate.finished
    assert (tmp_path / "checkpoint.json").stat().st_mtime_ns == before


def test_only_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    run(tmp_path, TINY.replace(checkpoint_every=1))
    names = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert names == ["checkpoint-0000007.safetensors", "checkpoint-0000008.safetensors"]
    assert not list(tmp_path.glob(".*.part"))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def with_a_flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [cut_short, with_a_flipped_bit, Path.unlink])
def test_of_a_damaged_checkpoint_the_one_before_it_is_used_and_ends_bit_for_bit_alike(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    run(tmp_path)
    (_, expected), last = state_of(tmp_path), tmp_path / "checkpoint-0000008.safetensors"
    damage(last)
    says = []
    assert run(tmp_path, says=says).surrogate.finished
    assert any("checkpoint-0000008.safetensors" in line and "the checkpoint before it is used" in line for line in says)
    assert "resuming after step 4 of 8" in says
    tensors = state_of(tmp_path)[1]
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    cut_short(last)
    cut_short(tmp_path / "checkpoint-0000004.safetensors")
    with pytest.raises(CheckpointError, match=r"no state to resume from is whole.*0000008.*0000004"):
        run(tmp_path)


def test_other_options_are_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(CheckpointError, match=r"options\.steps: 8 there, 9 now"):
        run(tmp_path, TINY.replace(steps=9))
    with pytest.raises(CheckpointError, match=r"options\.loss_weights\.pixel"):
        run(tmp_path, TINY.replace(pixel=1.0))


def test_another_classifier_is_refused_by_its_weights(tmp_path: Path) -> None:
    run(tmp_path)
    other = small_cnn()
    nn.init.zeros_(other[-1].bias)
    with pytest.raises(CheckpointError, match="another classifier"):
        run(tmp_path, network=other)


def test_other_images_are_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(CheckpointError, match="data"):
        run(tmp_path, data=bars(64, 1, 0.5))


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(CheckpointError, match="not empty"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["run.json", "checkpoint.json"])
def test_a_damaged_record_is_named(tmp_path: Path, name: str) -> None:
    run(tmp_path)
    (tmp_path / name).write_text('{"steps": 4')
    with pytest.raises(CheckpointError, match=name):
        run(tmp_path)


def poisoned(monkeypatch: pytest.MonkeyPatch, at_step: int, times: int) -> None:
    """Make a step's losses NaN, so many times."""
    original, left = Trainer.step, [times]

    def step(self: Trainer) -> dict[str, float]:
        losses = original(self)
        if self.steps == at_step and left[0]:
            left[0] -= 1
            losses["pixel"] = float("nan")
        return losses

    monkeypatch.setattr(Trainer, "step", step)


def test_a_training_that_diverges_is_rolled_back_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, at_step=6, times=1)
    says = []
    assert run(tmp_path, says=says).surrogate.finished
    (line,) = [line for line in says if "diverged" in line]
    assert "step 6 diverged: pixel is nan; back to step 4" in line
    assert "step 6 diverged" in (tmp_path / "log.jsonl").read_text()
    assert state_of(tmp_path)[0]["rollbacks"] == 1


def test_a_training_that_keeps_diverging_ends_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, at_step=6, times=99)
    with pytest.raises(DivergedError, match="roll-backs did not help"):
        run(tmp_path)


def healthy(**changes: float) -> dict[str, float]:
    return {"pixel": 0.5, "real": 0.7, "fake": 0.7, **changes}


@pytest.mark.parametrize("name", ["pixel", "real", "surrogate_gradient"])
def test_nan_and_infinity_are_noticed_at_once(name: str) -> None:
    assert name in DivergenceMonitor().check(healthy(**{name: float("inf")}))


def test_a_spike_of_the_discriminators_loss_is_noticed() -> None:
    monitor = DivergenceMonitor()
    assert all(monitor.check(healthy()) is None for _ in range(100))
    assert monitor.check(healthy(fake=200.0)) == "the discriminator's loss rose to 11.4"


def test_a_discriminator_that_has_won_for_long_is_noticed() -> None:
    monitor = DivergenceMonitor()
    verdicts = [monitor.check(healthy(real=0.001, fake=0.001)) for _ in range(PATIENCE)]
    assert verdicts[:-1] == [None] * (PATIENCE - 1)
    assert "has won" in verdicts[-1]


def test_images_that_are_lost_again_are_noticed() -> None:
    monitor = DivergenceMonitor()
    verdicts = [monitor.check(healthy(pixel=loss)) for loss in [0.4] * 50 + [1.6] * 50]
    assert verdicts[:50] == [None] * 50
    assert "pixel loss rose from 0.40" in next(filter(None, verdicts))


class Rooted(nn.Module):
    """Sound on real images, which reach 1; NaN, or without a gradient, on all that is darker: its own fault."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.answer = small_cnn(), answer

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits + self.answer(images.amax((1, 2, 3)) - 0.9)[:, None] * 0.01


@pytest.mark.parametrize(
    ("answer", "problem"),
    [(torch.sqrt, "logits"), (lambda excess: torch.where(excess > 0, excess.sqrt(), 0.0), "gradients")],
)
def test_a_nan_of_the_classifiers_own_is_named_so(
    tmp_path: Path, answer: Callable[[Tensor], Tensor], problem: str
) -> None:
    data = bars(64, 0, 0.5)
    images = data.images.clone()
    images[:, 0, 0, 0] = 1.0
    with pytest.raises(ModelError, match=rf"the classifier .* itself gives NaN or infinite {problem}"):
        run(tmp_path, network=Rooted(answer), data=replace(data, images=images))


def test_a_full_disk_and_a_folder_that_may_not_be_written_are_clear_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, words in ((errno.ENOSPC, "no space is left"), (errno.EROFS, "cannot be written")):

        def refuse(path: Path, tensors: Mapping[str, Tensor], number: int = number) -> None:
            raise OSError(number, os.strerror(number), str(path))

        with monkeypatch.context() as patch:
            patch.setattr("pellucid.surrogate.training.checkpoint.write_tensors", refuse)
            with pytest.raises(CheckpointError, match=words):
                run(tmp_path / str(number))
