import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pellucid.errors import PellucidError
from pellucid.statistics import (
    bootstrap_interval,
    cliffs_delta,
    compare_methods,
    holm,
    rank_biserial,
    sign_flip_p_value,
    spearman_matrix,
    wilcoxon_p_value,
)
from pellucid.statistics.intervals import _weighted

RNG_SEEDS = st.integers(0, 2**31 - 1)


def clustered(grids: int = 60, cells: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose spread lies mostly between grids."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=grids)[:, None] + 0.1 * rng.normal(size=(grids, cells))
    return scores.ravel(), np.repeat(np.arange(grids), cells)


@given(RNG_SEEDS, st.integers(1, 9))
def test_weighted_medians_and_means_are_those_of_repeated_values(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=count).round(1), rng.integers(0, 4, (5, count))
    weights[:, 0] += weights.sum(1) == 0
    for statistic, numpy_statistic in (("median", np.median), ("mean", np.mean)):
        wanted = [numpy_statistic(np.repeat(values, row)) for row in weights]
        np.testing.assert_allclose(_weighted(values, weights, statistic), wanted, atol=1e-12)


def test_the_interval_agrees_with_scipy_when_every_grid_has_one_score() -> None:
    scores = np.random.default_rng(3).gamma(2, size=80)
    for statistic, function in (("median", np.median), ("mean", np.mean)):
        ours = bootstrap_interval(scores, np.arange(80), statistic, resamples=6000)
        theirs = stats.bootstrap((scores,), function, n_resamples=6000, method="percentile", rng=1).confidence_interval
        assert ours.estimate == pytest.approx(function(scores))
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_the_interval_is_that_of_whole_grids_drawn_in_a_loop() -> None:
    scores, grids = clustered(20, 3)
    rng = np.random.default_rng(5)
    table = scores.reshape(20, 3)
    slow = [np.median(table[rng.integers(0, 20, 20)]) for _ in range(4000)]
    found = bootstrap_interval(scores, grids, resamples=4000)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.05)


def test_dependent_cells_widen_the_interval() -> None:
    scores, grids = clustered()
    whole = bootstrap_interval(scores, grids, "mean")
    single = bootstrap_interval(scores, np.arange(len(scores)), "mean")
    assert whole.high - whole.low > 1.7 * (single.high - single.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        found = bootstrap_interval(*clustered(30, 3, seed), "mean", level=0.9, resamples=300, seed=seed)
        covered += found.low <= 0 <= found.high
    assert 0.82 <= covered / 200 <= 0.96


@settings(max_examples=20)
@given(RNG_SEEDS)
def test_the_order_of_rows_and_the_names_of_grids_do_not_matter(seed: int) -> None:
    scores, grids = clustered(12, 2, seed)
    order = np.random.default_rng(seed).permutation(len(scores))
    names = np.array([f"grid {grid:03}" for grid in grids])
    found = bootstrap_interval(scores[order], names[order], resamples=200)
    assert found == bootstrap_interval(scores, grids, resamples=200)


def test_the_seed_decides() -> None:
    rows = clustered()
    assert bootstrap_interval(*rows, seed=1) == bootstrap_interval(*rows, seed=1)
    assert bootstrap_interval(*rows, seed=1) != bootstrap_interval(*rows, seed=2)


def test_scores_that_are_not_finite_are_left_out_and_counted() -> None:
    scores, grids = clustered(10, 2)
    scores[:3] = np.nan, np.inf, np.nan
    found = bootstrap_interval(torch.tensor(scores), torch.tensor(grids), resamples=100)
    assert (found.scores, found.grids, found.excluded) == (17, 9, 3)
    assert np.isfinite([found.low, found.high]).all()
    nothing = bootstrap_interval([np.nan], [0])
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
        bootstrap_interval([1.0, 2.0], [0])
    with pytest.raises(PellucidError, match="statistic='mode'"):
        bootstrap_interval([1.0], [0], "mode")  # type: ignore[arg-type]
    with pytest.raises(PellucidError, match="one length"):
        spearman_matrix({"a": [1.0, 2.0], "b": [1.0]})


def test_one_grid_has_a_median_and_no_interval() -> None:
    found = bootstrap_interval([0.2, 0.4, 0.9], ["a", "a", "a"])
    assert found.estimate == 0.4
    assert np.isnan([found.low, found.high]).all()
