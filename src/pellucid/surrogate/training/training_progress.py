"""What a training reports while it runs: losses, throughput, a preview of its images."""

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
from pellucid.surrogate.training.image_datasets import gather_images
from pellucid.surrogate.training.preparation import TrainingData

ProgressCallback = Callable[["TrainingProgress"], None]
"""Is called with the progress of a training, from time to time."""


@dataclass(frozen=True)
class TrainingProgress:
    """A moment of a training.

    Attributes:
        step: Number of steps made.
        steps: Number of steps in all.
        losses: Weighted terms, averaged since the last report.
        speed: Training images per second since the last report.
        note: What else happened, in words.

    >>> print(TrainingProgress(50, 100, {"pixel": 0.25}, 80.0))
    step 50 of 100, 80 images/s: pixel 0.25
    """

    step: int
    steps: int
    losses: Mapping[str, float]
    speed: float
    note: str = ""

    def __str__(self) -> str:
        terms = "  ".join(f"{name} {value:.3g}" for name, value in self.losses.items() if "gradient" not in name)
        return self.note or f"step {self.step} of {self.steps}, {self.speed:.0f} images/s: {terms}"


def print_progress(progress: TrainingProgress) -> None:
    """Print a line to the standard error stream."""
    print(progress, file=sys.stderr, flush=True)


class LossMeter:
    """Averages losses and counts images between two reports.

    Args:
        batch_size: Images in a step.

    >>> meter = LossMeter(batch_size=8)
    >>> meter.update({"pixel": 1.0})
    >>> meter.update({"pixel": 3.0})
    >>> meter.report(2, 10).losses
    {'pixel': 2.0}
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._clear()

    def _clear(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._steps, self._since = 0, time.perf_counter()

    def update(self, losses: Mapping[str, float]) -> None:
        """Add the losses of a step."""
        self._steps += 1
        for name, value in losses.items():
            self._values.setdefault(name, []).append(value)

    def report(self, step: int, steps: int) -> TrainingProgress:
        """The means since the last report."""
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        speed = self._steps * self._batch_size / max(1e-9, time.perf_counter() - self._since)
        self._clear()
        return TrainingProgress(step, steps, means, speed)


@torch.no_grad()
def write_preview(path: Path, networks: SurrogateNetworks, data: TrainingData, columns: int = 16) -> None:
    """Write rows of images: real, reconstructed, each context set low and high, and with another's nuisance.

    Args:
        path: File of the PNG.
        networks: Encoders, head and generator.
        data: The training set.
        columns: Number of images in a row.
    """
    device = next(networks.parameters()).device
    rows = torch.linspace(0, data.num_images - 1, columns).long()
    images, context = gather_images(data.images, rows).to(device), data.context[rows].to(device)
    codes = Codes(context, networks.latent(data.phi[rows].to(device)), networks.nuisance(images))
    strips = [images, networks.generate(codes)]
    for column in range(context.shape[1]):
        for bound in data.span[:, column].tolist():
            changed = context.clone()
            changed[:, column] = bound
            strips.append(networks.generate(Codes(changed, codes.latent, codes.nuisance)))
    strips.append(networks.generate(Codes(context, codes.latent, codes.nuisance.roll(1, 0))))
    write_atomically(path, _encode_png(torch.stack(strips)))


def _encode_png(strips: Tensor, zoom: int = 2) -> bytes:
    """Images (rows, columns, C, H, W) in display space as one PNG."""
    from PIL import Image

    grid = strips.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (rows * H, columns * W, C)
    pixels = ((grid.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    if pixels.shape[2] not in (1, 3):
        pixels = pixels[:, :, :1]
    image = Image.fromarray(pixels.squeeze(2).numpy())
    buffer = io.BytesIO()
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()
