"""The one loop over batches of the surrogate: rows are taken a few at a time, so that memory stays bounded."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def batch_slices(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `count` rows, in order.

    >>> list(batch_slices(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def map_batches(function: Callable[..., Tensor], *rows: Any, size: int, dim: int = 0) -> Tensor:
    """Apply `function` to a few rows at a time, without gradients, and concatenate the results.

    Args:
        function: from as many arguments as there are `rows` to a tensor.
        *rows: tensors, codes or whatever has a length and can be sliced; all of one length.
        size: rows at once, at most.
        dim: dimension along which the results are concatenated.

    >>> map_batches(lambda x: 2 * x, torch.arange(5), size=2)
    tensor([0, 2, 4, 6, 8])
    """
    with torch.no_grad():
        slices = batch_slices(len(rows[0]), size)
        return torch.cat([function(*(each[part] for each in rows)) for part in slices], dim=dim)
