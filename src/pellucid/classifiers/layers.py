"""The layers of a network: their names, kinds and shapes, and which of them are meant by `middle` and `final`."""

import difflib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from pellucid.classifiers.layout import Layout, find_layout
from pellucid.classifiers.replay import module_outputs
from pellucid.classifiers.tracing import TracedNetwork, depends_on, needed_by
from pellucid.errors import LayerError

__all__ = ["LayerInfo", "final_layer", "middle_layer", "nearest_name", "replayed_layers", "traced_layers"]

_POOLING = ("pool", "dropout", "identity", "flatten", "mean", "permute", "reshape", "view", "transpose")


@dataclass(frozen=True)
class LayerInfo:
    """One layer at which a network can be seen.

    Attributes:
        name: what `classifier.at` takes.
        kind: class of the module, or name of the function.
        shape: (C, h, w) of its activation for one picture of the classifier's input size.
        clean: whether nothing else crosses the cut there.
        position: when it is computed; names with one position are names of one output (a block's is its last
            operation's).
        operation: kind of the operation that computes it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    clean: bool
    position: int = field(default=0, compare=False)
    operation: str = field(default="", compare=False)

    @property
    def is_spatial(self) -> bool:
        return self.shape[1] * self.shape[2] > 1


def traced_layers(network: TracedNetwork, pictures: Tensor) -> list[LayerInfo]:
    """The layers of a traced network, in the order in which they are computed."""
    shapes, tensors = _dry_run(network.module, pictures)
    clean = _clean_cuts(network, tensors)
    nodes = list(network.module.graph.nodes)
    order = {node: position for position, node in enumerate(nodes)}
    reach_output = needed_by([network.output]) & depends_on(network.input)
    found = [("input", "input", network.input)]
    found += [(name, network.kinds[name], node) for name, node in network.outputs.items() if node in reach_output]
    found.sort(key=lambda layer: order[layer[2]])
    infos = []
    for name, kind, node in found:
        info = _info(name, kind, shapes.get(node), pictures, node in clean)
        if info is not None:
            infos.append(replace(info, position=order[node], operation=_operation(network, node)))
    return infos


def _operation(network: TracedNetwork, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(network.module.get_submodule(str(node.target))).__name__
    return str(getattr(node.target, "__name__", node.target))


def replayed_layers(module: nn.Module, pictures: Tensor) -> list[LayerInfo]:
    """The layers of a network that cannot be traced: the outputs of its modules. None is known to be a clean cut."""
    with torch.no_grad():
        outputs = module_outputs(module, pictures)
    calls = Counter(path for path, _ in outputs)
    infos = [LayerInfo("input", "input", tuple(pictures.shape[1:]), True)]
    for (path, call), output in outputs.items():
        name = f"{path}:{call}" if calls[path] > 1 else path
        info = _info(name, output.kind, output.shape, pictures, False)
        infos += [replace(info, position=output.position, operation=output.operation)] if info is not None else []
    return infos


def _info(name: str, kind: str, shape: tuple[int, ...] | None, pictures: Tensor, clean: bool) -> LayerInfo | None:
    if not shape or shape[0] != len(pictures):
        return None
    height, width = pictures.shape[-2:]
    layout = find_layout(shape, height, width)
    return None if layout is None else LayerInfo(name, kind, _folded(layout, shape, height, width), clean)


def _folded(layout: Layout, shape: tuple[int, ...], height: int, width: int) -> tuple[int, ...]:
    empty, _ = layout.fold(torch.empty(shape, device="meta"), height, width)
    return tuple(empty.shape[1:])


def _dry_run(traced: fx.GraphModule, pictures: Tensor) -> tuple[dict[fx.Node, tuple[int, ...]], set[fx.Node]]:
    """Shape of every tensor that one forward computes, and the nodes whose value is or holds a tensor."""
    shapes: dict[fx.Node, tuple[int, ...]] = {}
    tensors: set[fx.Node] = set()

    class Noting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                shapes[n] = tuple(value.shape)
            if any(isinstance(part, Tensor) for part in (value if isinstance(value, tuple | list) else [value])):
                tensors.add(n)
            return value

    with torch.no_grad():
        Noting(traced).run(pictures)
    return shapes, tensors


def _clean_cuts(network: TracedNetwork, tensors: set[fx.Node]) -> set[fx.Node]:
    """Nodes after which no other tensor that depends on the pictures is still needed."""
    order = {node: position for position, node in enumerate(network.module.graph.nodes)}
    relevant = needed_by([network.output]) & depends_on(network.input) & tensors
    clean, live_until = set(), -1
    for node in sorted(relevant, key=order.__getitem__):
        # Tensors computed earlier are all dead once the last of their users has run.
        if live_until <= order[node]:
            clean.add(node)
        uses = (order[user] for user in node.users if user in relevant or user is network.output)
        live_until = max([live_until, *uses])
    return clean


def final_layer(layers: Sequence[LayerInfo], informs: Callable[[str], bool]) -> str:
    """The last spatial map before global pooling.

    Of its names the shortest; where no clean cut is known, cuts that are not clean are considered too.

    Args:
        layers: all layers in order.
        informs: whether the logits have a gradient at a layer (the picture tokens after a transformer's last block
            have none).

    Raises:
        LayerError: no layer has spatial extent.
    """
    spatial = [layer for layer in layers if layer.is_spatial and layer.name != "input"]
    outputs: dict[int, list[LayerInfo]] = {}
    for layer in [layer for layer in spatial if layer.clean] or spatial:
        outputs.setdefault(layer.position, []).append(layer)
    maps = [names for names in reversed(outputs.values()) if not _only_moves(names[0])]
    if not maps:
        raise LayerError("no layer of this network has spatial extent; name a layer (see classifier.layers())")
    # A head of zeros has no gradient anywhere; then the last map is as good as any.
    last = maps[0] if informs(maps[0][0].name) or not informs("input") else None
    last = last or next(names for names in maps if informs(names[0].name))
    return min(last, key=lambda layer: (layer.name.count("."), len(layer.name))).name


def _only_moves(layer: LayerInfo) -> bool:
    return any(word in layer.operation.lower() for word in _POOLING)


def middle_layer(layers: Sequence[LayerInfo], final: str) -> str:
    """The last block half way, in octaves of resolution, between the input and the final layer.

    With the usual stride of 32 at the final layer this is the last block at stride 8 (`layer2` of a ResNet). Networks
    of one resolution (transformers) are cut at the block in the middle.
    """
    rows = layers[0].shape[1]
    index = next(index for index, layer in enumerate(layers) if layer.name == final)
    spatial = [layer for layer in layers[1:] if layer.is_spatial]
    spatial = [layer for layer in spatial if layer.clean] or spatial
    octaves = math.ceil(math.log2(rows / spatial[-1].shape[1]) / 2)
    before = [layer for layer in spatial if layer.position <= layers[index].position and not _only_moves(layer)]
    at_stride = [layer for layer in before if round(math.log2(rows / layer.shape[1])) == octaves]
    if at_stride:
        depth = min(layer.name.count(".") for layer in at_stride)
        return [layer for layer in at_stride if layer.name.count(".") == depth][-1].name
    siblings = [layer for layer in before if layer.name.rpartition(".")[0] == final.rpartition(".")[0]]
    return siblings[(len(siblings) - 1) // 2].name


def nearest_name(wanted: str, names: Sequence[str]) -> str:
    """The error text for a layer that does not exist."""
    calls = [name for name in names if name.startswith(f"{wanted}:")]
    if calls:
        return f"{wanted!r} is called {len(calls)} times; choose one of {', '.join(calls[:6])}"
    near = difflib.get_close_matches(wanted, names, n=4, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see classifier.layers() or `pellucid layers`"
    return f"no layer {wanted!r}; {hint}"
