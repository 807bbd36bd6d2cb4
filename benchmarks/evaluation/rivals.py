"""How grid evaluations are usually written: a call per target and head, the full network each time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import captum.attr as captum_attr
import torch
from torch import Tensor, nn

from pellucid.attribution import occlusion_windows, rise_masks
from pellucid.evaluation import join_cells, split_cells
from pellucid.evaluation.settings import GridSettingView

CELLS = 4  # of a 2 x 2 grid
STEPS, MASKS = 20, 1000
BATCH = 16 // CELLS  # grids in one pass: 16 cells, as many as pellucid sends at once
KEEP = 0.1


class Straightforward(nn.Module):
    """A network run on grid images: whole in GridPG; in DiFull cell by cell up to the layer, then one head's cell."""

    def __init__(self, parts: Sequence[nn.Module], after: int, head: int | None) -> None:
        super().__init__()
        self.prefix, self.layer, self.suffix = (
            nn.Sequential(*parts[:after]),
            nn.Identity(),
            nn.Sequential(*parts[after:]),
        )
        self.head = head

    def forward(self, grids: Tensor) -> Tensor:
        """Logits (N, K) of grid images (N, 3, H, W)."""
        if self.head is None:
            return self.suffix(self.layer(self.prefix(grids)))  # type: ignore[no-any-return]
        cells = self.prefix(split_cells(grids).flatten(0, 1))
        maps = self.layer(join_cells(cells.unflatten(0, (len(grids), CELLS))))
        return self.suffix(split_cells(maps)[:, self.head])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Place:
    """A network, a setting and a layer: what both sides are asked."""

    network: str
    view: GridSettingView
    image: Tensor  # (1, 3, H, W)
    targets: list[int] | list[tuple[int, int]]
    models: list[Straightforward]  # one for each target
    size: tuple[int, int]

    @property
    def classes(self) -> list[int]:
        return [target if isinstance(target, int) else target[1] for target in self.targets]

    @property
    def in_difull(self) -> bool:
        return self.view.head_numbers is not None

    @property
    def label(self) -> str:
        return "DiFull" if self.in_difull else "GridPG"


def cam(place: Place, index: int) -> Tensor:
    """Captum's Grad-CAM."""
    model = place.models[index]
    rival = captum_attr.LayerGradCam(model, model.layer)
    values: Tensor = rival.attribute(place.image, target=place.classes[index], relu_attributions=True)
    return values[0, 0].detach()


def integrated_gradients(place: Place, index: int, steps: int = STEPS) -> Tensor:
    """Captum's integrated gradients, in batches."""
    model = place.models[index]
    rival = captum_attr.LayerIntegratedGradients(model, model.layer)
    target = place.classes[index]
    values: Tensor = rival.attribute(place.image, target=target, n_steps=steps, internal_batch_size=BATCH)
    return values[0].sum(0).detach()


def occlusion(place: Place, index: int, window: int = 5, stride: int = 2, most: int | None = None) -> Tensor:
    """Full forwards with a hook that hides a window of the layer, the first `most` of them."""
    masks = torch.cat(list(window_masks(place.size, window, stride))[:most])
    values = torch.zeros(place.size)
    with torch.no_grad():
        whole = float(place.models[index](place.image)[0, place.classes[index]])
    for chosen in masks.split(BATCH):
        drops = whole - _hooked(place, index, 1 - chosen)[:, place.classes[index]]
        values += torch.einsum("r,rhw->hw", drops / chosen.sum((1, 2)), chosen)
    return values


def rise(place: Place, index: int, count: int = MASKS, most: int | None = None) -> Tensor:
    """Full forwards with a hook that multiplies the layer by a mask."""
    masks = rise_masks(count, *place.size, cells=6, keep=KEEP, seed=0)
    values = torch.zeros(place.size)
    for indices in torch.arange(count)[:most].split(BATCH):
        chances = _hooked(place, index, masks[indices]).softmax(1)[:, place.classes[index]]
        values += torch.einsum("r,rhw->hw", chances, masks[indices])
    return values / (count * KEEP)


def _hooked(place: Place, index: int, masks: Tensor) -> Tensor:
    model = place.models[index]
    handle = model.layer.register_forward_hook(lambda _module, _inputs, output: output * masks[:, None])
    try:
        with torch.no_grad():
            logits: Tensor = model(place.image.expand(len(masks), -1, -1, -1))
    finally:
        handle.remove()
    return logits


def window_masks(size: tuple[int, int], window: int, stride: int) -> Iterator[Tensor]:
    for top, bottom in occlusion_windows(size[0], window, stride):
        for left, right in occlusion_windows(size[1], window, stride):
            mask = torch.zeros(1, *size)
            mask[:, top:bottom, left:right] = 1
            yield mask


# --- Contests
