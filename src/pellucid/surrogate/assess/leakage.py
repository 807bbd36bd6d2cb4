"""What is measured to move when one coordinate of the code is set."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import EncodedBatch

Measure = Callable[[Tensor], Tensor]
"""From images (N, C, H, W) in the classifier's input space to contexts (N, K_c), in standard deviations of the table;
NaN rows where nothing can be measured."""

ENDS = (0.05, 0.95)
"""Quantiles that coordinates are set to."""


@dataclass(frozen=True)
class ConceptLeakage:
    """What is measured to move when one coordinate of the code is set, all others held; (coordinates, contexts) each.

    Attributes:
        coordinates: names, contexts first, then latents.
        contexts: names of what is measured.
        change: mean absolute change against the image unchanged, over both ends and all images, in standard
            deviations of the table. A clean twin has zeros off the contexts' diagonal.
        swing: mean of what is measured at the upper end minus that at the lower; signed, same unit.
        images: for each coordinate, how many were measurable at both ends.
        ends: quantiles of the coordinate that it was set to.
    """

    coordinates: tuple[str, ...]
    contexts: tuple[str, ...]
    change: tuple[tuple[float, ...], ...]
    signed_change: tuple[tuple[float, ...], ...]
    images: tuple[int, ...]
    ends: tuple[float, float]


def concept_leakage(
    batch: EncodedBatch,
    measure: Measure,
    *,
    ends: tuple[float, float] = ENDS,
    transferred: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ConceptLeakage:
    """Set each context and each latent to its lower and upper quantile, draw, and measure all contexts anew.

    Args:
        painting: held-out images; their codes also give the quantiles.
        measure: from images to contexts in standard deviations; best by code that knows nothing of the twin.
        ends: the quantiles.
        transferred: measure the images with the change transferred instead of the twin's own.
        on_progress: called with (coordinates done, in all).

    Raises:
        PellucidError: no images, or ends that are not two increasing quantiles.
    """
    if not len(batch) or not 0 <= ends[0] < ends[1] <= 1:
        raise PellucidError(f"wanted images and two increasing quantiles, not {len(batch)} and {ends}")
    names = (*batch.surrogate.context_names, *batch.surrogate.latent_names)
    factual = measure_baseline(batch, measure, transferred=transferred)
    bounds = torch.quantile(batch.codes.concept_coordinates(), torch.tensor(ends).to(batch.images), dim=0)
    changes, swings, counts = [], [], []
    for column, (low, high) in enumerate(bounds.T.tolist()):
        seen = [measure_intervention(batch, column, end, measure, transferred=transferred) for end in (low, high)]
        known = torch.stack([factual, *seen]).isfinite().all(2).all(0)
        moved = torch.stack([each[known] - factual[known] for each in seen])
        changes.append(tuple(moved.abs().mean((0, 1)).tolist()))
        swings.append(tuple((moved[1] - moved[0]).mean(0).tolist()))
        counts.append(int(known.sum()))
        if on_progress:
            on_progress(column + 1, len(names))
    return ConceptLeakage(
        names, tuple(batch.surrogate.context_names), tuple(changes), tuple(swings), tuple(counts), ends
    )


def measure_baseline(batch: EncodedBatch, measure: Measure, *, transferred: bool = False) -> Tensor:
    """What is measured (N, K_c) of what `measure_intervention` changes: the images themselves, or redrawn as they
    are."""
    return measure(batch.images if transferred else batch.reconstructions)


def measure_intervention(
    batch: EncodedBatch, column: int, values: Tensor | float, measure: Measure, *, transferred: bool = False
) -> Tensor:
    """What is measured (N, K_c) once a concept coordinate is set to values (N,) or to one, all other codes held."""
    concepts = batch.codes.concept_coordinates().clone()
    concepts[:, column] = values
    drawn = batch.drawn(batch.codes.replace_concepts(concepts))
    return measure(batch.transferred(drawn) if transferred else drawn)
