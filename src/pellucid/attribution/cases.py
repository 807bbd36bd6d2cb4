"""Explain images with several methods at one layer at the price of what they do not share."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pellucid.attribution.batch_budget import BatchBudget
from pellucid.attribution.case import Case
from pellucid.attribution.explanation import Explanation
from pellucid.attribution.targets import count_targets, select_targets
from pellucid.attribution.view import View, select_heads
from pellucid.errors import PellucidError


class Explainer(Protocol):
    """What is asked of a method."""

    @property
    def max_batch(self) -> int: ...
    @property
    def max_bytes(self) -> int | None: ...
    def needs_gradients(self, view: View) -> bool: ...
    def explain(self, case: Case) -> Explanation: ...


def explain(view: View, images: Tensor, target: Any, methods: Sequence[Explainer]) -> list[Explanation]:
    """Explain images with several methods; each batch goes once through the part before the layer.

    The activation, the logits and their gradient are computed once for all methods. The strictest `max_batch` and
    `max_bytes` among the methods hold for all.

    Args:
        view: `classifier.at(layer)`.
        images: (N, C, H, W) in the classifier's own input space.
        target: as `Method.__call__` takes it.
        methods: one or more, each with its options.

    Returns:
        An `Explanation` for each method. What they share is counted in the passes of the first, and the shared gradient
        in those of the first that needs it: the sum over the list is what was run.

    Raises:
        PellucidError: no methods, no images, or a budget too small for one row.
        TargetError: no such class.
        ModelError: NaN or infinite logits.
    """
    if not methods:
        raise PellucidError("no methods to explain with: the list is empty")
    if not len(images):
        raise PellucidError("no images to explain: the batch is empty")
    # Nothing computed under inference mode can be differentiated, not even the user's images.
    with torch.inference_mode(False):
        images = images.clone() if images.is_inference() else images
        return _explain(view, images, target, methods)


def shared_budget(view: View, images: Tensor, target: Any, methods: Sequence[Explainer]) -> BatchBudget:
    """The strictest bounds among the methods, for all of them."""
    return BatchBudget(
        view,
        images[:1],
        targets=count_targets(target),
        max_batch=min(method.max_batch for method in methods),
        max_bytes=min((method.max_bytes for method in methods if method.max_bytes is not None), default=None),
    )


def _explain(view: View, images: Tensor, target: Any, methods: Sequence[Explainer]) -> list[Explanation]:
    view = select_heads(view, target)
    budget = shared_budget(view, images, target, methods)
    differentiate = any(method.needs_gradients(view) for method in methods)
    total, batches = len(images), []
    for rows in _slices(total, budget.images(differentiate=differentiate)):
        wanted = select_targets(target, rows, total)
        case = Case(
            view, images[rows], wanted, differentiate=differentiate, budget=budget, first=rows.start, total=total
        )
        shared = case.passes
        first, *others = [method.explain(case) for method in methods]
        batches.append([first.add_passes(shared), *others])
    joined = [Explanation.join(parts) for parts in zip(*batches, strict=True)]
    joined[0] = joined[0].add_passes(budget.passes)
    return joined


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
