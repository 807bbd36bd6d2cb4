"""What a training says while it runs: losses, throughput, a strip of images."""

import io
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pellucid.storage import write_atomically
from pellucid.surrogate.model.codes import Codes
from pellucid.surrogate.model.surrogate_networks import SurrogateNetworks
from pellucid.surrogate.training.preparation import TrainingData

ProgressCallback = Callable[["TrainingProgress"], None]


@dataclass(frozen=True)
class TrainingProgress:
    """A moment of a training.

    Attributes:
        step, steps: how far it is, and how far it will go.
        losses: weighted terms, averaged since the last report.
        speed: training images per second since the last report.
        note: what else happened, in words.
    """

    step: int
    steps: int
    losses: Mapping[str, float]
    speed: float
    note: str = ""

    def __str__(self) -> str:
        shown = "  ".join(f"{name} {value:.3g}" for name, value in self.losses.items() if "gradient" not in name)
        return self.note or f"step {self.step} of {self.steps}, {self.speed:.0f} images/s: {shown}"


def print_progress(progress: TrainingProgress) -> None:
    """Print a line to the standard error stream."""
    print(progress, file=sys.stderr, flush=True)


class LossMeter:
    """Averages losses and counts images between two reports."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self._steps, self._since = 0, time.perf_counter()

    def note(self, losses: Mapping[str, float]) -> None:
        """Take in the losses of a step."""
        self._steps += 1
        for name, value in losses.items():
            self._sums.setdefault(name, []).append(value)

    def report(self, step: int, steps: int) -> TrainingProgress:
        """What happened since the last report."""
        means = {name: sum(values) / len(values) for name, values in self._sums.items()}
        speed = self._steps * self._batch / max(1e-9, time.perf_counter() - self._since)
        self._clear()
        return TrainingProgress(step, steps, means, speed)


@torch.no_grad()
def write_preview(path: Path, twin: SurrogateNetworks, data: TrainingData, columns: int = 16) -> None:
    """Write a strip: given images, the same redrawn, then each context set low and high, then another's nuisance."""
    device = next(twin.parameters()).device
    rows = torch.linspace(0, data.given - 1, columns).long()
    images, codes = data.images[rows].to(device), data.codes[rows].to(device)
    known = Codes(codes, twin.latent(data.phi[rows].to(device)), twin.nuisance(images))
    strips = [images, twin.generate(known)]
    for column in range(codes.shape[1]):
        for bound in data.span[:, column].tolist():
            changed = codes.clone()
            changed[:, column] = bound
            strips.append(twin.generate(Codes(changed, known.latent, known.nuisance)))
    strips.append(twin.generate(Codes(codes, known.latent, known.nuisance.roll(1, 0))))
    write_atomically(path, _png(torch.stack(strips)))


def _png(strips: Tensor, zoom: int = 2) -> bytes:
    """Images (rows, columns, C, H, W) in display space as one PNG."""
    from PIL import Image

    grid = strips.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (rows * H, columns * W, C)
    gray = ((grid.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    if gray.shape[2] not in (1, 3):
        gray = gray[:, :, :1]
    image = Image.fromarray(gray.squeeze(2).numpy())
    buffer = io.BytesIO()
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()
