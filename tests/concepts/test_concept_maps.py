"""Concept maps and what calibrates them, against the numbers of the definition and a cell-by-cell re-implementation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.concepts.support import HAND_F, HAND_P

from pellucid.concepts import (
    concept_map,
    negative_concept_map,
    project_activation,
)
from pellucid.concepts.concept_scores import contraharmonic_mean, sample_median
from pellucid.errors import PellucidError


@pytest.mark.parametrize(
    ("values", "expected"),
    [([[3.0, 3.0], [3.0, 3.0]], 3.0), ([[1.0, 3.0]], 2.5), ([[0.0, 0.0]], 0.0), ([[0.0, 7.0]], 7.0)],
)
def test_the_contraharmonic_mean_has_its_hand_checked_values(values: list[list[float]], expected: float) -> None:
    assert float(contraharmonic_mean(torch.tensor(values))) == pytest.approx(expected, abs=1e-6)


def test_the_contraharmonic_mean_counts_cells_by_their_weight() -> None:
    values = torch.tensor([[1.0, 3.0, 50.0]])
    assert float(contraharmonic_mean(values, torch.tensor([[1.0, 1.0, 0.0]]))) == pytest.approx(2.5, abs=1e-6)
    doubled = contraharmonic_mean(torch.tensor([[1.0, 1.0, 3.0]]))
    assert float(contraharmonic_mean(values, torch.tensor([[2.0, 1.0, 0.0]]))) == pytest.approx(float(doubled))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, 1), (2, 1), (3, 2), (4, 3), (6, 3), (8, 5), (10, 5), (20, 11), (30, 15), (50, 25), (120, 61), (500, 251)],
)
def test_the_median_is_the_sample_that_the_reference_takes(count: int, expected: int) -> None:
    values = torch.arange(1, count + 1).double()[torch.randperm(count)]
    assert float(sample_median(values)) == expected


def test_the_median_of_several_columns_is_that_of_each() -> None:
    values = torch.randn(10, 3)
    assert torch.equal(sample_median(values), torch.stack([sample_median(column) for column in values.T]))


def test_the_map_has_its_hand_checked_values() -> None:
    expected = torch.tensor([[1.0, 0.0], [0.0789473684, 0.0]])
    torch.testing.assert_close(concept_map(HAND_F, HAND_P, 0.1, 2.0), expected, atol=1e-6, rtol=0)


def _slow_map(activation: torch.Tensor, direction: torch.Tensor, low: float, high: float) -> list[list[float]]:
    channels, height, width = activation.shape
    cells = []
    for i in range(height):
        row = []
        for j in range(width):
            raw = max(0.0, sum(float(direction[c] * activation[c, i, j]) for c in range(channels)))
            row.append((min(max(raw, low), high) - low) / (high - low) if high > low else 0.0)
        cells.append(row)
    return cells


@given(st.integers(0, 10**6), st.floats(-1, 2), st.floats(-1, 2))
def test_maps_of_many_images_and_directions_equal_a_cell_by_cell_computation(
    seed: int, low: float, high: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    activation = torch.randn(2, 3, 2, 4, generator=generator, dtype=torch.float64)
    directions = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    lows, highs = torch.tensor([low, 0.2]).double(), torch.tensor([high, 0.9]).double()
    maps = concept_map(activation, directions, lows, highs)
    for n in range(2):
        for d in range(2):
            slow = torch.tensor(_slow_map(activation[n], directions[d], float(lows[d]), float(highs[d]))).double()
            torch.testing.assert_close(maps[n, d], slow)
    assert float(maps.min()) >= 0
    assert float(maps.max()) <= 1


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_a_concept_that_is_not_separable_is_seen_nowhere(low: float, high: float) -> None:
    assert not bool(concept_map(HAND_F, HAND_P, low, high).any())


@given(st.floats(1e-3, 1e3))
def test_the_map_does_not_depend_on_the_length_of_the_direction(scale: float) -> None:
    activation = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1)).double()
    direction = torch.tensor([0.5, -1.0, 0.3]).double()
    expected = concept_map(activation, direction, 0.1, 0.8)
    torch.testing.assert_close(concept_map(activation, scale * direction, 0.1 * scale, 0.8 * scale), expected)


def test_the_negative_map_is_the_map_of_the_opposite_direction() -> None:
    activation = torch.randn(2, 3, 4, 4)
    negative = negative_concept_map(activation, HAND_P, 0.1, 0.7)
    assert torch.equal(negative, concept_map(activation, -HAND_P, 0.1, 0.7))
    positive = concept_map(activation, HAND_P, 0.1, 0.7)
    assert not bool(((positive > 0) & (negative > 0)).any())


def test_a_direction_of_another_width_is_refused_with_both_shapes() -> None:
    with pytest.raises(PellucidError, match=r"\(4,\) does not fit an activation \(3, 2, 2\)"):
        project_activation(HAND_F, torch.ones(4))
