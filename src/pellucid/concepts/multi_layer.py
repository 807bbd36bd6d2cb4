"""Activations at several layers of one network from one pass: each layer goes on from the one before it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pellucid.attribution import Passes, View
from pellucid.attribution.view import rows_per_image
from pellucid.classifiers import Activation, LayerView, SideInputs
from pellucid.classifiers.segment import Segment
from pellucid.errors import LayerError


class LayerChain:
    """Layers whose activations are computed together.

    A layer goes on from the nearest of the earlier layers from which the operations are known (see `Segment`): the
    numbers are the same as those of a pass from the images. It starts from the images where it is the first, where
    the network could not be traced, and where more than a map crosses its cut.

    Args:
        views: the classifier seen from each layer, in any order.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self.views = tuple(views)
        self._steps = list(_plan(self.views))

    def activations(self, images: Tensor) -> list[Activation]:
        """The activation at each layer, in the order of `views`, each as `view.activation` gives it.

        Args:
            images: (N, C, H, W) in the classifier's own input space.
        """
        found: dict[int, Activation] = {}
        for index, start, segment in self._steps:
            if segment is None:
                found[index] = self.views[index].activation(images)
            else:
                with torch.no_grad():
                    found[index] = Activation.of(segment(found[start]).detach(), SideInputs(images=len(images)))
        return [found[index] for index in range(len(self.views))]

    def cost(self, index: int, images: int) -> Passes:
        """What a layer's activations of so many images count for: nothing where they come from an earlier layer's."""
        starts = any(step == index and segment is None for step, _, segment in self._steps)
        return Passes(prefix_forward=images * rows_per_image(self.views[index])[0] if starts else 0)


def _plan(views: Sequence[View]) -> Iterator[tuple[int, int, Segment | None]]:
    """Layers in the order of computation: index, index of the layer to go on from, and the operations in between."""
    order = order_by_depth(views)
    for place, index in enumerate(order):
        ways = ((start, _segment(views[start], views[index])) for start in reversed(order[:place]))
        yield (index, *next((way for way in ways if way[1] is not None), (index, None)))


def order_by_depth(views: Sequence[View]) -> list[int]:
    """Indices of the views, in the order in which the network computes their layers."""
    return sorted(range(len(views)), key=lambda index: _place(views[index]))


def segment_between(start: LayerView, stop: LayerView) -> Segment | None:
    """The operations from one map to another, None where there are none or more than the map crosses the first cut."""
    return None if start.side_input_names or start.layout.order == "NTC" else _segment(start, stop)


def _place(view: View) -> int:
    if not isinstance(view, LayerView):
        return 0
    return [info.name for info in view.classifier.layers()].index(view.layer)


def _segment(start: View, stop: View) -> Segment | None:
    if not isinstance(start, LayerView) or not isinstance(stop, LayerView) or start.classifier is not stop.classifier:
        return None
    try:
        return Segment(start, stop)
    except LayerError:
        return None
