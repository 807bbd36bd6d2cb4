"""The decorrelating sampler: the histogram's weights for two contexts, independence for more, draws by the weights."""

import pytest
import torch
from torch import Tensor

from pellucid.surrogate.training.sampling import (
    decorrelating_weights,
    draw_rows,
    mix_weights,
)


def tied(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Columns that share a cause."""
    random = torch.Generator().manual_seed(seed)
    shared = torch.randn(rows, 1, generator=random)
    return shared + 0.8 * torch.randn(rows, columns, generator=random)


def weighted_correlation(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted correlation matrix (K, K) of values (N, K)."""
    covariance = torch.cov(values.double().T, aweights=weights.double())
    deviation = covariance.diagonal().sqrt()
    return covariance / (deviation[:, None] * deviation)


def by_histogram(context: Tensor, bins: int, max_weight: float) -> Tensor:
    """p(c_1) p(c_2) / p(c_1, c_2) of each row, clipped, counted cell by cell."""
    columns, levels = context.T.contiguous(), torch.linspace(0, 1, bins + 1, dtype=context.dtype)[1:-1]
    edges = [torch.quantile(column, levels) for column in columns]
    cells = [torch.bucketize(column, edge).tolist() for column, edge in zip(columns, edges, strict=True)]
    rows = list(zip(*cells, strict=True))
    weights = []
    for first, second in rows:
        alone = cells[0].count(first) * cells[1].count(second) / len(rows)
        weights.append(alone / rows.count((first, second)))
    weights = torch.tensor(weights).clamp(max=max_weight)
    return weights / weights.mean()


def test_weights_of_two_contexts_are_those_of_their_histogram() -> None:
    context = tied(2000, 2).double()
    weights = decorrelating_weights(context, bins=8, max_weight=30.0)
    torch.testing.assert_close(weights, by_histogram(context, 8, 30.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_weighted_contexts_are_all_but_uncorrelated(columns: int) -> None:
    context = tied(6000, columns)
    off = ~torch.eye(columns, dtype=torch.bool)
    assert float(weighted_correlation(context, torch.ones(6000))[off].min()) > 0.5
    assert float(weighted_correlation(context, decorrelating_weights(context))[off].abs().max()) < 0.2


def test_no_weight_exceeds_the_limit_by_much() -> None:
    weights = decorrelating_weights(tied(4000, 3), max_weight=5.0)
    assert float(weights.max()) < 7
    assert float(weights.mean()) == pytest.approx(1)


@pytest.mark.parametrize("columns", [0, 1])
def test_fewer_than_two_contexts_need_no_weights(columns: int) -> None:
    assert bool((decorrelating_weights(torch.randn(50, columns)) == 1).all())


def test_contexts_of_few_distinct_values_are_weighted_too() -> None:
    context = torch.stack([torch.arange(1000) % 2, torch.arange(1000) % 2], dim=1).float()
    context[:100, 1] = 1 - context[:100, 1]
    weights = decorrelating_weights(context)
    assert float(weighted_correlation(context, weights)[0, 1].abs()) < 0.05


def test_rows_are_drawn_as_often_as_their_weights_say() -> None:
    weights = torch.tensor([1.0, 0.0, 3.0, 4.0])
    rows = draw_rows(weights, 40_000, torch.Generator().manual_seed(0))
    shares = torch.bincount(rows, minlength=4) / 40_000
    torch.testing.assert_close(shares, weights / 8, rtol=0, atol=0.01)
    assert int((rows == 1).sum()) == 0


def test_draws_depend_on_the_generator_only() -> None:
    weights = torch.rand(100)
    first, second = (draw_rows(weights, 20, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)


def test_every_part_of_a_mixture_has_its_share() -> None:
    parts = [(0.25, torch.tensor([5.0, 5.0, 0.0])), (0.75, torch.tensor([0.0, 0.0, 2.0]))]
    torch.testing.assert_close(mix_weights(parts), torch.tensor([0.125, 0.125, 0.75]))
