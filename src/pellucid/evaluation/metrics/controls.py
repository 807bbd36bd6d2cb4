"""Controls: maps that know nothing, or everything.

A control map is made from what the layer sees, images or activations (N, C, h, w), and is (N, 1, h, w) >= 0. A score
that a control reaches too is no merit of a method.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.evaluation.localization import Grid, cell_slices


def uniform_map(inputs: Tensor) -> Tensor:
    """The same value everywhere: (N, C, h, w) -> (N, 1, h, w) of ones. Its localization score is 1 / cells."""
    return torch.ones_like(inputs[:, :1])


def random_map(inputs: Tensor, *, seed: int = 0) -> Tensor:
    """Uniform noise in [0, 1): (N, C, h, w) -> (N, 1, h, w). Map i has the noise of seed + i, whatever the batch."""
    maps = torch.empty(len(inputs), 1, *inputs.shape[2:])
    for index, own in enumerate(maps):
        own.uniform_(generator=torch.Generator().manual_seed(seed + index))
    return maps.to(inputs)


def sobel_edges(inputs: Tensor) -> Tensor:
    """Strength of the edges: length of the Sobel gradient, summed over channels; (N, C, h, w) -> (N, 1, h, w).

    Borders are replicated. On a grid image the seams between cells are edges too, of every cell alike.
    """
    kernel = inputs.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    channels = inputs.reshape(-1, 1, *inputs.shape[2:])
    padded = F.pad(channels, (1, 1, 1, 1), mode="replicate")
    across, down = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None]).unbind(1)
    return torch.hypot(across, down).view_as(inputs).sum(1, keepdim=True)


def input_magnitude(inputs: Tensor) -> Tensor:
    """|input| summed over channels: (N, C, h, w) -> (N, 1, h, w)."""
    return inputs.abs().sum(1, keepdim=True)


def oracle_mask(inputs: Tensor, n: Grid = 2, cell: int = 0) -> Tensor:
    """One in the cell and zero elsewhere: (N, C, h, w) -> (N, 1, h, w). It scores what can be attained at the layer."""
    rows, columns = cell_slices(cell, n, (inputs.shape[2], inputs.shape[3]))
    mask = torch.zeros_like(inputs[:, :1])
    mask[:, :, rows, columns] = 1
    return mask
