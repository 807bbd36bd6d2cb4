"""What a setting must know of the user's classifier: where its spatial part ends and what kind of head follows.

The self-tests that every setting passes when it is made are here too: they check that on the classifier itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from pellucid.classifiers import Classifier, LayerView, logits_agree
from pellucid.errors import LayerError, ModelError
from pellucid.evaluation.localization import join_cells
from pellucid.evaluation.settings.cell_blocks import cut_blocks, divides, slide_windows

if TYPE_CHECKING:
    from pellucid.evaluation.settings.grid_setting import GridSetting
    from pellucid.evaluation.settings.whole_grid import WholeGridSetting


# Operations that belong to the head although their output may still be a map: they pool to a fixed size, or only move
# values. Pooling with a stride belongs to the spatial part.
_OF_HEAD = (
    "adaptive",
    "mean",
    "dropout",
    "identity",
    "flatten",
    "permute",
    "reshape",
    "view",
    "transpose",
    "contiguous",
)


@dataclass(frozen=True)
class Head:
    """The part of a classifier after its last spatial map: pooling, and whatever turns the pooled map into logits.

    Attributes:
        view: the classifier seen from that map; a clean cut.
        size: (h, w) of the map of one cell.
        is_global: the order of the map's positions does not matter: the map is pooled to one vector.
        averages: nothing but the mean over positions matters.
        takes_any_size: maps of other sizes can be classified too, and a global head does not mind the size.
    """

    view: LayerView
    size: tuple[int, int]
    is_global: bool
    averages: bool
    takes_any_size: bool

    def __call__(self, maps: Tensor) -> Tensor:
        """Logits (R, K) of maps (R, C, h, w)."""
        return self.view.logits(maps.contiguous())

    @property
    def operations(self) -> fx.GraphModule:
        """The head as traced."""
        assert self.view.suffix is not None
        return self.view.suffix

    @property
    def is_linear_average(self) -> bool:
        """Whether this is global average pooling and a linear layer, or comes to the same."""
        return self.averages and self.view.is_affine

    def resize(self, maps: Any) -> Any:
        """Maps of any size, as a global head can take them; one that takes a single size is given their mean there."""
        return maps if self.takes_any_size else maps.mean((2, 3), keepdim=True).expand(-1, -1, *self.size)

    def takes(self, height: int, width: int) -> bool:
        """Whether it can be given maps of this size as they are."""
        return self.takes_any_size or (height, width) == self.size

    def check_takes(self, height: int, width: int) -> None:
        """Raise a LayerError with the sizes if it cannot."""
        if not self.takes(height, width):
            raise LayerError(
                f"the map of {self.view.layer!r} is {height} x {width} in every cell, but what follows takes "
                f"{self.size[0]} x {self.size[1]} only; use cells of the size that the classifier was made for"
            )


def find_head(classifier: Classifier, cell_size: tuple[int, int], layer: str | None = None) -> Head:
    """Find the last spatial map and try out what kind of head follows it.

    Args:
        classifier: any.
        cell_size: (h, w) of the images to try it with.
        layer: name of the layer whose output is the last spatial map; by default it is looked for.

    Raises:
        ModelError: there is no such map: the network has no spatial layer, works on tokens, or cannot be traced.
    """
    view = classifier.at(layer or _last_map(classifier))
    if view.suffix is None or view.side_input_names or view.layout.order not in ("NCHW", "NHWC"):
        raise ModelError(_no_map(view))
    maps = probe_maps(view, probe_images(classifier, cell_size, 2))
    height, width = maps.shape[2:]
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(0)).to(maps.device)
    shuffled = maps.flatten(2)[:, :, order].reshape(maps.shape).contiguous()
    averaged = maps.mean((2, 3), keepdim=True).expand_as(maps).contiguous()
    doubled = maps.repeat_interleave(2, 2).repeat_interleave(2, 3).contiguous()
    with torch.no_grad():
        logits = view.logits(maps)
        tolerance = classifier.precision.tolerance
        is_global = logits_match(view.logits(shuffled), logits, tolerance)
        averages = is_global and logits_match(view.logits(averaged), logits, tolerance)
        larger = _logits_or_none(view, doubled)
    takes_any_size = larger is not None and (not is_global or logits_match(larger, logits, tolerance))
    return Head(view, (height, width), is_global, averages, takes_any_size)


def _last_map(classifier: Classifier) -> str:
    layers = classifier.layers()
    clean = [layer for layer in layers if layer.clean and layer.is_spatial and layer.name != "input"]
    for layer in reversed(clean):
        if not any(word in layer.operation.lower() for word in _OF_HEAD):
            names = [other.name for other in clean if other.position == layer.position]
            return min(names, key=lambda name: (name.count("."), len(name)))
    spatial = [layer.name for layer in layers if layer.is_spatial and layer.name != "input"]
    if not clean and spatial:
        return spatial[-1]
    raise ModelError(
        f"GridPG and DiPart are undefined here: {classifier.name} has no spatial map after the input; use DiFull"
    )


def _no_map(view: LayerView) -> str:
    if view.suffix is None:
        reason = "could not be traced with torch.fx, so what leads to its last map and what follows it are not known"
    elif view.layout.order == "NTC":
        reason = f"works on tokens ({view.layer!r}): each may come from the whole image, so no block is one cell's"
    elif view.side_input_names:
        reason = f"needs more than the map {view.layer!r} for its logits: {', '.join(view.side_input_names)}"
    else:
        reason = f"has no map at {view.layer!r}"
    return f"GridPG and DiPart are undefined here: {view.classifier.name} {reason}; use DiFull"


def _logits_or_none(view: LayerView, maps: Tensor) -> Tensor | None:
    assert view.suffix is not None
    try:
        with view.classifier.precision.autocast_context():
            # Not view.logits: a traced module that fails prints where, and here failing is an answer.
            output: Any = fx.Interpreter(view.suffix).run(*view.suffix_inputs(maps))
        return view.classifier.precision.upcast(output[0]) if len(output[0]) == len(maps) else None
    except Exception:  # a head that takes one size may fail in any way on another
        return None


def probe_images(classifier: Classifier, size: tuple[int, int], count: int) -> Tensor:
    """Draw images, always the same.

    Args:
        classifier: whose channels and device they have.
        size: (h, w).
        count: how many.

    Returns:
        (count, C, h, w), standard normal.
    """
    shape = (count, classifier.input_shape[0], *size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(classifier.device)


def probe_maps(view: LayerView, images: Tensor) -> Tensor:
    """Random maps of the size of the images' own, but so far apart that no head is close to linear between them."""
    maps = view.activation(images).detach().contiguous()
    scale = 100 * max(1.0, float(maps.std()))
    return maps + scale * torch.randn(maps.shape, generator=torch.Generator().manual_seed(1)).to(maps)


def logits_match(logits: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether the logits of two maps are the expected ones.

    Args:
        logits: (2, K).
        expected: (2, K).
        tolerance: largest error, as a share of how far the expected logits of the two maps are apart.

    >>> logits_match(torch.tensor([[0.0], [10.1]]), torch.tensor([[0.0], [10.0]]), tolerance=0.1)
    True
    """
    return float((logits - expected).abs().max()) <= tolerance * float((expected[0] - expected[1]).abs().max())


def mean_over_windows(head: Callable[[Any], Any], maps: Any, height: Any, width: Any) -> Any:
    """Average the logits of all windows of maps, or of an fx.Proxy of maps, with stride 1.

    With windows as large as what a flattening head was made for, this is the head with its first fully connected layer
    read as a convolution and the others as 1 x 1 convolutions, averaged over positions.

    Args:
        head: windows (R, C, height, width) -> logits (R, K).
        maps: (N, C, H, W).
        height: of a window.
        width: of a window.

    Returns:
        (N, K).

    >>> mean_over_windows(lambda windows: windows.sum((1, 2, 3))[:, None], torch.ones(1, 1, 2, 3), 2, 2)
    tensor([[4.]])
    """
    if isinstance(maps, fx.Proxy):
        return head(slide_windows(maps, height, width)).unflatten(0, (maps.size(0), -1)).mean(1)
    # One row of windows at a time: all of them together are many times the map.
    count = (maps.shape[2] - height + 1) * (maps.shape[3] - width + 1)
    rows = (maps[:, :, top : top + height] for top in range(maps.shape[2] - height + 1))
    sums = (head(slide_windows(row, height, width)).unflatten(0, (len(maps), -1)).sum(1) for row in rows)
    return reduce(torch.add, sums) / count


@torch.no_grad()
def check_cell_by_cell(setting: "GridSetting") -> None:
    """Head k is f(cell k), whatever the other cells are, at the input and at the final layer.

    Raises:
        ModelError: it is not.
    """
    cells = probe_images(setting.classifier, setting.cell_size, setting.heads)
    alone = setting.classifier.logits(cells)
    for shift, layer in enumerate(["input", "final"] if _has_final_layer(setting) else ["input"]):
        # Moved on by one, every cell has another place and other neighbors.
        view, grid = setting.at(layer), join_cells(cells.roll(shift, 0)[None], setting.grid)
        logits = view.logits(view.activation(grid))[0]
        _require(setting, logits, alone.roll(shift, 0), f"each head at {layer!r} is the classifier of its cell alone")


def _has_final_layer(setting: "GridSetting") -> bool:
    try:
        setting.resolve("final")
    except LayerError:
        return False
    return True


@torch.no_grad()
def check_whole_grid(setting: "WholeGridSetting") -> None:
    """On one cell the setting is the classifier; with a linear head, cells average to the whole grid.

    Raises:
        ModelError: that does not hold, or the network cannot be run on grid images.
    """
    (rows, columns), head = setting.grid, setting.head
    cells = probe_images(setting.classifier, setting.cell_size, rows * columns)
    grid = join_cells(cells[None], setting.grid)
    mean = setting.logits(grid).mean(1)
    if setting.is_classifier_on_one_cell:
        logits, expected = setting.on_one_cell().logits(cells[:1])[:, 0], setting.classifier.logits(cells[:1])
        _require(setting, logits, expected, "on one cell it is the classifier")
    if not head.is_linear_average:
        return
    maps = head.view.activation(grid)
    if head.takes_any_size:
        _require(setting, mean, setting.classifier.logits(grid), "the heads' mean is the network on the grid image")
    if divides(setting.grid, maps) and head.takes(maps.shape[2] // rows, maps.shape[3] // columns):
        parts = head(cut_blocks(maps, setting.grid, range(rows * columns)))
        _require(setting, mean, parts.mean(0, keepdim=True), "the mean over DiPart's heads is GridPG's head")


def _require(setting: "GridSetting", logits: Tensor, expected: Tensor, claim: str) -> None:
    if not logits_agree(logits, expected, setting.precision.tolerance):
        error = float((logits - expected).abs().max())
        raise ModelError(
            f"{setting.name} fails its self-test ({claim}): logits differ by up to {error:.2g} where the largest is "
            f"{float(expected.abs().max()):.2g}; find out whether the network's output for an image depends on the "
            "rest of the batch or on the image's size"
        )
