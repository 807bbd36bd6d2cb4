"""May an answer be believed? Fidelity at the very image, support in the data, and the gate of effectiveness."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import (
    EncodedBatch,
    chunks,
    predict_class,
    probabilities,
)
from pellucid.surrogate.model.codes import Codes

MIN_EFFECTIVENESS = 0.7
"""Correlation of asked and re-measured values below which a concept's counterfactuals are refused (GLANCE spec)."""

_POOR_KL = 0.5


class RefusedError(PellucidError):
    """The surrogate is not good enough at this to be presented as an explanation."""


@dataclass(frozen=True)
class Fidelity:
    """How well the twin stands for the classifier at each image.

    Attributes:
        kl: (N,) KL divergence in nats of the classifier's probabilities on the image from those on its
            reconstruction; 0 is perfect.
        agrees: (N,) whether both get the same class.
        pixels: (N,) mean absolute difference of image and reconstruction, in units of the classifier's input.
    """

    kl: Tensor
    agrees: Tensor
    pixels: Tensor

    @property
    def reliable(self) -> Tensor:
        """(N,) False where the twin redraws an image that the classifier sees differently."""
        return self.agrees & (self.kl <= _POOR_KL)

    def reason(self, row: int) -> str | None:
        """Why answers on an image are not to be believed, or None."""
        if not bool(self.agrees[row]):
            return "the classifier decides otherwise on the twin's redrawing of this image"
        if float(self.kl[row]) > _POOR_KL:
            return f"the classifier sees the twin's redrawing differently (KL {float(self.kl[row]):.2f} > {_POOR_KL})"
        return None


def fidelity(batch: EncodedBatch) -> Fidelity:
    """Compare what the classifier says of images and of their reconstructions."""
    batches = chunks(len(batch), batch.max_batch)
    with torch.no_grad():
        redrawn = torch.cat([batch.surrogate.logits(batch.reconstructions[rows]) for rows in batches])
    said, seen = probabilities(batch.logits.double()), probabilities(redrawn.double())
    kl = torch.xlogy(said, said / seen.clamp_min(1e-300)).sum(1)
    pixels = (batch.images - batch.reconstructions).abs().flatten(1).mean(1)
    return Fidelity(kl.float(), predict_class(batch.logits) == predict_class(redrawn), pixels)


class DataSupport:
    """Where codes of real images lie, to tell when a counterfactual asks for what was never seen.

    Args:
        reference: codes of real images; rows beyond `rows` are left out, evenly.
        neighbors: distance to the so-many-th neighbor is what counts.
        rows: real images kept, at most.
    """

    def __init__(self, reference: Codes, *, neighbors: int = 10, rows: int = 2000) -> None:
        known = reference.concept_coordinates()
        if len(known) <= neighbors:
            raise PellucidError(f"{len(known)} reference images are too few; wanted more than {neighbors}")
        known = known[torch.linspace(0, len(known) - 1, min(rows, len(known))).long()]
        self._scale = known.std(0).clamp_min(1e-6)
        self._known = known / self._scale
        self._neighbors = neighbors
        own = torch.cdist(self._known, self._known).kthvalue(neighbors + 1, dim=1).values
        self._own = own.sort().values

    def percentile(self, concepts: Tensor) -> Tensor:
        """Share (N,) of real images closer to their neighbors than these concepts (N, K) are; 1 is off the data."""
        distance = torch.cdist(concepts / self._scale, self._known).kthvalue(self._neighbors, dim=1).values
        return torch.searchsorted(self._own, distance) / len(self._own)

    def in_distribution(self, concepts: Tensor) -> Tensor:
        """(N,) whether concepts lie where 99 % of real images do."""
        return self.percentile(concepts) <= 0.99


def check_effective(names: Mapping[str, float], wanted: str) -> None:
    """Refuse a concept that the twin does not control.

    Args:
        names: concept -> correlation of asked and independently re-measured values, less for drawings that cannot be
            measured; NaN where nothing can measure it.
        wanted: the concept to be set.

    Raises:
        RefusedError: it was measured and is too low.
    """
    reached = names.get(wanted, float("nan"))
    if reached < MIN_EFFECTIVENESS:
        raise RefusedError(
            f"counterfactuals of {wanted!r} are refused: asked for a value, the twin draws one that correlates only "
            f"{reached:.2f} with it when re-measured, drawings that cannot be measured counted as failures (wanted "
            f"{MIN_EFFECTIVENESS}); train longer, or with images in "
            f"which {wanted!r} varies on its own"
        )
