"""What one batch of pictures offers every method: an activation, a suffix to ask, and a shared gradient."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from pellucid.attribution.explanation import Passes
from pellucid.attribution.targets import ClassNames, ResolvedTarget, resolve_target
from pellucid.classifiers import Activation, Carried
from pellucid.errors import ModelError

__all__ = ["Case", "View"]


class _Classifier(ClassNames, Protocol):
    def logits(self, pictures: Tensor) -> Tensor: ...


class View(Protocol):
    """A classifier seen from a layer; `LayerView`, or the view of a grid setting with several heads."""

    layer: str

    @property
    def classifier(self) -> _Classifier: ...
    @property
    def suffix(self) -> fx.GraphModule | None: ...
    @property
    def is_affine(self) -> bool: ...
    def activation(self, pictures: Tensor) -> Activation: ...
    def logits(self, activation: Tensor, carried: Carried | None = None) -> Tensor: ...


class Case:
    """Pictures at a layer with targets; runs the part before the layer once and counts what is run after it.

    Every method can be asked to explain one case, so that the activation and its gradient are computed once for all.

    Args:
        view: the classifier seen from a layer.
        pictures: (N, C, H, W); all of them go through the suffix together, so N bounds the memory.
        target: anything that `Target.classes` takes, or a `Target`.
        max_batch: most rows to send through the suffix at once.
        differentiate: keep the first forward's graph for `gradients`.

    Attributes:
        activation: (N, C, h, w), detached.
        all_logits: (N, K) or (N, heads, K), detached.
        target: the target, looked up for these pictures.
        scores: (N, T) the explained numbers.
        passes: what has been run so far.

    Raises:
        ModelError: the network gives NaN or infinite logits.
        TargetError: no such class.
    """

    def __init__(
        self, view: View, pictures: Tensor, target: Any = None, *, max_batch: int = 16, differentiate: bool = False
    ) -> None:
        self.view = view
        self.pictures = pictures
        self.max_batch = max_batch
        self.passes = Passes(prefix_forward=len(pictures))
        self.activation = view.activation(pictures)
        self.rows = torch.arange(len(pictures))
        leaf = self.activation.detach().requires_grad_(differentiate)
        with torch.set_grad_enabled(differentiate):
            logits = self.logits(leaf, self.rows)
            if not bool(logits.isfinite().all()):
                raise ModelError("the network gives NaN or infinite logits for these pictures; check weights and input")
            self.target: ResolvedTarget = resolve_target(target, view.classifier, logits)
            scores = self.target.scores(logits)
        self._graph = (leaf, scores) if differentiate else None
        self.all_logits, self.scores = logits.detach(), scores.detach()

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def target_count(self) -> int:
        return self.target.classes.shape[1]

    def logits(self, activation: Tensor, rows: Tensor) -> Tensor:
        """Logits of R rows of activation (R, C, h, w), where row i belongs to picture rows[i]."""
        self.passes += Passes(suffix_forward=len(rows))
        return self.view.logits(activation, self.activation.carried.rows(rows))

    def score(self, activation: Tensor, rows: Tensor) -> Tensor:
        """Scores (R, T) of R rows of activation, without gradients."""
        with torch.no_grad():
            return self.target.scores(self.logits(activation, rows), rows)

    def gradient(
        self,
        activation: Tensor,
        rows: Tensor,
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> tuple[Tensor, Tensor]:
        """Scores (R, T) and their gradients (R, T, C, h, w) at R rows of activation, from one forward.

        Args:
            activation: (R, C, h, w) in one batch: the caller keeps R small.
            rows: (R,) which picture each row belongs to.
            context: entered while the network runs and while the gradient is taken, e.g. to change the ReLUs' gradient.
        """
        leaf = activation.detach().requires_grad_()
        with torch.enable_grad(), context():
            scores = self.target.scores(self.logits(leaf, rows), rows)
            return scores.detach(), self._backward(leaf, scores)

    @cached_property
    def gradients(self) -> Tensor:
        """Gradient (N, T, C, h, w) of the scores at the activation, taken once for all methods."""
        if self._graph is None:
            return self.gradient(self.activation, self.rows)[1]
        leaf, scores = self._graph
        self._graph = None
        return self._backward(leaf, scores)

    def _backward(self, leaf: Tensor, scores: Tensor) -> Tensor:
        gradients = []
        for index in range(self.target_count):
            last = index + 1 == self.target_count
            total = scores[:, index].sum()
            (gradient,) = torch.autograd.grad(total, leaf, retain_graph=not last, allow_unused=True)
            gradients.append(torch.zeros_like(leaf) if gradient is None else gradient)
        self.passes += Passes(suffix_backward=len(leaf) * self.target_count)
        return torch.stack(gradients, dim=1).detach()

    def variants(self, count: int) -> Iterator[tuple[int, Tensor]]:
        """Indices of `count` variants (steps, masks, windows, channels) of each picture, in affordable batches.

        Yields:
            (picture, indices (r,)) with r <= max_batch.
        """
        for picture in range(len(self)):
            for start in range(0, count, self.max_batch):
                yield picture, torch.arange(start, min(start + self.max_batch, count))
