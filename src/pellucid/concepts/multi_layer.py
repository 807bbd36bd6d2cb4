"""Several layers of one network, computed together where they are a classifier's own."""

from collections.abc import Sequence

from torch import Tensor

from pellucid.attribution import Passes, View, rows_per_image
from pellucid.classifiers import Activation, LayerView, MultiView, Segment
from pellucid.errors import LayerError


class JointLayers:
    """Layers whose activations come from one pass (see `MultiView`); views of grid settings are run one by one.

    Args:
        views: the classifier seen from each layer, in any order.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self.views = tuple(views)
        self._together = _multi_view(self.views)

    def activations(self, images: Tensor) -> list[Activation]:
        """The activation at each layer, in the order of `views`, each as `view.activation` gives it.

        Args:
            images: (N, C, H, W) in the classifier's own input space.
        """
        if self._together is None:
            return [view.activation(images) for view in self.views]
        return self._together.activations(images)

    def cost(self, index: int, images: int) -> Passes:
        """What a layer's activations of so many images count for: one pass at the earliest of the layers, if joint."""
        passes = 1 if self._together is None else self._together.prefix_passes[index]
        return Passes(prefix_forward=images * passes * rows_per_image(self.views[index])[0])


def order_by_depth(views: Sequence[LayerView]) -> list[int]:
    """Indices of the views, in the order in which the network computes their layers."""
    return sorted(range(len(views)), key=lambda index: _depth(views[index]))


def segment_between(start: LayerView, stop: LayerView) -> Segment | None:
    """The operations from one map to another, None where there are none or more than the map crosses the first cut."""
    if start.side_input_names or start.layout.order == "NTC" or start.classifier is not stop.classifier:
        return None
    try:
        return Segment(start, stop)
    except LayerError:
        return None


def _depth(view: LayerView) -> int:
    return [info.name for info in view.classifier.layers()].index(view.layer)


def _multi_view(views: Sequence[View]) -> MultiView | None:
    layers = [view for view in views if isinstance(view, LayerView)]
    if len(layers) < len(views) or len({id(view.classifier) for view in layers}) != 1:
        return None
    return layers[0].classifier.at_layers(layers)
