"""A classifier seen from a layer: images -> activation, once; activation -> logits, as often as one likes."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from pellucid.classifiers.cut import Cut, is_affine
from pellucid.classifiers.layout import Layout
from pellucid.classifiers.precision import Precision, check_logits, run_errors
from pellucid.classifiers.side_inputs import PerImage, SideInputs
from pellucid.errors import LayerError
from pellucid.shapes import Float

if TYPE_CHECKING:
    from pellucid.classifiers.classifier import Classifier


class Activation(Tensor):
    """An activation (N, C, h, w) together with what else crosses the cut for the same images.

    It is a tensor like any other; what is computed from it is a plain tensor, to which `side_inputs` no longer belongs.

    >>> import pellucid as pl
    >>> activation = pl.load("digit_cnn").at("final").activation(torch.zeros(2, 1, 32, 32))
    >>> activation.side_inputs.images, type(activation * 2).__name__
    (2, 'Tensor')
    """

    side_inputs: SideInputs
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(tensor: Tensor, side_inputs: SideInputs) -> "Activation":
        """`tensor` with `side_inputs` attached."""
        activation: Activation = tensor.as_subclass(Activation)
        activation.side_inputs = side_inputs
        return activation


class LayerView:
    """`classifier.at(layer)`: the part of the network before the layer and the part after it.

    Attributes:
        classifier: the classifier that is seen.
        layer: the layer's name.
        layout: how the layer's native output becomes a map.
        cut: the network in two parts, in the layer's native layout.

    >>> import pellucid as pl
    >>> classifier = pl.load("digit_cnn")
    >>> view, images = classifier.at("final"), torch.zeros(2, 1, 32, 32)
    >>> torch.allclose(view.logits(view.activation(images)), classifier.logits(images), atol=1e-5)
    True
    """

    def __init__(self, classifier: "Classifier", layer: str, cut: Cut, layout: Layout, precision: Precision) -> None:
        self.classifier = classifier
        self.layer = layer
        self.layout = layout
        self.cut = cut
        self._precision = precision

    @property
    def suffix(self) -> fx.GraphModule | None:
        """The traced operations after the layer, to be called with `suffix_inputs`; None for an untraceable network."""
        return self.cut.suffix

    @property
    def side_input_names(self) -> tuple[str, ...]:
        """What else crosses the cut, in the user's words; empty where the logits need the activation alone."""
        return (*self.cut.names, self._leading_tokens_name) if self.layout.tokens else self.cut.names

    @property
    def _leading_tokens_name(self) -> str:
        return f"{self.layout.tokens} leading token{'s' * (self.layout.tokens > 1)} of {self.layer}"

    @cached_property
    def is_affine(self) -> bool:
        """Whether the logits are known to be an affine function of the activation (pooling and a linear head)."""
        return self.suffix is not None and is_affine(self.suffix)

    def activation(self, images: Tensor) -> Activation:
        """Run the part before the layer.

        Args:
            images: (N, 3, H, W) in the classifier's own input space, as `classifier.read` makes them.

        Returns:
            (N, C, h, w) float32, detached. A layer without spatial extent has h = w = 1; the tokens of a transformer
            are folded into their grid, and leading tokens such as the class token are carried along.
        """
        images = self.classifier.check_images(images)
        with torch.no_grad(), self._precision.autocast_context(), run_errors(images, self.classifier.input_shape):
            native, side_inputs = self.cut.before(self._precision.prepare(images))
            return self.fold(native, side_inputs, (images.shape[-2], images.shape[-1]))

    def fold(self, native: Tensor, side_inputs: SideInputs, image_size: tuple[int, int]) -> Activation:
        """The layer's native output for images of (H, W) as an activation (N, C, h, w), detached.

        Args:
            native: as the network has it.
            side_inputs: what else crosses the cut.
            image_size: tells the grid of tokens.
        """
        folded, leading = self.layout.fold(native, *image_size)
        if leading is not None:
            side_inputs = side_inputs.append(leading, self._leading_tokens_name, PerImage(0))
        return Activation.of(self._precision.upcast(folded).detach(), side_inputs)

    def logits(self, activation: Tensor, side_inputs: SideInputs | None = None) -> Float[Tensor, "R K"]:
        """Run the part after the layer; differentiable.

        Args:
            activation: (R, C, h, w), from `activation` or computed from it.
            side_inputs: what else crosses the cut for these R rows, `a.side_inputs.rows(index)`; needed only where the
                cut is not clean and `activation` is not itself what `activation()` returned.

        Returns:
            (R, K) float32 logits.

        Raises:
            LayerError: `activation` is not a map, or the cut is not clean and `side_inputs` is missing, is another
                layer's, or belongs to another number of rows.
        """
        native, inner = self._native(activation, side_inputs)
        with self._precision.autocast_context():
            return self._precision.upcast(check_logits(self.cut.after(native, inner)))

    def suffix_inputs(self, activation: Tensor, side_inputs: SideInputs | None = None) -> tuple[Any, ...]:
        """What `suffix` is called with: the activation in the layer's native layout, then the side inputs."""
        native, inner = self._native(activation, side_inputs)
        return native, *inner.values

    def _native(self, activation: Tensor, side_inputs: SideInputs | None) -> tuple[Tensor, SideInputs]:
        side_inputs = self._side_inputs_for(activation, side_inputs)
        activation = self._precision.prepare(activation)
        if not self.layout.tokens:
            return self.layout.unfold(activation, None), side_inputs
        leading = side_inputs.values[-1]
        return self.layout.unfold(activation, leading), side_inputs.without_last()

    def _side_inputs_for(self, activation: Tensor, side_inputs: SideInputs | None) -> SideInputs:
        if activation.ndim != 4:
            raise LayerError(f"an activation at {self.layer!r} is a map (R, C, h, w), not {tuple(activation.shape)}")
        if side_inputs is None:
            side_inputs = (
                activation.side_inputs if isinstance(activation, Activation) else SideInputs(images=len(activation))
            )
        if self.side_input_names and not side_inputs.values:
            raise LayerError(
                f"{', '.join(self.side_input_names)} cross the cut at {self.layer!r} too; pass "
                "side_inputs=a.side_inputs.rows(index) of the activation a that these rows were computed from, or "
                "choose a clean cut"
            )
        if side_inputs.names != self.side_input_names:
            raise LayerError(
                f"the side inputs ({', '.join(side_inputs.names)}) are not those that cross the cut at "
                f"{self.layer!r} "
                f"({', '.join(self.side_input_names) or 'none'}); they belong to another layer"
            )
        if side_inputs.images != len(activation):
            raise LayerError(
                f"{len(activation)} rows of activation were given with side inputs of {side_inputs.images}; "
                "select them with side_inputs.rows(index)"
            )
        return side_inputs

    def __repr__(self) -> str:
        return f"LayerView({self.classifier.name!r} at {self.layer!r})"
