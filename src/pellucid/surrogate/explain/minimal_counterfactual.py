"""The smallest and sparsest change of concepts that flips the decision."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import (
    EncodedBatch,
    chunks,
    classify,
    margin,
    predict_class,
)
from pellucid.surrogate.model.codes import Codes

_STRETCHES = (1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class FlipOptions:
    """How a flip is looked for.

    Attributes:
        steps: of Adam.
        learning_rate: in standard deviations of the concepts.
        sparsity: weight of the sum of absolute changes.
        plausibility: weight of the squared Mahalanobis distance of the changed concepts beyond that of 99 % of real
            images.
        slack: the sparser of two changes is taken if it is at most so many times as long (sum of absolute changes).
        halvings: of the change as a whole, towards the smallest that still flips.
    """

    steps: int = 60
    learning_rate: float = 0.1
    sparsity: float = 0.15
    plausibility: float = 0.1
    slack: float = 1.25
    halvings: int = 5


@dataclass(frozen=True)
class MinimalCounterfactual:
    """Counterfactual images of another class.

    Attributes:
        targets: (N,) the classes asked for.
        change: (N, K) of the concepts, in standard deviations of the reference; 0 where a concept stays.
        codes: of the counterfactuals.
        raw: (N, C, H, W) as the twin draws them.
        images: (N, C, H, W) the images themselves with the change transferred.
        valid, raw_valid: (N,) whether the classifier gives the target class to `images` and to `raw`.
        pixels: (N,) mean absolute change of the images, in units of the classifier's input.
    """

    targets: Tensor
    change: Tensor
    codes: Codes
    raw: Tensor
    images: Tensor
    valid: Tensor
    raw_valid: Tensor
    pixels: Tensor

    @property
    def moved(self) -> Tensor:
        """How many concepts are changed, (N,)."""
        return (self.change != 0).sum(1)


def flip(
    batch: EncodedBatch,
    targets: Tensor,
    reference: Codes,
    *,
    allowed: Tensor | None = None,
    options: FlipOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> MinimalCounterfactual:
    """Search the concepts for the smallest change after which the classifier says another class.

    It must say so of the image with the change laid on it and of the twin's own drawing: either alone is easily
    fooled, the first by remains of the old strokes, the second by what the twin does not draw.
    Gradients through classifier and generator find a change; then the fewest of its concepts are kept that still flip
    the image, and the whole is shortened as far as it stays flipped.

    Args:
        painting: N images.
        targets: (N,) classes wanted, other than the factual ones.
        reference: codes of real images, for scales and plausibility.
        allowed: (K,) which concepts may change; all by default.
        options: see `FlipOptions`.
        on_progress: called with (images done, in all).

    Raises:
        PellucidError: a target that is the factual class or no class, or no concept that may change.
    """
    options = options or FlipOptions()
    count = 2 if batch.logits.shape[1] == 1 else batch.logits.shape[1]
    if bool((targets == batch.classes).any()) or bool(((targets < 0) | (targets >= count)).any()):
        raise PellucidError(f"targets must be classes 0..{count - 1} other than the one the classifier says already")
    known = reference.concept_coordinates()
    free = torch.ones(known.shape[1], dtype=torch.bool) if allowed is None else allowed
    if not bool(free.any()):
        raise PellucidError("no concept may change: every one is refused or excluded")
    space = _Space(known, free.to(known.device))
    parts = []
    for rows in chunks(len(batch), batch.max_batch):
        part = batch[rows]
        change = _search(part, targets[rows], space, options)
        parts.append(_shrink(part, targets[rows], _sparse(part, targets[rows], change, space, options), space, options))
        if on_progress:
            on_progress(rows.stop, len(batch))
    return _result(batch, targets, torch.cat(parts), space)


class _Space:
    """Concepts in standard deviations, with how far from the mean real images lie."""

    def __init__(self, known: Tensor, free: Tensor) -> None:
        self.free = free.to(known.dtype)
        self.scale = known.std(0).clamp_min(1e-6)
        self._mean = known.mean(0)
        covariance = torch.cov((known / self.scale).T.double()) + 1e-3 * torch.eye(known.shape[1]).to(known).double()
        self._precision = torch.linalg.inv(covariance).to(known.dtype)
        self._far = torch.quantile(self._distance(known)[:100_000], 0.99)

    def _distance(self, concepts: Tensor) -> Tensor:
        centered = (concepts - self._mean) / self.scale
        return torch.einsum("ni,ij,nj->n", centered, self._precision, centered)

    def excess(self, concepts: Tensor) -> Tensor:
        """Squared Mahalanobis distance (N,) beyond that of 99 % of real images, relative to it."""
        return (self._distance(concepts) / self._far - 1).clamp_min(0)

    def codes(self, batch: EncodedBatch, change: Tensor) -> Codes:
        return batch.codes.replace_concepts(batch.codes.concept_coordinates() + change * self.scale)


def _search(batch: EncodedBatch, targets: Tensor, space: _Space, options: FlipOptions) -> Tensor:
    change = torch.zeros_like(batch.codes.concept_coordinates(), requires_grad=True)
    adam = torch.optim.Adam([change], options.learning_rate)
    best, least = torch.zeros_like(change), torch.full((len(batch),), torch.inf).to(change)
    with torch.enable_grad():
        for _ in range(options.steps):
            codes = space.codes(batch, change * space.free)
            drawn = batch.surrogate.decode(codes)
            laid, own = batch.surrogate.logits(batch.transferred(drawn)), batch.surrogate.logits(drawn)
            size = (change * space.free).abs().sum(1)
            flipped = (predict_class(laid) == targets) & (predict_class(own) == targets) & (size.detach() < least)
            best = torch.where(flipped[:, None], change.detach() * space.free, best)
            least = torch.where(flipped, size.detach(), least)
            loss = (_surprise(laid, targets) + _surprise(own, targets)) / 2 + options.sparsity * size
            loss = loss + options.plausibility * space.excess(codes.concept_coordinates())
            change.grad = torch.autograd.grad(loss.sum(), change)[0]
            adam.step()
    return torch.where(least.isfinite()[:, None], best, change.detach() * space.free)


def _surprise(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        return F.softplus(torch.where(targets == 1, -logits[:, 0], logits[:, 0]))
    return F.cross_entropy(logits, targets, reduction="none")


def _flips(batch: EncodedBatch, targets: Tensor, change: Tensor, space: _Space) -> Tensor:
    laid, own = _logits(batch, change, space)
    return (predict_class(laid) == targets) & (predict_class(own) == targets)


def _logits(batch: EncodedBatch, change: Tensor, space: _Space) -> tuple[Tensor, Tensor]:
    """Of the images with the change laid on them, and of the twin's own drawings."""
    drawn = batch.drawn(space.codes(batch, change))
    laid = classify(batch.surrogate, batch.transferred(drawn), batch.max_batch)
    return laid, classify(batch.surrogate, drawn, batch.max_batch)


def _sparse(batch: EncodedBatch, targets: Tensor, change: Tensor, space: _Space, options: FlipOptions) -> Tensor:
    """The fewest concepts that flip at a bounded length, those that gain most on their own first."""
    columns = torch.eye(change.shape[1]).to(change)
    gains = []
    for one in columns:
        laid, own = _logits(batch, change * one, space)
        gains.append(margin(laid, targets) + margin(own, targets))
    rank = torch.stack(gains, 1).argsort(1, descending=True).argsort(1)
    longest = options.slack * change.abs().sum(1)
    best, searching = change, torch.ones(len(change), dtype=torch.bool, device=change.device)
    for kept in range(1, change.shape[1]):
        for stretch in _STRETCHES:
            tried = change * (rank < kept) * stretch
            flips = _flips(batch, targets, tried, space) & (tried.abs().sum(1) <= longest) & searching
            best = torch.where(flips[:, None], tried, best)
            searching = searching & ~flips
        if not bool(searching.any()):
            break
    return best


def _shrink(batch: EncodedBatch, targets: Tensor, change: Tensor, space: _Space, options: FlipOptions) -> Tensor:
    """Bisect the length of the change: the shortest that flips, where the whole one does."""
    flipped = _flips(batch, targets, change, space)
    low, high = torch.zeros(len(change)).to(change), torch.ones(len(change)).to(change)
    for _ in range(options.halvings):
        middle = (low + high) / 2
        enough = _flips(batch, targets, change * middle[:, None], space)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return change * torch.where(flipped, high, 1.0)[:, None]


def _result(batch: EncodedBatch, targets: Tensor, change: Tensor, space: _Space) -> MinimalCounterfactual:
    codes = space.codes(batch, change)
    raw = batch.drawn(codes)
    images = batch.transferred(raw)
    valid, raw_valid = (
        predict_class(classify(batch.surrogate, seen, batch.max_batch)) == targets for seen in (images, raw)
    )
    pixels = (images - batch.images).abs().flatten(1).mean(1)
    return MinimalCounterfactual(targets, change, codes, raw, images, valid, raw_valid, pixels)
