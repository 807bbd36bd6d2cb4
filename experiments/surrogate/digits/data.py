"""Morpho-MNIST digits (thickness -> intensity) at 32 pixels: images, measures, a classifier, versions to learn from.

The images stay where they are; what is kept in the work folder is weights and numbers.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from experiments.surrogate.shared.idx import read_mnist
from pellucid.classifiers import digit_cnn
from pellucid.data import ContextTable
from pellucid.storage import read_tensors, write_tensors
from pellucid.surrogate import DisplaySpace, digit_rerender
from pellucid.synthetic.morphomnist import measure

CONTEXTS = ("thickness", "intensity", "slant", "width")
TRAINING = 8500
_SIDE = 32
_RANGES = {"thickness": (1.4, 4.2), "intensity": (70.0, 255.0), "slant": (-0.5, 0.5), "width": (5.0, 20.0)}


@dataclass(frozen=True)
class Digits:
    """Digits in the classifier's input space (N, 1, 32, 32), [-1, 1], classes (N,), and measured context."""

    images: Tensor
    labels: Tensor
    context: ContextTable

    def rows(self, start: int, stop: int | None = None) -> "Digits":
        """Some of them."""
        part = slice(start, stop)
        return Digits(self.images[part], self.labels[part], self.context.subset(part))


def load_digits(data: Path, work: Path) -> Digits:
    """The 10,000 digits of the set; measured once, the measures are kept in `work`."""
    images, labels = read_mnist(data / "morphomnist_ti", "t10k")
    margin = (_SIDE - images.shape[-1]) // 2
    gray = F.pad(images.float(), (margin,) * 4)
    kept = work / "measures.safetensors"
    if not kept.exists():
        write_tensors(kept, {"context": measure(gray).table(*CONTEXTS).values})
    return Digits(input_of(gray), labels, ContextTable(CONTEXTS, read_tensors(kept)["context"]))


_LOW, _HIGH = torch.tensor([_RANGES[name] for name in CONTEXTS]).T
redraw_digits = digit_rerender(CONTEXTS, _LOW, _HIGH, DisplaySpace((-1.0,), (1.0,), "digits"))
"""Versions of digits with thickness, intensity, slant and width drawn independently, and what they measure then."""


def input_of(gray: Tensor) -> Tensor:
    """Grey images (N, H, W), 0..255, in the classifier's input space (N, 1, H, W)."""
    return gray[:, None] / 127.5 - 1


def gray_of(images: Tensor) -> Tensor:
    """The inverse of `input_of`."""
    return ((images[:, 0] + 1) * 127.5).clamp(0, 255)


def digit_classifier(digits: Digits, work: Path, epochs: int = 6, seed: int = 0) -> pl.Classifier:
    """A three-block CNN, trained on `digits` and kept in `work`; pellucid brings that of seed 0 as `digit_cnn`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = digit_cnn()
    kept = work / f"classifier{f'-{seed}' if seed else ''}.safetensors"
    if not kept.exists():
        _train(network, digits, epochs, seed)
        write_tensors(kept, network.state_dict())
    return pl.load("digit_cnn", weights=kept)


def _train(network: nn.Module, digits: Digits, epochs: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network.train()
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 1e-3 if epoch < epochs * 2 // 3 else 1e-4
        for rows in torch.split(torch.randperm(len(digits.labels), generator=random), 32):
            loss = F.cross_entropy(network(digits.images[rows]), digits.labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
