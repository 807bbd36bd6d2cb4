"""May an explanation be believed? Fidelity at the image, support in the data, and control of each concept."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import isfinite, isnan

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, predict_class, probabilities
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.model.batches import map_batches

MIN_EFFECTIVENESS = 0.7
"""Correlation of requested and measured values below which a concept's counterfactuals are refused."""

MIN_OF_CLASS = 5
"""Real images of a class below which nothing is known of what it looks like."""

_MAX_KL = 0.5
_MIN_RESEMBLANCE = 0.7


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
        resemblance: (N,) correlation of the pixels of image and reconstruction, each channel about its mean, in
            [-1, 1]; NaN where one of them is flat.

    >>> answers = {"kl": torch.tensor([0.9]), "same_class": torch.tensor([True])}
    >>> fidelity = Fidelity(**answers, pixel_error=torch.tensor([0.1]), resemblance=torch.tensor([0.95]))
    >>> fidelity.warning(0)
    'the classifier sees the reconstruction differently (KL divergence 0.90, above 0.5)'
    """

    kl: Tensor
    same_class: Tensor
    pixel_error: Tensor
    resemblance: Tensor

    @property
    def reliable(self) -> Tensor:
        """(N,) False where the classifier sees the reconstruction differently, or it does not resemble the image."""
        return self.same_class & (self.kl <= _MAX_KL) & (self.resemblance >= _MIN_RESEMBLANCE)

    def warning(self, row: int) -> str | None:
        """Why explanations of an image are not reliable, or None."""
        if not bool(self.same_class[row]):
            return "the classifier gives the reconstruction of this image another class"
        if float(self.kl[row]) > _MAX_KL:
            return (
                f"the classifier sees the reconstruction differently (KL divergence {float(self.kl[row]):.2f}, "
                f"above {_MAX_KL})"
            )
        resemblance = float(self.resemblance[row])
        if isnan(resemblance):
            return "the image or its reconstruction is flat, so their resemblance is not defined"
        if resemblance < _MIN_RESEMBLANCE:
            return (
                f"the reconstruction does not resemble the image (their pixels correlate {resemblance:.2f}, at least "
                f"{_MIN_RESEMBLANCE} is needed)"
            )
        if not bool(self.reliable[row]):
            return "the classifier's answers cannot be compared: they are not finite"
        return None


def measure_fidelity(batch: EncodedBatch) -> Fidelity:
    """Compare images with their reconstructions: the classifier's answers and the pixels.

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
    same_class = predict_class(batch.logits) == predict_class(reconstructed)
    return Fidelity(kl.float(), same_class, pixel_error, _resemblance(batch.images, batch.reconstructions))


def _resemblance(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Correlation (N,) of the pixels, each channel about its mean; NaN where one of the two is flat."""
    one, other = (each.double() - each.double().mean((2, 3), keepdim=True) for each in (images, reconstructions))
    product, norms = (one * other).flatten(1).sum(1), one.flatten(1).norm(dim=1) * other.flatten(1).norm(dim=1)
    flat = torch.minimum(one.flatten(1).abs().amax(1), other.flatten(1).abs().amax(1)) < 1e-6
    return torch.where(flat, torch.nan, product / norms.clamp_min(1e-300)).float()


class DataSupport:
    """Where the concepts of the real images of each class lie, to flag counterfactuals unlike any of them.

    A digit 3 as narrow as a 1 is like other images, and unlike any 3. So images are compared with those of a class, in
    units of the spread within the class: contexts alone, where a change is not lost among many latents, and all
    concepts.

    Args:
        reference: real images.
        neighbors: the distance to the neighbor of this rank is what counts; in small classes to one of lower rank.
        max_rows: real images of a class that are kept, at most, evenly.

    >>> from pellucid.surrogate import Codes
    >>> concepts = torch.cat([torch.linspace(-1, 1, 101), torch.linspace(4, 5, 101)])[:, None]
    >>> reference = ReferenceSet(Codes(concepts, concepts[:, :0], concepts[:, :0]), (torch.arange(202) > 100).long())
    >>> support = DataSupport(reference)
    >>> support.in_distribution(torch.tensor([[0.3], [4.5], [4.5]]), torch.tensor([0, 0, 1]))
    tensor([ True, False,  True])
    """

    def __init__(self, reference: ReferenceSet, *, neighbors: int = 10, max_rows: int = 2000) -> None:
        contexts = reference.codes.context.shape[1]
        spread = reference.codes.concept_coordinates().std(0, correction=0)
        self._spaces: dict[int, list[_Neighborhood]] = {}
        for index in sorted({int(each) for each in reference.classes.tolist()}):
            known = reference.of_class(index)
            if len(known) < MIN_OF_CLASS:
                continue
            known = known[torch.linspace(0, len(known) - 1, min(max_rows, len(known))).long()]
            scale = torch.maximum(known.std(0), 1e-3 * spread).clamp_min(1e-6)
            rank = max(1, min(neighbors, len(known) // 5))
            columns = {known.shape[1], contexts} - {0}
            self._spaces[index] = [_Neighborhood(known[:, :end] / scale[:end], scale[:end], rank) for end in columns]

    def percentile(self, concepts: Tensor, classes: Tensor) -> Tensor:
        """Share (N,) of the real images of classes (N,) closer to their neighbors than concepts (N, K) are.

        1 is off the data of the class, and where there are too few real images of it to say.
        """
        shares = torch.ones(len(concepts), device=concepts.device)
        for index in {int(each) for each in classes.tolist()}:
            rows = classes == index
            if spaces := self._spaces.get(index):
                shares[rows] = torch.stack([space.percentile(concepts[rows]) for space in spaces]).amax(0)
        return shares

    def in_distribution(self, concepts: Tensor, classes: Tensor) -> Tensor:
        """(N,) whether concepts (N, K) lie where 99 % of the real images of classes (N,) do."""
        return self.percentile(concepts, classes) <= 0.99


class _Neighborhood:
    """Real images (M, D), scaled, with the distance of each to its neighbor of a rank."""

    def __init__(self, known: Tensor, scale: Tensor, rank: int) -> None:
        self._known, self._scale, self._rank = known, scale, rank
        self._distances = torch.cdist(known, known).kthvalue(rank + 1, dim=1).values.sort().values

    def percentile(self, concepts: Tensor) -> Tensor:
        scaled = concepts[:, : len(self._scale)] / self._scale
        distance = torch.cdist(scaled, self._known).kthvalue(self._rank, dim=1).values
        return torch.searchsorted(self._distances, distance) / len(self._distances)


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
