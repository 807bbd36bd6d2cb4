"""The smallest and sparsest change of concepts that flips the decision."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import (
    Painting,
    chunks,
    classified,
    decided,
    margin,
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
            pictures.
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
class Flipped:
    """Counterfactual pictures of another class.

    Attributes:
        targets: (N,) the classes asked for.
        change: (N, K) of the concepts, in standard deviations of the reference; 0 where a concept stays.
        codes: of the counterfactuals.
        raw: (N, C, H, W) as the twin draws them.
        pictures: (N, C, H, W) the pictures themselves with the change transferred.
        valid, raw_valid: (N,) whether the classifier gives the target class to `pictures` and to `raw`.
        pixels: (N,) mean absolute change of the pictures, in units of the classifier's input.
    """

    targets: Tensor
    change: Tensor
    codes: Codes
    raw: Tensor
    pictures: Tensor
    valid: Tensor
    raw_valid: Tensor
    pixels: Tensor

    @property
    def moved(self) -> Tensor:
        """How many concepts are changed, (N,)."""
        return (self.change != 0).sum(1)


def flip(
    painting: Painting,
    targets: Tensor,
    reference: Codes,
    *,
    allowed: Tensor | None = None,
    options: FlipOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Flipped:
    """Search the concepts for the smallest change after which the classifier says another class.

    It must say so of the picture with the change laid on it and of the twin's own drawing: either alone is easily
    fooled, the first by remains of the old strokes, the second by what the twin does not draw.
    Gradients through classifier and generator find a change; then the fewest of its concepts are kept that still flip
    the picture, and the whole is shortened as far as it stays flipped.

    Args:
        painting: N pictures.
        targets: (N,) classes wanted, other than the factual ones.
        reference: codes of real pictures, for scales and plausibility.
        allowed: (K,) which concepts may change; all by default.
        options: see `FlipOptions`.
        on_progress: called with (pictures done, in all).

    Raises:
        PellucidError: a target that is the factual class or no class, or no concept that may change.
    """
    options = options or FlipOptions()
    count = 2 if painting.logits.shape[1] == 1 else painting.logits.shape[1]
    if bool((targets == painting.classes).any()) or bool(((targets < 0) | (targets >= count)).any()):
        raise PellucidError(f"targets must be classes 0..{count - 1} other than the one the classifier says already")
    known = reference.concepts()
    free = torch.ones(known.shape[1], dtype=torch.bool) if allowed is None else allowed
    if not bool(free.any()):
        raise PellucidError("no concept may change: every one is refused or excluded")
    space = _Space(known, free.to(known.device))
    parts = []
    for rows in chunks(len(painting), painting.max_batch):
        part = painting[rows]
        change = _search(part, targets[rows], space, options)
        parts.append(_shrink(part, targets[rows], _sparse(part, targets[rows], change, space, options), space, options))
        if on_progress:
            on_progress(rows.stop, len(painting))
    return _result(painting, targets, torch.cat(parts), space)


class _Space:
    """Concepts in standard deviations, with how far from the mean real pictures lie."""

    def __init__(self, known: Tensor, free: Tensor) -> None:
        self.free = free.to(known.dtype)
        self.scale = known.std(0).clamp_min(1e-6)
        self._mean = known.mean(0)
        covariance = torch.cov((known / self.scale).T.double()) + 1e-3 * torch.eye(known.shape[1]).to(known).double()
        self._precision = torch.linalg.inv(covariance).to(known.dtype)
        self._far = torch.quantile(self._distance(known)[:100_000], 0.99)

    def _distance(self, concepts: Tensor) -> Tensor:
        centred = (concepts - self._mean) / self.scale
        return torch.einsum("ni,ij,nj->n", centred, self._precision, centred)

    def excess(self, concepts: Tensor) -> Tensor:
        """Squared Mahalanobis distance (N,) beyond that of 99 % of real pictures, relative to it."""
        return (self._distance(concepts) / self._far - 1).clamp_min(0)

    def codes(self, painting: Painting, change: Tensor) -> Codes:
        return painting.codes.with_concepts(painting.codes.concepts() + change * self.scale)


def _search(painting: Painting, targets: Tensor, space: _Space, options: FlipOptions) -> Tensor:
    change = torch.zeros_like(painting.codes.concepts(), requires_grad=True)
    adam = torch.optim.Adam([change], options.learning_rate)
    best, least = torch.zeros_like(change), torch.full((len(painting),), torch.inf).to(change)
    with torch.enable_grad():
        for _ in range(options.steps):
            codes = space.codes(painting, change * space.free)
            drawn = painting.twin.decode(codes)
            laid, own = painting.twin.logits(painting.transferred(drawn)), painting.twin.logits(drawn)
            size = (change * space.free).abs().sum(1)
            flipped = (decided(laid) == targets) & (decided(own) == targets) & (size.detach() < least)
            best = torch.where(flipped[:, None], change.detach() * space.free, best)
            least = torch.where(flipped, size.detach(), least)
            loss = (_surprise(laid, targets) + _surprise(own, targets)) / 2 + options.sparsity * size
            loss = loss + options.plausibility * space.excess(codes.concepts())
            change.grad = torch.autograd.grad(loss.sum(), change)[0]
            adam.step()
    return torch.where(least.isfinite()[:, None], best, change.detach() * space.free)


def _surprise(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        return F.softplus(torch.where(targets == 1, -logits[:, 0], logits[:, 0]))
    return F.cross_entropy(logits, targets, reduction="none")


def _flips(painting: Painting, targets: Tensor, change: Tensor, space: _Space) -> Tensor:
    laid, own = _logits(painting, change, space)
    return (decided(laid) == targets) & (decided(own) == targets)


def _logits(painting: Painting, change: Tensor, space: _Space) -> tuple[Tensor, Tensor]:
    """Of the pictures with the change laid on them, and of the twin's own drawings."""
    drawn = painting.drawn(space.codes(painting, change))
    laid = classified(painting.twin, painting.transferred(drawn), painting.max_batch)
    return laid, classified(painting.twin, drawn, painting.max_batch)


def _sparse(painting: Painting, targets: Tensor, change: Tensor, space: _Space, options: FlipOptions) -> Tensor:
    """The fewest concepts that flip at a bounded length, those that gain most on their own first."""
    columns = torch.eye(change.shape[1]).to(change)
    gains = []
    for one in columns:
        laid, own = _logits(painting, change * one, space)
        gains.append(margin(laid, targets) + margin(own, targets))
    rank = torch.stack(gains, 1).argsort(1, descending=True).argsort(1)
    longest = options.slack * change.abs().sum(1)
    best, searching = change, torch.ones(len(change), dtype=torch.bool, device=change.device)
    for kept in range(1, change.shape[1]):
        for stretch in _STRETCHES:
            tried = change * (rank < kept) * stretch
            flips = _flips(painting, targets, tried, space) & (tried.abs().sum(1) <= longest) & searching
            best = torch.where(flips[:, None], tried, best)
            searching = searching & ~flips
        if not bool(searching.any()):
            break
    return best


def _shrink(painting: Painting, targets: Tensor, change: Tensor, space: _Space, options: FlipOptions) -> Tensor:
    """Bisect the length of the change: the shortest that flips, where the whole one does."""
    flipped = _flips(painting, targets, change, space)
    low, high = torch.zeros(len(change)).to(change), torch.ones(len(change)).to(change)
    for _ in range(options.halvings):
        middle = (low + high) / 2
        enough = _flips(painting, targets, change * middle[:, None], space)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return change * torch.where(flipped, high, 1.0)[:, None]


def _result(painting: Painting, targets: Tensor, change: Tensor, space: _Space) -> Flipped:
    codes = space.codes(painting, change)
    raw = painting.drawn(codes)
    pictures = painting.transferred(raw)
    valid, raw_valid = (
        decided(classified(painting.twin, seen, painting.max_batch)) == targets for seen in (pictures, raw)
    )
    pixels = (pictures - painting.pictures).abs().flatten(1).mean(1)
    return Flipped(targets, change, codes, raw, pictures, valid, raw_valid, pixels)
