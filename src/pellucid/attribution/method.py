"""What all attribution methods share: options, names that people type, the call that explains images, the receipt."""

import ast
import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pellucid.attribution.cases import Case, iterate_cases
from pellucid.attribution.explanation import Explanation, largest_gap
from pellucid.attribution.targets import TargetLike
from pellucid.attribution.view import View
from pellucid.errors import PellucidError
from pellucid.results import Provenance, Receipt, library_versions
from pellucid.shapes import Float


@dataclass(frozen=True)
class Attribution:
    """What a method computes for a case: maps (N, T, h, w), and for complete methods the sums they should have.

    Attributes:
        values: (N, T, h, w).
        delta: (N, T) or None.
        notes: remarks by image index.

    >>> Attribution(torch.zeros(2, 1, 4, 4)).delta is None
    True
    """

    values: Float[Tensor, "N T h w"]
    delta: Float[Tensor, "N T"] | None = None
    notes: Mapping[int, tuple[str, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """An attribution method with its options: called, it explains images; a new one implements `attribute`.

    Attributes:
        max_batch: most rows (images x steps, masks or windows; cells, of a grid setting) to send through the suffix
            at once: it bounds the memory and changes no result beyond rounding. With T targets, at most max_batch / T
            images (or 1) are explained at once, so that their N x T gradients are bounded too.
        max_bytes: most bytes that the tensors of one pass may take (see `BatchBudget`, which measures one row's), on
            top of images, activations and maps; None for no bound. Too few for one row are an error that says how many.

    >>> import pellucid as pl
    >>> class Brightness(pl.attribution.Method):
    ...     def attribute(self, case: Case) -> Attribution:
    ...         brightness = case.activation.mean(1, keepdim=True)
    ...         return Attribution(brightness.expand(-1, case.target_count, -1, -1))
    >>> view = pl.load("digit_cnn").at("final")
    >>> Brightness()(view, torch.rand(2, 1, 32, 32), ["3", "7"]).values.shape
    torch.Size([2, 2, 8, 8])
    """

    max_batch: int = 16
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise PellucidError(f"max_batch is {self.max_batch}; it must be at least 1")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise PellucidError(f"max_bytes is {self.max_bytes}; it must be at least 1, or None for no bound")

    @property
    def label(self) -> str:
        """What reports call the method."""
        return type(self).__name__

    @property
    def signed(self) -> bool:
        """False for methods whose maps are >= 0 by definition."""
        return True

    def needs_gradients(self, view: View) -> bool:
        """Whether `attribute` asks for `case.gradients` at this view, so that the first forward keeps its graph."""
        return False

    @abstractmethod
    def attribute(self, case: Case) -> Attribution:
        """Compute the maps of one case."""

    def __call__(self, view: View, images: Tensor, target: TargetLike = None) -> Explanation:
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

    def options(self) -> dict[str, object]:
        """Every option with its value."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def explain(view: View, images: Tensor, target: TargetLike, methods: Sequence[Method]) -> list[Explanation]:
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

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> methods = [pl.attribution.GradCAM(), pl.attribution.InputXGradient()]
    >>> explanations = pl.attribution.explain(view, torch.rand(2, 1, 32, 32), "7", methods)
    >>> [explanation.passes.suffix_forward for explanation in explanations]
    [2, 0]
    """
    batches = [
        [explain_case(case, method) for method in methods] for case in iterate_cases(view, images, target, methods)
    ]
    return [Explanation.join(parts) for parts in zip(*batches, strict=True)]


def explain_case(case: Case, method: Method) -> Explanation:
    """Explain one prepared case, which several methods can share.

    Args:
        case: from `iterate_cases`.
        method: with its options.

    Returns:
        The maps with their receipt. The first method to explain a case is charged for what was run to prepare it.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> method = pl.attribution.GradCAM()
    >>> for case in pl.attribution.iterate_cases(view, torch.rand(20, 1, 32, 32), "7", [method]):
    ...     print(len(case), explain_case(case, method).values.shape)
    16 torch.Size([16, 1, 8, 8])
    4 torch.Size([4, 1, 8, 8])
    """
    with torch.inference_mode(False):
        attribution = method.attribute(case)
    values = attribution.values.detach().float().cpu()
    delta = None if attribution.delta is None else attribution.delta.detach().float().cpu()
    return Explanation(
        values=values,
        scores=case.scores.detach().float().cpu(),
        delta=delta,
        targets=case.target.labels,
        signed=method.signed,
        notes=_notes(values, case.target.labels, attribution.notes or {}),
        provenance=Provenance(
            model=case.view.classifier.name,
            layers=(case.view.layer,),
            method=method.label,
            options=method.options(),
            versions=library_versions(),
        ),
        receipt=Receipt(passes=case.claim_passes(), gap=largest_gap(values, delta)),
    )


def _notes(
    values: Tensor, labels: tuple[tuple[str, ...], ...], remarks_by_image: Mapping[int, tuple[str, ...]]
) -> tuple[tuple[str, ...], ...]:
    notes = []
    for index, (maps, names) in enumerate(zip(values, labels, strict=True)):
        remarks = list(remarks_by_image.get(index, ()))
        for name, values_of_target in zip(names, maps, strict=True):
            subject = "the map" if len(names) == 1 else f"the map of {name}"
            if not bool(values_of_target.isfinite().all()):
                remarks.append(f"{subject} holds NaN or infinite values")
            elif not bool(values_of_target.any()):
                remarks.append(
                    f"{subject} is zero everywhere: at this layer the method finds no evidence for the target"
                )
        notes.append(tuple(remarks))
    return tuple(notes)


def make_methods(
    names: Sequence[str], options: Sequence[str], methods: Mapping[str, type[Method]], **common: Any
) -> list[Method]:
    """Make methods from text.

    Args:
        names: in any spelling: "GradCAM", "grad-cam", "gradcam++".
        options: "Method.option=value" texts, e.g. "IntegratedGradients.steps=50"; values are Python literals or words.
        methods: name -> class.
        common: options for all methods.

    Raises:
        PellucidError: no such method or option, or a value that the method refuses.

    >>> import pellucid as pl
    >>> make_methods(["grad-cam"], ["GradCAM.relu=False"], pl.attribution.METHODS)
    [GradCAM(max_batch=16, max_bytes=None, relu=False)]
    """
    selected = list(dict.fromkeys(_find(name, methods) for name in names))
    if not selected:
        raise PellucidError(f"no methods given; choose from {', '.join(methods)}")
    arguments_of: dict[str, dict[str, Any]] = {name: dict(common) for name in selected}
    for text in options:
        name, option, value = _parse(text, methods)
        if name not in arguments_of:
            raise PellucidError(f"option {text!r} is for {name}, which is not among the methods {', '.join(selected)}")
        arguments_of[name][option] = value
    result = []
    for name, arguments in arguments_of.items():
        try:
            result.append(methods[name](**arguments))
        except TypeError as error:
            raise PellucidError(f"{name} refuses its options {arguments}: {error}") from error
    return result


_NUMBERS = {int: "a whole number", float: "a number", bool: "True or False"}


def _normalize(name: str) -> str:
    return name.lower().replace("++", "plusplus").replace("-", "").replace("_", "").replace(" ", "")


def _find(name: str, methods: Mapping[str, type[Method]]) -> str:
    by_spelling = {_normalize(known): known for known in methods}
    if _normalize(name) in by_spelling:
        return by_spelling[_normalize(name)]
    near = difflib.get_close_matches(_normalize(name), by_spelling, n=3)
    matches = " or ".join(by_spelling[match] for match in near)
    hint = f"did you mean {matches}?" if near else f"choose from {', '.join(methods)}"
    raise PellucidError(f"no attribution method {name!r}; {hint}")


def _parse(text: str, methods: Mapping[str, type[Method]]) -> tuple[str, str, Any]:
    path, equals, value = text.partition("=")
    method, dot, option = path.partition(".")
    if not equals or not dot:
        raise PellucidError(f"option {text!r} is not of the form Method.option=value")
    name = _find(method, methods)
    known = [item.name for item in fields(methods[name])]
    if option.strip() not in known:
        raise PellucidError(f"{name} has no option {option!r}; it has {', '.join(known)}")
    try:
        parsed = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        parsed = value.strip()
    default = next(item.default for item in fields(methods[name]) if item.name == option.strip())
    expected = _NUMBERS.get(type(default))
    if expected is not None and isinstance(parsed, str):
        raise PellucidError(f"{name}.{option.strip()} is {expected}, such as {default}, not {parsed!r}")
    return name, option.strip(), parsed
