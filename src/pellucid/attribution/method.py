"""What all attribution methods share: options, batching over images, and the receipt."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from pellucid.attribution.case import Case
from pellucid.attribution.cases import explain
from pellucid.attribution.explanation import Explanation, largest_gap
from pellucid.attribution.view import View
from pellucid.errors import PellucidError
from pellucid.results import Provenance, Receipt, library_versions


@dataclass(frozen=True)
class Attribution:
    """What a method computes for a case: maps (N, T, h, w), and for complete methods the sums they should have.

    Attributes:
        values: (N, T, h, w).
        delta: (N, T) or None.
        notes: remarks by image index.
    """

    values: Tensor
    delta: Tensor | None = None
    notes: Mapping[int, tuple[str, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """An attribution method with its options.

    Attributes:
        max_batch: most rows (images x steps, masks or windows; cells, of a grid setting) to send through the suffix
            at once: it bounds the memory and changes no result beyond rounding. With T targets, at most max_batch / T
            images (or 1) are explained at once, so that their N x T gradients are bounded too.
        max_bytes: most bytes that the tensors of one pass may take (see `BatchBudget`, which measures one row's), on
            top of
            images, activations and maps; None for no bound. Too few for one row are an error that says how many.
    """

    max_batch: int = 16
    max_bytes: int | None = None
    signed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise PellucidError(f"max_batch is {self.max_batch}; it must be at least 1")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise PellucidError(f"max_bytes is {self.max_bytes}; it must be at least 1, or None for no bound")

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

    def __call__(self, view: View, images: Tensor, target: Any = None) -> Explanation:
        """Explain images at the view's layer.

        Args:
            view: `classifier.at(layer)`.
            images: (N, C, H, W) in the classifier's own input space.
            target: class index or name; a list of them (T targets for every image); a tensor (N,) or (N, T) of
                indices, image by image; a `Target`; None for the predicted class.

        Returns:
            An `Explanation` with values (N, T, h, w) at the layer's own resolution.

        Raises:
            TargetError: no such class.
            ModelError: NaN or infinite logits.
        """
        return explain(view, images, target, [self])[0]

    def explain(self, case: Case) -> Explanation:
        """Explain one prepared case, which several methods can share; counts only the passes made here."""
        before = case.passes
        attribution = self.attribute(case)
        values = attribution.values.detach().float().cpu()
        delta = None if attribution.delta is None else attribution.delta.detach().float().cpu()
        return Explanation(
            values=values,
            scores=case.scores.detach().float().cpu(),
            delta=delta,
            targets=case.target.labels,
            signed=self.signed,
            notes=_notes(values, case.target.labels, attribution.notes or {}),
            provenance=Provenance(
                model=case.view.classifier.name,
                layers=(case.view.layer,),
                method=self.label,
                options=self.options(),
                versions=library_versions(),
            ),
            receipt=Receipt(passes=case.passes - before, gap=largest_gap(values, delta)),
        )

    def options(self) -> dict[str, object]:
        """Every option with its value."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def _notes(
    values: Tensor, labels: tuple[tuple[str, ...], ...], given: Mapping[int, tuple[str, ...]]
) -> tuple[tuple[str, ...], ...]:
    notes = []
    for index, (maps, names) in enumerate(zip(values, labels, strict=True)):
        found = list(given.get(index, ()))
        for name, values_of_target in zip(names, maps, strict=True):
            what = "the map" if len(names) == 1 else f"the map of {name}"
            if not bool(values_of_target.isfinite().all()):
                found.append(f"{what} holds NaN or infinite values")
            elif not bool(values_of_target.any()):
                found.append(f"{what} is zero everywhere: at this layer the method finds no evidence for the target")
        notes.append(tuple(found))
    return tuple(notes)
