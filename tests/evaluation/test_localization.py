import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import PellucidError
from pellucid.evaluation import attainable_score, cell_slices, join_cells, localization_score, localize, split_cells
from pellucid.evaluation.localization import interpolation_matrix

SEEDS = st.integers(0, 2**31 - 1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_score(map_: Tensor, rows: int, columns: int, cell: int, size: tuple[int, int]) -> float:
    """Section 1.4 word for word: up-sample, clip, and add pixel by pixel."""
    large = F.interpolate(map_[None, None].double(), size=size, mode="bilinear", align_corners=False)[0, 0].tolist()
    inside = total = 0.0
    for y, x in itertools.product(range(size[0]), range(size[1])):
        positive = max(large[y][x], 0.0)
        total += positive
        if (y // (size[0] // rows)) * columns + x // (size[1] // columns) == cell:
            inside += positive
    return inside / total if total else 0.0


@pytest.mark.parametrize(("rows", "columns", "map_size", "size"), [(2, 2, (6, 6), (24, 24)), (2, 3, (4, 9), (20, 36))])
@pytest.mark.parametrize("clip_first", [False, True])
def test_the_score_is_that_of_a_loop_over_up_sampled_pixels(
    rows: int, columns: int, map_size: tuple[int, int], size: tuple[int, int], clip_first: bool
) -> None:
    values = noise(3, 1, *map_size)
    values = values.clamp(min=0) if clip_first else values  # non-negative maps take the separable path
    cells = range(rows * columns)
    found = localization_score(values, (rows, columns), list(cells), size)
    wanted = [[slow_score(map_[0], rows, columns, cell, size) for cell in cells] for map_ in values]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_clipping_follows_up_sampling() -> None:
    values = torch.tensor([[[4.0, -4.0], [-4.0, -4.0]]])
    clipped_first = localization_score(values.clamp(min=0), 2, 0, (16, 16))
    assert float(localization_score(values, 2, 0, (16, 16))) > float(clipped_first) + 0.1


def test_scoring_does_not_change_the_maps() -> None:
    values = noise(2, 1, 4, 4)
    before = values.clone()
    localization_score(values, 2, 0)
    localization_score(values, 2, 0, (16, 16))
    assert torch.equal(values, before)


def test_at_the_maps_own_resolution_nothing_leaks() -> None:
    values = torch.zeros(1, 8, 8)
    values[0, :4, :4] = noise(4, 4).abs()
    assert float(localization_score(values, 2, 0)) == 1
    assert float(localization_score(values, 2, 0, (32, 32))) < 1


def test_one_cell_and_one_map_of_several_shapes_agree() -> None:
    values = noise(5, 1, 6, 6)
    every = localization_score(values, 3, [0, 4, 8], (18, 18))
    assert every.shape == (5, 3)
    torch.testing.assert_close(localization_score(values[:, 0], 3, 4, (18, 18)), every[:, 1])
    torch.testing.assert_close(
        localize(values, 3, (18, 18)).target_scores([0, 4, 8, 4, 0]), every[range(5), [0, 1, 2, 1, 0]]
    )


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_the_cells_of_a_map_with_positive_mass_share_all_of_it(
    seed: int, rows: int, columns: int, m: int, signed: bool
) -> None:
    values = noise(2, rows * m, columns * m, seed=seed)
    values[:, 0, 0] = 3
    values = values if signed else values.abs()
    shares = localize(values, (rows, columns), (rows * 8, columns * 8)).shares
    torch.testing.assert_close(shares.sum(1), torch.ones(2, dtype=torch.float64))


@settings(max_examples=25)
@given(SEEDS, st.floats(1e-30, 1e30))
def test_scaling_a_map_leaves_its_score(seed: int, factor: float) -> None:
    values = noise(3, 8, 8, seed=seed).double()
    found = localization_score(values * factor, 2, 1, (32, 32))
    torch.testing.assert_close(found, localization_score(values, 2, 1, (32, 32)), rtol=1e-9, atol=1e-12)


def test_a_tiny_map_is_scored_like_a_large_one() -> None:
    values = noise(1, 8, 8) * 1e-30
    assert float(localization_score(values, 2, 0, (32, 32))) > 0.05


@settings(max_examples=20)
@given(SEEDS, st.permutations(range(6)))
def test_the_order_of_the_grids_does_not_matter(seed: int, order: list[int]) -> None:
    values = noise(6, 4, 4, seed=seed)
    values[::2] = values[::2].abs()
    assert torch.equal(localize(values[order], 2, (64, 64)).mass, localize(values, 2, (64, 64)).mass[order])


@pytest.mark.parametrize("n", [1, 2, 3, (2, 3)])
def test_a_uniform_map_scores_one_over_the_number_of_cells(n: int | tuple[int, int]) -> None:
    shares = localize(torch.full((1, 6, 6), 0.3), n, (24, 24)).shares
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / shares.shape[1]))


@pytest.mark.parametrize(
    ("m", "n", "cell", "published"), [(7, 2, 0, 0.9646), (28, 2, 3, 0.9911), (7, 3, 4, 0.9298), (7, 3, 0, 0.9646)]
)
def test_the_leak_of_a_uniform_map_is_that_of_the_closed_form(m: int, n: int, cell: int, published: float) -> None:
    found = attainable_score((m * n, m * n), n, cell, (224 * n, 224 * n))
    borders = [sum(0 < edge < n for edge in (place, place + 1)) for place in divmod(cell, n)]
    assert found == pytest.approx(math.prod(1 - b / (8 * m) for b in borders), abs=1e-12)
    assert found == pytest.approx(published, abs=5e-5)


def test_the_leak_of_a_rectangular_grid_has_both_axes() -> None:
    assert attainable_score((7, 15), (1, 3), 1, (56, 120)) == pytest.approx(1 - 2 / (8 * 5))


@pytest.mark.parametrize(("kernel", "published"), [(9, 0.993), (33, 0.974), (129, 0.899)])
def test_the_leak_of_smoothing_is_that_of_the_table(kernel: int, published: float) -> None:
    found = attainable_score((448, 448), 2, 0, (448, 448), kernel_size=kernel)
    assert found == pytest.approx(published, abs=6e-4)
    assert found == pytest.approx((1 - 0.3614 * kernel / 4 / 224) ** 2, abs=1e-3)


def test_the_interpolation_matrix_up_samples_like_torch() -> None:
    values = noise(5, 7).double()
    down, across = interpolation_matrix(5, 20), interpolation_matrix(7, 30)
    wanted = F.interpolate(values[None, None], size=(20, 30), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(down @ values @ across.T, wanted)


@pytest.mark.parametrize("values", [torch.zeros(1, 4, 4), -torch.ones(1, 4, 4)])
@pytest.mark.parametrize("size", [None, (16, 16)])
def test_a_map_without_positive_evidence_scores_zero(values: Tensor, size: tuple[int, int] | None) -> None:
    assert localize(values, 2, size).shares.tolist() == [[0, 0, 0, 0]]


def test_positive_mass_that_rounding_made_is_none() -> None:
    values = -torch.ones(1, 8, 8)
    values[0, 0, 0] = 1e-9
    assert float(localization_score(values, 2, 0)) == 0
    values[0, 0, 0] = 1e-3
    assert float(localization_score(values, 2, 0)) == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_map_that_is_not_finite_scores_nan_and_is_reported(bad: float) -> None:
    values = noise(3, 1, 4, 4).abs()
    values[1, 0, 2, 2] = bad
    found = localize(values, 2, (16, 16))
    assert found.finite.tolist() == [True, False, True]
    assert found.score(0).isnan().tolist() == [False, True, False]
    assert found.mirror_share(0, 3).isnan().tolist() == [False, True, False]


def test_the_mirror_share_is_the_partner_s_part_of_what_lies_outside() -> None:
    values = torch.tensor([[[5.0, 1.0], [2.0, 7.0]], [[5.0, 0.0], [0.0, 0.0]]])
    share = localize(values, 2).mirror_share(0, 3)
    assert float(share[0]) == pytest.approx(0.7)
    assert share[1].isnan()


def test_masses_are_sums_of_the_positive_part() -> None:
    values = torch.tensor([[[5.0, -1.0], [2.0, 7.0]]])
    assert localize(values, 2).mass.tolist() == [[5, 0, 2, 7]]


def test_cells_joined_and_split_again_are_the_same() -> None:
    cells = noise(2, 6, 3, 4, 5)
    grid = join_cells(cells, (2, 3))
    assert grid.shape == (2, 3, 8, 15)
    assert torch.equal(split_cells(grid, (2, 3)), cells)
    for cell in range(6):
        rows, columns = cell_slices(cell, (2, 3), (8, 15))
        assert torch.equal(grid[:, :, rows, columns], cells[:, cell])


@pytest.mark.parametrize(
    ("shape", "n", "cell", "size", "message"),
    [
        ((1, 1, 7, 8), 2, 0, None, "7 x 8"),
        ((1, 8, 8), 3, 0, (24, 24), "8 x 8"),
        ((1, 8, 8), 2, 0, (31, 32), "31 x 32"),
        ((1, 8, 8), 2, 4, None, "cells are 0 to 3"),
        ((1, 8, 8), 2, -1, None, "cell -1"),
        ((1, 8, 8), 0, 0, None, "0 x 0"),
        ((1, 2, 8, 8), 2, 0, None, r"\(1, 2, 8, 8\)"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_the_sizes(
    shape: tuple[int, ...], n: int, cell: int, size: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(PellucidError, match=message):
        localization_score(torch.ones(shape), n, cell, size)


def test_cells_of_the_wrong_number_are_refused() -> None:
    with pytest.raises(PellucidError, match=r"\(2, 3, 3, 4, 4\)"):
        join_cells(torch.zeros(2, 3, 3, 4, 4), 2)
    with pytest.raises(PellucidError, match="one cell per map"):
        localize(torch.ones(2, 4, 4), 2).target_scores([0])
