"""Mean gradients on the path from a baseline: the published quadrature to the digit, and its refinement."""

from collections.abc import Callable

import pytest
import torch
from tests.concepts.support import HAND_B, HAND_W, Function, LinearHead, curved_view, view_of
from torch import Tensor

from pellucid.attribution import BatchBudget, Case, PathIntegral, integrate_path, refine_path
from pellucid.attribution.integrated_gradients import Quadrature
from pellucid.classifiers import LayerView

ZERO = torch.zeros(())
FLAT = torch.tensor([[[[1.0, 2.0], [0.5, 0.0]]]])


def _trapezoid(case: Case, baseline: Tensor, steps: int = 50) -> PathIntegral:
    return integrate_path(case, baseline, steps=steps)


def _case_of(view: LayerView, images: Tensor, target: list[int], max_batch: int) -> Case:
    return Case(view, images, target, budget=BatchBudget(view, images[:1], targets=len(target), max_batch=max_batch))


def _case(head: Callable[[Tensor], Tensor], images: Tensor, target: object = 0, **options: object) -> Case:
    """A case whose logits are `head` of the sum of the image, and a second logit that is 0."""

    def logits(x: Tensor) -> Tensor:
        s = x.sum((1, 2, 3))
        return torch.stack([head(s), 0 * s], dim=1)

    shape = tuple(images.shape[1:])
    return Case(view_of(Function(logits), shape), images, target, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("steps", "expected"), [(10, 0.90), (50, 0.98), (100, 0.99), (1000, 0.999)])
def test_a_kink_half_way_has_its_hand_checked_sums(steps: int, expected: float) -> None:
    case = _case(lambda s: (s - 1).relu(), torch.full((1, 1, 2, 1), 1.0))
    path = _trapezoid(case, ZERO, steps)
    assert float(path.values.sum()) == pytest.approx(expected, abs=1e-6)
    assert float(path.delta) == 1.0
    assert float(path.relative_gap) == pytest.approx(1 - expected, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_a_square_is_exact_for_any_number_of_steps(steps: int) -> None:
    path = _trapezoid(_case(torch.square, FLAT), ZERO, steps)
    assert float(path.values.sum()) == pytest.approx(12.25, abs=1e-5)


@pytest.mark.parametrize(("steps", "expected"), [(1, 64.3125), (2, 48.234375), (10, 43.089375), (50, 42.883575)])
def test_a_cube_has_its_hand_checked_sums(steps: int, expected: float) -> None:
    path = _trapezoid(_case(lambda s: s**3, FLAT), ZERO, steps)
    assert float(path.values.sum()) == pytest.approx(expected, rel=2e-7)
    assert float(path.delta) == pytest.approx(42.875)


def test_a_linear_head_takes_one_gradient_and_is_exact() -> None:
    images = torch.randn(2, 3, 2, 4)
    view = view_of(LinearHead(HAND_W, HAND_B), (3, 2, 4))
    case = Case(view, images, [0, 1], differentiate=True)
    path = _trapezoid(case, ZERO)
    expected = images[:, None] * (HAND_W / 8)[None, :, :, None, None]
    torch.testing.assert_close(path.values, expected)
    assert float(path.relative_gap.max()) < 1e-5
    assert path.steps.tolist() == [0, 0]
    assert case.passes.suffix_backward == 4


@pytest.mark.parametrize("steps", [1, 7])
def test_the_trapezoid_of_a_linear_head_is_exact_where_it_is_not_known_to_be_linear(steps: int) -> None:
    images = torch.randn(1, 3, 2, 4)
    opaque = view_of(Function(lambda x: torch.einsum("kc,nchw->nk", HAND_W, x) + HAND_B), (3, 2, 4))
    assert not opaque.is_affine
    path = _trapezoid(Case(opaque, images, [0, 1]), ZERO, steps)
    torch.testing.assert_close(path.values, images[:, None] * HAND_W[None, :, :, None, None])


def _slow_mean_gradient(view: object, image: Tensor, baseline: Tensor, target: int, steps: int) -> Tensor:
    """The mean of the means of neighboring gradients, as the algorithm is written down."""
    gradients = []
    for j in range(steps + 1):
        point = (baseline + j / steps * (image - baseline)).clone().requires_grad_()
        score = view.logits(point[None])[0, target]  # type: ignore[attr-defined]
        gradients.append(torch.autograd.grad(score, point)[0])
    return sum((gradients[j] + gradients[j + 1]) / 2 for j in range(steps)) / steps


def test_mean_gradients_of_a_curved_head_equal_the_algorithm_as_written() -> None:
    view = curved_view()
    images, baseline = torch.randn(3, 4, 3, 5), torch.randn(4, 1, 1).expand(4, 3, 5)
    case = _case_of(view, images, [0, 2], 7)
    path = _trapezoid(case, baseline, 12)
    for n in range(3):
        for t, target in enumerate((0, 2)):
            slow = _slow_mean_gradient(view, images[n], baseline, target, 12)
            torch.testing.assert_close(path.mean[n, t], slow, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(path.delta, (view.logits(images) - view.logits(baseline[None]))[:, [0, 2]])


def test_the_batch_size_does_not_matter() -> None:
    view, images = curved_view(), torch.randn(3, 4, 3, 5)
    whole = _trapezoid(_case_of(view, images, [0, 1], 64), ZERO, 10)
    small = _trapezoid(_case_of(view, images, [0, 1], 1), ZERO, 10)
    torch.testing.assert_close(small.mean, whole.mean, atol=1e-7, rtol=1e-5)


def test_refining_equals_starting_with_more_steps_and_pays_for_new_nodes_only() -> None:
    case = _case(lambda s: (s - 1).relu(), torch.full((1, 1, 2, 1), 1.0))
    path = _trapezoid(case, ZERO, 10)
    before = case.passes
    finer = refine_path(case, path, tolerance=0.03, max_steps=1000)
    assert finer.steps.tolist() == [40]
    assert (case.passes - before).suffix_backward == 10 + 20
    torch.testing.assert_close(finer.mean, _trapezoid(case, ZERO, 40).mean)
    assert float(finer.relative_gap) < 0.03 <= float(_trapezoid(case, ZERO, 20).relative_gap)


def test_only_the_images_that_miss_the_tolerance_are_refined() -> None:
    images = torch.stack([torch.full((1, 2, 1), 1.0), torch.full((1, 2, 1), 0.2)])
    case = _case(lambda s: (s - 1).relu() + s, images)
    finer = refine_path(case, _trapezoid(case, ZERO, 10), tolerance=0.01, max_steps=1000)
    assert finer.steps.tolist() == [40, 10]


def test_refining_ends_at_the_most_steps() -> None:
    case = _case(lambda s: (s - 1).relu(), torch.full((1, 1, 2, 1), 1.0))
    finer = refine_path(case, _trapezoid(case, ZERO, 10), tolerance=1e-9, max_steps=50)
    assert finer.steps.tolist() == [40]
    assert float(finer.relative_gap) > 1e-9


@pytest.mark.parametrize("quadrature", ["left", "right", "midpoint", "gauss_legendre", "trapezoid"])
def test_every_rule_is_refined_to_what_it_gives_with_more_steps(quadrature: Quadrature) -> None:
    case = _case(lambda s: (s - 0.7).relu() + s**4, torch.full((1, 1, 2, 1), 1.0))
    path = integrate_path(case, ZERO, steps=5, quadrature=quadrature, tolerance=1e-9, max_steps=20)
    assert path.steps.tolist() == [20]
    torch.testing.assert_close(path.mean, integrate_path(case, ZERO, steps=20, quadrature=quadrature).mean)


def test_summing_over_channels_on_the_way_changes_no_number() -> None:
    view, images = curved_view(), torch.randn(3, 4, 3, 5)
    whole = integrate_path(Case(view, images, [0, 1]), ZERO, steps=6)
    summed = integrate_path(Case(view, images, [0, 1]), ZERO, steps=6, sum_channels=True)
    torch.testing.assert_close(summed.values, whole.values.sum(2), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(summed.relative_gap, whole.relative_gap, atol=1e-5, rtol=1e-3)
