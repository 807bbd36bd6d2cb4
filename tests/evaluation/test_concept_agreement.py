"""Concept maps against masks: hand-worked values, slow definitions, and what must not change them."""

import math

import pytest
import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.evaluation.metrics import balanced_mse, cell_shares, false_alarm, soft_iou


def random_case(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Maps (6, 3, 4), and masks (6, 12, 20) with whole, empty and partly covered cells."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(6, 3, 4, generator=generator) < 0.5
    masks = coarse.repeat_interleave(4, 1).repeat_interleave(5, 2)
    masks[:, :2, :3] = True
    return torch.rand(6, 3, 4, generator=generator), masks


def test_cell_shares_are_the_covered_parts_of_the_cells() -> None:
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 1:3, 1:4] = True
    expected = torch.tensor([[[2 / 6, 1 / 6], [2 / 6, 1 / 6]]], dtype=torch.float64)
    torch.testing.assert_close(cell_shares(mask, (2, 2)), expected)
    assert float(cell_shares(mask, (2, 3)).sum()) * 4 == pytest.approx(float(mask.sum()))


def test_soft_iou_of_a_hand_worked_case() -> None:
    maps = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    masks = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    assert soft_iou(maps, masks).tolist() == [pytest.approx(1.5 / (1.5 + 3 - 1.5))]


def test_soft_iou_and_balanced_mse_are_their_definitions_cell_by_cell() -> None:
    maps, masks = random_case()
    for index in range(len(maps)):
        both = either = 0.0
        errors: dict[float, list[float]] = {0.0: [], 1.0: []}
        for row in range(3):
            for column in range(4):
                m = float(maps[index, row, column])
                g = float(masks[index, 4 * row : 4 * row + 4, 5 * column : 5 * column + 5].double().mean())
                both, either = both + m * g, either + m + g - m * g
                if g in errors:
                    errors[g].append((m - g) ** 2)
        expected = sum(sum(result) / len(result) for result in errors.values()) / 2
        assert float(soft_iou(maps, masks)[index]) == pytest.approx(both / either)
        assert float(balanced_mse(maps, masks)[index]) == pytest.approx(expected)


def test_a_perfect_map_scores_one_and_zero_and_its_opposite_zero_and_one() -> None:
    _, masks = random_case()
    whole = masks[:, 4:, 5:]
    perfect = cell_shares(whole, (2, 3))
    torch.testing.assert_close(soft_iou(perfect, whole), torch.ones(6, dtype=torch.float64))
    assert not balanced_mse(perfect, whole).any()
    assert not soft_iou(1 - perfect, whole).any()
    torch.testing.assert_close(balanced_mse(1 - perfect, whole), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_no_uniform_map_has_a_balanced_error_below_a_quarter(level: float) -> None:
    _, masks = random_case()
    result = balanced_mse(torch.full((6, 3, 4), level), masks)
    torch.testing.assert_close(result, torch.full((6,), (level**2 + (1 - level) ** 2) / 2, dtype=torch.float64))
    assert bool((result >= 0.25).all())


def test_a_small_mask_weighs_as_much_as_its_large_surroundings() -> None:
    mask = torch.zeros(1, 10, 10)
    mask[0, 3, 3] = 1
    assert balanced_mse(torch.zeros(1, 10, 10), mask).tolist() == [0.5]


def test_false_alarm_is_the_mean_of_the_map() -> None:
    maps, _ = random_case()
    torch.testing.assert_close(false_alarm(maps[:, None]), maps.double().mean((1, 2)))


def test_scores_that_are_not_defined_are_nan_and_leave_the_others_alone() -> None:
    maps, masks = random_case()
    whole = [soft_iou(maps, masks), balanced_mse(maps, masks)]
    maps[0], masks[0] = 0.0, False
    maps[1, 0, 0] = torch.nan
    masks[2] = True
    iou, error = soft_iou(maps, masks), balanced_mse(maps, masks)
    assert [math.isnan(score) for score in iou.tolist()] == [True, True, False, False, False, False]
    assert [math.isnan(score) for score in error.tolist()] == [True, True, True, False, False, False]
    torch.testing.assert_close(iou[3:], whole[0][3:])
    torch.testing.assert_close(error[3:], whole[1][3:])


def test_maps_and_masks_that_do_not_fit_are_refused() -> None:
    maps, masks = random_case()
    with pytest.raises(PellucidError, match="6 concept maps and 5 masks"):
        soft_iou(maps, masks[:5])
    with pytest.raises(PellucidError, match="expected 0 to 1"):
        false_alarm(maps * 3)
    with pytest.raises(PellucidError, match="expected 0 to 1"):
        balanced_mse(maps, masks * 255.0)
    with pytest.raises(PellucidError, match="3 x 4"):
        soft_iou(maps, masks[:, :2])
