"""Minimal counterfactual: the smallest and sparsest change of concepts that flips the decision."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, classify, margin, predict_class, probabilities
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.explain.validity import ControlGate, DataSupport, Fidelity, measure_fidelity
from pellucid.surrogate.model.batches import batch_slices, map_batches
from pellucid.surrogate.model.codes import Codes

_STRETCHES = (1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class FlipOptions:
    """How a minimal counterfactual is searched.

    Attributes:
        steps: of Adam.
        learning_rate: in standard deviations of the concepts.
        sparsity: weight of the sum of absolute changes.
        plausibility: weight of the squared Mahalanobis distance of the changed concepts from the class requested,
            beyond that of 99 % of its real images.
        slack: the sparser of two changes is taken if it is at most this many times as long (sum of absolute changes).
        halvings: of the change as a whole, towards the smallest that still flips.
        confidence: probability of the class requested from which an image counts as flipped, in [0, 1[; at 0 it need
            only be the likeliest.

    >>> FlipOptions(steps=120).sparsity
    0.15
    """

    steps: int = 60
    learning_rate: float = 0.1
    sparsity: float = 0.15
    plausibility: float = 0.1
    slack: float = 1.25
    halvings: int = 5
    confidence: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.confidence < 1:
            raise PellucidError(f"confidence is a probability to reach, from 0 to below 1, not {self.confidence}")


@dataclass(frozen=True)
class MinimalCounterfactual:
    """Counterfactual images of another class.

    Attributes:
        targets: (N,) the classes requested.
        change: (N, K) of the concepts, in standard deviations of the reference; 0 where a concept stays.
        codes: of the counterfactuals.
        images: (N, C, H, W) as the surrogate generates them.
        transferred: (N, C, H, W) the input images with the residual transferred; None where a context moves that was
            not measured to follow so.
        valid: (N,) whether the classifier gives the target class to `images`, with the confidence requested.
        transferred_valid: (N,) whether it does so with the residual transferred.
        probability: (N,) that the classifier gives to the target class of `images`.
        second_vote: (N,) whether a second network gives `images` the target class; None without one.
        fidelity: of the surrogate at the input images.
        in_distribution: (N,) whether real images of the target class lie near the changed concepts.
        plausibility: (N,) share of the real images of the target class that are closer to their neighbors than the
            changed concepts are, in [0, 1]: low is plausible.
        pixel_change: (N,) mean absolute change of the reconstructions, in units of the classifier's input.
        notes: in words: what was never assessed.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> flip = explainer.flip(digits[:1], "8", options=FlipOptions(steps=5, halvings=1))
    >>> flip.images.shape, flip.targets
    (torch.Size([1, 1, 32, 32]), tensor([8]))
    """

    targets: Tensor
    change: Tensor
    codes: Codes
    images: Tensor
    transferred: Tensor | None
    valid: Tensor
    transferred_valid: Tensor
    probability: Tensor
    second_vote: Tensor | None
    fidelity: Fidelity
    in_distribution: Tensor
    plausibility: Tensor
    pixel_change: Tensor
    notes: tuple[str, ...]

    @property
    def moved(self) -> Tensor:
        """How many concepts are changed, (N,)."""
        return (self.change != 0).sum(1)


def find_minimal_counterfactual(
    batch: EncodedBatch,
    targets: Tensor,
    reference: ReferenceSet,
    *,
    allowed: Tensor | None = None,
    options: FlipOptions | None = None,
    gate: ControlGate | None = None,
    second: Callable[[Tensor], Tensor] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> MinimalCounterfactual:
    """Search the concepts for the smallest change after which the classifier decides on another class.

    It must do so with the residual transferred to the input image and on the generated image: either alone is easily
    fooled, the first by remains of the old strokes, the second by what the surrogate does not generate.
    Gradients through classifier and generator find a change; then the fewest of its concepts are kept that still flip
    the image, and the whole is shortened as far as it stays flipped.

    Args:
        batch: N images.
        targets: (N,) classes requested, other than the ones that the classifier decides on.
        reference: real images, for scales and plausibility.
        allowed: (K,) bool, which concepts may change; all by default.
        options: of the search.
        gate: what is known of the contexts' control; nothing by default.
        second: logits (N, K) of images by a second network, which votes on the result.
        on_progress: called with (images done, in all).

    Raises:
        PellucidError: a target that is the decided class or not a class, or no concept that may change.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> batch = explainer.encode_batch(draw_digits(torch.tensor([3]), size=32)[:, None] / 127.5 - 1)
    >>> fast = FlipOptions(steps=30, halvings=1)
    >>> flip = find_minimal_counterfactual(batch, torch.tensor([8]), explainer.reference, options=fast)
    >>> bool(flip.valid[0]), int(flip.moved[0]) < 12
    (True, True)
    """
    options = options or FlipOptions()
    count = 2 if batch.logits.shape[1] == 1 else batch.logits.shape[1]
    if bool((targets == batch.classes).any()) or bool(((targets < 0) | (targets >= count)).any()):
        raise PellucidError(f"targets must be classes 0..{count - 1} other than the one that the classifier decides on")
    known = reference.codes.concept_coordinates()
    free = torch.ones(known.shape[1], dtype=torch.bool) if allowed is None else allowed
    if not bool(free.any()):
        raise PellucidError("no concept may change: every one is refused or excluded")
    space = _ConceptSpace(reference, free.to(known.device), count)
    changes = []
    for rows in batch_slices(len(batch), batch.max_batch):
        search = _Search(batch[rows], targets[rows], space, options)
        changes.append(search.shorten(search.sparsify(search.descend())))
        if on_progress:
            on_progress(rows.stop, len(batch))
    gate = gate or ControlGate(tuple(batch.surrogate.context_names))
    result = _result(batch, targets, torch.cat(changes), space, options.confidence, gate)
    support = DataSupport(reference)
    concepts = result.codes.concept_coordinates()
    return replace(
        result,
        in_distribution=support.in_distribution(concepts, targets),
        plausibility=support.percentile(concepts, targets),
        second_vote=None
        if second is None
        else predict_class(map_batches(second, result.images, size=batch.max_batch)) == targets,
    )


class _ConceptSpace:
    """Concepts in standard deviations, with how far from the mean of their class real images lie."""

    def __init__(self, reference: ReferenceSet, free: Tensor, num_classes: int) -> None:
        known, classes = reference.codes.concept_coordinates(), reference.classes.long()
        self.free = free.to(known.dtype)
        self.scale = known.std(0).clamp_min(1e-6)
        self._means = known.mean(0).repeat(num_classes, 1)  # also of classes that there are no real images of
        for index in range(num_classes):
            if len(alike := reference.of_class(index)):
                self._means[index] = alike.mean(0)
        within = ((known - self._means[classes]) / self.scale).double()
        covariance = torch.cov(within.T) + 1e-3 * torch.eye(known.shape[1]).to(within)
        self._precision = torch.linalg.inv(covariance).to(known.dtype)
        self._far = torch.quantile(self._distance(known, classes)[:100_000], 0.99)

    def _distance(self, concepts: Tensor, classes: Tensor) -> Tensor:
        centered = (concepts - self._means[classes]) / self.scale
        return torch.einsum("ni,ij,nj->n", centered, self._precision, centered)

    def excess(self, concepts: Tensor, classes: Tensor) -> Tensor:
        """Squared Mahalanobis distance (N,) from classes (N,) beyond that of 99 % of real images, relative to it."""
        return (self._distance(concepts, classes) / self._far - 1).clamp_min(0)

    def codes(self, batch: EncodedBatch, change: Tensor) -> Codes:
        """The codes of a batch with concepts changed by (N, K), in standard deviations."""
        return batch.codes.replace_concepts(batch.codes.concept_coordinates() + change * self.scale)


class _Search:
    """The search for one batch: gradient descent, then sparser, then shorter."""

    def __init__(self, batch: EncodedBatch, targets: Tensor, space: _ConceptSpace, options: FlipOptions) -> None:
        self.batch, self.targets, self.space, self.options = batch, targets, space, options

    def descend(self) -> Tensor:
        """The shortest change (N, K) on the path of Adam that flips, or its end."""
        batch, space, options = self.batch, self.space, self.options
        change = torch.zeros_like(batch.codes.concept_coordinates(), requires_grad=True)
        adam = torch.optim.Adam([change], options.learning_rate)
        best, shortest = torch.zeros_like(change), torch.full((len(batch),), torch.inf).to(change)
        with torch.enable_grad():
            for _ in range(options.steps):
                codes = space.codes(batch, change * space.free)
                decoded = batch.surrogate.decode(codes)
                logits = batch.surrogate.logits(batch.apply_residual(decoded)), batch.surrogate.logits(decoded)
                length = (change * space.free).abs().sum(1)
                better = self._is_target(*logits) & (length.detach() < shortest)
                best = torch.where(better[:, None], change.detach() * space.free, best)
                shortest = torch.where(better, length.detach(), shortest)
                loss = (_cross_entropy(logits[0], self.targets) + _cross_entropy(logits[1], self.targets)) / 2
                loss = loss + options.sparsity * length
                loss = loss + options.plausibility * space.excess(codes.concept_coordinates(), self.targets)
                change.grad = torch.autograd.grad(loss.sum(), change)[0]
                adam.step()
        return torch.where(shortest.isfinite()[:, None], best, change.detach() * space.free)

    def sparsify(self, change: Tensor) -> Tensor:
        """The fewest concepts that flip at a bounded length, those that gain most on their own first."""
        gains = []
        for column in torch.eye(change.shape[1]).to(change):
            transferred, decoded = self._logits(change * column)
            gains.append(margin(transferred, self.targets) + margin(decoded, self.targets))
        rank = torch.stack(gains, 1).argsort(1, descending=True).argsort(1)
        longest = self.options.slack * change.abs().sum(1)
        best, searching = change, torch.ones(len(change), dtype=torch.bool, device=change.device)
        for kept in range(1, change.shape[1]):
            for stretch in _STRETCHES:
                candidate = change * (rank < kept) * stretch
                flips = self._flips(candidate) & (candidate.abs().sum(1) <= longest) & searching
                best = torch.where(flips[:, None], candidate, best)
                searching = searching & ~flips
            if not bool(searching.any()):
                break
        return best

    def shorten(self, change: Tensor) -> Tensor:
        """Bisect the length of the change: the shortest that flips, where the whole one does."""
        flips = self._flips(change)
        low, high = torch.zeros(len(change)).to(change), torch.ones(len(change)).to(change)
        for _ in range(self.options.halvings):
            middle = (low + high) / 2
            enough = self._flips(change * middle[:, None])
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return change * torch.where(flips, high, 1.0)[:, None]

    def _flips(self, change: Tensor) -> Tensor:
        return self._is_target(*self._logits(change))

    def _is_target(self, transferred: Tensor, decoded: Tensor) -> Tensor:
        confidence = self.options.confidence
        return _reaches(transferred, self.targets, confidence) & _reaches(decoded, self.targets, confidence)

    def _logits(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """With the residual transferred to the input images, and of the generated images."""
        batch = self.batch
        decoded = batch.decode(self.space.codes(batch, change))
        transferred = classify(batch.surrogate, batch.apply_residual(decoded), batch.max_batch)
        return transferred, classify(batch.surrogate, decoded, batch.max_batch)


def _reaches(logits: Tensor, targets: Tensor, confidence: float) -> Tensor:
    """Whether logits (N, K) decide on targets (N,) with a probability of at least `confidence`."""
    return (predict_class(logits) == targets) & (_target_probability(logits, targets) >= confidence)


def _target_probability(logits: Tensor, targets: Tensor) -> Tensor:
    return probabilities(logits).gather(1, targets[:, None])[:, 0]


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        return F.softplus(torch.where(targets == 1, -logits[:, 0], logits[:, 0]))
    return F.cross_entropy(logits, targets, reduction="none")


def _result(
    batch: EncodedBatch,
    targets: Tensor,
    change: Tensor,
    space: _ConceptSpace,
    confidence: float,
    gate: ControlGate,
) -> MinimalCounterfactual:
    codes = space.codes(batch, change)
    images = batch.decode(codes)
    transferred = batch.apply_residual(images)
    logits, transferred_logits = (classify(batch.surrogate, each, batch.max_batch) for each in (images, transferred))
    unknown = torch.full_like(change[:, 0], torch.nan)
    moved = [name for name, column in zip(batch.concept_names, change.T, strict=True) if bool(column.any())]
    return MinimalCounterfactual(
        targets=targets,
        change=change,
        codes=codes,
        images=images,
        transferred=transferred if gate.allows_transfer(moved) else None,
        valid=_reaches(logits, targets, confidence),
        transferred_valid=_reaches(transferred_logits, targets, confidence),
        probability=_target_probability(logits, targets),
        second_vote=None,
        fidelity=measure_fidelity(batch),
        in_distribution=unknown.bool(),
        plausibility=unknown,
        pixel_change=(images - batch.reconstructions).abs().flatten(1).mean(1),
        notes=gate.notes(moved),
    )
