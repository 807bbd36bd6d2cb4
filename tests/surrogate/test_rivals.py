"""Rivals of the surrogate: measures of disentanglement against closed forms, attribute search and StyleSpace."""

from itertools import product
from math import log, log2

import numpy as np
import pytest
import torch
from experiments.surrogate.rivals.attfind import attfind
from experiments.surrogate.rivals.disentanglement import (
    alignment,
    boosted_importance,
    completeness,
    disentanglement,
    linear_r2,
    mutual_information,
    mutual_information_gap,
    separated_predictability,
)
from experiments.surrogate.rivals.stylespace import StyleSpace
from tests.surrogate.linear_surrogate import LinearSurrogate, encode_codes, random_codes
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate import margin
from pellucid.surrogate.model import Generator, modulated_conv

QUARTER_TURN = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double() / 2**0.5


def factors_of(count: int, columns: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def every_pair(levels: int, copies: int = 5) -> torch.Tensor:
    """All pairs of levels equally often: the two columns tell nothing of each other, to the last bit."""
    return torch.tensor(list(product(range(levels), repeat=2)) * copies, dtype=torch.float64)


def test_one_code_for_each_factor_is_disentangled_and_complete() -> None:
    assert disentanglement(torch.eye(3)) == pytest.approx(1)
    assert completeness(torch.eye(3)) == pytest.approx(1)
    assert disentanglement(torch.ones(3, 3)) == pytest.approx(0, abs=1e-6)
    assert completeness(torch.ones(3, 3)) == pytest.approx(0, abs=1e-6)


def test_scores_of_importances_follow_the_entropies_of_their_rows_and_columns() -> None:
    importance = torch.tensor([[3.0, 1.0], [0.0, 4.0], [0.0, 0.0]])
    shared = 1 - (-0.75 * log2(0.75) - 0.25 * log2(0.25))
    assert disentanglement(importance) == pytest.approx((4 * shared + 4 * 1) / 8)
    split = -(0.2 * log(0.2) + 0.8 * log(0.8)) / log(3)
    assert completeness(importance) == pytest.approx((3 * 1 + 5 * (1 - split)) / 8)


def test_two_codes_for_a_factor_cost_completeness_and_not_disentanglement() -> None:
    importance = torch.tensor([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]])
    assert disentanglement(importance) == pytest.approx(1)
    assert completeness(importance) == pytest.approx((1 - log(2) / log(3) + 1) / 2)


def test_codes_that_are_the_factors_get_perfect_scores() -> None:
    factors = factors_of(1000)
    marks = alignment(factors * torch.tensor([3.0, -2.0]) + 1, factors, ["a", "b"], ["size", "tilt"])
    assert marks.disentanglement > 0.99
    assert marks.completeness > 0.99
    assert marks.mig > 0.9  # the second code's chance information is about 19 ** 2 / 2000 / log(20)
    assert marks.sap > 0.99
    assert marks.r2 == pytest.approx({"size": 1, "tilt": 1})
    assert min(marks.informativeness.values()) > 0.99
    assert marks.importance[0][0] > 0.99
    assert (marks.rows, marks.bins, marks.folds) == (1000, 20, 5)


def test_a_quarter_turn_keeps_the_r2_and_loses_all_else() -> None:
    factors = factors_of(1000)
    turned = alignment(factors @ QUARTER_TURN, factors, ["a", "b"], ["size", "tilt"])
    assert turned.r2 == pytest.approx({"size": 1, "tilt": 1})
    assert turned.disentanglement < 0.1
    assert turned.mig < 0.05
    assert turned.sap < 0.05


def test_factors_that_hang_together_cost_clean_codes_mig_and_sap_and_not_dci() -> None:
    free = factors_of(500)
    factors = torch.stack([free[:, 0], 0.9 * free[:, 0] + 0.1 * free[:, 1]], 1)
    assert mutual_information_gap(factors, factors).max() < 0.7
    assert separated_predictability(factors, factors).max() < 0.1
    importance, _ = boosted_importance(factors, factors)
    assert disentanglement(importance) > 0.95
    assert completeness(importance) > 0.95


def test_a_second_code_for_a_factor_costs_mig_and_sap_and_completeness() -> None:
    factors = factors_of(500)
    doubled = torch.cat([factors, factors[:, :1]], 1)
    assert mutual_information_gap(doubled, factors)[0] == pytest.approx(0)
    assert separated_predictability(doubled, factors)[0] == pytest.approx(0)
    assert separated_predictability(doubled, factors)[1] > 0.9
    importance, _ = boosted_importance(doubled, factors)
    assert disentanglement(importance) > 0.99
    assert completeness(importance) < 0.95


def test_a_code_that_halves_four_levels_has_half_of_the_information() -> None:
    factors = every_pair(4)
    codes = torch.stack([(factors[:, 0] >= 2).double(), factors[:, 1]], 1)
    information = mutual_information(codes, factors, bins=4)
    assert torch.allclose(information, torch.tensor([[log(2), 0.0], [0.0, log(4)]]).double(), atol=1e-12)
    assert torch.allclose(mutual_information_gap(codes, factors, bins=4), torch.tensor([0.5, 1.0]).double())


def test_information_is_that_of_scikit_learn_on_the_same_bins() -> None:
    from sklearn.metrics import mutual_info_score

    factors = factors_of(600)
    codes = factors**3 + 0.1 * factors_of(600, seed=1)
    result = mutual_information(codes, factors, bins=6)
    ranks = [[(column.argsort().argsort() * 6 // 600).numpy() for column in part.T] for part in (codes, factors)]
    expected = [[mutual_info_score(one, other) for other in ranks[1]] for one in ranks[0]]
    assert np.allclose(result.numpy(), expected)


def test_information_does_not_depend_on_the_scale_of_a_code() -> None:
    factors = factors_of(500)
    codes = factors + 0.3 * factors_of(500, seed=1)
    assert torch.equal(mutual_information(codes, factors), mutual_information(codes.exp() * 7, factors))


def test_separation_is_the_lead_in_squared_correlation() -> None:
    factors = every_pair(2) * 2 - 1  # two columns of -1 and 1, orthogonal
    codes = torch.stack([factors.sum(1), factors[:, 0], torch.ones(len(factors))], 1)
    # The first code has R2 1/2 with both, the second 1 and 0, the constant one none.
    assert torch.allclose(separated_predictability(codes, factors), torch.tensor([0.5, 0.5]).double())


def test_r2_is_that_of_the_signal_and_never_that_of_fitted_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(4000, 2, generator=generator)
    noise = torch.randn(4000, 2, generator=generator)
    assert linear_r2(codes, codes + noise).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    many = torch.randn(100, 40, generator=generator)
    assert (linear_r2(many, noise[:100]) < 0).all()  # in sample it would be about 0.4
    _, informed = boosted_importance(many, noise[:100])
    assert (informed < 0.1).all()


def test_permuted_rows_leave_no_alignment() -> None:
    factors = factors_of(500)
    shuffled = factors[torch.randperm(500, generator=torch.Generator().manual_seed(1))]
    marks = alignment(factors, shuffled, ["a", "b"], ["size", "tilt"])
    assert max(marks.r2.values()) < 0.01
    assert max(marks.informativeness.values()) < 0.05
    assert marks.mig < 0.05
    assert marks.sap < 0.02


def test_what_cannot_be_measured_is_refused() -> None:
    good = factors_of(100)
    with pytest.raises(PellucidError, match="NaN"):
        alignment(good.where(good > 0.1, torch.nan), good, ["a", "b"], ["c", "d"])
    with pytest.raises(PellucidError, match=r"factor 1 .* constant"):
        linear_r2(good, torch.stack([good[:, 0], torch.ones(100)], 1))
    with pytest.raises(PellucidError, match="two or more"):
        mutual_information_gap(good[:, :1], good)
    with pytest.raises(PellucidError, match="49 rows are too few"):
        boosted_importance(good[:49], good[:49])
    with pytest.raises(PellucidError, match="must be"):
        separated_predictability(good, good[:50])
    with pytest.raises(PellucidError, match="3 and 2 names"):
        alignment(good, good, ["a", "b", "c"], ["d", "e"])
    with pytest.raises(PellucidError, match="not negative"):
        disentanglement(-torch.eye(2))


def test_attfind_finds_the_coordinate_that_the_classifier_reads() -> None:
    surrogate = LinearSurrogate((3.0, 0.0, 0.5))
    codes = random_codes(200)
    batch = encode_codes(surrogate, codes)
    zeros = batch[batch.classes == 0]
    joined = zeros.codes.to_vector()

    def draw(coordinates: Tensor, rows: Tensor) -> Tensor:
        return (coordinates @ surrogate.basis).view(-1, 1, 4, 4)

    result = attfind(draw, surrogate.logits, joined, joined.amin(0) - 2, joined.amax(0) + 2, 1, top=1, max_batch=33)
    first = result.attributes[0]
    assert (first.coordinate, first.up) == (0, True)
    assert result.flipped.float().mean() > 0.9
    moved = zeros.codes.concept_coordinates().clone()
    moved[:, 0] = joined[:, 0].max() + 2
    true = torch.sigmoid(moved @ surrogate.weights) - torch.sigmoid(
        zeros.codes.concept_coordinates() @ surrogate.weights
    )
    torch.testing.assert_close(result.effects[:, 0, 1], true, rtol=1e-3, atol=1e-4)
    assert result.passes == len(joined) * (2 * 6 + 2)
    assert margin(zeros.logits, torch.zeros(len(zeros), dtype=torch.long)).min() >= 0


def test_style_space_generates_what_the_code_generates_and_one_style_moves_one_channel() -> None:
    generator = Generator(5, 16, 3, channel_base=64, max_channels=8, brightness_column=2)
    torch.nn.init.normal_(generator.blocks[1].convolutions[0].weight)
    codes, space = torch.randn(4, 5), StyleSpace(generator)
    styles = space.coordinates(codes)
    assert torch.equal(space.draw(styles, codes), generator(codes))
    first = generator.blocks[0].convolutions[0]
    changed = styles.clone()
    changed[:, 3] += 1
    with torch.no_grad():
        start = generator.start.expand(4, -1, -1, -1)
        expected = modulated_conv(start, first.weight * first._factor, changed[:, : start.shape[1]])
    seen = []
    hook = first.register_forward_hook(lambda module, inputs, output: seen.append(output))
    moved = space.draw(changed, codes)
    hook.remove()
    assert torch.allclose(seen[0], expected + first.bias[:, None, None])
    assert not torch.equal(moved, generator(codes))
    assert torch.equal(space.draw(styles, codes), generator(codes))
