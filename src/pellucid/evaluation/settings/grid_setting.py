"""What all grid settings are: classifiers of grid images, with one head or one for each cell.

What a setting makes of the network, traced parts and plain tensor code, is written into one graph of operations
(`Composition`), so that methods that walk through operations see one network.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, reduce
from typing import Any, Self

import torch
from torch import Tensor, fx

from pellucid.classifiers import (
    Activation,
    Classifier,
    LayerInfo,
    LayerView,
    Layout,
    Precision,
    SideInputs,
    run_errors,
)
from pellucid.errors import PellucidError, TargetError
from pellucid.evaluation.localization import Grid, grid_shape


class GridSetting(ABC):
    """A classifier of grid images, made of a classifier of their cells.

    Like a `Classifier` it has `logits`, `at`, `resolve`, `layers`, classes and preprocessing, so every attribution
    method works on `setting.at(layer)`. A grid image is (N, C, rows * h, columns * w), the cells row by row; h and w
    may be anything that the classifier takes.

    Passes are counted in cells, which cost what an image of the classifier costs, so that settings compare.

    Args:
        classifier: of the cells.
        n: n for n x n cells, or (rows, columns).
        cell_size: (h, w) of the cells that the self-tests are run on; by default the classifier's input size.

    Attributes:
        classifier: of the cells.
        grid: (rows, columns).
        cell_size: (h, w) of the cells that the self-tests are run on.
        head_numbers: what targets call the heads that there are logits of, in their order.
        names_heads: False where there is one head only, which targets need not name.
    """

    names_heads = True

    def __init__(self, classifier: Classifier, n: Grid, cell_size: tuple[int, int] | None) -> None:
        self.classifier = classifier
        self.grid = grid_shape(n)
        height, width = classifier.input_shape[1:]
        self.cell_size = cell_size or (height, width)
        self.head_numbers: tuple[int, ...] = (0,)
        self._restricted: dict[tuple[int, ...], GridSetting] = {}
        self._views: dict[tuple[str, str | None], GridSettingView] = {}

    @property
    def heads(self) -> int:
        """How many heads there are logits of."""
        return len(self.head_numbers)

    @property
    def name(self) -> str:
        return f"{type(self).__name__} {self.grid[0]}x{self.grid[1]} of {self.classifier.name}"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classifier.class_names

    @property
    def num_classes(self) -> int:
        return self.classifier.num_classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a grid of cells of `cell_size`."""
        (rows, columns), (height, width) = self.grid, self.cell_size
        return self.classifier.input_shape[0], rows * height, columns * width

    @property
    def preprocess(self) -> "Callable[[Any], Tensor] | None":
        """What makes the image of one cell."""
        return self.classifier.preprocess

    @property
    def precision(self) -> Precision:
        return self.classifier.precision

    @property
    def device(self) -> torch.device:
        return self.classifier.device

    def class_index(self, target: int | str) -> int:
        """The index of a class given by index or name, as `Classifier.class_index`."""
        return self.classifier.class_index(target)

    def fingerprint(self) -> str:
        """SHA-256 of the classifier's weights."""
        return self.classifier.fingerprint()

    def resolve(self, layer: str) -> str:
        """The name behind an alias (`input`, `middle`, `final`), or the name itself."""
        return self.classifier.resolve(layer)

    def layers(self) -> list[LayerInfo]:
        """The classifier's layers; their shapes are those of one cell."""
        return self.classifier.layers()

    def logits(self, grids: Tensor) -> Tensor:
        """Logits (N, heads, K) of grid images (N, C, H, W); differentiable.

        Raises:
            PellucidError: the grid does not divide the images.
            ModelError: the network cannot be run on cells or grids of this size.
        """
        with run_errors(grids, self.input_shape):
            return self.at("input").logits(self.check_images(grids))

    def at(self, layer: str, *, layout: str | None = None) -> "GridSettingView":
        """The setting seen from a layer of the classifier; arguments as `Classifier.at`.

        Raises:
            LayerError: no such layer, or the setting is not defined there.
        """
        key = (self.resolve(layer), layout)
        if key not in self._views:
            self._views[key] = self._view(self.classifier.at(layer, layout=layout))
        return self._views[key]

    def select_heads(self, heads: Sequence[int]) -> "GridSetting":
        """The same setting without the other heads, which are then not run: logits are (N, len(heads), K).

        Targets keep the numbers that the heads have here.

        Raises:
            TargetError: no such head.
        """
        key = tuple(sorted(set(heads)))
        if not key or not set(key) <= set(self.head_numbers):
            raise TargetError(f"{self.name} has heads {', '.join(map(str, self.head_numbers))}, not {list(heads)}")
        if key == self.head_numbers:
            return self
        if key not in self._restricted:
            self._restricted[key] = self._copy_with(self.grid, key)
        return self._restricted[key]

    def on_one_cell(self) -> Self:
        """The same setting on a grid of one cell."""
        return self._copy_with((1, 1), (0,))

    def _copy_with(self, grid: tuple[int, int], heads: tuple[int, ...]) -> Self:
        other = copy.copy(self)
        other.grid, other.head_numbers = grid, heads
        other._restricted, other._views = {}, {}
        return other

    def check_images(self, grids: Tensor) -> Tensor:
        """`grids` if they are a batch of images that the grid divides; raises PellucidError if not."""
        grids = self.classifier.check_images(grids)
        (rows, columns), (height, width) = self.grid, grids.shape[2:]
        if height % rows or width % columns:
            raise PellucidError(
                f"grid images of {height} x {width} are not divided by {rows} x {columns} cells; make all cells of "
                "one size, see pellucid.evaluation.join_cells"
            )
        return grids

    @abstractmethod
    def _view(self, base: LayerView) -> "GridSettingView":
        """The setting seen from where the classifier is seen from."""

    def __repr__(self) -> str:
        return f"<{self.name}, heads {', '.join(map(str, self.head_numbers))}>"


class GridSettingView(ABC):
    """`setting.at(layer)`: grid images -> activation -> logits of every head.

    Attributes:
        classifier: the setting.
        base: the classifier of the cells, seen from the layer.
        prefix_rows, suffix_rows: how many cells are run for one grid image before the layer, and after it.
    """

    def __init__(self, setting: GridSetting, base: LayerView) -> None:
        self.classifier = setting
        self.base = base
        self.prefix_rows = self.suffix_rows = setting.grid[0] * setting.grid[1]

    @property
    def head_numbers(self) -> tuple[int, ...] | None:
        """What targets call the heads; None where there is one that they need not name."""
        return self.classifier.head_numbers if self.classifier.names_heads else None

    @property
    def layer(self) -> str:
        return self.base.layer

    @property
    def layout(self) -> Layout:
        """How `suffix` takes the activation."""
        return self.base.layout

    @property
    def side_input_names(self) -> tuple[str, ...]:
        """What else crosses the cut, in the user's words."""
        return self.base.side_input_names

    @property
    def is_affine(self) -> bool:
        """Whether the logits are known to be affine in the activation: a setting adds only crops and averages."""
        return self.base.is_affine

    @cached_property
    def suffix(self) -> fx.GraphModule | None:
        """The traced operations from `suffix_inputs` to logits (R, heads, K); None for an untraceable network."""
        return None if self.base.suffix is None else self._compose()

    def select_heads(self, heads: Sequence[int]) -> "GridSettingView":
        """The view of the setting without the other heads (see `GridSetting.select_heads`)."""
        setting = self.classifier.select_heads(heads)
        return self if setting is self.classifier else setting._view(self.base)

    def head_masks(self, height: int, width: int) -> Tensor | None:
        """Masks (heads, height, width) of the part of the activation that alone influences each head.

        None unless those parts are known to be disjoint.
        """
        return None

    @abstractmethod
    def activation(self, grids: Tensor) -> Activation:
        """The part before the layer: grid images (N, C, H, W) -> maps (N, C, h, w) of whole grids, detached."""

    def logits(self, activation: Tensor, side_inputs: SideInputs | None = None) -> Tensor:
        """The part after the layer, as `LayerView.logits`: (R, C, h, w) -> (R, heads, K); differentiable."""
        return self.logits_with_cost(activation, side_inputs)[0]

    @abstractmethod
    def logits_with_cost(self, activation: Tensor, side_inputs: SideInputs | None = None) -> tuple[Tensor, int]:
        """The logits, and how many cells the network after the layer was run on for them."""

    @abstractmethod
    def suffix_inputs(self, activation: Tensor, side_inputs: SideInputs | None = None) -> tuple[Any, ...]:
        """What `suffix` is called with."""

    @abstractmethod
    def _compose(self) -> fx.GraphModule:
        """Write `suffix`; called only for traced networks."""

    def __repr__(self) -> str:
        return f"<{self.classifier.name} at {self.layer!r}>"


class Composition:
    """A graph in the making: its inputs and values are `fx.Proxy` objects, on which tensor code runs as it is."""

    def __init__(self) -> None:
        self._graph = fx.Graph()
        self._tracer = fx.proxy.GraphAppendingTracer(self._graph)
        self._modules: dict[str, Any] = {}

    def inputs_of(self, part: fx.GraphModule) -> list[fx.Proxy]:
        """New inputs named like those of a part."""
        return [self.input(node.name) for node in part.graph.nodes if node.op == "placeholder"]

    def input(self, name: str) -> fx.Proxy:
        """One more input."""
        return fx.Proxy(self._graph.placeholder(name), self._tracer)

    def run(self, part: fx.GraphModule, *inputs: Any) -> Any:
        """The only output of a part; its operations are copied and keep their names."""
        placeholders = [node for node in part.graph.nodes if node.op == "placeholder"]
        copies = {node: value.node for node, value in zip(placeholders, inputs, strict=True)}
        output: Any = self._graph.graph_copy(part.graph, copies)
        for node in part.graph.nodes:
            if node.op in ("call_module", "get_attr"):
                self._modules[str(node.target)] = reduce(getattr, str(node.target).split("."), part)
        return fx.Proxy(output[0], self._tracer)

    def finish(self, output: Any) -> fx.GraphModule:
        """The module that computes `(output,)`."""
        self._graph.output((output.node,))
        return fx.GraphModule(self._modules, self._graph)
