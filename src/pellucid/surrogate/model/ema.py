"""The exponential moving average of a network's weights, which is what explanations use."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


class RunningMean(Generic[N]):
    """A copy of a network whose weights follow the original's.

    Attributes:
        network: the averaged copy, in eval mode, without gradients.

    Args:
        network: the network that is trained.
        limit: beta in the long run; early on it is t / (t + 50), so that the random start is forgotten soon.
    """

    def __init__(self, network: N, limit: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._limit = limit

    @torch.no_grad()
    def follow(self, network: nn.Module, step: int) -> None:
        """Move towards the weights after `step` steps."""
        weight = 1 - min(self._limit, step / (step + 50))
        pairs = zip(self.network.parameters(), network.parameters(), strict=True)
        for mean, value in pairs:
            mean.lerp_(value, weight)
        for fixed, now in zip(self.network.buffers(), network.buffers(), strict=True):
            fixed.copy_(now)
