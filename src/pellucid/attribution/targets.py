"""What is explained: the logit of a class, or another number computed from the logits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, Literal, Protocol, SupportsIndex

import torch
from torch import Tensor

from pellucid.errors import TargetError
from pellucid.shapes import Float, Int

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Output = Literal["logit", "probability", "log_probability", "margin", "centered"]
ClassRef = SupportsIndex | str | tuple[SupportsIndex, SupportsIndex | str]
"""A class by index or name; (head, class) where a classifier has several heads."""


class ClassNames(Protocol):
    """What a target needs to know of a classifier.

    >>> import pellucid as pl
    >>> names: ClassNames = pl.load("digit_cnn")
    >>> names.class_index("7")
    7
    """

    @property
    def class_names(self) -> Sequence[str]:
        """Names in the order of the logits."""

    def class_index(self, target: int | str) -> int:
        """Index of a class given by index or name."""


@dataclass(frozen=True)
class Target:
    """The numbers that an explanation explains, one or several for every image.

    Attributes:
        classes: a class by index or name; a list of them, T targets explained for every image; a tensor of indices
            (N,) or (N, T) for classes that differ from image to image; (head, class) pairs, or a tensor (N, T, 2),
            for classifiers with several heads; None for the class that the classifier predicts.
        output: "logit"; "probability" and "log_probability" under softmax (sigmoid if there is one logit); "margin",
            the logit minus the largest other logit of the same image (the runner-up as it was before anything is
            perturbed); "centered", the logit minus the mean logit.
        minus: for "logit", a class whose logit is subtracted (a contrast).

    >>> Target(["zebra", "horse"], output="margin").output
    'margin'
    """

    classes: ClassRef | Sequence[ClassRef] | Tensor | None = None
    output: Output = "logit"
    minus: int | str | None = None

    def __post_init__(self) -> None:
        if self.output not in ("logit", "probability", "log_probability", "margin", "centered"):
            raise TargetError(
                f"unknown output {self.output!r}: logit, probability, log_probability, margin or centered"
            )
        if self.minus is not None and self.output != "logit":
            raise TargetError(f"minus= contrasts logits; it cannot be combined with output={self.output!r}")


TargetLike = ClassRef | Sequence[ClassRef] | Tensor | Target | None
"""What methods explain: anything that `Target.classes` takes, or a `Target`."""


@dataclass(frozen=True)
class ResolvedTarget:
    """A target for N given images.

    Attributes:
        heads, classes: (N, T) indices into the logits.
        others: (N, T) classes whose logit is subtracted, or None.
        output: as in `Target`.
        labels: N lists of T texts.

    >>> import pellucid as pl
    >>> target = resolve_target([3, 7], pl.load("digit_cnn"), torch.zeros(2, 10))
    >>> target.scores(torch.arange(20.0).reshape(2, 10)).tolist()
    [[3.0, 7.0], [13.0, 17.0]]
    """

    heads: Int[Tensor, "N T"]
    classes: Int[Tensor, "N T"]
    others: Int[Tensor, "N T"] | None
    output: Output
    labels: tuple[tuple[str, ...], ...]

    @property
    def is_linear(self) -> bool:
        """Whether the score is a linear function of the logits."""
        return self.output in ("logit", "margin", "centered")

    def scores(self, logits: Float[Tensor, "R ..."], rows: Int[Tensor, " R"] | None = None) -> Float[Tensor, "R T"]:
        """The explained numbers (R, T) of logits (R, K) or (R, heads, K).

        Args:
            logits: rows may belong to any image.
            rows: (R,) which image each row belongs to; by default row i belongs to image i.
        """
        logits = logits if logits.ndim == 3 else logits[:, None]
        rows = torch.arange(len(logits)) if rows is None else rows
        rows = rows.to(self.classes.device)
        heads, classes = self.heads[rows].to(logits.device), self.classes[rows].to(logits.device)
        if self.output in ("probability", "log_probability"):
            logits = _normalized(logits, logarithm=self.output == "log_probability")
        first = torch.arange(len(logits), device=logits.device)[:, None]
        scores = logits[first, heads, classes]
        if self.output == "centered":
            return scores - logits[first, heads].mean(-1)
        if self.others is not None:
            return scores - logits[first, heads, self.others[rows].to(logits.device)]
        return scores

    def as_probability(self) -> "ResolvedTarget":
        """The probability of the same classes."""
        return ResolvedTarget(self.heads, self.classes, None, "probability", self.labels)


def _normalized(logits: Tensor, *, logarithm: bool) -> Tensor:
    if logits.shape[-1] == 1:
        return torch.nn.functional.logsigmoid(logits) if logarithm else logits.sigmoid()
    return logits.log_softmax(-1) if logarithm else logits.softmax(-1)


def count_targets(target: TargetLike) -> int:
    """How many targets T this gives for every image.

    >>> count_targets(3), count_targets([3, "zebra"]), count_targets(torch.tensor([[1, 2], [3, 4]]))
    (1, 2, 2)
    """
    classes = target.classes if isinstance(target, Target) else target
    if isinstance(classes, Tensor):
        return classes.shape[1] if classes.ndim > 1 else 1
    return len(classes) if isinstance(classes, list) else 1


def select_targets(target: TargetLike, rows: slice, images: int) -> TargetLike:
    """The part of a target that belongs to some of the images.

    Args:
        target: of all the images; what is not a tensor is the same for every image.
        rows: which of them.
        images: how many there are in all.

    Raises:
        TargetError: a tensor of targets that has not one row for each of the images.

    >>> select_targets(torch.tensor([1, 2, 3, 4]), slice(1, 3), 4).tolist(), select_targets("zebra", slice(1, 3), 4)
    ([2, 3], 'zebra')
    """
    if isinstance(target, Target):
        classes = select_targets(target.classes, rows, images)
        assert not isinstance(classes, Target)
        return replace(target, classes=classes)
    if not isinstance(target, Tensor) or not target.ndim:
        return target
    _check_length(target, images)
    return target[rows]


def target_heads(target: TargetLike) -> tuple[int, ...]:
    """The heads that a target names, in order; none for a target that names classes alone.

    >>> target_heads([(3, "zebra"), (1, "horse")]), target_heads("zebra")
    ((1, 3), ())
    """
    classes: Any = target.classes if isinstance(target, Target) else target
    if isinstance(classes, Tensor):
        return tuple(sorted(set(classes[..., 0].flatten().tolist()))) if classes.ndim == 3 else ()
    references = classes if isinstance(classes, list) else [classes]
    return tuple(sorted({index(reference[0]) for reference in references if _is_pair(reference)}))


def resolve_target(
    target: TargetLike, classifier: ClassNames, logits: Tensor, heads: Sequence[int] | None = None
) -> ResolvedTarget:
    """Look up a target for the images that gave `logits` (N, K) or (N, heads, K).

    Args:
        target: anything that `Target.classes` takes, or a `Target`.
        classifier: knows the classes.
        logits: of the images.
        heads: what targets call the heads that there are logits of; None if they are numbered from 0, and one alone
            need not be named.

    Raises:
        TargetError: no such class or head, or a tensor of targets that does not fit N images.

    >>> import pellucid as pl
    >>> resolve_target("7", pl.load("digit_cnn"), torch.zeros(2, 10)).labels
    (('7',), ('7',))
    """
    target = target if isinstance(target, Target) else Target(target)
    logits = (logits if logits.ndim == 3 else logits[:, None]).detach().cpu()
    if heads is None and logits.shape[1] > 1:
        heads = range(logits.shape[1])
    head_numbers, classes = _indices(target.classes, classifier, logits, heads)
    positions = head_numbers if heads is None else (head_numbers[..., None] == torch.tensor(heads)).long().argmax(-1)
    others = None
    if target.minus is not None:
        others = torch.full_like(classes, classifier.class_index(target.minus))
    elif target.output in ("margin", "centered") and logits.shape[-1] < 2:
        raise TargetError(f"output={target.output!r} needs at least two classes; the classifier has one")
    elif target.output == "margin":
        others = _runner_up(logits, positions, classes)
    labels = tuple(
        tuple(_label(target, classifier, *pair, has_heads=heads is not None) for pair in zip(*row, strict=True))
        for row in zip(head_numbers.tolist(), classes.tolist(), strict=True)
    )
    return ResolvedTarget(positions, classes, others, target.output, labels)


def _indices(target: Any, classifier: ClassNames, logits: Tensor, heads: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    images, _, class_count = logits.shape
    if target is None:
        if heads is not None:
            raise TargetError(f"the classifier has {len(heads)} heads; give targets as (head, class)")
        return torch.zeros(images, 1, dtype=torch.long), logits.argmax(-1)
    if isinstance(target, Tensor) and target.ndim:
        _refuse_one_hot(target, class_count)
        pairs = _pairs_of_tensor(target, images, heads)
    else:
        references = target if isinstance(target, list) else [target]
        if not references:
            raise TargetError("the list of targets is empty")
        pairs = torch.tensor([_pair(reference, classifier, heads) for reference in references]).expand(images, -1, 2)
    present = (0,) if heads is None else tuple(heads)
    inside = torch.isin(pairs[..., 0], torch.tensor(present)) & (pairs[..., 1] >= 0) & (pairs[..., 1] < class_count)
    if not bool(inside.all()):
        head, number = pairs[~inside][0].tolist()
        raise TargetError(
            f"class {number} of head {head} does not exist: there are classes 0 to {class_count - 1} of heads "
            f"{', '.join(map(str, present))}"
        )
    return pairs[..., 0].clone(), pairs[..., 1].clone()


def _pairs_of_tensor(target: Tensor, images: int, heads: Sequence[int] | None) -> Tensor:
    """(head, class) pairs (N, T, 2) of a tensor of targets."""
    target = target.detach().cpu()
    is_shaped = target.ndim in (1, 2) or (target.ndim == 3 and target.shape[2] == 2)
    if target.dtype not in _INTEGERS or not is_shaped or not target.numel():
        raise TargetError(
            f"a tensor of targets is (N,), (N, T) or (N, T, 2) integers, not {tuple(target.shape)} {target.dtype}"
        )
    _check_length(target, images)
    if target.ndim == 3:
        return target.long()
    if heads is not None:
        raise TargetError(
            f"the classifier has {len(heads)} heads; give (head, class) pairs (N, T, 2), not {tuple(target.shape)}"
        )
    classes = target.reshape(images, -1).long()
    return torch.stack([torch.zeros_like(classes), classes], dim=-1)


def _refuse_one_hot(target: Tensor, classes: int) -> None:
    """A row of zeros with a single one for every image would be read as that many targets."""
    if target.ndim != 2 or target.shape[1] != classes or classes < 3:
        return
    if bool(((target == 0).sum(1) == classes - 1).all()) and bool((target.amax(1) == 1).all()):
        raise TargetError("the tensor of targets is one-hot; give the indices of the classes: targets.argmax(1)")


def _check_length(target: Tensor, images: int) -> None:
    if len(target) != images:
        raise TargetError(
            f"a tensor of targets goes image by image; {len(target)} were given for {images} images "
            "(a list explains all its targets for every image)"
        )


def _is_pair(reference: Any) -> bool:
    return isinstance(reference, tuple) and len(reference) == 2 and _is_index(reference[0])


def _pair(reference: Any, classifier: ClassNames, heads: Sequence[int] | None) -> tuple[int, int]:
    if _is_pair(reference):
        return index(reference[0]), _class_index(reference[1], classifier)
    if not isinstance(reference, str) and not _is_index(reference):
        raise TargetError(
            f"{reference!r} is not a target: give a class index or name, (head, class), a list of these, or a Target"
        )
    if heads is not None:
        raise TargetError(f"the classifier has {len(heads)} heads; give the target {reference!r} as (head, class)")
    return 0, _class_index(reference, classifier)


def _class_index(reference: Any, classifier: ClassNames) -> int:
    return classifier.class_index(reference if isinstance(reference, str | bool) else index(reference))


def _is_index(value: Any) -> bool:
    """Whether this is an integer, of Python, numpy or torch; a truth value is none, though Python lets it be 0 or 1."""
    if isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool:
        return False
    try:
        index(value)
    except TypeError:
        return False
    return True


def _runner_up(logits: Tensor, heads: Tensor, classes: Tensor) -> Tensor:
    first = torch.arange(len(logits))[:, None]
    others = logits[first, heads].clone()  # (N, T, K)
    others.scatter_(2, classes[..., None], -torch.inf)
    return others.argmax(-1)


def _label(target: Target, classifier: ClassNames, head: int, index: int, *, has_heads: bool) -> str:
    name = classifier.class_names[index]
    text = name if target.output == "logit" else f"{target.output.replace('_', ' ')} of {name}"
    if target.minus is not None:
        text = f"{name} minus {classifier.class_names[classifier.class_index(target.minus)]}"
    return f"{text} at head {head}" if has_heads else text
