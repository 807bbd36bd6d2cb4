"""Controls: maps that know nothing, or everything.

A control map is made from what the layer sees, images or activations (N, C, h, w), and is (N, 1, h, w) >= 0. A method
has no merit where a control scores as well.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.attribution import Attribution, Case, Method
from pellucid.evaluation.localization import Grid, cell_slices

CONTROLS = ("Uniform", "Random", "SobelEdges", "InputMagnitude", "OracleMask")
"""What tables call the controls: one value, noise, edges and magnitude of what the layer sees, and the cell itself."""


def uniform_map(inputs: Tensor) -> Tensor:
    """The same value everywhere: (N, C, h, w) -> (N, 1, h, w) of ones. Its localization score is 1 / cells.

    >>> uniform_map(torch.zeros(1, 3, 1, 2))
    tensor([[[[1., 1.]]]])
    """
    return torch.ones_like(inputs[:, :1])


def random_map(inputs: Tensor, *, seed: int = 0) -> Tensor:
    """Uniform noise in [0, 1): (N, C, h, w) -> (N, 1, h, w). Map i has the noise of seed + i, whatever the batch.

    >>> inputs = torch.zeros(2, 3, 4, 4)
    >>> torch.equal(random_map(inputs)[1:], random_map(inputs[1:], seed=1))
    True
    """
    maps = torch.empty(len(inputs), 1, *inputs.shape[2:])
    for index, values in enumerate(maps):
        values.uniform_(generator=torch.Generator().manual_seed(seed + index))
    return maps.to(inputs)


def sobel_edges(inputs: Tensor) -> Tensor:
    """Strength of the edges: length of the Sobel gradient, summed over channels; (N, C, h, w) -> (N, 1, h, w).

    Borders are replicated. On a grid image the seams between cells are edges too, of every cell alike.

    >>> sobel_edges(torch.tensor([[[[0.0, 0.0, 1.0]]]]))
    tensor([[[[0., 4., 4.]]]])
    """
    kernel = inputs.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    channels = inputs.reshape(-1, 1, *inputs.shape[2:])
    padded = F.pad(channels, (1, 1, 1, 1), mode="replicate")
    across, down = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None]).unbind(1)
    return torch.hypot(across, down).view_as(inputs).sum(1, keepdim=True)


def input_magnitude(inputs: Tensor) -> Tensor:
    """|input| summed over channels: (N, C, h, w) -> (N, 1, h, w).

    >>> input_magnitude(torch.tensor([[[[-1.0]], [[2.0]]]]))
    tensor([[[[3.]]]])
    """
    return inputs.abs().sum(1, keepdim=True)


def oracle_mask(inputs: Tensor, n: Grid = 2, cell: int = 0) -> Tensor:
    """One in the cell and zero elsewhere: (N, C, h, w) -> (N, 1, h, w). It scores what can be attained at the layer.

    Args:
        inputs: what the layer sees.
        n: n for n x n cells, or (rows, columns), which divides (h, w).
        cell: number of the cell, row by row.

    >>> oracle_mask(torch.zeros(1, 3, 2, 2), n=2, cell=3)[0, 0]
    tensor([[0., 0.],
            [0., 1.]])
    """
    rows, columns = cell_slices(cell, n, (inputs.shape[2], inputs.shape[3]))
    mask = torch.zeros_like(inputs[:, :1])
    mask[:, :, rows, columns] = 1
    return mask


_MAPS = {"Uniform": uniform_map, "SobelEdges": sobel_edges, "InputMagnitude": input_magnitude}


@dataclass(frozen=True, kw_only=True)
class ControlMap(Method):
    """A map that is made without the part of the network after the layer.

    Attributes:
        control: one of `CONTROLS`.
        grid: (rows, columns).
        cells: the cell of each target, for the oracle.
        seed: of the noise; grid i of a run has that of seed + i.

    >>> ControlMap(control="Random", seed=3).options()
    {'seed': 3}
    """

    control: str
    grid: tuple[int, int] = (1, 1)
    cells: tuple[int, ...] = (0,)
    seed: int = 0

    @property
    def signed(self) -> bool:
        return False

    @property
    def label(self) -> str:
        return self.control

    def options(self) -> dict[str, Any]:
        """The seed, of the random map."""
        return {"seed": self.seed} if self.control == "Random" else {}

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        inputs = case.activation.detach().as_subclass(Tensor)
        if self.control == "OracleMask":
            return Attribution(torch.cat([oracle_mask(inputs, self.grid, cell) for cell in self.cells], dim=1))
        if self.control == "Random":
            maps = random_map(inputs, seed=self.seed + case.offset)
        else:
            maps = _MAPS[self.control](inputs)
        return Attribution(maps.expand(-1, case.target_count, -1, -1))


def grid_controls(grid: tuple[int, int], cells: tuple[int, ...], seed: int) -> tuple[Method, ...]:
    """All controls for targets in the cells of grids.

    Args:
        grid: (rows, columns).
        cells: the cell of each target.
        seed: of the random map.

    >>> [method.label for method in grid_controls((2, 2), (0, 3), seed=0)]
    ['Uniform', 'Random', 'SobelEdges', 'InputMagnitude', 'OracleMask']
    """
    return tuple(ControlMap(control=control, grid=grid, cells=cells, seed=seed) for control in CONTROLS)


def image_controls(seed: int) -> tuple[Method, ...]:
    """The controls for single images, which have no cell that an oracle could name."""
    return tuple(ControlMap(control=name, seed=seed) for name in CONTROLS if name != "OracleMask")
