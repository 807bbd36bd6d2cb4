"""What is measured to change when one coordinate of the codes is set: control, and leakage into other contexts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import EncodedBatch

Measure = Callable[[Tensor], Tensor]
"""From images (N, C, H, W) in the classifier's input space to contexts (N, K_c), in standard deviations of the table;
NaN rows where nothing can be measured."""

_QUANTILES = (0.05, 0.95)


@dataclass(frozen=True)
class ContextMeasurement:
    """How the contexts of generated images are measured.

    Attributes:
        measure: contexts of images; best by code that knows nothing of the surrogate.
        description: of `measure`, in words.
        residual_transfer: measure the input images with the residual transferred instead of the generated images.

    >>> ContextMeasurement(lambda images: images.mean((2, 3)), description="mean brightness").residual_transfer
    False
    """

    measure: Measure
    description: str = ""
    residual_transfer: bool = False


@dataclass(frozen=True, kw_only=True)
class ConceptLeakage:
    """What is measured to change when one coordinate of the codes is set, all others held.

    Tables are (coordinates, contexts).

    Attributes:
        coordinates: names, contexts first, then latents.
        contexts: names of what is measured.
        change: mean absolute change against the unchanged image, over both ends and all images, in standard
            deviations of the table. A clean surrogate has zeros off the contexts' diagonal.
        signed_change: mean of the measured value at the upper end minus that at the lower; signed, same unit.
        num_images: for each coordinate, how many were measurable at both ends.
        quantiles: of the coordinate, to which it was set.
    """

    coordinates: tuple[str, ...]
    contexts: tuple[str, ...]
    change: tuple[tuple[float, ...], ...]
    signed_change: tuple[tuple[float, ...], ...]
    num_images: tuple[int, ...]
    quantiles: tuple[float, float]


def concept_leakage(
    batch: EncodedBatch,
    measurement: ContextMeasurement,
    *,
    quantiles: tuple[float, float] = _QUANTILES,
    on_progress: Callable[[int, int], None] | None = None,
) -> ConceptLeakage:
    """Set each context and each latent to its lower and upper quantile, generate, and measure all contexts.

    Args:
        batch: held-out images; their codes also give the quantiles.
        measurement: of the contexts.
        quantiles: lower and upper.
        on_progress: called with (coordinates done, in all).

    Raises:
        PellucidError: no images, or quantiles that do not increase.

    >>> from pellucid.surrogate import digit_measure, digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> batch = explainer.encode_batch(draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1)
    >>> leakage = concept_leakage(batch, ContextMeasurement(digit_measure(explainer.surrogate)))
    >>> leakage.coordinates[0], len(leakage.change), len(leakage.change[0])
    ('thickness', 12, 4)
    """
    if not len(batch) or not 0 <= quantiles[0] < quantiles[1] <= 1:
        raise PellucidError(f"give images and two increasing quantiles, not {len(batch)} images and {quantiles}")
    baseline = measure_baseline(batch, measurement)
    bounds = torch.quantile(batch.codes.concept_coordinates(), torch.tensor(quantiles).to(batch.images), dim=0)
    changes, signed, counts = [], [], []
    for column, ends in enumerate(bounds.T.tolist()):
        measured = torch.stack([measure_intervention(batch, column, end, measurement) for end in ends])
        known = torch.cat([baseline[None], measured]).isfinite().all(2).all(0)
        change = measured[:, known] - baseline[known]
        changes.append(tuple(change.abs().mean((0, 1)).tolist()))
        signed.append(tuple((change[1] - change[0]).mean(0).tolist()))
        counts.append(int(known.sum()))
        if on_progress:
            on_progress(column + 1, len(batch.concept_names))
    return ConceptLeakage(
        coordinates=batch.concept_names,
        contexts=tuple(batch.surrogate.context_names),
        change=tuple(changes),
        signed_change=tuple(signed),
        num_images=tuple(counts),
        quantiles=quantiles,
    )


def measure_baseline(batch: EncodedBatch, measurement: ContextMeasurement) -> Tensor:
    """Contexts (N, K_c) of what `measure_intervention` changes: the input images, or their reconstructions."""
    return measurement.measure(batch.images if measurement.residual_transfer else batch.reconstructions)


def measure_intervention(
    batch: EncodedBatch, column: int, values: Tensor | float, measurement: ContextMeasurement
) -> Tensor:
    """Contexts (N, K_c) measured once one concept is set, all other codes held.

    Args:
        batch: N images.
        column: of the concept among the concept coordinates.
        values: (N,) or one for all, in standard deviations.
        measurement: of the contexts.

    >>> from pellucid.surrogate import digit_measure, digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> batch = explainer.encode_batch(draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1)
    >>> measurement = ContextMeasurement(digit_measure(explainer.surrogate))
    >>> slant = [measure_intervention(batch, 2, value, measurement)[:, 2].mean() for value in (-1.0, 1.0)]
    >>> bool(slant[0] < slant[1])
    True
    """
    concepts = batch.codes.concept_coordinates().clone()
    concepts[:, column] = values
    decoded = batch.decode(batch.codes.replace_concepts(concepts))
    return measurement.measure(batch.apply_residual(decoded) if measurement.residual_transfer else decoded)
