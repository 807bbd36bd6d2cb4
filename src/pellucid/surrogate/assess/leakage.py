"""What is measured to move when one coordinate of the code is set."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import Painting

Measure = Callable[[Tensor], Tensor]
"""From pictures (N, C, H, W) in the classifier's input space to contexts (N, K_c), in standard deviations of the table;
NaN rows where nothing can be measured."""

ENDS = (0.05, 0.95)
"""Quantiles that coordinates are set to."""


@dataclass(frozen=True)
class Movement:
    """What is measured to move when one coordinate of the code is set, all others held; (coordinates, contexts) each.

    Attributes:
        coordinates: names, contexts first, then latents.
        contexts: names of what is measured.
        change: mean absolute change against the picture unchanged, over both ends and all pictures, in standard
            deviations of the table. A clean twin has zeros off the contexts' diagonal.
        swing: mean of what is measured at the upper end minus that at the lower; signed, same unit.
        pictures: for each coordinate, how many were measurable at both ends.
        ends: quantiles of the coordinate that it was set to.
    """

    coordinates: tuple[str, ...]
    contexts: tuple[str, ...]
    change: tuple[tuple[float, ...], ...]
    swing: tuple[tuple[float, ...], ...]
    pictures: tuple[int, ...]
    ends: tuple[float, float]


def what_moves(
    painting: Painting,
    measure: Measure,
    *,
    ends: tuple[float, float] = ENDS,
    transferred: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Movement:
    """Set each context and each latent to its lower and upper quantile, draw, and measure all contexts anew.

    Args:
        painting: held-out pictures; their codes also give the quantiles.
        measure: from pictures to contexts in standard deviations; best by code that knows nothing of the twin.
        ends: the quantiles.
        transferred: measure the pictures with the change transferred instead of the twin's own.
        on_progress: called with (coordinates done, in all).

    Raises:
        PellucidError: no pictures, or ends that are not two increasing quantiles.
    """
    if not len(painting) or not 0 <= ends[0] < ends[1] <= 1:
        raise PellucidError(f"wanted pictures and two increasing quantiles, not {len(painting)} and {ends}")
    names = (*painting.twin.context_names, *painting.twin.latent_names)
    factual = unchanged(painting, measure, transferred=transferred)
    bounds = torch.quantile(painting.codes.concepts(), torch.tensor(ends).to(painting.pictures), dim=0)
    changes, swings, counts = [], [], []
    for column, (low, high) in enumerate(bounds.T.tolist()):
        seen = [remeasured(painting, column, end, measure, transferred=transferred) for end in (low, high)]
        known = torch.stack([factual, *seen]).isfinite().all(2).all(0)
        moved = torch.stack([each[known] - factual[known] for each in seen])
        changes.append(tuple(moved.abs().mean((0, 1)).tolist()))
        swings.append(tuple((moved[1] - moved[0]).mean(0).tolist()))
        counts.append(int(known.sum()))
        if on_progress:
            on_progress(column + 1, len(names))
    return Movement(names, tuple(painting.twin.context_names), tuple(changes), tuple(swings), tuple(counts), ends)


def unchanged(painting: Painting, measure: Measure, *, transferred: bool = False) -> Tensor:
    """What is measured (N, K_c) of what `remeasured` changes: the pictures themselves, or redrawn as they are."""
    return measure(painting.pictures if transferred else painting.reconstructions)


def remeasured(
    painting: Painting, column: int, values: Tensor | float, measure: Measure, *, transferred: bool = False
) -> Tensor:
    """What is measured (N, K_c) once a concept coordinate is set to values (N,) or to one, all other codes held."""
    concepts = painting.codes.concepts().clone()
    concepts[:, column] = values
    drawn = painting.drawn(painting.codes.with_concepts(concepts))
    return measure(painting.transferred(drawn) if transferred else drawn)
