"""TCAV: scores in closed form, tests that hold, and one backward pass for everything."""

import numpy as np
import pytest
import torch
from scipy import stats
from tests.concepts.support import LinearHead, cav_for, curved_view, make_cav, view_of
from torch import Tensor

from pellucid.attribution import Target
from pellucid.concepts import (
    FitOptions,
    fit_cav,
    fit_cavs,
    null_directions,
    tcav,
)
from pellucid.errors import PellucidError, TargetError

VIEW = curved_view()
IMAGES = torch.randn(15, 4, 3, 5, generator=torch.Generator().manual_seed(3))
NEGATIVES = torch.randn(40, 4, 3, 5, generator=torch.Generator().manual_seed(4))
CONCEPT = (
    torch.randn(12, 4, 3, 5, generator=torch.Generator().manual_seed(5))
    + torch.tensor([1.0, 0, -0.5, 0])[:, None, None]
)
CAV = fit_cav(VIEW, CONCEPT, NEGATIVES)


def _slow_sensitivity(image: Tensor, direction: Tensor, target: int) -> float:
    """The logit's change for a small step along the direction in every cell, over the step."""
    step = 1e-3 * direction / direction.norm()
    up, down = (VIEW.logits((image + sign * step[:, None, None])[None])[0, target] for sign in (1, -1))
    return float(up - down) / 2e-3


def test_sensitivities_are_directional_derivatives_of_the_logit() -> None:
    result = tcav(VIEW, [CAV], IMAGES, 1)
    slow = [_slow_sensitivity(image, CAV.direction, 1) for image in IMAGES]
    torch.testing.assert_close(result.sensitivities[:, 0], torch.tensor(slow), atol=2e-3, rtol=1e-2)
    assert float(result.scores[0]) == pytest.approx(sum(value > 0 for value in slow) / 15)
    positive = sum(max(value, 0.0) for value in slow)
    assert float(result.magnitudes[0]) == pytest.approx(positive / sum(map(abs, slow)), abs=5e-3)
    assert float(result.mean_sensitivities[0]) == pytest.approx(sum(slow) / 15, abs=2e-3)


def test_a_linear_head_has_the_sensitivity_of_its_weights_in_every_image() -> None:
    weight = torch.tensor([[2.0, -1.0, 0.0, 0.5], [0.0, 1.0, 1.0, -1.0]])
    view = view_of(LinearHead(weight, torch.zeros(2)), (4, 3, 5))
    direction = torch.tensor([0.0, 3.0, 0.0, -4.0])
    result = tcav(view, [cav_for(view, direction)], IMAGES, 1, random_sets=2)
    expected = float(weight[1] @ direction / 5)
    torch.testing.assert_close(result.sensitivities[:, 0], torch.full((15,), expected))
    assert (float(result.scores), float(result.magnitudes)) == (1.0, 1.0)


def test_one_pass_serves_all_concepts_sets_and_relabellings() -> None:
    cavs = fit_cavs(VIEW, {"a": CONCEPT, "b": -CONCEPT, "c": CONCEPT * 2}, NEGATIVES)
    passes = tcav(VIEW, cavs, IMAGES, 0, max_batch=4).passes
    assert (passes.prefix_forward, passes.suffix_forward, passes.suffix_backward) == (15, 15, 15)


def test_random_sets_are_parts_of_the_negatives_each_used_once() -> None:
    result = tcav(VIEW, [CAV], IMAGES, 0, random_sets=4, seed=2)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    pooled, concept = NEGATIVES.mean((2, 3)), CONCEPT.mean((0, 2, 3))
    parts = [pooled[part].mean(0) for part in order.tensor_split(4)]
    leaf = IMAGES.clone().requires_grad_()
    gradients = torch.autograd.grad(VIEW.logits(leaf)[:, 0].sum(), leaf)[0].sum((2, 3))
    for index in range(4):
        own = (gradients @ (concept - parts[index]) > 0).double().mean()
        other = (gradients @ (parts[index] - parts[(index + 1) % 4]) > 0).double().mean()
        assert float(result.random_scores[0][index]) == pytest.approx(float(own))
        assert float(result.baseline_scores[0][index]) == pytest.approx(float(other))


def _welch(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    return stats.ttest_ind(first, second, axis=axis, equal_var=False).statistic


def test_the_p_value_compares_concept_and_negatives_along_the_mean_gradient_of_all_images() -> None:
    shift = torch.tensor([0.3, 0.0, 0.2, 0.0])[:, None, None]
    concept = torch.randn(12, 4, 3, 5, generator=torch.Generator().manual_seed(8)) + shift
    cav = fit_cav(VIEW, concept, NEGATIVES)
    result = tcav(VIEW, [cav], IMAGES, 0, permutations=4999, seed=2)
    leaf = IMAGES.clone().requires_grad_()
    gradients = torch.autograd.grad(VIEW.logits(leaf)[:, 0].sum(), leaf)[0].sum((2, 3))

    def expected(gradient: Tensor) -> float:
        along = [(images.mean((2, 3)) @ gradient).numpy() for images in (concept, NEGATIVES)]
        return float(stats.permutation_test(along, _welch, vectorized=True, n_resamples=20_000, rng=1).pvalue)

    assert float(result.p_values[0]) == pytest.approx(expected(gradients.mean(0)), abs=0.025)
    assert abs(float(result.p_values[0]) - expected(gradients[0])) > 0.1
    assert torch.equal(result.p_values, result.sensitivity_p_values)


def test_a_sensitivity_of_zero_is_no_step_towards_the_class() -> None:
    weight = torch.tensor([[2.0, -1.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    view = view_of(LinearHead(weight, torch.zeros(2)), (4, 3, 5))
    result = tcav(view, [cav_for(view, torch.tensor([0.0, 3.0, 0.0, -4.0]))], IMAGES, 1, random_sets=2)
    assert float(result.sensitivities.abs().max()) == 0
    assert float(result.scores) == 0
    assert result.random_scores[0].tolist() == result.baseline_scores[0].tolist() == [0, 0]
    assert (float(result.p_values), float(result.relabeled_p_values)) == (1.0, 1.0)


def test_without_relabelings_there_are_no_p_values() -> None:
    result = tcav(VIEW, [CAV], IMAGES, 0, permutations=0)
    assert torch.isnan(torch.cat([result.p_values, result.relabeled_p_values, *result.adjusted.values()])).all()


def test_a_cav_that_points_against_its_own_images_is_noted() -> None:
    view = view_of(LinearHead(torch.eye(4)[:2], torch.zeros(2)), (4, 3, 5))
    raised = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)) + torch.tensor([5.0, 0, 0, 0])
    features = {"concept_features": raised, "negative_features": NEGATIVES.mean((2, 3))}
    along, against = (cav_for(view, sign * torch.eye(4)[0], **features) for sign in (1, -1))
    assert not tcav(view, [along], IMAGES, 0).notes
    assert "the p-value is that of the images" in tcav(view, [against], IMAGES, 0).notes[0]


def test_the_relabelled_test_ranks_the_score_among_those_of_null_directions() -> None:
    result = tcav(VIEW, [CAV], IMAGES, 0, permutations=59, seed=1)
    leaf = IMAGES.clone().requires_grad_()
    gradients = torch.autograd.grad(VIEW.logits(leaf)[:, 0].sum(), leaf)[0].sum((2, 3))
    derivatives = gradients @ null_directions(CAV, 59, seed=1).T
    away = ((derivatives > 0).double().mean(0) - 0.5).abs()
    expected = (1 + int((away >= abs(float(result.scores[0]) - 0.5) - 1e-9).sum())) / 60
    assert float(result.relabeled_p_values[0]) == pytest.approx(expected)


def test_a_concept_that_the_class_uses_is_told_from_chance_and_a_chance_concept_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(72, 4, 3, 5, generator=generator) + torch.randn(72, 4, 1, 1, generator=generator)
    raised = pool[:12] + torch.tensor([3.0, 0, 0, 0])[:, None, None]
    view = view_of(LinearHead(torch.tensor([[1.0, 0.2, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0]]), torch.zeros(2)), (4, 3, 5))
    real = fit_cav(view, raised, pool[24:], name="real")
    chance = cav_for(
        view,
        (pool[12:24].mean((0, 2, 3)) - pool[24:].mean((0, 2, 3))),
        name="chance",
        concept_features=pool[12:24].mean((2, 3)),
        negative_features=pool[24:].mean((2, 3)),
    )
    result = tcav(view, [real, chance], IMAGES, 0)
    assert float(result.adjusted["p_values"][0]) < 0.05 < float(result.adjusted["p_values"][1])


def test_p_values_are_adjusted_for_the_number_of_concepts() -> None:
    cavs = fit_cavs(VIEW, {"a": CONCEPT, "b": -CONCEPT}, NEGATIVES)
    result = tcav(VIEW, cavs, IMAGES, 0, correction="bonferroni")
    torch.testing.assert_close(result.adjusted["p_values"], (2 * result.p_values).clamp(max=1))
    torch.testing.assert_close(result.adjusted["relabeled_p_values"], (2 * result.relabeled_p_values).clamp(max=1))


def test_the_result_is_the_same_for_the_same_seed_and_every_batch_size() -> None:
    one, again = tcav(VIEW, [CAV], IMAGES, 0), tcav(VIEW, [CAV], IMAGES, 0, max_batch=2)
    torch.testing.assert_close(one.sensitivities, again.sensitivities)
    assert torch.equal(one.p_values, again.p_values)
    assert torch.equal(one.random_scores[0], again.random_scores[0])


def test_cavs_of_flattened_activations_step_differently_in_every_cell() -> None:
    cav = fit_cav(VIEW, CONCEPT, NEGATIVES, "ridge", options=FitOptions(features="flattened", resamples=2))
    result = tcav(VIEW, [cav], IMAGES, Target(2), random_sets=4)
    leaf = IMAGES.clone().requires_grad_()
    gradients = torch.autograd.grad(VIEW.logits(leaf)[:, 2].sum(), leaf)[0].flatten(1)
    torch.testing.assert_close(result.sensitivities[:, 0], gradients @ cav.direction / cav.direction.norm())


def test_bad_input_is_an_error() -> None:
    with pytest.raises(PellucidError, match="no images of the class"):
        tcav(VIEW, [CAV], IMAGES[:0], 0)
    for several in (None, [0, 1], torch.tensor([0] * 15)):
        with pytest.raises(TargetError, match="one class for all images"):
            tcav(VIEW, [CAV], IMAGES, several)
    with pytest.raises(TargetError, match="does not exist"):
        tcav(VIEW, [CAV], IMAGES, 9)
    with pytest.raises(PellucidError, match="fitted with 8 negatives; two random sets need 10 or more"):
        tcav(VIEW, [cav_for(VIEW, torch.ones(4), negative_features=torch.randn(8, 4))], IMAGES, 0)
    with pytest.raises(PellucidError, match="whose weights are not those"):
        tcav(VIEW, [make_cav(torch.ones(4))], IMAGES, 0)
