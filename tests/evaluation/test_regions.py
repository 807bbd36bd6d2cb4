import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import PellucidError
from pellucid.evaluation import localization_score
from pellucid.evaluation.metrics import (
    RegionScores,
    box_masks,
    energy_pointing_game,
    oracle_mask,
    pointing_game,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
)

Game = Callable[[Tensor, Tensor], RegionScores]

ALL: list[Game] = [pointing_game, relevance_mass_accuracy, relevance_rank_accuracy]


def rectangle(size: int = 12, top: int = 2, left: int = 3, bottom: int = 7, right: int = 9) -> Tensor:
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    return mask


def peak(y: int, x: int, size: int = 12) -> Tensor:
    values = torch.zeros(1, 1, size, size)
    values[..., y, x] = 1
    return values


@pytest.mark.parametrize("game", ALL)
def test_a_flat_map_scores_chance_and_the_region_itself_everything(game: Game) -> None:
    mask = rectangle()
    flat = game(torch.full((1, 12, 12), 0.7), mask)
    assert float(flat.scores) == pytest.approx(float(flat.chance))
    assert float(game(mask.double(), mask).scores) == 1


def test_chance_is_the_regions_share_of_the_image() -> None:
    assert float(relevance_mass_accuracy(torch.ones(1, 3, 3), rectangle()).chance) == pytest.approx(30 / 144)


@pytest.mark.parametrize(
    ("y", "x", "tolerance", "hit"),
    [(2, 3, 0, 1), (1, 3, 0, 0), (1, 3, 1, 1), (0, 1, 2.8, 0), (0, 1, 2.83, 1), (7, 9, 1, 0), (7, 9, 1.5, 1)],
)
def test_the_pointing_game_hits_within_the_tolerance(y: int, x: int, tolerance: float, hit: int) -> None:
    assert float(pointing_game(peak(y, x), rectangle(), tolerance=tolerance).scores) == hit


def test_chance_of_the_pointing_game_counts_the_tolerance() -> None:
    near = sum(math.hypot(max(2 - y, 0, y - 6), max(3 - x, 0, x - 8)) <= 2 for y in range(12) for x in range(12))
    assert float(pointing_game(peak(0, 0), rectangle(), tolerance=2).chance) == pytest.approx(near / 144)


def test_maxima_that_tie_hit_in_proportion() -> None:
    values = peak(2, 3) + peak(11, 11) + peak(0, 0) + peak(3, 4)
    assert float(pointing_game(values, rectangle(), tolerance=0).scores) == 0.5


def test_mass_is_that_of_the_up_sampled_positive_part() -> None:
    values = torch.randn(4, 1, 3, 3)
    mask = rectangle().expand(4, -1, -1)
    large = F.interpolate(values.double(), size=(12, 12), mode="bilinear", align_corners=False)[:, 0].clamp(min=0)
    wanted = [float(own[rectangle()[0]].sum() / own.sum()) for own in large]
    assert relevance_mass_accuracy(values, mask).scores.tolist() == pytest.approx(wanted)


def test_the_mass_in_a_grid_cell_is_the_localization_score() -> None:
    values = torch.randn(5, 1, 4, 4)
    mask = oracle_mask(torch.zeros(5, 1, 16, 16), 2, 1)[:, 0].bool()
    wanted = localization_score(values, 2, 1, (16, 16))
    torch.testing.assert_close(relevance_mass_accuracy(values, mask).scores, wanted)


def test_the_energy_based_game_is_the_mass_in_the_boxes() -> None:
    values = torch.randn(2, 1, 3, 3)
    boxes = [[(3, 2, 9, 7)], [(0, 0, 4, 4), (2, 2, 8, 8)]]
    found = energy_pointing_game(values, boxes, (12, 12))
    torch.testing.assert_close(found.scores[:1], relevance_mass_accuracy(values[:1], rectangle()).scores)
    assert float(found.chance[1]) == pytest.approx((16 + 36 - 4) / 144)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_rank_accuracy_is_the_expectation_over_orders_of_ties(seed: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(levels, (1, 4, 4), generator=generator).double()
    mask = rectangle(4, 0, 1, 2, 4)
    found = float(relevance_rank_accuracy(values, mask).scores)
    drawn = []
    for _ in range(400):
        order = torch.randperm(16, generator=generator)
        best = order[values.flatten()[order].argsort(descending=True, stable=True)][:6]
        drawn.append(float(mask.flatten()[best].double().mean()))
    assert found == pytest.approx(sum(drawn) / 400, abs=0.06)


def test_rank_accuracy_of_a_map_without_ties_counts_the_largest() -> None:
    values = torch.randn(1, 12, 12)
    best = values.flatten().argsort(descending=True)[:30]
    wanted = float(rectangle().flatten()[best].double().mean())
    assert float(relevance_rank_accuracy(values, rectangle()).scores) == pytest.approx(wanted)


@pytest.mark.parametrize("game", ALL)
def test_every_image_is_scored_alone_and_nan_maps_are_reported(game: Game) -> None:
    values = torch.randn(3, 1, 4, 4)
    values[1, 0, 1, 1] = torch.nan
    masks = torch.cat([rectangle(), rectangle(top=0), rectangle(left=0)])
    found = game(values, masks)
    assert found.finite.tolist() == [True, False, True]
    assert found.scores[1].isnan()
    torch.testing.assert_close(found.scores[2:], game(values[2:], masks[2:]).scores)


def test_a_map_without_positive_evidence_has_no_mass_in_the_region() -> None:
    assert float(relevance_mass_accuracy(-torch.ones(1, 3, 3), rectangle()).scores) == 0


def test_box_masks_hold_the_pixels_whose_centre_is_inside() -> None:
    assert box_masks([[(0, 0, 4, 3)]], (3, 4)).all()
    assert box_masks([[(1, 0, 2, 3)]], (3, 4)).nonzero()[:, 2].unique().tolist() == [1]
    assert box_masks([[(0.6, 0, 2.4, 3)]], (3, 4)).nonzero()[:, 2].unique().tolist() == [1]
    assert box_masks([[(0, 0.6, 4, 2.4)]], (3, 4)).nonzero()[:, 1].unique().tolist() == [1]
    assert box_masks([[(0, 0.4, 4, 2.6)]], (3, 4)).all()
    assert not box_masks([[]], (3, 4)).any()


@pytest.mark.parametrize("game", ALL)
def test_regions_that_do_not_fit_are_refused(game: Game) -> None:
    values = torch.randn(2, 1, 4, 4)
    with pytest.raises(PellucidError, match="region of image 1 is empty"):
        game(values, torch.cat([rectangle(), torch.zeros_like(rectangle())]))
    with pytest.raises(PellucidError, match=r"expected \(2, H, W\) bool"):
        game(values, rectangle())
    with pytest.raises(PellucidError, match="float32"):
        game(values, rectangle().expand(2, -1, -1).float())


def test_boxes_outside_the_image_and_negative_tolerances_are_refused() -> None:
    with pytest.raises(PellucidError, match="of image 1 holds no pixel of 12 x 12"):
        box_masks([[(0, 0, 2, 2)], [(20, 20, 30, 30)]], (12, 12))
    with pytest.raises(PellucidError, match="tolerance is -1"):
        pointing_game(peak(0, 0), rectangle(), tolerance=-1)
