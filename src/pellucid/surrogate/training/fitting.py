"""Fitting a small regressor, and how well it does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """Make what draws from torch's global generator (initial weights) depend on the seed only; restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def fit_regressor(
    network: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], *, steps: int, rate: float, decay: float = 0.0
) -> None:
    """Minimize the smooth L1 distance of network(inputs) to targets, by Adam; the rate drops to a fifth at the end.

    Args:
        network: is changed in place, and left in eval mode without gradients.
        batch: yields inputs and targets (B, K).
        steps: how many.
        rate, decay: learning rate and weight decay.
    """
    network.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate if step < 0.75 * steps else 0.2 * rate
        inputs, targets = batch()
        loss = F.smooth_l1_loss(network(inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.eval().requires_grad_(False)


def determination(found: Tensor, wanted: Tensor) -> Tensor:
    """R^2 of each column, (K,): 1 is perfect, 0 no better than the mean, negative worse."""
    residual = (found - wanted).square().sum(0)
    return 1 - residual / (wanted - wanted.mean(0)).square().sum(0).clamp_min(1e-12)
