"""What is explained: the logit of a class, or another number computed from the logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from pellucid.errors import TargetError

__all__ = ["ClassNames", "Output", "ResolvedTarget", "Target", "resolve_target"]

Output = Literal["logit", "probability", "log_probability", "margin", "centred"]
ClassRef = int | str | tuple[int, int | str]
"""A class by index or name; (head, class) where a classifier has several heads."""


class ClassNames(Protocol):
    """What a target needs to know of a classifier."""

    class_names: Sequence[str]

    def class_index(self, target: int | str) -> int:
        """Index of a class given by index or name."""


@dataclass(frozen=True)
class Target:
    """The numbers that an explanation explains, one or several for every picture.

    Attributes:
        classes: a class by index or name; a list of them, T targets explained for every picture; a tensor of indices
            (N,) or (N, T) for classes that differ from picture to picture; (head, class) pairs, or a tensor (N, T, 2),
            for classifiers with several heads; None for the class that the classifier predicts.
        output: "logit"; "probability" and "log_probability" under softmax (sigmoid if there is one logit); "margin",
            the logit minus the largest other logit of the same picture; "centred", the logit minus the mean logit.
        minus: for "logit", a class whose logit is subtracted (a contrast).
    """

    classes: ClassRef | Sequence[ClassRef] | Tensor | None = None
    output: Output = "logit"
    minus: int | str | None = None

    def __post_init__(self) -> None:
        if self.output not in ("logit", "probability", "log_probability", "margin", "centred"):
            raise TargetError(f"unknown output {self.output!r}: logit, probability, log_probability, margin or centred")
        if self.minus is not None and self.output != "logit":
            raise TargetError(f"minus= contrasts logits; it cannot be combined with output={self.output!r}")


@dataclass(frozen=True)
class ResolvedTarget:
    """A target for N given pictures.

    Attributes:
        heads, classes: (N, T) indices.
        others: (N, T) classes whose logit is subtracted, or None.
        output: as in `Target`.
        labels: N lists of T texts.
    """

    heads: Tensor
    classes: Tensor
    others: Tensor | None
    output: Output
    labels: tuple[tuple[str, ...], ...]

    @property
    def is_linear(self) -> bool:
        """Whether the score is a linear function of the logits."""
        return self.output in ("logit", "margin", "centred")

    def scores(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """The explained numbers (R, T) of logits (R, K) or (R, heads, K).

        Args:
            logits: rows may belong to any picture.
            rows: (R,) which picture each row belongs to; by default row i belongs to picture i.
        """
        logits = logits if logits.ndim == 3 else logits[:, None]
        rows = torch.arange(len(logits)) if rows is None else rows
        rows = rows.to(self.classes.device)
        heads, classes = self.heads[rows].to(logits.device), self.classes[rows].to(logits.device)
        if self.output in ("probability", "log_probability"):
            logits = _normalised(logits, logarithm=self.output == "log_probability")
        first = torch.arange(len(logits), device=logits.device)[:, None]
        chosen = logits[first, heads, classes]
        if self.output == "centred":
            return chosen - logits[first, heads].mean(-1)
        if self.others is not None:
            return chosen - logits[first, heads, self.others[rows].to(logits.device)]
        return chosen

    def as_probability(self) -> "ResolvedTarget":
        """The probability of the same classes."""
        return ResolvedTarget(self.heads, self.classes, None, "probability", self.labels)


def _normalised(logits: Tensor, *, logarithm: bool) -> Tensor:
    if logits.shape[-1] == 1:
        return torch.nn.functional.logsigmoid(logits) if logarithm else logits.sigmoid()
    return logits.log_softmax(-1) if logarithm else logits.softmax(-1)


def resolve_target(target: Any, classifier: ClassNames, logits: Tensor) -> ResolvedTarget:
    """Look up a target for the pictures that gave `logits` (N, K) or (N, heads, K).

    Raises:
        TargetError: no such class or head, or a tensor of targets that does not fit N pictures.
    """
    target = target if isinstance(target, Target) else Target(target)
    logits = (logits if logits.ndim == 3 else logits[:, None]).detach().cpu()
    heads, classes = _indices(target.classes, classifier, logits)
    others = None
    if target.minus is not None:
        others = torch.full_like(classes, classifier.class_index(target.minus))
    elif target.output == "margin":
        others = _runner_up(logits, heads, classes)
    labels = tuple(
        tuple(_label(target, classifier, logits.shape[1], *pair) for pair in zip(*row, strict=True))
        for row in zip(heads.tolist(), classes.tolist(), strict=True)
    )
    return ResolvedTarget(heads, classes, others, target.output, labels)


def _indices(wanted: Any, classifier: ClassNames, logits: Tensor) -> tuple[Tensor, Tensor]:
    pictures, head_count, class_count = logits.shape
    if wanted is None:
        if head_count > 1:
            raise TargetError(f"the classifier has {head_count} heads; give targets as (head, class)")
        return torch.zeros(pictures, 1, dtype=torch.long), logits.argmax(-1)
    if isinstance(wanted, Tensor):
        pairs = _pairs_of_tensor(wanted, pictures)
    else:
        several = wanted if isinstance(wanted, list) else [wanted]
        if not several:
            raise TargetError("the list of targets is empty")
        pairs = torch.tensor([_pair(one, classifier, head_count) for one in several]).expand(pictures, -1, 2)
    heads, classes = pairs[..., 0].clone(), pairs[..., 1].clone()
    if int(heads.max()) >= head_count or int(classes.max()) >= class_count or int(pairs.min()) < 0:
        raise TargetError(f"a target lies outside {head_count} heads x {class_count} classes: {pairs.tolist()[:3]}")
    return heads, classes


def _pairs_of_tensor(wanted: Tensor, pictures: int) -> Tensor:
    wanted = wanted.detach().cpu()
    if wanted.is_floating_point() or wanted.ndim not in (1, 2, 3) or (wanted.ndim == 3 and wanted.shape[2] != 2):
        raise TargetError(
            f"a tensor of targets is (N,), (N, T) or (N, T, 2) integers, not {tuple(wanted.shape)} {wanted.dtype}"
        )
    if len(wanted) != pictures:
        raise TargetError(f"targets for {len(wanted)} pictures were given with {pictures} pictures")
    if wanted.ndim == 3:
        return wanted.long()
    classes = wanted.reshape(pictures, -1).long()
    return torch.stack([torch.zeros_like(classes), classes], dim=-1)


def _pair(one: Any, classifier: ClassNames, head_count: int) -> tuple[int, int]:
    if isinstance(one, tuple) and len(one) == 2:
        return int(one[0]), classifier.class_index(one[1])
    if isinstance(one, int | str) and head_count == 1:
        return 0, classifier.class_index(one)
    if isinstance(one, int | str):
        raise TargetError(f"the classifier has {head_count} heads; give the target {one!r} as (head, class)")
    raise TargetError(f"{one!r} is no target: give a class index or name, (head, class), a list of these, or a Target")


def _runner_up(logits: Tensor, heads: Tensor, classes: Tensor) -> Tensor:
    if logits.shape[-1] < 2:
        raise TargetError("a margin needs at least two classes")
    first = torch.arange(len(logits))[:, None]
    chosen = logits[first, heads].clone()  # (N, T, K)
    chosen.scatter_(2, classes[..., None], -torch.inf)
    return chosen.argmax(-1)


def _label(target: Target, classifier: ClassNames, head_count: int, head: int, index: int) -> str:
    name = classifier.class_names[index]
    text = name if target.output == "logit" else f"{target.output.replace('_', ' ')} of {name}"
    if target.minus is not None:
        text = f"{name} minus {classifier.class_names[classifier.class_index(target.minus)]}"
    return f"{text} at head {head}" if head_count > 1 else text
