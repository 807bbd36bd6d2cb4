"""May an explanation be believed? Fidelity at the image, support in the data, and control of each concept."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import isfinite, isnan

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, predict_class, probabilities
from pellucid.surrogate.model.batches import map_batches
from pellucid.surrogate.model.codes import Codes

MIN_EFFECTIVENESS = 0.7
"""Correlation of requested and measured values below which a concept's counterfactuals are refused."""

_MAX_KL = 0.5


class RefusedError(PellucidError):
    """The surrogate is not good enough at this to be presented as an explanation.

    >>> check_control({"width": 0.4}, "width")
    Traceback (most recent call last):
    pellucid.surrogate.explain.validity.RefusedError: counterfactuals of 'width' are refused: ...
    """


@dataclass(frozen=True)
class Fidelity:
    """How well the surrogate stands for the classifier at each image.

    Attributes:
        kl: (N,) KL divergence in nats of the classifier's probabilities on the image from those on its
            reconstruction; 0 is perfect.
        same_class: (N,) whether image and reconstruction get the same class.
        pixel_error: (N,) mean absolute difference of image and reconstruction, in units of the classifier's input.

    >>> fidelity = Fidelity(torch.tensor([0.9]), same_class=torch.tensor([True]), pixel_error=torch.tensor([0.1]))
    >>> fidelity.warning(0)
    'the classifier sees the reconstruction differently (KL divergence 0.90, above 0.5)'
    """

    kl: Tensor
    same_class: Tensor
    pixel_error: Tensor

    @property
    def reliable(self) -> Tensor:
        """(N,) False where the classifier sees the reconstruction differently from the image."""
        return self.same_class & (self.kl <= _MAX_KL)

    def warning(self, row: int) -> str | None:
        """Why explanations of an image are not reliable, or None."""
        if not bool(self.same_class[row]):
            return "the classifier gives the reconstruction of this image another class"
        if float(self.kl[row]) > _MAX_KL:
            return (
                f"the classifier sees the reconstruction differently (KL divergence {float(self.kl[row]):.2f}, "
                f"above {_MAX_KL})"
            )
        return None


def measure_fidelity(batch: EncodedBatch) -> Fidelity:
    """Compare the classifier's answers to images and to their reconstructions.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> measure_fidelity(digit_surrogate().encode_batch(digits)).same_class
    tensor([True, True])
    """
    reconstructed = map_batches(batch.surrogate.logits, batch.reconstructions, size=batch.max_batch)
    p, q = probabilities(batch.logits.double()), probabilities(reconstructed.double())
    kl = torch.xlogy(p, p / q.clamp_min(1e-300)).sum(1)
    pixel_error = (batch.images - batch.reconstructions).abs().flatten(1).mean(1)
    return Fidelity(kl.float(), predict_class(batch.logits) == predict_class(reconstructed), pixel_error)


class DataSupport:
    """Where the concepts of real images lie, to flag counterfactuals unlike any of them.

    Args:
        reference: codes of real images; rows beyond `max_rows` are left out, evenly.
        neighbors: the distance to the neighbor of this rank is what counts.
        max_rows: real images kept, at most.

    Raises:
        PellucidError: no more real images than neighbors.

    >>> concepts = torch.linspace(-1, 1, 101)[:, None]
    >>> support = DataSupport(Codes(concepts, concepts[:, :0], concepts[:, :0]))
    >>> support.in_distribution(torch.tensor([[0.3], [9.0]]))
    tensor([ True, False])
    """

    def __init__(self, reference: Codes, *, neighbors: int = 10, max_rows: int = 2000) -> None:
        known = reference.concept_coordinates()
        if len(known) <= neighbors:
            raise PellucidError(f"{len(known)} reference images are too few; more than {neighbors} are needed")
        known = known[torch.linspace(0, len(known) - 1, min(max_rows, len(known))).long()]
        self._scale = known.std(0).clamp_min(1e-6)
        self._known = known / self._scale
        self._neighbors = neighbors
        distances = torch.cdist(self._known, self._known).kthvalue(neighbors + 1, dim=1).values
        self._distances = distances.sort().values

    def percentile(self, concepts: Tensor) -> Tensor:
        """Share (N,) of real images closer to their neighbors than concepts (N, K) are; 1 is off the data."""
        distance = torch.cdist(concepts / self._scale, self._known).kthvalue(self._neighbors, dim=1).values
        return torch.searchsorted(self._distances, distance) / len(self._distances)

    def in_distribution(self, concepts: Tensor) -> Tensor:
        """(N,) whether concepts (N, K) lie where 99 % of real images do."""
        return self.percentile(concepts) <= 0.99


@dataclass(frozen=True)
class ControlGate:
    """Which counterfactuals may be shown, by what was measured of them.

    Attributes:
        contexts: names.
        decoded: context -> correlation of requested and measured values on generated images, less for images that
            cannot be measured; missing where it was never assessed, NaN where nothing can measure it.
        transferred: the same with the residual transferred to the input images.

    >>> gate = ControlGate(("slant", "width"), decoded={"slant": 0.99, "width": 0.4})
    >>> sorted(gate.refused), sorted(gate.transfer_refused)
    (['width'], ['slant', 'width'])
    """

    contexts: tuple[str, ...] = ()
    decoded: Mapping[str, float] = field(default_factory=dict)
    transferred: Mapping[str, float] = field(default_factory=dict)

    @property
    def refused(self) -> dict[str, str]:
        """Contexts that are measured not to be controlled -> the reason."""
        return find_refused(self.decoded, self.contexts)

    @property
    def transfer_refused(self) -> dict[str, str]:
        """Contexts whose change is not shown on the input image -> the reason: it must have been measured there."""
        reasons = {}
        for name in self.contexts:
            reached = self.transferred.get(name, float("nan"))
            if not isfinite(reached):
                reasons[name] = f"whether {name!r} follows with the residual transferred was not measured"
            elif reached < MIN_EFFECTIVENESS:
                reasons[name] = (
                    f"with the residual transferred, requested and measured {name!r} correlate only {reached:.2f} (at "
                    f"least {MIN_EFFECTIVENESS} is needed)"
                )
        return reasons

    def allows_transfer(self, concepts: Collection[str]) -> bool:
        """Whether changes of all these concepts may be shown on the input image; latents promise no value to miss."""
        return not set(concepts) & set(self.transfer_refused)

    def notes(self, concepts: Collection[str] | None = None) -> tuple[str, ...]:
        """What was never assessed of contexts that are shown; of all contexts by default."""
        names = [name for name in self.contexts if concepts is None or name in concepts]
        never = [name for name in names if name not in self.decoded]
        unknown = [name for name in names if name in self.decoded and isnan(self.decoded[name])]
        lines = []
        if never:
            lines.append(
                f"the surrogate was never assessed: whether images follow what is set is not known "
                f"({', '.join(never)}). Do not rely on it before assess(images) (`pellucid surrogate evaluate --keep`)"
            )
        if unknown:
            lines.append(
                f"nothing could measure {', '.join(unknown)} on generated images: whether they follow what is set is "
                "not known"
            )
        return tuple(lines)


def check_control(effectiveness: Mapping[str, float], concept: str) -> None:
    """Refuse a concept that the surrogate does not control.

    Args:
        effectiveness: concept -> correlation of requested and independently measured values, less for images that
            cannot be measured; missing or NaN where nothing can measure it.
        concept: to be set.

    Raises:
        RefusedError: it was measured and is too low.

    >>> check_control({"width": 0.9}, "width")
    """
    reached = effectiveness.get(concept, float("nan"))
    if reached < MIN_EFFECTIVENESS:
        raise RefusedError(
            f"counterfactuals of {concept!r} are refused: the surrogate does not control this concept. Requested "
            f"values and those measured on the result correlate only {reached:.2f} (at least {MIN_EFFECTIVENESS} is "
            "needed; images that cannot be measured count as failures). Train longer, or with images in which "
            f"{concept!r} varies on its own"
        )


def find_refused(effectiveness: Mapping[str, float], concepts: tuple[str, ...]) -> dict[str, str]:
    """The concepts that the surrogate does not control, with the reason.

    >>> sorted(find_refused({"slant": 0.99, "width": 0.4}, ("slant", "width", "latent 1")))
    ['width']
    """
    refused = {}
    for concept in concepts:
        try:
            check_control(effectiveness, concept)
        except RefusedError as error:
            refused[concept] = str(error)
    return refused
