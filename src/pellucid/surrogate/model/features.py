"""What the classifier sees of an image: maps at some of its layers, pooled features phi, and logits, from one pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.classifiers import Classifier, LayerInfo
from pellucid.classifiers.frozen_copy import frozen_copy
from pellucid.classifiers.layout import find_layout
from pellucid.classifiers.precision import check_logits, run_errors
from pellucid.errors import LayerError
from pellucid.surrogate.model import to_channels_last

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


class FeatureExtractor:
    """A frozen classifier that also says what it sees; differentiable with respect to the images.

    Args:
        classifier: whose features are wanted; its own module is not touched.
        layers: names of modules as `classifier.layers()` lists them; by default the last module at each of the last
            four resolutions (see `default_layers`). `LOGITS_ONLY` treats the classifier as a black box.

    Attributes:
        layers: names of the layers seen; empty for a black box.
        head: name of the last linear layer, whose input belongs to phi; None if there is none, or for a black box.

    Raises:
        LayerError: a name is no module that yields a map, tokens or a vector.
    """

    def __init__(self, classifier: Classifier, layers: Sequence[str] | str | None = None) -> None:
        self.classifier = classifier
        self._precision = classifier.precision
        self._network = frozen_copy(classifier.module)
        to_channels_last(self._network, classifier.device)
        self.black_box = black_box = layers == LOGITS_ONLY
        named = [layers] if isinstance(layers, str) else layers
        wanted = [] if black_box else default_layers(classifier) if named is None else named
        self.layers = tuple(_module_named(layer, classifier) for layer in wanted)
        self.head = None if black_box else self._last_linear()
        self.length = self(torch.zeros(1, *classifier.input_shape)).phi.shape[1]

    def __call__(self, images: Tensor) -> ClassifierFeatures:
        """What the classifier sees of images (N, C, H, W) in its own input space."""
        images = self.classifier.check_images(images)
        outputs: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}
        vectors: list[Tensor] = []
        with self._recording(outputs, vectors), self._precision.autocast_context():
            logits = self._run(images)
        upcast = self._precision.upcast
        maps = tuple(upcast(self._map(layer, outputs[layer], images)) for layer in self.layers)
        # Not mean(): its gradient would be written out for every cell.
        pooled = [each.sum(dim=(2, 3)) / each[0, 0].numel() for each in maps] + [
            upcast(vector) for vector in vectors[-1:]
        ]
        return ClassifierFeatures(maps, torch.cat(pooled, dim=1) if pooled else logits, logits)

    def _run(self, images: Tensor) -> Tensor:
        with run_errors(images, self.classifier.input_shape):
            prepared = self._precision.prepare(images).clone()  # a forward may write to its input
            return self._precision.upcast(check_logits(self._network(prepared)))

    @contextmanager
    def _recording(self, outputs: dict[str, list[Tensor]], vectors: list[Tensor]) -> Iterator[None]:
        modules = dict(self._network.named_modules())
        handles = [
            modules[layer.partition(":")[0]].register_forward_hook(partial(_keep_output, kept))
            for layer, kept in outputs.items()
        ]
        if self.head is not None:
            handles.append(modules[self.head].register_forward_pre_hook(partial(_keep_input, vectors)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _map(self, layer: str, calls: list[Tensor], images: Tensor) -> Tensor:
        call = int(layer.partition(":")[2] or 0)
        height, width = images.shape[-2:]
        if call >= len(calls):
            raise LayerError(f"layer {layer!r} is called {len(calls)} times, so there is no call {call}")
        layout = find_layout(tuple(calls[call].shape), height, width)
        if layout is None:
            raise LayerError(f"the output of {layer!r} has shape {tuple(calls[call].shape)}, which is no map or vector")
        return layout.fold(calls[call], height, width)[0]

    def _last_linear(self) -> str | None:
        """The linear layer that is called last, if what enters it is one vector for each image."""
        order: list[tuple[str, int]] = []
        handles = [
            module.register_forward_pre_hook(partial(_note_call, order, name))
            for name, module in self._network.named_modules()
            if isinstance(module, nn.Linear)
        ]
        try:
            with torch.no_grad(), self._precision.autocast_context():
                self._run(torch.zeros(2, *self.classifier.input_shape))
        finally:
            for handle in handles:
                handle.remove()
        return order[-1][0] if order and order[-1][1] == 2 else None


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


def _module_named(layer: str, classifier: Classifier) -> str:
    name = classifier.resolve(layer)  # raises with the nearest names
    if name == "input" or name.partition(":")[0] not in dict(classifier.module.named_modules()):
        raise LayerError(f"features are taken at outputs of modules; {layer!r} is none: name the module around it")
    return name


def _keep_output(kept: list[Tensor], module: nn.Module, inputs: Any, output: Any) -> None:
    if not isinstance(output, Tensor):
        raise LayerError(
            f"{type(module).__name__} yields a {type(output).__name__}, not one tensor; name another layer"
        )
    kept.append(output.clone())  # the next operation may write to it


def _keep_input(kept: list[Tensor], module: nn.Module, inputs: tuple[Any, ...]) -> None:
    kept.append(inputs[0].clone())


def _note_call(order: list[tuple[str, int]], name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    order.append((name, inputs[0].ndim))
