"""Occlusion and RISE against slow versions written from their definitions, Captum, scikit-image, and closed forms."""

import math

import numpy as np
import pytest
import torch
from tests.attribution.support import (
    CountingView,
    GeneralView,
    classifier,
    gap_net,
    halves,
    images,
    lite0,
    plain_net,
    relative_error,
)
from torch import Tensor, nn

from pellucid.attribution import (
    RISE,
    InputXGradient,
    Occlusion,
    Target,
)
from pellucid.attribution.perturbation import occlusion_windows, rise_masks
from pellucid.errors import PellucidError


def window_counts(size: int, window: int, stride: int) -> Tensor:
    """How many windows cover each cell of an axis."""
    covered = torch.zeros(size, dtype=torch.long)
    for start, end in occlusion_windows(size, window, stride):
        covered[start:end] += 1
    return covered


@pytest.mark.parametrize(
    ("size", "window", "stride", "count"),
    [(448, 16, 8, 3249), (56, 5, 2, 841), (28, 5, 2, 225), (14, 5, 2, 64), (672, 16, 8, 7225)],
)
def test_there_are_as_many_windows_as_the_paper_uses(size: int, window: int, stride: int, count: int) -> None:
    assert len(occlusion_windows(size, window, stride)) ** 2 == count


def test_windows_begin_before_the_edge_so_that_it_is_covered_as_often_as_the_middle() -> None:
    assert occlusion_windows(32, 16, 8) == [(0, 8), (0, 16), (8, 24), (16, 32), (24, 32)]
    assert occlusion_windows(6, 5, 2) == [(0, 3), (0, 5), (2, 6), (4, 6)]
    for size, window, stride in ((448, 16, 8), (32, 16, 8), (12, 4, 2)):
        assert set(window_counts(size, window, stride).tolist()) == {2}  # 2 x 2 = 4 in the map
    for size in (14, 28, 56):
        axis = window_counts(size, 5, 2)
        assert set(torch.outer(axis, axis).flatten().tolist()) == {4, 6, 9}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 15, 29])
@pytest.mark.parametrize(("window", "stride"), [(5, 2), (16, 8), (4, 4), (3, 1), (7, 5), (1, 1)])
def test_every_cell_is_covered_and_no_window_is_empty(size: int, window: int, stride: int) -> None:
    assert int(window_counts(size, window, stride).min()) >= 1
    assert all(0 <= start < end <= size for start, end in occlusion_windows(size, window, stride))


@torch.no_grad()
def slow_occlusion(net: nn.Sequential, layer: str, x: Tensor, target: int, window: int, stride: int) -> Tensor:
    """Every window explicit: drop / (cells inside the map), added to each of these cells."""
    before, after = halves(net, layer)
    activation = before(x)
    height, width = activation.shape[2:]
    values, score = torch.zeros(height, width), after(activation)[0, target]
    first = -stride * (window // stride - 1)
    for top in range(first, height, stride):
        for left in range(first, width, stride):
            inside = torch.zeros(height, width, dtype=torch.bool)
            inside[max(top, 0) : top + window, max(left, 0) : left + window] = True
            hidden = activation.masked_fill(inside, 0.0)
            values[inside] += (score - after(hidden)[0, target]) / inside.sum()
    return values


@pytest.mark.parametrize(("layer", "window", "stride"), [("input", 4, 2), ("1", 6, 3), ("4", 5, 2), ("4", 2, 1)])
@pytest.mark.parametrize("make", [plain_net, gap_net])
def test_occlusion_is_the_sum_over_explicit_windows(make: object, layer: str, window: int, stride: int) -> None:
    net, x = make(), images(2)  # type: ignore[operator]
    found = Occlusion(window=window, stride=stride)(classifier(net).at(layer), x, 1)
    wanted = torch.stack([slow_occlusion(net, layer, one[None], 1, window, stride) for one in x])
    assert relative_error(found.values[:, 0], wanted) < 1e-5


@pytest.mark.parametrize(("layer", "size", "window"), [("input", 12, 3), ("input", 12, 4), ("1", 12, 2), ("4", 6, 3)])
def test_windows_that_tile_the_map_give_captums_drops(layer: str, size: int, window: int) -> None:
    captum = pytest.importorskip("captum.attr")
    net, x = plain_net(), images(2)
    before, after = halves(net, layer)
    activation = before(x).detach()
    shape = (activation.shape[1], window, window)
    drops = captum.Occlusion(after).attribute(activation, sliding_window_shapes=shape, strides=shape, target=3)
    found = Occlusion(window=window, stride=window)(classifier(net).at(layer), x, 3)
    assert found.values.shape[2:] == (size, size)
    assert relative_error(found.values * window**2, drops[:, :1].float()) < 1e-5


@pytest.mark.parametrize(("layer", "window"), [("input", 56), ("middle", 7), ("final", 1)])
def test_drops_on_a_real_network_are_captums(layer: str, window: int) -> None:
    captum = pytest.importorskip("captum.attr")
    made, x = lite0()
    view = made.at(layer)
    activation = view.activation(x)
    shape = (activation.shape[1], window, window)
    drops = captum.Occlusion(view.logits).attribute(
        activation, sliding_window_shapes=shape, strides=shape, target=282, perturbations_per_eval=8
    )
    found = Occlusion(window=window, stride=window)(view, x, 282)
    assert relative_error(found.values * window**2, drops[:, :1].float()) < 1e-5


def test_defaults_depend_on_the_layer_as_in_the_paper() -> None:
    made, x = classifier(plain_net(), 32), images(1, 32)
    at_input = Occlusion()(made.at("input"), x, 1)
    assert torch.equal(at_input.values, Occlusion(window=16, stride=8)(made.at("input"), x, 1).values)
    assert at_input.passes.suffix_forward == 1 + 5**2
    assert torch.equal(Occlusion()(made.at("1"), x, 1).values, Occlusion(window=5, stride=2)(made.at("1"), x, 1).values)


def test_hidden_cells_take_the_fill() -> None:
    view, x = classifier(plain_net()).at("input"), images(1)
    whole = Occlusion(window=12, stride=12, fill=0.5)(view, x, 1)
    assert whole.values.shape == (1, 1, 12, 12)
    drop = whole.scores[0, 0] - view.logits(torch.full_like(x, 0.5))[0, 1].detach()
    assert torch.allclose(whole.values.sum(), drop, rtol=1e-4)


@pytest.mark.parametrize("fill", [0.0, 0.4])
@pytest.mark.parametrize("target", [Target([0, 3]), Target(1, minus=2), Target(1, "margin"), Target(1, "probability")])
def test_occlusions_affine_path_equals_the_general_one(target: Target, fill: float) -> None:
    view, x = classifier(gap_net()).at("final"), images(3)
    fast = Occlusion(fill=fill)(view, x, target)
    assert relative_error(fast.values, Occlusion(fill=fill)(GeneralView(view), x, target).values) < 1e-5
    assert (fast.passes.suffix_forward == 3) == (target.output != "probability")


def test_occlusion_before_a_linear_head_blurs_input_x_gradient() -> None:
    view, x = classifier(gap_net()).at("final"), images(2)
    evidence = InputXGradient()(view, x, 1).values
    wanted = torch.zeros_like(evidence)
    for top, bottom in occlusion_windows(6, 5, 2):
        for left, right in occlusion_windows(6, 5, 2):
            mean = evidence[..., top:bottom, left:right].mean((2, 3), keepdim=True)
            wanted[..., top:bottom, left:right] += mean
    assert relative_error(Occlusion()(GeneralView(view), x, 1).values, wanted) < 1e-5


@pytest.mark.parametrize("options", [{"window": 0}, {"stride": 0}, {"window": 3, "stride": 4}, {"window": -2}])
def test_impossible_windows_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(PellucidError, match="needs 1 <= stride <= window"):
        Occlusion(**options)


def test_a_stride_that_fits_the_input_alone_is_refused_elsewhere() -> None:
    made, x = classifier(plain_net(), 32), images(1, 32)
    assert Occlusion(stride=8)(made.at("input"), x, 1).values.any()
    with pytest.raises(PellucidError, match="occlusion at '4' needs 1 <= stride <= window, not 8 and 5"):
        Occlusion(stride=8)(made.at("4"), x, 1)


# RISE


@pytest.mark.parametrize(
    ("height", "width", "cells"), [(12, 12, 6), (32, 20, 6), (7, 7, 6), (50, 30, 4), (4, 4, 6), (9, 9, 2)]
)
def test_masks_are_coarse_cells_interpolated_and_cropped_as_scikit_image_does(
    height: int, width: int, cells: int
) -> None:
    transform = pytest.importorskip("skimage.transform")
    masks = rise_masks(8, height, width, cells=cells, keep=0.4, seed=3)
    generator = torch.Generator().manual_seed(3)
    coarse = (torch.rand(8, cells, cells, generator=generator) < 0.4).float().numpy()
    down, across = math.ceil(height / cells), math.ceil(width / cells)
    tops = torch.randint(down, (8,), generator=generator).tolist()
    lefts = torch.randint(across, (8,), generator=generator).tolist()
    found = masks[torch.arange(8)]
    size = ((cells + 1) * down, (cells + 1) * across)
    for index in range(8):
        whole = transform.resize(coarse[index], size, order=1, mode="reflect", anti_aliasing=False)
        crop = whole[tops[index] : tops[index] + height, lefts[index] : lefts[index] + width]
        assert np.allclose(found[index].numpy(), crop, atol=1e-6)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8])
def test_masks_keep_the_share_they_should_everywhere(keep: float) -> None:
    masks = rise_masks(4000, 14, 14, cells=6, keep=keep, seed=0)[torch.arange(4000)]
    assert float(masks.min()) >= 0.0
    assert float(masks.max()) <= 1.0
    assert float(masks.mean()) == pytest.approx(keep, abs=0.01)
    assert float((masks.mean(0) - keep).abs().max()) < 0.04
    assert len(masks.flatten(1).unique(dim=0)) > 1000


def test_masks_belong_to_their_seed_whatever_is_asked_for_first() -> None:
    masks = rise_masks(20, 9, 9, cells=3, keep=0.5, seed=1)
    again = rise_masks(20, 9, 9, cells=3, keep=0.5, seed=1)
    last = again[torch.tensor([19, 4])]
    assert torch.equal(last, masks[torch.arange(20)][[19, 4]])
    assert not torch.equal(masks[torch.arange(20)], rise_masks(20, 9, 9, cells=3, keep=0.5, seed=2)[torch.arange(20)])


@torch.no_grad()
def slow_rise(net: nn.Sequential, layer: str, x: Tensor, target: int, masks: Tensor, keep: float) -> Tensor:
    before, after = halves(net, layer)
    activation, values = before(x), torch.zeros(masks.shape[1:])
    for mask in masks:
        values += after(activation * mask).softmax(1)[0, target] * mask
    return values / (len(masks) * keep)


@pytest.mark.parametrize(("layer", "size"), [("input", 12), ("1", 12), ("4", 6)])
@pytest.mark.parametrize("make", [plain_net, gap_net])
def test_rise_is_the_mean_over_explicit_masks(make: object, layer: str, size: int) -> None:
    net, x = make(), images(2)  # type: ignore[operator]
    masks = rise_masks(100, size, size, cells=3, keep=0.3, seed=7)[torch.arange(100)]
    found = RISE(masks=100, cells=3, keep=0.3, seed=7)(classifier(net).at(layer), x, 2)
    wanted = torch.stack([slow_rise(net, layer, one[None], 2, masks, 0.3) for one in x])
    assert relative_error(found.values[:, 0], wanted) < 1e-5
    assert not found.signed


def test_rise_weighs_by_the_explained_score_on_request() -> None:
    net, x = plain_net(), images(1)
    view = classifier(net).at("4")
    masks = rise_masks(50, 6, 6, cells=6, keep=0.1, seed=0)[torch.arange(50)]
    with torch.no_grad():
        logits = view.logits(view.activation(x) * masks[:, None])[:, 1]
    found = RISE(masks=50, output="target")(view, x, 1)
    assert found.signed
    assert relative_error(found.values[0, 0], (logits[:, None, None] * masks).mean(0) / 0.1) < 1e-5


@pytest.mark.parametrize("target", [Target([0, 3]), Target(1, "log_probability"), Target(1, minus=2)])
@pytest.mark.parametrize("output", ["probability", "target"])
def test_rises_affine_path_equals_the_general_one(target: Target, output: str) -> None:
    view, x = classifier(gap_net()).at("final"), images(2)
    counting = CountingView(view)
    fast = RISE(masks=200, output=output)(counting, x, target)  # type: ignore[arg-type]
    general = RISE(masks=200, output=output)(GeneralView(view), x, target)  # type: ignore[arg-type]
    assert relative_error(fast.values, general.values) < 1e-5
    assert counting.counts["suffix_forward"] == 2 + 2 * (1 + 36) == fast.passes.suffix_forward
    assert general.passes.suffix_forward == 2 + 2 * 200


def test_few_masks_take_the_general_path_even_where_affine() -> None:
    view, x = classifier(gap_net()).at("final"), images(1)
    assert RISE(masks=10)(view, x, 1).passes.suffix_forward == 1 + 10


def test_the_affine_path_of_a_real_network_equals_the_general_one() -> None:
    made, x = lite0()
    view = made.at("final")
    fast, general = (RISE(masks=100)(one, x, [282, 281]) for one in (view, GeneralView(view)))
    assert relative_error(fast.values, general.values) < 1e-5
    occlusion = [Occlusion()(one, x, [282, 281]).values for one in (view, GeneralView(view))]
    assert relative_error(occlusion[0], occlusion[1]) < 1e-5


def test_the_map_of_rise_is_positive_with_the_mean_probability_as_its_mean() -> None:
    net, x = plain_net(), images(1)
    view = classifier(net).at("input")
    masks = rise_masks(1000, 12, 12, cells=6, keep=0.5, seed=0)[torch.arange(1000)]
    with torch.no_grad():
        mean = float(view.logits(x * masks[:, None]).softmax(1)[:, 1].mean())
    found = RISE(masks=1000, keep=0.5, max_batch=64)(view, x, 1).values
    assert bool((found > 0).all())
    assert float(found.mean()) == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("options", [{"masks": 0}, {"cells": 0}, {"keep": 0.0}, {"keep": 1.0}, {"output": "logit"}])
def test_impossible_options_of_rise_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(PellucidError, match="RISE needs"):
        RISE(**options)  # type: ignore[arg-type]
