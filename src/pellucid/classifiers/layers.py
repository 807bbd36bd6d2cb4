"""The layers of a network: their names, kinds and shapes, and which of them are meant by `middle` and `final`."""

import difflib
import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from pellucid.classifiers.cut import DryRun, compute_logit_gradients, compute_node_gradients
from pellucid.classifiers.layout import Layout, find_layout
from pellucid.classifiers.replay import module_outputs
from pellucid.classifiers.tracing import (
    TracedNetwork,
    ancestors,
    descendants,
    name_call,
)
from pellucid.errors import LayerError

# Operations that only pool or rearrange a map: the map before them is the one to look at.
_POOLS_OR_MOVES = (
    *("pool", "mean", "dropout", "identity", "flatten", "permute", "reshape", "view", "transpose", "getitem"),
    *("contiguous", "squeeze"),
)


@dataclass(frozen=True)
class LayerInfo:
    """One layer at which a network can be seen.

    Attributes:
        name: what `classifier.at` takes.
        kind: class of the module, or name of the function.
        shape: (C, h, w) of its activation for one image of the classifier's input size.
        clean: whether nothing else crosses the cut there, a transformer's leading tokens apart, which are part of the
            layer's output.
        position: when it is computed; names with one position are names of one output (a block's is its last
            operation's).
        operation: kind of the operation that computes it.

    >>> import pellucid as pl
    >>> [info for info in pl.load("digit_cnn").layers() if info.name == "10"]
    [LayerInfo(name='10', kind='ReLU', shape=(64, 8, 8), clean=True)]
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    clean: bool
    position: int = field(default=0, compare=False, repr=False)
    operation: str = field(default="", compare=False, repr=False)

    @property
    def is_spatial(self) -> bool:
        """Whether the map has more than one cell."""
        return self.shape[1] * self.shape[2] > 1


def list_traced_layers(network: TracedNetwork, dry: DryRun, image_size: tuple[int, int]) -> list[LayerInfo]:
    """The layers of a traced network, in the order in which they are computed.

    Args:
        network: traced.
        dry: what it yields for two images.
        image_size: (H, W) of those images.
    """
    clean = _clean_cuts(network, dry)
    order = {node: position for position, node in enumerate(network.module.graph.nodes)}
    reach_output = ancestors([network.output]) & descendants(network.input)
    outputs = [("input", "input", network.input)]
    outputs += [(name, network.kinds[name], node) for name, node in network.outputs.items() if node in reach_output]
    outputs.sort(key=lambda layer: order[layer[2]])
    infos = []
    for name, kind, node in outputs:
        info = _info(name, kind, dry.shapes.get(node), image_size, clean=node in clean)
        if info is not None:
            infos.append(replace(info, position=order[node], operation=_operation(network, node)))
    return infos


def find_traced_gradients(network: TracedNetwork, images: Tensor) -> set[int]:
    """Positions of the layers of a traced network at whose maps the logits have a gradient."""
    gradients = compute_node_gradients(network, images)
    return _with_gradient({at: gradients.get(node) for at, node in enumerate(network.module.graph.nodes)}, images)


def _operation(network: TracedNetwork, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(network.module.get_submodule(str(node.target))).__name__
    return str(getattr(node.target, "__name__", node.target))


def list_replayed_layers(module: nn.Module, images: Tensor) -> list[LayerInfo]:
    """The layers of a network that cannot be traced: the outputs of its modules. None is known to be a clean cut."""
    with torch.no_grad():
        outputs, _ = module_outputs(module, images)
    calls = Counter(path for path, _ in outputs)
    infos = [LayerInfo("input", "input", tuple(images.shape[1:]), True)]
    for (path, call), output in outputs.items():
        shape = tuple(output.value.shape) if isinstance(output.value, Tensor) else None
        info = _info(name_call(path, call, calls[path]), output.kind, shape, images.shape[-2:], clean=False)
        infos += [replace(info, position=output.position, operation=output.operation)] if info is not None else []
    return infos


def find_replayed_gradients(module: nn.Module, images: Tensor) -> set[int]:
    """Positions of the layers of an untraceable network at whose maps the logits have a gradient."""
    with torch.inference_mode(False), torch.enable_grad():
        outputs, logits = module_outputs(module, images.clone().requires_grad_())
        values = {output.position: output.value for output in outputs.values()}
        try:
            return _with_gradient(compute_logit_gradients(logits, values), images)
        except RuntimeError:  # the network overwrites what its own backward pass needs
            return set()


def _with_gradient(gradients: Mapping[int, Tensor | None], images: Tensor) -> set[int]:
    height, width = images.shape[-2:]
    positions = set()
    for position, gradient in gradients.items():
        layout = None if gradient is None else find_layout(tuple(gradient.shape), height, width)
        if gradient is not None and layout is not None and bool(layout.fold(gradient, height, width)[0].any()):
            positions.add(position)
    return positions


def _info(
    name: str, kind: str, shape: tuple[int, ...] | None, image_size: Sequence[int], *, clean: bool
) -> LayerInfo | None:
    if not shape or shape[0] != 2:  # the probe has two images
        return None
    height, width = image_size
    layout = find_layout(shape, height, width)
    return None if layout is None else LayerInfo(name, kind, _folded(layout, shape, height, width), clean)


def _folded(layout: Layout, shape: tuple[int, ...], height: int, width: int) -> tuple[int, ...]:
    empty, _ = layout.fold(torch.empty(shape, device="meta"), height, width)
    return tuple(empty.shape[1:])


def _clean_cuts(network: TracedNetwork, dry: DryRun) -> set[fx.Node]:
    """Nodes after which nothing else that depends on the images is still needed, the number of images apart."""
    order = {node: position for position, node in enumerate(network.module.graph.nodes)}
    relevant = (ancestors([network.output]) & descendants(network.input)) - dry.batch_sizes
    clean, live_until = set(), -1
    for node in sorted(relevant, key=order.__getitem__):
        # Values computed earlier are all dead once the last of their users has run.
        if live_until <= order[node]:
            clean.add(node)
        live_until = max([live_until, *(order[user] for user in node.users if user in relevant)])
    return clean


def find_final_layer(layers: Sequence[LayerInfo], with_gradient: Container[int]) -> str:
    """The last spatial map before global pooling.

    Of its names the shortest; where no clean cut is known, cuts that are not clean are considered too.

    Args:
        layers: all layers in order.
        with_gradient: positions of the layers at which the logits have a gradient (the image tokens after a
            transformer's last block have none). If no layer has, as with a head of zeros, the last map is taken.

    Raises:
        LayerError: no layer has spatial extent.

    >>> layers = [LayerInfo("features", "ReLU", (8, 7, 7), True, 1), LayerInfo("fc", "Linear", (10, 1, 1), True, 2)]
    >>> find_final_layer(layers, with_gradient={1, 2})
    'features'
    """
    spatial = [layer for layer in layers if layer.is_spatial and layer.name != "input"]
    outputs: dict[int, list[LayerInfo]] = {}
    for layer in [layer for layer in spatial if layer.clean] or spatial:
        outputs.setdefault(layer.position, []).append(layer)
    maps = [names for names in reversed(outputs.values()) if not _pools_or_moves(names[0])]
    if not maps:
        raise LayerError("no layer of this network has spatial extent; name a layer (see classifier.layers())")
    last = next((names for names in maps if names[0].position in with_gradient), maps[0])
    return _shortest(last)


def _shortest(names: Sequence[LayerInfo]) -> str:
    return min(names, key=lambda layer: (layer.name.count("."), len(layer.name))).name


def _pools_or_moves(layer: LayerInfo) -> bool:
    return any(word in layer.operation.lower() for word in _POOLS_OR_MOVES)


def find_middle_layer(layers: Sequence[LayerInfo], final: str) -> str:
    """The last block half way, in octaves of resolution, between the input and the final layer.

    With the usual stride of 32 at the final layer this is the last block at stride 8 (`layer2` of a ResNet). Networks
    that have no such resolution before the final layer's (transformers) are cut at the middle one of their blocks, or
    where nothing repeats half way in operations.

    >>> sizes = {"input": 224, "layer1": 56, "layer2": 28, "layer3": 14, "layer4": 7}
    >>> layers = [LayerInfo(name, "", (8, size, size), True, i) for i, (name, size) in enumerate(sizes.items())]
    >>> find_middle_layer(layers, "layer4")
    'layer2'
    """
    rows = layers[0].shape[1]
    end = next(layer for layer in layers if layer.name == final)
    spatial = [layer for layer in layers[1:] if layer.is_spatial]
    spatial = [layer for layer in spatial if layer.clean] or spatial
    octaves = math.ceil(math.log2(rows / spatial[-1].shape[1]) / 2)
    before = [layer for layer in spatial if layer.position <= end.position and not _pools_or_moves(layer)] or [end]
    at_stride = [layer for layer in before if round(math.log2(rows / layer.shape[1])) == octaves]
    if at_stride and at_stride[-1].shape[1:] != end.shape[1:]:
        depth = min(layer.name.count(".") for layer in at_stride)
        return [layer for layer in at_stride if layer.name.count(".") == depth][-1].name
    families: dict[tuple[str, str], list[LayerInfo]] = {}
    for layer in reversed(before):
        families.setdefault((layer.name.rpartition(".")[0], layer.kind), []).append(layer)
    blocks = max(families.values(), key=lambda family: (len(family), -family[0].name.count(".")))
    if len(blocks) > 1:
        return blocks[len(blocks) // 2].name
    return min(before, key=lambda layer: abs(2 * layer.position - end.position)).name


def unknown_layer_message(layer: str, names: Sequence[str], modules: Sequence[str]) -> str:
    """The error text for a layer that is not among `names`, with the nearest ones and aliases.

    Args:
        layer: as given.
        names: all layers.
        modules: paths of all modules.

    >>> unknown_layer_message("layer5", ["layer4", "layer4.0"], [])
    "no layer 'layer5'; did you mean layer4 or layer4.0?"
    """
    calls = [name for name in names if name.startswith(f"{layer}:")]
    if calls:
        return f"{layer!r} is called {len(calls)} times; choose one of {', '.join(calls[:6])}"
    near = difflib.get_close_matches(layer, dict.fromkeys([*names, "middle", "final"]), n=4, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see classifier.layers() or `pellucid layers`"
    if layer in modules:
        return (
            f"module {layer!r} is not a layer: it yields no map, tokens or vector for each image, or the logits do not "
            f"depend on it; {hint}"
        )
    return f"no layer {layer!r}; {hint}"
