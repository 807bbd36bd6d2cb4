"""What all attribution methods share: options, batching over pictures, and the receipt."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

import pellucid
from pellucid.attribution.case import Case, View
from pellucid.attribution.explanation import Explanation
from pellucid.attribution.targets import Target
from pellucid.errors import PellucidError

__all__ = ["Attribution", "Method"]


@dataclass(frozen=True)
class Attribution:
    """What a method computes for a case: maps (N, T, h, w), and for complete methods the sums they should have.

    Attributes:
        values: (N, T, h, w).
        delta: (N, T) or None.
        notes: remarks by picture index.
    """

    values: Tensor
    delta: Tensor | None = None
    notes: Mapping[int, tuple[str, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """An attribution method with its options.

    Attributes:
        max_batch: most rows (pictures x steps, masks or windows) to send through the suffix at once: it bounds the
            memory and changes no result beyond rounding.
    """

    max_batch: int = 16
    signed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise PellucidError(f"max_batch is {self.max_batch}; it must be at least 1")

    @property
    def label(self) -> str:
        """What reports call the method."""
        return type(self).__name__

    def needs_gradients(self, view: View) -> bool:
        """Whether `attribute` asks for `case.gradients` at this view, so that the first forward keeps its graph."""
        return False

    @abstractmethod
    def attribute(self, case: Case) -> Attribution:
        """Compute the maps of one case."""

    def __call__(self, view: View, pictures: Tensor, target: Any = None) -> Explanation:
        """Explain pictures at the view's layer.

        Args:
            view: `classifier.at(layer)`.
            pictures: (N, C, H, W) in the classifier's own input space.
            target: class index or name; a list of them (T targets for every picture); a tensor (N,) or (N, T) of
                indices, picture by picture; a `Target`; None for the predicted class.

        Returns:
            An `Explanation` with values (N, T, h, w) at the layer's own resolution.

        Raises:
            TargetError: no such class.
            ModelError: NaN or infinite logits.
        """
        parts = []
        for start in range(0, len(pictures), self.max_batch):
            rows = slice(start, start + self.max_batch)
            case = Case(
                view,
                pictures[rows],
                rows_of_target(target, rows, len(pictures)),
                max_batch=self.max_batch,
                differentiate=self.needs_gradients(view),
            )
            explanation = self.explain(case)
            parts.append(replace(explanation, passes=case.passes))
        if not parts:
            raise PellucidError("no pictures to explain: the batch is empty")
        return Explanation.join(parts)

    def explain(self, case: Case) -> Explanation:
        """Explain one prepared case, which several methods can share; counts only the passes made here."""
        before = case.passes
        attribution = self.attribute(case)
        values = attribution.values.detach().float().cpu()
        return Explanation(
            values=values,
            scores=case.scores.detach().float().cpu(),
            delta=None if attribution.delta is None else attribution.delta.detach().float().cpu(),
            method=self.label,
            options=self.options(),
            layer=case.view.layer,
            targets=case.target.labels,
            signed=self.signed,
            notes=_notes(values, attribution.notes or {}),
            passes=case.passes - before,
            versions={"pellucid": pellucid.__version__, "torch": torch.__version__},
        )

    def options(self) -> dict[str, object]:
        """Every option with its value."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def rows_of_target(target: Any, rows: slice, pictures: int) -> Any:
    """The part of a target that belongs to some of the pictures."""
    if isinstance(target, Target):
        return replace(target, classes=rows_of_target(target.classes, rows, pictures))
    return target[rows] if isinstance(target, Tensor) and len(target) == pictures else target


def _notes(values: Tensor, given: Mapping[int, tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    notes = []
    for index, maps in enumerate(values):
        found = list(given.get(index, ()))
        if not bool(maps.isfinite().all()):
            found.append("the map holds NaN or infinite values")
        elif bool((maps == 0).flatten(1).all(1).any()):
            found.append("the map is zero everywhere: at this layer the method finds no evidence for the target")
        notes.append(tuple(found))
    return tuple(notes)
