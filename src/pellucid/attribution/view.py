"""What methods need of a classifier seen from a layer: a view, possibly with several heads."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

from torch import Tensor, fx

from pellucid.attribution.targets import ClassNames, TargetLike, target_heads
from pellucid.classifiers import Activation, SideInputs


class _Classifier(ClassNames, Protocol):
    @property
    def name(self) -> str: ...
    def logits(self, images: Tensor) -> Tensor: ...


class View(Protocol):
    """A classifier seen from a layer; `LayerView`, or the view of a grid setting with several heads."""

    @property
    def layer(self) -> str:
        """Name of the layer."""

    @property
    def classifier(self) -> _Classifier:
        """The classifier, or the grid setting."""

    @property
    def suffix(self) -> fx.GraphModule | None:
        """The traced operations after the layer."""

    @property
    def is_affine(self) -> bool:
        """Whether the logits are known to be affine in the activation."""

    def activation(self, images: Tensor) -> Activation:
        """Run the part before the layer."""

    def logits(self, activation: Tensor, side_inputs: SideInputs | None = None) -> Tensor:
        """Run the part after the layer."""

    def suffix_inputs(self, activation: Tensor, side_inputs: SideInputs | None = None) -> tuple[Any, ...]:
        """What `suffix` is called with."""


class MultiHeadView(View, Protocol):
    """The view of a grid setting: logits are (R, heads, K), and what a head costs depends on the setting.

    Attributes:
        head_numbers: what targets call the heads; None where there is one that they need not name.
        prefix_rows, suffix_rows: what one grid image counts for in each part of the network: its cells that are run.
    """

    head_numbers: tuple[int, ...] | None
    prefix_rows: int
    suffix_rows: int

    def select_heads(self, heads: Sequence[int]) -> "MultiHeadView":
        """The view without the other heads, which are not run."""

    def head_masks(self, height: int, width: int) -> Tensor | None:
        """Masks (heads, height, width) of the cells that influence each head, if these are disjoint."""

    def logits_with_cost(self, activation: Tensor, side_inputs: SideInputs | None = None) -> tuple[Tensor, int]:
        """The logits, and how many cells went through the network for them."""


def as_multi_head(view: View) -> MultiHeadView | None:
    """The view as one with heads; None for the view of a classifier.

    >>> import pellucid as pl
    >>> as_multi_head(pl.load("digit_cnn").at("final")) is None
    True
    """
    return cast(MultiHeadView, view) if hasattr(view, "logits_with_cost") else None


def rows_per_image(view: View) -> tuple[int, int]:
    """What one image counts for before the layer and after it: 1, or the cells of a grid image that are run.

    >>> import pellucid as pl
    >>> rows_per_image(pl.load("digit_cnn").at("final"))
    (1, 1)
    """
    with_heads = as_multi_head(view)
    return (1, 1) if with_heads is None else (with_heads.prefix_rows, with_heads.suffix_rows)


def select_heads(view: View, target: TargetLike) -> View:
    """The view without the heads that a target does not name.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> select_heads(view, "7") is view
    True
    """
    with_heads, heads = as_multi_head(view), target_heads(target)
    return with_heads.select_heads(heads) if with_heads is not None and heads else view
