"""A classifier seen from a layer: pictures -> activation, once; activation -> logits, as often as an explainer likes."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from pellucid.classifiers.affine import is_affine
from pellucid.classifiers.cut import Carried, Cut
from pellucid.classifiers.layout import Layout
from pellucid.errors import LayerError, ModelError

if TYPE_CHECKING:
    from pellucid.classifiers.model import Classifier

__all__ = ["Activation", "Carried", "LayerView", "Precision"]


class Activation(Tensor):
    """An activation (N, C, h, w) together with what else crosses the cut for the same pictures.

    It is a tensor like any other; what is computed from it is a plain tensor, to which `carried` no longer belongs.
    """

    carried: Carried
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def of(tensor: Tensor, carried: Carried) -> "Activation":
        """`tensor` with `carried` attached."""
        activation: Activation = tensor.as_subclass(Activation)
        activation.carried = carried
        return activation


@dataclass(frozen=True)
class Precision:
    """Where and how precisely a network runs.

    Attributes:
        device: device of the network's weights; pictures are moved there.
        channels_last: keep four-dimensional tensors in channels-last order (same numbers up to rounding).
        autocast: run under autocast in this type, e.g. torch.bfloat16; activations and logits stay float32.
    """

    device: torch.device
    channels_last: bool = False
    autocast: torch.dtype | None = None

    def running(self) -> AbstractContextManager[object]:
        """The context in which the network runs."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def prepare(self, tensor: Tensor) -> Tensor:
        """Move a batch to the network's device and memory order."""
        tensor = tensor.to(self.device)
        if self.channels_last and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor


class LayerView:
    """`classifier.at(layer)`: the part of the network before the layer and the part after it.

    Attributes:
        classifier: the classifier that is seen.
        layer: the layer's name.
        carried_names: what else crosses the cut, in the user's words; empty for a clean cut.
        suffix: the traced operations after the layer in the layer's native layout, or None if the network cannot be
            traced.
    """

    def __init__(self, classifier: "Classifier", layer: str, cut: Cut, layout: Layout, precision: Precision) -> None:
        self.classifier = classifier
        self.layer = layer
        self.layout = layout
        self._cut = cut
        self._precision = precision

    @property
    def suffix(self) -> fx.GraphModule | None:
        return self._cut.suffix

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
        with torch.no_grad(), self._precision.running():
            native, carried = self._cut.before(self._precision.prepare(pictures))
            if not isinstance(native, Tensor):
                raise LayerError(f"layer {self.layer!r} yields a {type(native).__name__}, not one tensor")
            folded, leading = self.layout.fold(native, *pictures.shape[-2:])
        if leading is not None:
            names = (*carried.names, f"{leading.shape[1]} leading tokens of {self.layer}")
            carried = Carried((*carried.values, leading), names, len(pictures))
        return Activation.of(folded.float().detach(), carried)

    def logits(self, activation: Tensor, carried: Carried | None = None) -> Tensor:
        """Run the part after the layer; differentiable.

        Args:
            activation: (R, C, h, w), from `activation` or computed from it.
            carried: what else crosses the cut for these R rows, `a.carried.rows(index)`; needed only where the cut is
                not clean and `activation` is not itself what `activation()` returned.

        Returns:
            (R, K) float32 logits.

        Raises:
            LayerError: the cut is not clean and `carried` is missing or belongs to another number of rows.
        """
        carried = self._carried_for(activation, carried)
        values = carried.values
        leading = values[-1] if self.layout.tokens else None
        with self._precision.running():
            native = self.layout.unfold(activation, leading)
            inner = replace(carried, values=values[:-1], names=carried.names[:-1]) if self.layout.tokens else carried
            return checked_logits(self._cut.after(native, inner)).float()

    def _carried_for(self, activation: Tensor, carried: Carried | None) -> Carried:
        if carried is None:
            carried = activation.carried if isinstance(activation, Activation) else Carried(pictures=len(activation))
            crosses = self.carried_names or ("the class token",) * bool(self.layout.tokens)
            if crosses and not carried.values:
                raise LayerError(
                    f"{', '.join(crosses)} cross the cut at {self.layer!r} too; pass carried=a.carried.rows(index) "
                    "of the activation a that these rows were computed from, or choose a clean cut"
                )
        if carried.pictures != len(activation):
            raise LayerError(
                f"{len(activation)} rows of activation were given with carried values of {carried.pictures}; "
                "select them with carried.rows(index)"
            )
        return carried

    @property
    def carried_names(self) -> tuple[str, ...]:
        return self._cut.names

    def __repr__(self) -> str:
        return f"LayerView({self.classifier.name!r} at {self.layer!r})"


def checked_logits(output: object) -> Tensor:
    """The network's output if it is a batch of logits (N, K)."""
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    found = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise ModelError(f"the network returns {found}; wrap it so that forward returns logits of shape (N, K)")
