"""The rival on the same generator: StylEx's greedy search for coordinates that change the classifier's mind."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate import predict_class, probabilities


@dataclass(frozen=True)
class Attribute:
    """A coordinate that changes the classifier's mind.

    Attributes:
        coordinate: its column.
        up: whether it is set to the largest value seen, else to the smallest.
        effect: mean gain of the target's probability over the images that no earlier attribute had changed.
        explained: how many images it changes by the threshold.
    """

    coordinate: int
    up: bool
    effect: float
    explained: int


@dataclass(frozen=True)
class AttFind:
    """What the search found.

    Attributes:
        attributes: in the order found.
        effects: (N, S, 2) gain of the target's probability with each coordinate set low, set high.
        changed: (N, S) the coordinates with each image's best `top` set.
        flipped: (N,) whether the image's class is then the target.
        passes: images drawn and classified.
    """

    attributes: tuple[Attribute, ...]
    effects: Tensor
    changed: Tensor
    flipped: Tensor
    passes: int


def attfind(
    draw: Callable[[Tensor, Tensor], Tensor],
    logits: Callable[[Tensor], Tensor],
    coordinates: Tensor,
    low: Tensor,
    high: Tensor,
    target: int,
    *,
    threshold: float = 0.3,
    most: int = 10,
    top: int = 5,
    max_batch: int = 64,
) -> AttFind:
    """Set every coordinate of every image to its extremes, then choose coordinates greedily.

    At each turn the (coordinate, direction) with the largest mean gain over images that are not explained yet is
    chosen; images that it moves by the threshold drop out.
    Source: Lang et al., Explaining in Style (ICCV 2021), AttFind; written from its description.

    Args:
        draw: (coordinates (M, S), rows (M,)) -> images of those rows with those coordinates.
        logits: classifier.
        coordinates: (N, S) of images that are not of the target class.
        low, high: (S,) extremes over the data.
        target: class requested.
        threshold: gain of probability from which an image counts as explained.
        most: attributes looked for.
        top: coordinates set together per image for `flipped`.
        max_batch: images drawn at once.

    Raises:
        PellucidError: no images.
    """
    count, size = coordinates.shape
    if not count:
        raise PellucidError("AttFind needs images that are not of the target class; none were given")

    def classify(changed: Tensor, rows: Tensor) -> Tensor:
        parts = zip(torch.split(changed, max_batch), torch.split(rows, max_batch), strict=True)
        with torch.no_grad():
            return torch.cat([logits(draw(*part)) for part in parts])

    everyone = torch.arange(count, device=coordinates.device)
    before = probabilities(classify(coordinates, everyone))[:, target]
    effects = torch.empty(count, size, 2)
    for column in range(size):
        for side, value in enumerate((low[column], high[column])):
            changed = coordinates.clone()
            changed[:, column] = value
            effects[:, column, side] = (probabilities(classify(changed, everyone))[:, target] - before).cpu()
    best = effects.flatten(1).topk(min(top, size), dim=1).indices
    together = coordinates.clone()
    for chosen in best.T.to(coordinates.device):
        columns, ups = chosen // 2, (chosen % 2).bool()
        together[everyone, columns] = torch.where(ups, high[columns], low[columns])
    flipped = predict_class(classify(together, everyone)) == target
    return AttFind(tuple(_greedy(effects, threshold, most)), effects, together, flipped, count * (2 * size + 2))


def _greedy(effects: Tensor, threshold: float, most: int) -> list[Attribute]:
    left = torch.ones(len(effects), dtype=torch.bool)
    result: list[Attribute] = []
    gains = effects.flatten(1).clone()
    while len(result) < most and bool(left.any()):
        mean = gains[left].mean(0)
        chosen = int(mean.argmax())
        if not float(mean[chosen]) > 0:
            break
        moved = left & (gains[:, chosen] >= threshold)
        result.append(Attribute(chosen // 2, bool(chosen % 2), float(mean[chosen]), int(moved.sum())))
        left = left & ~moved
        gains[:, chosen] = -torch.inf
    return result
