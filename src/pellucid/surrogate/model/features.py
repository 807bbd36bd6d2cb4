"""What the classifier sees of an image: maps at some of its layers, pooled features phi, and logits, from one pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.classifiers import Classifier, LayerInfo, replace_module
from pellucid.errors import LayerError

LOGITS_ONLY = "logits"
"""In place of layers: the classifier is a black box, and phi is its logits.

What is lost: the twin then knows of an image only what the decision itself tells. Latents cannot hold what the
classifier sees and weighs little, concepts count as perceived only as far as logits reveal them, and redrawn images
are held to the logits but not to the features behind them. Gradients of the logits are still needed.
"""


@dataclass(frozen=True)
class ClassifierFeatures:
    """What a classifier sees of N images.

    Attributes:
        maps: one (N, C, h, w) for each layer; none for a black box.
        phi: (N, F), the maps averaged over their cells and the input of the last linear layer, side by side, raw.
        logits: (N, K).
    """

    maps: tuple[Tensor, ...]
    phi: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, rows: slice) -> "ClassifierFeatures":
        return ClassifierFeatures(tuple(each[rows] for each in self.maps), self.phi[rows], self.logits[rows])


class FeatureExtractor:
    """A frozen classifier that also says what it sees; differentiable with respect to the images.

    Args:
        classifier: whose features are wanted; its own module is not touched.
        layers: names of layers as `classifier.layers()` lists them; by default the last module at each of the last
            four resolutions (see `default_layers`). `LOGITS_ONLY` treats the classifier as a black box.

    Attributes:
        layers: names of the layers seen; empty for a black box.
        head: name of the last linear layer, whose input belongs to phi; None if there is none, or for a black box.

    Raises:
        LayerError: no such layer, or the network cannot be cut there.
    """

    def __init__(self, classifier: Classifier, layers: Sequence[str] | str | None = None) -> None:
        self.classifier = classifier
        self.black_box = layers == LOGITS_ONLY
        named = [layers] if isinstance(layers, str) else layers
        if self.black_box:
            named = []
        elif named is None:
            named = default_layers(classifier)
        self.layers = tuple(_check_layer(layer, classifier) for layer in named)
        # Small images pass through it up to ten times faster on a CPU.
        self._several = replace_module(classifier, classifier.module, channels_last=True).at_layers(self.layers)
        self.head = None if self.black_box else self._several.head
        self.length = self(torch.zeros(1, *classifier.input_shape)).phi.shape[1]

    def __call__(self, images: Tensor) -> ClassifierFeatures:
        """What the classifier sees of images (N, C, H, W) in its own input space."""
        outputs = self._several.run(images)
        # Not mean(): its gradient would be written out for every cell.
        parts = [maps.sum(dim=(2, 3)) / maps[0, 0].numel() for maps in outputs.activations]
        if self.head is not None and outputs.head_input is not None:
            parts.append(outputs.head_input)
        phi = torch.cat(parts, dim=1) if parts else outputs.logits
        return ClassifierFeatures(outputs.activations, phi, outputs.logits)


def default_layers(classifier: Classifier, most: int = 4) -> list[str]:
    """The last module at each resolution, of the last `most` resolutions; two or more where the network has blocks.

    A network of one resolution, such as a transformer, is seen at `middle` and `final`.
    """
    paths = dict(classifier.module.named_modules())
    spatial = [layer for layer in classifier.layers() if layer.is_spatial and layer.name.partition(":")[0] in paths]
    last = {layer.shape[1:]: layer for layer in spatial if layer.name != "input"}
    found = sorted(last.values(), key=lambda layer: layer.position)[-most:]
    if len(found) == 1:
        named = [classifier.resolve(alias) for alias in ("middle", "final")]
        found = [layer for layer in spatial if layer.name in named] or found
    return [_shortest_name(layer, spatial) for layer in found]


def _shortest_name(layer: LayerInfo, layers: Sequence[LayerInfo]) -> str:
    names = [other.name for other in layers if other.position == layer.position]
    return min(names, key=lambda name: (name.count("."), len(name)))


def _check_layer(layer: str, classifier: Classifier) -> str:
    name = classifier.resolve(layer)  # raises with the nearest names
    if name == "input":
        raise LayerError("features are taken of layers after the input; name a module")
    return name
