import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pellucid.errors import PellucidError
from pellucid.statistics import (
    Statistic,
    bootstrap_interval,
    cliffs_delta,
    cluster_interval,
    compare_methods,
    holm,
    rank_biserial,
    sign_flip_p_value,
    spearman_matrix,
    wilcoxon_p_value,
)

RNG_SEEDS = st.integers(0, 2**31 - 1)


def clustered(grids: int = 60, cells: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose spread lies mostly between grids."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=grids)[:, None] + 0.1 * rng.normal(size=(grids, cells))
    return scores.ravel(), np.repeat(np.arange(grids), cells)


@pytest.mark.parametrize("cells", [1, 3])
def test_the_medians_interval_holds_what_a_sign_test_of_whole_grids_does_not_reject(cells: int) -> None:
    scores, grids = clustered(14, cells, seed=4)
    found = cluster_interval(scores, grids)
    candidates = np.linspace(scores.min() - 1, scores.max() + 1, 20_000)
    signs = np.sign(scores.reshape(14, cells)[None] - candidates[:, None, None]).sum(2)
    accepted = candidates[signs.sum(1) ** 2 <= stats.norm.ppf(0.975) ** 2 * (signs**2).sum(1)]
    assert (found.low, found.high) == pytest.approx((accepted.min(), accepted.max()), abs=1e-3)
    assert found.estimate == np.median(scores)


def test_the_medians_interval_of_single_scores_is_that_of_order_statistics() -> None:
    scores = np.random.default_rng(2).gamma(2, size=20)
    found, ordered = cluster_interval(scores, np.arange(20)), np.sort(scores)
    # P(fewer than 6 of 20 below the median) = 2.1 %: the 6th and the 15th value.
    assert stats.binom.cdf(5, 20, 0.5) < 0.025 < stats.binom.cdf(6, 20, 0.5)
    assert (found.low, found.high) == (ordered[5], ordered[14])


def test_ties_and_constants_have_a_median_that_lies_in_its_interval() -> None:
    constant = cluster_interval([0.5] * 12, range(12))
    assert (constant.low, constant.estimate, constant.high) == (0.5, 0.5, 0.5)
    tied = cluster_interval([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 1.0, 1.0], range(9))
    assert tied.low == 0.0 == tied.estimate <= tied.high


def _hall(values: np.ndarray, mean: float) -> float:
    """Hall's transformed t statistic of a mean."""
    count, deviations = len(values), values - values.mean()
    t = (values.mean() - mean) / (values.std(ddof=1) / np.sqrt(count))
    a = stats.skew(values) / np.sqrt(count)
    assert np.isclose(stats.skew(values), (deviations**3).mean() / (deviations**2).mean() ** 1.5)
    return t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6


def test_the_means_interval_ends_where_halls_statistic_reaches_the_quantiles_of_t() -> None:
    scores = np.random.default_rng(3).gamma(1, size=(12, 2))
    found = cluster_interval(scores.ravel(), np.repeat(np.arange(12), 2), "mean")
    assert found.estimate == pytest.approx(scores.mean())
    assert _hall(scores.mean(1), found.low) == pytest.approx(stats.t.ppf(0.975, 11))
    assert _hall(scores.mean(1), found.high) == pytest.approx(stats.t.ppf(0.025, 11))


def test_symmetric_scores_have_the_interval_of_t() -> None:
    scores = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]) + 7
    found = cluster_interval(scores, range(6), "mean")
    theirs = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_four_grids_have_no_interval_and_five_have_one(statistic: Statistic) -> None:
    few, enough = (cluster_interval(*clustered(grids), statistic) for grids in (4, 5))
    assert np.isnan([few.low, few.high]).all()
    assert np.isfinite(few.estimate)
    assert enough.low < enough.estimate < enough.high


def test_a_mean_of_equal_scores_has_no_interval() -> None:
    found = cluster_interval([0.7] * 8, range(8), "mean")
    assert (found.estimate, np.isnan(found.low)) == (pytest.approx(0.7), True)


def test_the_former_name_takes_resamples_and_seed_and_draws_nothing() -> None:
    scores, grids = clustered(8)
    assert bootstrap_interval(scores, grids, resamples=10, seed=3) == cluster_interval(scores, grids)


def test_dependent_cells_widen_the_interval() -> None:
    scores, grids = clustered()
    whole = cluster_interval(scores, grids, "mean")
    single = cluster_interval(scores, np.arange(len(scores)), "mean")
    assert whole.high - whole.low > 1.7 * (single.high - single.low)


@pytest.mark.parametrize("statistic", ["median", "mean"])
@pytest.mark.parametrize("grids", [5, 7, 12, 30])
def test_the_interval_covers_the_truth_as_often_as_it_says(grids: int, statistic: Statistic) -> None:
    covered = 0
    for seed in range(400):
        found = cluster_interval(*clustered(grids, 3, seed), statistic)
        covered += found.low <= 0 <= found.high
    assert 0.92 <= covered / 400 <= 0.985


@settings(max_examples=20)
@given(RNG_SEEDS)
def test_the_order_of_rows_and_the_names_of_grids_do_not_matter(seed: int) -> None:
    scores, grids = clustered(12, 2, seed)
    order = np.random.default_rng(seed).permutation(len(scores))
    names = np.array([f"grid {grid:03}" for grid in grids])
    found = cluster_interval(scores[order], names[order])
    assert found == cluster_interval(scores, grids)


def test_scores_that_are_not_finite_are_left_out_and_counted() -> None:
    scores, grids = clustered(10, 2)
    scores[:3] = np.nan, np.inf, np.nan
    found = cluster_interval(torch.tensor(scores), torch.tensor(grids))
    assert (found.scores, found.grids, found.excluded) == (17, 9, 3)
    assert np.isfinite([found.low, found.high]).all()
    nothing = cluster_interval([np.nan], [0])
    assert np.isnan(nothing.estimate)
    assert nothing.excluded == 1


@given(st.lists(st.floats(-3, 3).map(lambda x: round(x, 1)), min_size=1, max_size=9))
def test_the_sign_flip_test_counts_all_patterns(differences: list[float]) -> None:
    d = np.array(differences)
    sums = [abs(np.dot(signs, d)) for signs in itertools.product([-1, 1], repeat=len(d))]
    wanted = np.mean([value >= abs(d.sum()) - 1e-9 for value in sums])
    assert sign_flip_p_value(d) == pytest.approx(wanted)


def test_the_sign_flip_test_agrees_with_scipy_on_many_differences() -> None:
    d = np.random.default_rng(0).normal(0.25, size=60)
    theirs = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1).pvalue
    assert sign_flip_p_value(d, permutations=20_000) == pytest.approx(theirs, abs=0.01)


def test_random_flips_never_give_zero() -> None:
    assert sign_flip_p_value(np.ones(100), permutations=999) == pytest.approx(1 / 1000)


def test_wilcoxon_is_scipys_without_the_zeros() -> None:
    d = np.random.default_rng(2).normal(0.3, size=40)
    assert wilcoxon_p_value(np.r_[d, 0, 0]) == pytest.approx(stats.wilcoxon(d).pvalue)
    assert wilcoxon_p_value([0, 0, 0]) == 1
    assert wilcoxon_p_value([]) == 1
    assert wilcoxon_p_value([0.5, 0.5, -0.5]) > 0.3  # few and tied, still no warning


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_the_definition_word_for_word(p: list[float]) -> None:
    order = sorted(range(len(p)), key=lambda i: p[i])
    wanted = [0.0] * len(p)
    worst = 0.0
    for rank, index in enumerate(order):
        worst = max(worst, (len(p) - rank) * p[index])
        wanted[index] = min(worst, 1.0)
    np.testing.assert_allclose(holm(p), wanted)


def test_holm_of_a_known_case_and_with_a_missing_test() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=12))
def test_the_rank_biserial_correlation_is_the_balance_of_wilcoxons_ranks(differences: list[int]) -> None:
    d = [x for x in differences if x]
    ranks = [sum(abs(y) < abs(x) for y in d) + (sum(abs(y) == abs(x) for y in d) + 1) / 2 for x in d]
    wanted = sum(r if x > 0 else -r for r, x in zip(ranks, d, strict=True)) / sum(ranks) if d else 0
    assert rank_biserial(differences) == pytest.approx(wanted)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_cliffs_delta_counts_pairs(a: list[int], b: list[int]) -> None:
    wanted = sum((x > y) - (x < y) for x in a for y in b) / (len(a) * len(b))
    assert cliffs_delta(a, b) == pytest.approx(wanted)


def test_spearman_agrees_with_scipy_and_survives_gaps() -> None:
    rng = np.random.default_rng(4)
    base = rng.normal(size=50)
    columns = {"a": base.round(1), "b": base + rng.normal(size=50), "c": -base, "flat": np.ones(50)}
    columns["b"][:7] = np.nan
    matrix = spearman_matrix(columns)
    assert matrix[0, 2] == pytest.approx(stats.spearmanr(columns["a"], columns["c"]).statistic)
    assert matrix[0, 1] == pytest.approx(stats.spearmanr(columns["a"][7:], columns["b"][7:]).statistic)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix)[:3], 1)
    assert np.isnan(matrix[3]).all()
    assert np.isnan(spearman_matrix({"a": [np.nan], "b": [1.0]})).all()


def test_methods_are_compared_on_the_differences_of_whole_grids() -> None:
    scores, grids = clustered(30, 4)
    rng = np.random.default_rng(1)
    better = scores + 0.2 + 0.3 * rng.normal(size=120)
    columns = {"better": better, "base": scores, "same": scores.copy()}
    pairs = {(c.first, c.second): c for c in compare_methods(columns, grids)}
    assert list(pairs) == [("better", "base"), ("better", "same"), ("base", "same")]
    found = pairs["better", "base"]
    d = (better - scores).reshape(30, 4).mean(1)
    assert found.grids == 30
    assert found.mean == pytest.approx(d.mean())
    assert found.median == pytest.approx(np.median(d))
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(d).pvalue)
    assert found.wilcoxon_holm == pytest.approx(3 * found.wilcoxon)
    assert found.permutation < 0.01
    assert found.rank_biserial == pytest.approx(rank_biserial(d))
    assert found.cliffs_delta == pytest.approx(
        cliffs_delta(better.reshape(30, 4).mean(1), scores.reshape(30, 4).mean(1))
    )
    same = pairs["base", "same"]
    assert (same.median, same.wilcoxon, same.permutation, same.rank_biserial, same.cliffs_delta) == (0, 1, 1, 0, 0)


def test_pairing_finds_what_the_spread_between_grids_hides() -> None:
    scores, grids = clustered(40, 2)
    (found,) = compare_methods({"a": scores + 0.05, "b": scores}, grids)
    assert found.permutation < 0.001
    assert found.rank_biserial == 1
    assert abs(found.cliffs_delta) < 0.1


def test_a_pair_without_common_rows_is_nan_and_corrects_nothing() -> None:
    nan = float("nan")
    found = compare_methods({"a": [1.0, nan, nan], "b": [nan, 2.0, 1.0], "c": [0.5, 1.0, 2.0]}, [0, 1, 2])
    assert np.isnan(found[0].wilcoxon_holm)
    assert (found[0].grids, found[0].excluded) == (0, 3)
    assert (found[1].grids, found[1].excluded) == (1, 2)
    assert found[2].permutation_holm == pytest.approx(min(1, 2 * found[2].permutation))


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PellucidError, match="one grid per score"):
        cluster_interval([1.0, 2.0], [0])
    with pytest.raises(PellucidError, match="statistic='mode'"):
        cluster_interval([1.0], [0], "mode")  # type: ignore[arg-type]
    with pytest.raises(PellucidError, match="one length"):
        spearman_matrix({"a": [1.0, 2.0], "b": [1.0]})


def test_one_grid_has_a_median_and_no_interval() -> None:
    found = cluster_interval([0.2, 0.4, 0.9], ["a", "a", "a"])
    assert found.estimate == 0.4
    assert np.isnan([found.low, found.high]).all()
