import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import PellucidError
from pellucid.evaluation import (
    agg_att,
    agg_att_batches,
    localize,
    rank_bins,
    rank_scale,
)


def made(count: int, seed: int = 0, side: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    values = torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(seed))
    found = localize(values, 2)
    return values, found.score(0), found.mass[:, 0]


def test_five_hundred_maps_fall_into_the_published_bins() -> None:
    assert rank_bins(torch.rand(500), torch.rand(500)).sizes == (10, 15, 225, 225, 15, 10)


@given(st.integers(0, 1100))
def test_every_map_lands_in_exactly_one_bin(count: int) -> None:
    members = torch.cat(rank_bins(torch.rand(count), torch.rand(count)).members)
    assert sorted(members.tolist()) == list(range(count))


@given(st.integers(1, 600))
def test_bins_end_at_the_nearest_whole_number_of_maps(count: int) -> None:
    ends = np.cumsum(rank_bins(torch.rand(count), torch.rand(count)).sizes)
    assert np.all(np.abs(ends - np.array([0.02, 0.05, 0.5, 0.95, 0.98, 1]) * count) <= 0.5 + 1e-9)


def test_maps_are_sorted_by_score_and_ties_by_mass() -> None:
    scores = torch.tensor([1.0, 0.5, 1.0, 1.0, 0.2])
    mass = torch.tensor([3.0, 9.0, 7.0, 5.0, 8.0])
    assert torch.cat(rank_bins(scores, mass).members).tolist() == [2, 3, 0, 1, 4]


def test_maps_without_a_score_are_reported_and_in_no_bin() -> None:
    values, scores, mass = made(100)
    values[[3, 50]], scores[[3, 50]], mass[[3, 50]] = torch.nan, torch.nan, torch.nan
    found = agg_att(values, scores, mass)
    assert found.bins.excluded.tolist() == [3, 50]
    assert sum(found.bins.sizes) == 98
    assert found.maps.isfinite().all()


@pytest.mark.parametrize("signed", [False, True])
def test_the_means_are_those_of_a_loop(signed: bool) -> None:
    values, scores, mass = made(120)
    found = agg_att(values, scores, mass, size=(12, 12), signed=signed)
    order = sorted(range(120), key=lambda i: (-float(scores[i]), -float(mass[i])))
    large = F.interpolate(values.double(), size=(12, 12), mode="bilinear", align_corners=False)[:, 0]
    large = large if signed else large.clamp(min=0)
    ends = [0, 2, 6, 60, 114, 118, 120]
    wanted = torch.stack([large[order[a:b]].mean(0) for a, b in pairwise(ends)])
    torch.testing.assert_close(found.means, wanted)
    scale = sorted(wanted.abs().flatten().tolist())[round(0.995 * wanted.numel() + 0.5) - 1]  # 864 pixels: rank 860
    assert found.scale == pytest.approx(scale)
    torch.testing.assert_close(found.maps, (wanted / scale).clamp(-1, 1))


def test_batches_of_any_size_give_the_same_maps() -> None:
    values, scores, mass = made(90)
    whole = agg_att(values, scores, mass, size=(8, 8))
    for size in (1, 7, 90):
        parts = agg_att_batches(iter(values.split(size)), scores, mass, size=(8, 8))
        torch.testing.assert_close(parts.maps, whole.maps)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_the_order_in_which_grids_come_does_not_matter(seed: int) -> None:
    values, scores, mass = made(60, seed, side=12)  # no two maps tie in score and mass
    order = random.Random(seed).sample(range(60), 60)
    mixed = agg_att(values[order], scores[order], mass[order])
    torch.testing.assert_close(mixed.maps, agg_att(values, scores, mass).maps)


def test_one_scale_for_all_bins_by_rank_of_the_pixels() -> None:
    assert rank_scale(torch.arange(1, 1001).double()) == 995
    assert rank_scale(-torch.arange(1, 201).double()) == 199
    assert rank_scale(torch.tensor([torch.nan, 2.0])) == 2


def test_the_scale_of_sparse_maps_keeps_their_few_pixels() -> None:
    values = torch.zeros(50, 40, 40)
    values[:, 0, 0] = 2
    found = agg_att(values, torch.ones(50), torch.ones(50))
    assert found.scale == 0
    assert found.maps[:, 0, 0].tolist() == [1] * 6
    assert float(found.maps.sum()) == 6


def test_an_empty_bin_is_nan_and_does_not_touch_the_others() -> None:
    found = agg_att(*made(10))
    assert found.bins.sizes == (0, 1, 4, 5, 0, 0)
    assert found.maps.isnan().flatten(1).all(1).tolist() == [True, False, False, False, True, True]


def test_examples_are_the_median_rank_and_its_neighbors() -> None:
    bins = rank_bins(torch.linspace(1, 0, 500), torch.ones(500))
    examples = bins.examples(2)
    assert examples[0] == (4, 5, 3, 6, 2)
    assert examples[2] == (25 + 112, 138, 136, 139, 135)
    assert bins.examples()[5] == (494,)
    assert rank_bins(torch.rand(3), torch.rand(3)).examples(3)[0] == ()


def test_the_bin_of_every_map_is_known() -> None:
    bins = rank_bins(torch.linspace(1, 0, 100), torch.ones(100))
    assert bins.bin_of_each_map(100).bincount().tolist() == [2, 3, 45, 45, 3, 2]


def test_maps_and_scores_that_do_not_fit_are_refused() -> None:
    values, scores, mass = made(30)
    with pytest.raises(PellucidError, match="29 maps were given for 30 scores"):
        agg_att(values[:29], scores, mass)
    with pytest.raises(PellucidError, match="expected 20 maps"):
        agg_att(values, scores[:20], mass[:20])
    with pytest.raises(PellucidError, match="several sizes"):
        agg_att_batches([values[:15], torch.zeros(15, 6, 6)], scores, mass)
    with pytest.raises(PellucidError, match=r"\(30,\) and mass \(20,\)"):
        rank_bins(scores, mass[:20])
    values[0] = torch.nan
    with pytest.raises(PellucidError, match="holds NaN"):
        agg_att(values, scores, mass)
