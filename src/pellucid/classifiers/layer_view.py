"""A classifier seen from a layer: pictures -> activation, once; activation -> logits, as often as one likes."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from pellucid.classifiers.affine import is_affine
from pellucid.classifiers.cut import Cut
from pellucid.classifiers.layout import Layout
from pellucid.classifiers.precision import Precision, checked_logits, running_on
from pellucid.classifiers.side_inputs import Carried, PerPicture
from pellucid.errors import LayerError

if TYPE_CHECKING:
    from pellucid.classifiers.classifier import Classifier


class Activation(Tensor):
    """An activation (N, C, h, w) together with what else crosses the cut for the same pictures.

    It is a tensor like any other; what is computed from it is a plain tensor, to which `carried` no longer belongs.
    """

    carried: Carried
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(tensor: Tensor, carried: Carried) -> "Activation":
        """`tensor` with `carried` attached."""
        activation: Activation = tensor.as_subclass(Activation)
        activation.carried = carried
        return activation


class LayerView:
    """`classifier.at(layer)`: the part of the network before the layer and the part after it.

    Attributes:
        classifier: the classifier that is seen.
        layer: the layer's name.
        layout: how the layer's native output becomes a map.
    """

    def __init__(self, classifier: "Classifier", layer: str, cut: Cut, layout: Layout, precision: Precision) -> None:
        self.classifier = classifier
        self.layer = layer
        self.layout = layout
        self._cut = cut
        self._precision = precision

    @property
    def suffix(self) -> fx.GraphModule | None:
        """The traced operations after the layer, to be called with `suffix_inputs`; None for an untraceable network."""
        return self._cut.suffix

    @property
    def carried_names(self) -> tuple[str, ...]:
        """What else crosses the cut, in the user's words; empty where the logits need the activation alone."""
        return (*self._cut.names, self._leading_tokens) if self.layout.tokens else self._cut.names

    @property
    def _leading_tokens(self) -> str:
        return f"{self.layout.tokens} leading token{'s' * (self.layout.tokens > 1)} of {self.layer}"

    @cached_property
    def is_affine(self) -> bool:
        """Whether the logits are known to be an affine function of the activation (pooling and a linear head)."""
        return self.suffix is not None and is_affine(self.suffix)

    def activation(self, pictures: Tensor) -> Activation:
        """Run the part before the layer.

        Args:
            pictures: (N, 3, H, W) in the classifier's own input space, as `classifier.read` makes them.

        Returns:
            (N, C, h, w) float32, detached. A layer without spatial extent has h = w = 1; the tokens of a transformer
            are folded into their grid, and leading tokens such as the class token are carried along.
        """
        pictures = self.classifier.check_pictures(pictures)
        with torch.no_grad(), self._precision.running(), running_on(pictures, self.classifier.input_shape):
            native, carried = self._cut.before(self._precision.prepare(pictures))
            folded, leading = self.layout.fold(native, *pictures.shape[-2:])
        if leading is not None:
            carried = carried.and_also(leading, self._leading_tokens, PerPicture(0))
        return Activation.of(self._precision.full(folded).detach(), carried)

    def logits(self, activation: Tensor, carried: Carried | None = None) -> Tensor:
        """Run the part after the layer; differentiable.

        Args:
            activation: (R, C, h, w), from `activation` or computed from it.
            carried: what else crosses the cut for these R rows, `a.carried.rows(index)`; needed only where the cut is
                not clean and `activation` is not itself what `activation()` returned.

        Returns:
            (R, K) float32 logits.

        Raises:
            LayerError: `activation` is no map, or the cut is not clean and `carried` is missing, is another layer's,
                or belongs to another number of rows.
        """
        native, inner = self._native(activation, carried)
        with self._precision.running():
            return self._precision.full(checked_logits(self._cut.after(native, inner)))

    def suffix_inputs(self, activation: Tensor, carried: Carried | None = None) -> tuple[Any, ...]:
        """What `suffix` is called with: the activation in the layer's native layout, then the carried values."""
        native, inner = self._native(activation, carried)
        return native, *inner.values

    def _native(self, activation: Tensor, carried: Carried | None) -> tuple[Tensor, Carried]:
        carried = self._carried_for(activation, carried)
        activation = self._precision.prepare(activation)
        if not self.layout.tokens:
            return self.layout.unfold(activation, None), carried
        leading = carried.values[-1]
        return self.layout.unfold(activation, leading), carried.without_last()

    def _carried_for(self, activation: Tensor, carried: Carried | None) -> Carried:
        if activation.ndim != 4:
            raise LayerError(f"an activation at {self.layer!r} is a map (R, C, h, w), not {tuple(activation.shape)}")
        if carried is None:
            carried = activation.carried if isinstance(activation, Activation) else Carried(pictures=len(activation))
        if self.carried_names and not carried.values:
            raise LayerError(
                f"{', '.join(self.carried_names)} cross the cut at {self.layer!r} too; pass "
                "carried=a.carried.rows(index) of the activation a that these rows were computed from, or choose a "
                "clean cut"
            )
        if carried.names != self.carried_names:
            raise LayerError(
                f"the carried values ({', '.join(carried.names)}) are not those that cross the cut at {self.layer!r} "
                f"({', '.join(self.carried_names) or 'none'}); they belong to another layer"
            )
        if carried.pictures != len(activation):
            raise LayerError(
                f"{len(activation)} rows of activation were given with carried values of {carried.pictures}; "
                "select them with carried.rows(index)"
            )
        return carried

    def __repr__(self) -> str:
        return f"LayerView({self.classifier.name!r} at {self.layer!r})"
