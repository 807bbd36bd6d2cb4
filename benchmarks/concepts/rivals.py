"""What pellucid's concepts are measured against: the straightforward Visual-TCAV, and Captum's TCAV."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from captum.concept import TCAV, Classifier, Concept
from torch import Tensor, nn

from pellucid.concepts import CAV

BATCH = 8
CHUNK = 10


def straightforward_scores(
    network: nn.Module, module: nn.Module, image: Tensor, cavs: Sequence[CAV], classes: Sequence[int], steps: int
) -> Tensor:
    """Published scores (concepts, classes) of one image, written down as the paper says them.

    A hook replaces the layer's output, so the full network runs for every step of every class.
    """
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        logits = network(image)[0]
    handle.remove()
    activation = seen[0].detach()
    with torch.no_grad():
        baseline = _replaced(network, module, image, torch.zeros_like(activation))[0]
    rise = (logits - baseline).relu()
    weights = rise / rise.max()
    scores = torch.zeros(len(cavs), len(classes))
    for t, target in enumerate(classes):
        gradients = _path_gradients(network, module, image, activation, target, steps)
        evidence = (((gradients[:-1] + gradients[1:]) / 2).mean(0) * activation[0]).relu()
        share = evidence / (evidence.sum() + 1e-7) * weights[target]
        for d, cav in enumerate(cavs):
            scores[d, t] = _pooled(activation[0], share, cav)
    return scores


def _path_gradients(
    network: nn.Module, module: nn.Module, image: Tensor, activation: Tensor, target: int, steps: int
) -> Tensor:
    result = []
    for alphas in torch.split(torch.arange(steps + 1) / steps, BATCH):
        points = (alphas[:, None, None, None] * activation).requires_grad_()
        logits = _replaced(network, module, image, points)
        result += torch.autograd.grad(logits[:, target].sum(), points)
    return torch.cat(result)


def _replaced(network: nn.Module, module: nn.Module, image: Tensor, output: Tensor) -> Tensor:
    handle = module.register_forward_hook(lambda _m, _i, _o: output)
    try:
        logits: Tensor = network(image.expand(len(output), -1, -1, -1))
    finally:
        handle.remove()
    return logits


def _pooled(activation: Tensor, share: Tensor, cav: CAV) -> float:
    """Concept map, direction weights and the sum: steps 3 and 7 to 9 of the paper."""
    low, high = cav.emblems
    if high <= low:
        return 0.0
    raw = (cav.direction[:, None, None] * activation).sum(0).relu()
    seen = (raw.clamp(low, high) - low) / (high - low)
    direction = cav.direction
    if float(activation.min()) < 0:
        direction = torch.where((seen * activation).sum((1, 2)) < 0, -direction, direction)
    aligned = direction.relu()
    if not float(aligned.max()) > 0:
        return 0.0
    return float((aligned / aligned.max() * (seen * share).sum((1, 2))).sum())


def captum_tcav(
    network: nn.Module,
    layers: list[str],
    sets: Sequence[Tensor],
    images: Tensor,
    target: int,
    folder: Path,
    *,
    difference: bool,
) -> dict[str, Tensor]:
    """Captum's sign counts (concepts,) by layer.

    Args:
        network: the classifier's module.
        layers: names of modules.
        sets: images of each concept, and of the negatives last.
        images: of the class, given in chunks, since Captum runs what it gets at once.
        target: the class.
        folder: where Captum keeps activations and CAVs.
        difference: differences of means in place of Captum's linear classifier.
    """
    concepts = [Concept(index, f"concept {index}", _Batches(part)) for index, part in enumerate(sets)]
    chosen = {"classifier": DifferenceOfMeans()} if difference else {}
    rival = TCAV(network, layers, save_path=str(folder), **chosen)
    pairs = [[concept, concepts[-1]] for concept in concepts[:-1]]
    positive = {layer: torch.zeros(len(pairs)) for layer in layers}
    for chunk in torch.split(images, CHUNK):
        result = rival.interpret(chunk, pairs, target=target)
        for layer, counts in positive.items():
            for index in range(len(pairs)):
                counts[index] += len(chunk) * result[f"{index}-{len(pairs)}"][layer]["sign_count"][0]
    return {layer: counts / len(images) for layer, counts in positive.items()}


class DifferenceOfMeans(Classifier):
    """The CAV that Visual-TCAV uses, for Captum: mean of the concept minus mean of the others, and its opposite."""

    def __init__(self) -> None:
        self._direction = torch.zeros(0)
        self._labels: list[int] = []

    def train_and_eval(self, dataloader: Any, **kwargs: Any) -> dict[str, float]:
        """Fit; there is nothing to evaluate."""
        parts = list(dataloader)
        inputs, labels = torch.cat([one for one, _ in parts]), torch.cat([label for _, label in parts])
        self._labels = sorted(set(labels.tolist()))
        first, second = (inputs[labels == label].mean(0) for label in self._labels)
        self._direction = first - second
        return {}

    def weights(self) -> Tensor:
        """(2, features)."""
        return torch.stack([self._direction, -self._direction])

    def classes(self) -> list[int]:
        """Numbers of the two concepts."""
        return self._labels


class _Batches:
    """Images in batches, as often as they are asked for."""

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.split(self._images, BATCH))
