"""Features of the classifier: maps at some of its layers, pooled features phi, and logits, from one pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.classifiers import Classifier, LayerInfo, replace_module
from pellucid.errors import LayerError

LOGITS_ONLY = "logits"
"""In place of layers: the classifier is a black box, and phi is its logits.

The surrogate then knows of an image only what the decision itself reveals. Latents cannot hold what the classifier
sees and weighs little, concepts count as perceived only as far as logits reveal them, and reconstructions must match
the logits but not the features behind them. Gradients of the logits are still needed.
"""


@dataclass(frozen=True)
class ClassifierFeatures:
    """Features of N images.

    Attributes:
        maps: One (N, C, h, w) for each layer; none for a black box.
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
    """A frozen classifier that also returns its features; differentiable with respect to the images.

    Args:
        classifier: Its features are extracted; its own module is not touched.
        layers: Names of layers as `classifier.layers()` lists them; by default the last module at each of the last
            four resolutions (see `default_layers`). `LOGITS_ONLY` treats the classifier as a black box.

    Attributes:
        layers: Names of the layers; empty for a black box.
        head: Name of the last linear layer, whose input belongs to phi; None if there is none, or for a black box.
        black_box: Whether phi is the logits.
        length: F, the length of phi.

    Raises:
        LayerError: No such layer, or the network cannot be cut there.

    >>> layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)]
    >>> extractor = FeatureExtractor(Classifier(torch.nn.Sequential(*layers).eval(), input_size=(1, 8, 8)))
    >>> features = extractor(torch.zeros(3, 1, 8, 8))
    >>> extractor.layers, features.phi.shape, features.logits.shape
    (('0',), torch.Size([3, 8]), torch.Size([3, 2]))
    """

    def __init__(self, classifier: Classifier, layers: Sequence[str] | str | None = None) -> None:
        self.classifier = classifier
        self.black_box = layers == LOGITS_ONLY
        names = [layers] if isinstance(layers, str) else layers
        if self.black_box:
            names = []
        elif names is None:
            names = default_layers(classifier)
        self.layers = tuple(_check_layer(layer, classifier) for layer in names)
        # Small images pass through it up to ten times faster on a CPU.
        self._views = replace_module(classifier, classifier.module, channels_last=True).at_layers(self.layers)
        self.head = None if self.black_box else self._views.head
        self.length = self(torch.zeros(1, *classifier.input_shape)).phi.shape[1]

    def __call__(self, images: Tensor) -> ClassifierFeatures:
        """Features of images (N, C, H, W) in the classifier's own input space."""
        outputs = self._views.run(images)
        # Not mean(): its gradient would be written out for every cell.
        parts = [maps.sum(dim=(2, 3)) / maps[0, 0].numel() for maps in outputs.activations]
        if self.head is not None and outputs.head_input is not None:
            parts.append(outputs.head_input)
        phi = torch.cat(parts, dim=1) if parts else outputs.logits
        return ClassifierFeatures(outputs.activations, phi, outputs.logits)


def default_layers(classifier: Classifier, max_layers: int = 4) -> list[str]:
    """The last module at each resolution, of the last `max_layers` resolutions; two or more if there are blocks.

    A network of one resolution, such as a transformer, has `middle` and `final`.

    >>> layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    >>> default_layers(Classifier(torch.nn.Sequential(*layers).eval(), input_size=(1, 8, 8)))
    ['0', '1']
    """
    paths = dict(classifier.module.named_modules())
    spatial = [layer for layer in classifier.layers() if layer.is_spatial and layer.name.partition(":")[0] in paths]
    last = {layer.shape[1:]: layer for layer in spatial if layer.name != "input"}
    stages = sorted(last.values(), key=lambda layer: layer.position)[-max_layers:]
    if len(stages) == 1:
        ends = [classifier.resolve(alias) for alias in ("middle", "final")]
        stages = [layer for layer in spatial if layer.name in ends] or stages
    return [_shortest_name(layer, spatial) for layer in stages]


def _shortest_name(layer: LayerInfo, layers: Sequence[LayerInfo]) -> str:
    names = [other.name for other in layers if other.position == layer.position]
    return min(names, key=lambda name: (name.count("."), len(name)))


def _check_layer(layer: str, classifier: Classifier) -> str:
    name = classifier.resolve(layer)  # raises with the nearest names
    if name == "input":
        raise LayerError("features are taken of layers after the input; name a module")
    return name
