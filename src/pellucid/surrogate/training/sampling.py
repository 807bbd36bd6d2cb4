"""Draws in which dependent contexts look independent: weights ~ prod_k p(c_k) / p(c), estimated by raking."""

from itertools import combinations

import torch
from torch import Tensor


def decorrelating_weights(context: Tensor, *, bins: int = 12, sweeps: int = 20, max_weight: float = 30.0) -> Tensor:
    """Weights under which every pair of contexts is (nearly) independent, marginals kept.

    Values are binned by quantiles. For two contexts the weights are those of the histogram, p(c_1) p(c_2) / p(c_1, c_2)
    at the bin of each row. The joint histogram of more is too thin to divide by, so that all two-dimensional tables are
    raked in turn (iterative proportional fitting) to the product of their margins.

    Args:
        context: (N, K_c).
        bins: Bins of each context; fewer where there are not 20 rows for each cell of a pair's table.
        sweeps: How often all pairs are raked.
        max_weight: Weights are clipped at this multiple of their mean.

    Returns:
        (N,), mean 1; uniform for fewer than two contexts.

    >>> decorrelating_weights(torch.randn(3, 1))
    tensor([1., 1., 1.])
    """
    rows, columns = context.shape
    weights = torch.ones(rows)
    if columns < 2:
        return weights
    bins = max(2, min(bins, int((rows / 20) ** 0.5)))
    cells = [_quantile_bins(context[:, column], bins) for column in range(columns)]
    pairs = list(combinations(range(columns), 2))
    for _ in range(sweeps if len(pairs) > 1 else 1):
        for first, second in pairs:
            weights = weights * _raking_factors(cells[first], cells[second], weights, bins)
            weights = weights.clamp(max=max_weight * float(weights.mean()))
    return weights / weights.mean()


def _quantile_bins(values: Tensor, bins: int) -> Tensor:
    edges = torch.quantile(values.double(), torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
    return torch.bucketize(values.double().contiguous(), edges)


def _raking_factors(first: Tensor, second: Tensor, weights: Tensor, bins: int) -> Tensor:
    """p(a) p(b) / p(a, b) at each row, with p(a), p(b) the unweighted and p(a, b) the weighted table."""
    table = torch.zeros(bins, bins, dtype=torch.float64)
    table.index_put_((first, second), weights.double(), accumulate=True)
    margins = [torch.bincount(cells, minlength=bins).double() / len(cells) for cells in (first, second)]
    independent = margins[0][:, None] * margins[1][None, :]
    return (independent / (table / table.sum()).clamp_min(1e-12))[first, second].float()


def mix_weights(parts: list[tuple[float, Tensor]]) -> Tensor:
    """One set of weights (N,) that gives each part, weights (N,) of its own, its share of the draws.

    >>> mix_weights([(0.25, torch.tensor([1.0, 1.0, 0.0])), (0.75, torch.tensor([0.0, 0.0, 2.0]))])
    tensor([0.1250, 0.1250, 0.7500])
    """
    return torch.stack([share * weights / weights.sum() for share, weights in parts]).sum(0)


def draw_rows(weights: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Draw rows with replacement, with probability proportional to the weights.

    Args:
        weights: (N,), 0 or more.
        count: Number of draws.
        random: Generator of the draws.

    Returns:
        (count,), row numbers.

    >>> draw_rows(torch.tensor([0.0, 1.0]), 3, torch.Generator())
    tensor([1, 1, 1])
    """
    cumulated = weights.double().cumsum(0)
    points = torch.rand(count, generator=random, dtype=torch.float64) * cumulated[-1]
    return torch.searchsorted(cumulated, points, right=True).clamp(max=len(weights) - 1)
