"""Several methods at one layer: the maps of separate calls at the price of what is not shared."""

import pytest
import torch
from tests.attribution.support import CountingView, classifier, gap_net, images, plain_net, relative_error

import pellucid as pl
from pellucid.attribution import (
    AblationCAM,
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    LayerCAM,
    Occlusion,
    Passes,
    SmoothGrad,
    Target,
    explain,
)
from pellucid.errors import PellucidError

METHODS = [
    GradCAM(),
    InputXGradient(),
    IntegratedGradients(steps=3),
    LayerCAM(),
    AblationCAM(),
    Occlusion(),
    SmoothGrad(samples=2),
]


@pytest.fixture(scope="module")
def made() -> pl.Classifier:
    return classifier(plain_net().double())


@pytest.mark.parametrize("max_batch", [2, 16])
def test_several_methods_give_what_separate_calls_give(made: pl.Classifier, max_batch: int) -> None:
    view, x, target = made.at("4"), images(5), Target([1, 3], minus=0)
    methods = [type(one)(**(vars(one) | {"max_batch": max_batch})) for one in METHODS]
    together = explain(view, x, target, methods)
    for method, found in zip(methods, together, strict=True):
        alone = method(view, x, target)
        assert found.method == alone.method
        assert found.options == alone.options
        assert found.notes == alone.notes
        assert relative_error(found.values, alone.values) < 1e-6
        assert torch.equal(found.scores, alone.scores)


def test_what_is_shared_is_run_once_and_the_receipts_add_up(made: pl.Classifier) -> None:
    counting = CountingView(made.at("4"))
    methods = [GradCAM(), InputXGradient(), Gradient(), LayerCAM()]
    found = explain(counting, images(5), [0, 1], methods)  # type: ignore[arg-type]
    assert counting.counts == {"prefix_forward": 5, "suffix_forward": 5, "suffix_backward": 10, "network_forward": 0}
    assert found[0].passes == Passes(prefix_forward=5, suffix_forward=5, suffix_backward=10)
    assert all(one.passes == Passes() for one in found[1:])


def test_every_pass_of_unlike_methods_is_on_one_receipt(made: pl.Classifier) -> None:
    for view in (made.at("input"), made.at("4"), classifier(gap_net()).at("final")):
        counting = CountingView(view)
        found = explain(counting, images(3), [0, 1], METHODS)  # type: ignore[arg-type]
        assert counting.counts == vars(sum((one.passes for one in found), Passes()))
        assert counting.counts["prefix_forward"] == 3


def test_where_pooling_and_a_linear_head_follow_one_backward_pass_serves_all() -> None:
    counting = CountingView(classifier(gap_net()).at("final"))
    methods = [GradCAM(), InputXGradient(), IntegratedGradients(steps=50), AblationCAM(), Occlusion()]
    explain(counting, images(4), 2, methods)  # type: ignore[arg-type]
    assert counting.counts == {"prefix_forward": 4, "suffix_forward": 8, "suffix_backward": 4, "network_forward": 0}


def test_the_strictest_batch_size_holds_for_all(made: pl.Classifier) -> None:
    counting = CountingView(made.at("4"))
    explain(counting, images(5), 0, [GradCAM(max_batch=50), Occlusion(max_batch=3)])  # type: ignore[arg-type]
    assert counting.largest == 3


@pytest.mark.parametrize(("targets", "most"), [(1, 8), (3, 2), (4, 2), (5, 1), (20, 1)])
def test_few_images_are_held_at_once_where_there_are_many_targets(made: pl.Classifier, targets: int, most: int) -> None:
    view, x = made.at("4"), images(9)
    many = [index % 5 for index in range(targets)]
    counting = CountingView(view)
    found = GradCAM(max_batch=8)(counting, x, many)  # type: ignore[arg-type]
    assert counting.largest == most
    singly = torch.cat([GradCAM()(view, x, target).values for target in range(min(5, targets))], dim=1)
    assert relative_error(found.values, singly[:, many]) < 1e-6


def test_nothing_to_do_is_an_error(made: pl.Classifier) -> None:
    with pytest.raises(PellucidError, match="no methods to explain with"):
        explain(made.at("4"), images(1), 0, [])
    with pytest.raises(PellucidError, match="no images to explain"):
        explain(made.at("4"), images(1)[:0], 0, [GradCAM()])
