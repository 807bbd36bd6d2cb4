"""p-values, corrections and intervals against scipy, enumeration and known coverage."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from pellucid.errors import PellucidError
from pellucid.statistics import (
    benjamini_hochberg,
    binomial_interval,
    bonferroni,
    correct,
    holm,
    mean_interval,
    permutation_p_value,
    rank_p_value,
    roc_auc,
    score_interval,
    sign_flip_p_value,
    t_quantile,
)


def test_the_area_under_the_curve_is_that_of_scikit_learn_ties_included() -> None:
    positive, negative = torch.randint(0, 6, (30,)).double(), torch.randint(-2, 4, (20,)).double()
    labels = [1] * 30 + [0] * 20
    expected = roc_auc_score(labels, torch.cat([positive, negative]).numpy())
    assert roc_auc(positive, negative) == pytest.approx(expected)
    assert roc_auc(torch.zeros(3), torch.zeros(4)) == 0.5


def test_a_rank_p_value_counts_chance_that_does_as_well() -> None:
    null = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert float(rank_p_value(torch.tensor(2.0), null)) == pytest.approx((1 + 2) / 5)
    assert float(rank_p_value(torch.tensor(9.0), null)) == pytest.approx(1 / 5)
    assert float(rank_p_value(torch.tensor(-2.5), null)) == 1.0
    assert float(rank_p_value(torch.tensor(-2.5), null, two_sided=True)) == pytest.approx(2 / 5)


def test_equal_numbers_that_were_summed_in_another_order_count_as_equal() -> None:
    assert float(rank_p_value(torch.tensor(0.1 + 0.2).double(), torch.tensor([0.3]).double())) == 1.0


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(
    lambda numbers: torch.tensor(numbers, dtype=torch.float64)
)


@given(P_VALUES)
def test_corrections_are_ordered_by_what_they_bound(p_values: torch.Tensor) -> None:
    shares, strict, loose = benjamini_hochberg(p_values), bonferroni(p_values), holm(p_values)
    np.testing.assert_allclose(shares, stats.false_discovery_control(p_values.numpy()))
    assert bool((shares <= loose + 1e-12).all())
    assert bool((loose <= strict + 1e-12).all())


def test_missing_p_values_stay_missing_and_do_not_count() -> None:
    for adjust in (holm, benjamini_hochberg, bonferroni):
        some, whole = adjust([0.01, np.nan, 0.04]), adjust([0.01, 0.04])
        np.testing.assert_allclose(some, [whole[0], np.nan, whole[1]])
    assert np.isnan(benjamini_hochberg([np.nan])).all()


@pytest.mark.parametrize("name", ["holm", "benjamini_hochberg", "bonferroni", "none"])
def test_corrections_keep_the_shape_and_never_lower_a_p_value(name: str) -> None:
    p_values = torch.rand(2, 3, 2).double()
    found = correct(p_values, name)
    assert found.shape == p_values.shape
    assert bool((found >= p_values - 1e-12).all())
    assert bool((found <= 1).all())


def test_an_unknown_correction_is_an_error() -> None:
    with pytest.raises(PellucidError, match="unknown correction 'fdr': holm, benjamini_hochberg"):
        correct(torch.ones(1), "fdr")


def test_the_mean_interval_is_close_to_the_normal_one_for_many_images() -> None:
    values = torch.randn(400, 2, generator=torch.Generator().manual_seed(1)).double() * torch.tensor([1.0, 3.0]) + 2
    low, high = mean_interval(values)
    error = 1.96 * values.std(0) / 20
    torch.testing.assert_close(low, values.mean(0) - error, atol=0.02, rtol=0.02)
    torch.testing.assert_close(high, values.mean(0) + error, atol=0.02, rtol=0.02)


def test_the_hierarchical_interval_holds_the_spread_of_the_resamples_too() -> None:
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(100, 1, generator=generator).double()
    shifts = torch.randn(200, generator=generator).double()
    resampled = noise + shifts  # (N, B): the resample moves all images together
    low, high = mean_interval(noise[:, 0], resampled)
    assert float(high - low) / 2 == pytest.approx((1 + 1 / 100) ** 0.5 * 1.96, rel=0.15)
    plain_low, plain_high = mean_interval(noise[:, 0])
    assert float(plain_high - plain_low) < 0.3 * float(high - low)


def test_few_images_few_resamples_and_no_spread_give_no_interval() -> None:
    values = torch.randn(6, 3, generator=torch.Generator().manual_seed(2)).double()
    assert torch.isnan(torch.stack(mean_interval(values[:4]))).all()
    assert torch.isnan(torch.stack(mean_interval(values[:1]))).all()
    assert torch.isnan(torch.stack(mean_interval(values, values[:, None]))).all()
    low, high = mean_interval(torch.cat([values, torch.full((6, 1), 0.1)], dim=1))
    assert torch.isfinite(low).tolist() == torch.isfinite(high).tolist() == [True, True, True, False]


def test_a_score_reaches_as_far_as_the_spread_of_its_resamples_says() -> None:
    draws = torch.randn(3, 20, generator=torch.Generator().manual_seed(2)).double()
    low, high = score_interval(torch.zeros(3), draws)
    torch.testing.assert_close(high, draws.std(1) * 2**0.5 * stats.t.ppf(0.975, 19))
    torch.testing.assert_close(low, -high)
    across = score_interval(torch.zeros(3), draws.T, dim=0, confidence=0.5)
    torch.testing.assert_close(across[1], draws.std(1) * 2**0.5 * stats.t.ppf(0.75, 19))
    assert torch.isnan(torch.stack(score_interval(torch.zeros(3), draws[:, :1]))).all()
    assert torch.isnan(torch.stack(score_interval(torch.ones(1), torch.ones(1, 20)))).all()


def test_an_interval_from_twenty_resamples_holds_a_twenty_first_as_often_as_it_says() -> None:
    draws = torch.randn(4000, 22, generator=torch.Generator().manual_seed(5)).double()
    low, high = score_interval(draws[:, 21], draws[:, :20])
    held = float(((low <= draws[:, 20]) & (draws[:, 20] <= high)).double().mean())
    assert 0.92 <= held <= 0.98


@pytest.mark.parametrize("trials", [5, 10, 40])
def test_the_interval_of_a_share_covers_every_share_as_often_as_it_says(trials: int) -> None:
    shares, counts = np.linspace(0.05, 0.95, 91)[:, None], np.arange(trials + 1)
    ends = np.array([binomial_interval(int(count), trials) for count in counts])
    held = (ends[:, 0] <= shares) & (shares <= ends[:, 1])
    covered = (stats.binom.pmf(counts, trials, shares) * held).sum(1)
    assert covered.min() >= 0.92
    assert ends[0, 0] == 0.0 < ends[0, 1] < 1.0 == ends[-1, 1]


def test_a_share_of_nothing_is_an_error() -> None:
    for successes, trials in ((0, 0), (4, 3), (-1, 3)):
        with pytest.raises(PellucidError, match="successes of"):
            binomial_interval(successes, trials)


def test_quantiles_of_t_are_those_of_scipy() -> None:
    assert t_quantile(0.95, 3) == pytest.approx(stats.t.ppf(0.975, 3))
    assert np.isnan(t_quantile(0.95, 0))


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_an_interval_that_makes_no_sense_is_an_error(confidence: float) -> None:
    with pytest.raises(PellucidError, match="0 < confidence < 1"):
        mean_interval(torch.ones(3), confidence=confidence)
    with pytest.raises(PellucidError, match="0 < confidence < 1"):
        score_interval(torch.ones(3), torch.ones(3, 9), confidence=confidence)


def test_the_sign_flip_test_agrees_with_all_flips() -> None:
    differences = torch.tensor([0.9, 1.2, -0.1, 0.4, 0.8, 0.3, -0.6, 0.7]).double()
    flips = torch.tensor(list(product([-1.0, 1.0], repeat=8))).double() @ differences / 8
    exact = float((flips.abs() >= float(differences.mean()) - 1e-12).double().mean())
    assert float(sign_flip_p_value(differences)) == pytest.approx(exact)
    assert float(sign_flip_p_value(differences, permutations=255)) == pytest.approx(exact, abs=0.06)
    several = sign_flip_p_value(torch.stack([differences, torch.zeros(8)], dim=1))
    assert float(several[0]) == pytest.approx(float(sign_flip_p_value(differences)))
    assert float(several[1]) == 1.0


def test_the_two_sample_test_ranks_welchs_t_among_all_relabelings() -> None:
    first, second = np.array([0.8, 0.9, 0.7, 1.0, 0.95]), np.array([0.5, 0.75, 0.6, 0.4, 0.72, 0.66])
    both = np.concatenate([first, second])

    def t(chosen: tuple[int, ...]) -> float:
        return abs(stats.ttest_ind(both[list(chosen)], np.delete(both, chosen), equal_var=False).statistic)

    everything = [t(chosen) for chosen in combinations(range(11), 5)]
    exact = np.mean([value >= everything[0] - 1e-9 for value in everything])
    assert permutation_p_value(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(exact, abs=0.01)


def test_the_two_sample_test_holds_for_samples_without_spread_or_of_one() -> None:
    assert permutation_p_value(torch.ones(6), torch.ones(6)) == 1.0
    assert permutation_p_value(torch.full((6,), 0.1), torch.full((9,), 0.1)) == 1.0
    assert permutation_p_value(torch.ones(8), torch.zeros(8)) < 0.01
    assert permutation_p_value(torch.tensor([9.0]), torch.arange(9.0)) == pytest.approx(0.2, abs=0.02)
    assert np.isnan(permutation_p_value(torch.ones(6), torch.ones(6), repeats=0))
    with pytest.raises(PellucidError, match="one is empty"):
        permutation_p_value(torch.ones(6), torch.ones(0))


def test_the_two_sample_test_holds_where_only_the_spreads_differ() -> None:
    draws = torch.randn(300, 60, generator=torch.Generator().manual_seed(3))
    rejected = sum(permutation_p_value(3 * row[:15], row[15:], repeats=199) <= 0.05 for row in draws)
    # The same test by the plain difference of means rejects about a quarter of these.
    assert rejected / 300 < 0.09


def test_two_samples_of_chance_are_rejected_as_often_as_stated() -> None:
    generator = torch.Generator().manual_seed(7)
    draws = torch.rand(300, 16, generator=generator)
    rejected = sum(permutation_p_value(row[:8], row[8:], repeats=199) <= 0.1 for row in draws)
    assert 0.05 < rejected / 300 < 0.15
