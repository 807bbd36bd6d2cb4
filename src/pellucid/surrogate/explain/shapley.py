"""How much each concept of an image counts for its class: interventional Shapley values through the twin."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, margin
from pellucid.surrogate.model.codes import Codes


@dataclass(frozen=True)
class Importance:
    """Shapley values of concepts for the margin of a class, in logits.

    Attributes:
        names: of the concepts, contexts first.
        values: (N, K) signed; with `baseline` they sum to `margin` exactly.
        errors: (N, K) standard errors over the permutations drawn.
        margin: (N,) with nothing replaced.
        baseline: (N,) mean margin with all concepts from the baseline images.
        against: what concepts were replaced by: "all" real images, or those of "other" classes.
    """

    names: tuple[str, ...]
    values: Tensor
    errors: Tensor
    margin: Tensor
    baseline: Tensor
    against: str


def importance(
    batch: EncodedBatch,
    reference: Codes,
    *,
    classes: Tensor | None = None,
    reference_classes: Tensor | None = None,
    against: Literal["all", "other"] = "all",
    permutations: int = 64,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Importance:
    """Shapley values of all concepts, each coalition drawn by the twin.

    Concepts outside a coalition take the values of a real image; permutations come in antithetic pairs that share it.
    Source: Strumbelj and Kononenko (2010); Mitchell et al. (2022) for antithetic permutations.

    Args:
        painting: N images, on which the changes are laid; `reconstructed` for the twin's own drawings.
        reference: codes of real images.
        classes: (N,) whose margin is explained; the factual ones by default.
        reference_classes: (R,) classes of the reference; needed against "other".
        against: draw baselines from all real images or from those of other classes than the one explained.
        permutations: drawn for each image; even.
        seed: of permutations and baselines.
        on_progress: called with (images done, in all).

    Raises:
        PellucidError: an odd number of permutations, or no baseline images of other classes.
    """
    if permutations < 2 or permutations % 2:
        raise PellucidError(f"permutations come in antithetic pairs: wanted an even number, got {permutations}")
    wanted = batch.classes if classes is None else classes
    random = torch.Generator().manual_seed(seed)
    names = (*batch.surrogate.context_names, *batch.surrogate.latent_names)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for one in range(len(batch)):
        pool = _pool(reference, reference_classes, int(wanted[one]), against)
        rows.append(_of_one(batch[one : one + 1], wanted[one], pool, permutations, random))
        if on_progress:
            on_progress(one + 1, len(batch))
    values, errors, baseline = (torch.stack(part) for part in zip(*rows, strict=True))
    return Importance(names, values, errors, margin(batch.logits, wanted), baseline, against)


def _pool(reference: Codes, classes: Tensor | None, wanted: int, against: str) -> Tensor:
    if against == "all":
        return reference.concept_coordinates()
    if against != "other" or classes is None:
        raise PellucidError(f"against={against!r} needs reference_classes; choose 'all' or give them with 'other'")
    others = reference.concept_coordinates()[classes != wanted]
    if not len(others):
        raise PellucidError("no reference image is of another class: use against='all'")
    return others


def _of_one(
    one: EncodedBatch, wanted: Tensor, pool: Tensor, permutations: int, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Values (K,), standard errors (K,) and mean baseline margin () of one image."""
    factual = one.codes.concept_coordinates()[0]
    nodes = len(factual)
    half = torch.stack([torch.randperm(nodes, generator=random) for _ in range(permutations // 2)])
    orders = torch.cat([half, half.flip(1)])
    drawn = torch.randint(len(pool), (permutations // 2,), generator=random).repeat(2)
    # Step s of a permutation has its first s concepts from the image, the rest from the baseline.
    place = orders.argsort(1).to(factual.device)
    kept = place[:, None, :] < torch.arange(nodes + 1, device=factual.device)[None, :, None]
    coalitions = torch.where(kept, factual, pool[drawn.to(pool.device)][:, None, :])
    many = one.repeat(permutations * (nodes + 1))
    logits = many.changed_logits(many.codes.replace_concepts(coalitions.flatten(0, 1)))
    margins = margin(logits, wanted.expand(len(many))).view(permutations, nodes + 1)
    gains = (margins[:, 1:] - margins[:, :-1]).gather(1, place)
    pairs = (gains[: permutations // 2] + gains[permutations // 2 :]) / 2
    error = pairs.std(0, correction=min(1, len(pairs) - 1)) / len(pairs) ** 0.5
    return pairs.mean(0), error, margins[:, 0].mean()
