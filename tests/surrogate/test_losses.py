"""Regularisers against closed forms."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pellucid.surrogate.training.losses import (
    brightness_divergence,
    feature_distance,
    hessian_penalty,
    kl_divergence,
    moment_penalty,
    path_lengths,
    r1_penalty,
    second_differences,
)


def all_signs(coordinates: int, images: int) -> Tensor:
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=coordinates)))
    return signs[:, None].expand(-1, images, -1)


def of_population(penalty: Tensor, directions: int) -> float:
    """The unbiased variance of all directions, taken for the population's."""
    return float(penalty) * (directions - 1) / directions


def test_the_hessian_penalty_of_a_product_is_four() -> None:
    codes, directions = torch.randn(6, 2).double(), all_signs(2, 6).double()
    penalty = hessian_penalty(lambda w: (w[:, 0] * w[:, 1])[:, None], codes, directions)
    assert of_population(penalty, 4) == pytest.approx(4)


def test_the_hessian_penalty_of_z0_squared_z1_is_sixteen_z0_squared() -> None:
    codes, directions = torch.tensor([[0.7, -1.3]]).double(), all_signs(2, 1).double()
    penalty = hessian_penalty(lambda w: (w[:, 0] ** 2 * w[:, 1])[:, None], codes, directions, step=1e-3)
    assert of_population(penalty, 4) == pytest.approx(16 * 0.7**2, rel=1e-4)


def test_coordinates_that_do_not_interact_cost_nothing() -> None:
    codes, directions = torch.randn(3, 3).double(), all_signs(3, 3).double()
    penalty = hessian_penalty(lambda w: (w.sin() + w**2).sum(1, keepdim=True), codes, directions)
    assert float(penalty) == pytest.approx(0, abs=1e-20)


def test_coordinates_without_a_direction_may_interact() -> None:
    codes = torch.randn(3, 3).double()
    directions = all_signs(3, 3).double() * torch.tensor([1.0, 0.0, 1.0])
    penalty = hessian_penalty(lambda w: (w[:, 0] * w[:, 1])[:, None], codes, directions)
    assert float(penalty) == pytest.approx(0, abs=1e-20)


def test_second_differences_are_the_curvature_along_a_direction() -> None:
    matrix = torch.randn(4, 4).double()
    codes, directions = torch.randn(5, 4).double(), torch.randn(3, 5, 4).double()
    result = second_differences(lambda w: ((w @ matrix) * w).sum(1), codes, directions, 0.1)
    expected = 2 * torch.einsum("kni,ij,knj->kn", directions, matrix, directions)
    torch.testing.assert_close(result, expected)


def test_r1_of_linear_scores_is_the_squared_norm_of_their_weight() -> None:
    weight, images = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 4, 4, requires_grad=True)
    penalty = r1_penalty((images * weight).sum(dim=(1, 2, 3)), images)
    torch.testing.assert_close(penalty, weight.square().sum())


def test_r1_can_be_descended() -> None:
    weight = torch.randn(1, 1, 4, 4, requires_grad=True)
    images = torch.randn(3, 1, 4, 4, requires_grad=True)
    r1_penalty((images * weight).sum(dim=(1, 2, 3)), images).backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach())


def test_path_lengths_of_a_linear_generator_are_those_of_its_matrix() -> None:
    matrix, codes = torch.randn(3, 64), torch.randn(5, 3, requires_grad=True)
    noise = torch.randn(5, 1, 8, 8)
    lengths = path_lengths((codes @ matrix).view(5, 1, 8, 8), codes, noise)
    expected = (noise.flatten(1) / 8 @ matrix.T).norm(dim=1)
    torch.testing.assert_close(lengths, expected)


def test_standard_uncorrelated_codes_have_no_moment_penalty() -> None:
    assert float(moment_penalty(torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * 0.75**0.5)) < 1e-12


@pytest.mark.parametrize("change", [lambda z: z + 1, lambda z: 2 * z, lambda z: z[:, :1].expand(-1, 3)])
def test_shifted_scaled_or_correlated_codes_are_penalized(change: Callable[[Tensor], Tensor]) -> None:
    codes = torch.randn(4000, 3)
    assert float(moment_penalty(codes)) < 0.01
    assert float(moment_penalty(change(codes))) > 0.02


def test_the_brightness_divergence_is_that_of_coins() -> None:
    result, expected = 1.8 * torch.rand(2, 1, 4, 4) - 0.9, 1.8 * torch.rand(2, 1, 4, 4) - 0.9
    coins = [torch.distributions.Bernoulli(0.01 + 0.98 * (x + 1) / 2) for x in (expected, result)]
    torch.testing.assert_close(
        brightness_divergence(result, expected), torch.distributions.kl_divergence(*coins).mean()
    )
    assert float(brightness_divergence(expected, expected)) == pytest.approx(0, abs=1e-7)


def test_a_saturated_wrong_pixel_is_pulled_back_where_the_absolute_difference_lets_go() -> None:
    def pull(loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        rgb = torch.full((1, 1, 1, 1), -4.0, requires_grad=True)
        loss(torch.tanh(1.5 * rgb), torch.ones(1, 1, 1, 1)).backward()
        return float(-rgb.grad)

    absolute = pull(lambda result, expected: (result - expected).abs().mean())
    assert absolute < 1e-4
    assert pull(brightness_divergence) > 20 * absolute


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_the_divergence_of_logits_is_that_of_their_classes(classes: int) -> None:
    teacher, student = torch.randn(6, classes), torch.randn(6, classes)
    kind = torch.distributions.Bernoulli if classes == 1 else torch.distributions.Categorical
    pair = [kind(logits=logits.squeeze(1) if classes == 1 else logits) for logits in (teacher, student)]
    torch.testing.assert_close(kl_divergence(teacher, student), torch.distributions.kl_divergence(*pair))


def test_feature_distances_are_relative_to_each_layers_size() -> None:
    maps = [torch.rand(2, 3, 4, 4) + 1, 100 * torch.rand(2, 3, 2, 2) + 100]
    torch.testing.assert_close(feature_distance([1.1 * each for each in maps], maps), torch.tensor(0.2))
