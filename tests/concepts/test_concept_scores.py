"""The reference score and the signed contribution: hand-checked values, loops over everything, and properties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.concepts.support import HAND_B, HAND_F, HAND_P, HAND_W
from torch import Tensor

from pellucid.concepts import (
    binary_class_weights,
    class_weights,
    concept_map,
    direction_weights,
    reference_attribution,
    signed_contribution,
)
from pellucid.errors import PellucidError

SEEDS = st.integers(0, 10**6)


def _hand() -> tuple[Tensor, Tensor, Tensor]:
    """Integrated gradients (T, C, h, w) of the linear head, its class weights, and the concept map."""
    gradients = HAND_F * (HAND_W / 4)[:, :, None, None]
    weights = class_weights(HAND_W @ HAND_F.mean((1, 2)) + HAND_B, HAND_B)
    return gradients, weights, concept_map(HAND_F, HAND_P, 0.1, 2.0)


def test_class_weights_have_their_hand_checked_values() -> None:
    torch.testing.assert_close(_hand()[1], torch.tensor([1.0, 2 / 3]), atol=1e-6, rtol=0)


def test_class_weights_are_zero_where_no_logit_rises() -> None:
    assert class_weights(torch.tensor([-1.0, 0.0]), torch.tensor([0.0, 0.0])).tolist() == [0.0, 0.0]


def test_direction_weights_have_their_hand_checked_values() -> None:
    weights = direction_weights(HAND_F, HAND_P, _hand()[2])
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.0, 0.25]), atol=1e-6, rtol=0)


def test_the_score_has_its_hand_checked_values() -> None:
    gradients, weights, maps = _hand()
    scores = reference_attribution(HAND_F, gradients, HAND_P, maps, weights)
    torch.testing.assert_close(scores, torch.tensor([0.8019736842, 0.0032894737]), atol=1e-6, rtol=0)
    for target, expected in enumerate((0.8019736842, 0.0032894737)):
        one = reference_attribution(HAND_F, gradients[target], HAND_P, maps, float(weights[target]))
        assert one.shape == ()
        assert float(one) == pytest.approx(expected, abs=1e-6)


def test_a_network_with_one_logit_has_two_classes_weighed_by_their_mass() -> None:
    gradients = torch.tensor([[[3.0, -1.0], [0.0, -0.5]]])
    assert binary_class_weights(gradients).tolist() == [1.0, 0.5]
    assert binary_class_weights(-gradients).tolist() == [0.5, 1.0]
    assert binary_class_weights(torch.zeros(1, 2, 2)).tolist() == [0.0, 0.0]


def _slow_parts(
    activation: Tensor, evidence: Tensor, direction: Tensor, maps: Tensor
) -> tuple[list[float], list[float]]:
    """phat and sum_ij M_ij evidence_c,ij by loops over channels and cells."""
    channels, height, width = activation.shape
    has_negative = min(activation.flatten().tolist()) < 0
    q, pooled = [], []
    for c in range(channels):
        under = pool = 0.0
        for i in range(height):
            for j in range(width):
                under += float(maps[i, j] * activation[c, i, j])
                pool += float(maps[i, j] * evidence[c, i, j])
        sign = -1.0 if has_negative and under < 0 else 1.0
        q.append(max(0.0, sign * float(direction[c])))
        pooled.append(pool)
    largest = max(q)
    return [value / largest if largest > 0 else 0.0 for value in q], pooled


def _slow_reference(activation: Tensor, gradients: Tensor, direction: Tensor, maps: Tensor, weight: float) -> float:
    total = sum(max(0.0, value) for value in gradients.flatten().tolist())
    share = gradients.clamp(min=0) / (total + 1e-7) * weight
    weights, pooled = _slow_parts(activation, share, direction, maps)
    return sum(p * v for p, v in zip(weights, pooled, strict=True))


def _random(seed: int, *, signed: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Two images, two directions, three targets."""
    generator = torch.Generator().manual_seed(seed)
    activation = torch.randn(2, 4, 2, 3, generator=generator, dtype=torch.float64)
    activation = activation if signed else activation.relu()
    gradients = torch.randn(2, 3, 4, 2, 3, generator=generator, dtype=torch.float64)
    directions = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    maps = concept_map(activation, directions, 0.1, 1.0)
    return activation, gradients, directions, maps, torch.rand(2, 3, generator=generator, dtype=torch.float64)


@given(SEEDS, st.booleans())
def test_scores_of_all_images_directions_and_targets_equal_loops(seed: int, signed: bool) -> None:
    activation, gradients, directions, maps, weights = _random(seed, signed=signed)
    scores = reference_attribution(activation, gradients, directions, maps, weights)
    contributions = signed_contribution(activation, gradients, directions, maps)
    for n in range(2):
        for d in range(2):
            for t in range(3):
                arguments = activation[n], gradients[n, t], directions[d], maps[n, d]
                assert float(scores[n, d, t]) == pytest.approx(
                    _slow_reference(*arguments, float(weights[n, t])), abs=1e-12
                )
                phat, pooled = _slow_parts(*arguments)
                slow = sum(p * v for p, v in zip(phat, pooled, strict=True))
                assert float(contributions[n, d, t]) == pytest.approx(slow, abs=1e-12)


@given(SEEDS)
def test_axes_may_be_left_out_one_by_one(seed: int) -> None:
    activation, gradients, directions, maps, weights = _random(seed)
    whole = reference_attribution(activation, gradients, directions, maps, weights)
    torch.testing.assert_close(
        reference_attribution(activation[0], gradients[0], directions, maps[0], weights[0]), whole[0]
    )
    torch.testing.assert_close(
        reference_attribution(activation, gradients, directions[1], maps[:, 1], weights), whole[:, 1]
    )
    torch.testing.assert_close(
        reference_attribution(activation, gradients[:, 2], directions, maps, weights[:, 2]), whole[:, :, 2]
    )


@given(SEEDS, st.booleans())
def test_the_score_lies_between_zero_and_the_class_weight(seed: int, signed: bool) -> None:
    activation, gradients, directions, maps, weights = _random(seed, signed=signed)
    scores = reference_attribution(activation, gradients, directions, maps, weights)
    assert bool((scores >= 0).all())
    assert bool((scores <= weights[:, None] + 1e-12).all())
    phat = direction_weights(activation, directions, maps)
    assert float(phat.min()) >= 0
    assert float(phat.max()) <= 1


@given(SEEDS)
def test_an_even_direction_seen_wherever_there_is_evidence_scores_the_class_weight(seed: int) -> None:
    activation, gradients, _, _, weights = _random(seed, signed=False)
    even = torch.full((1, 4), 0.7, dtype=torch.float64)
    everywhere = torch.ones(2, 1, 2, 3, dtype=torch.float64)
    scores = reference_attribution(activation, gradients, even, everywhere, weights)
    torch.testing.assert_close(scores[:, 0], weights, atol=1e-6, rtol=0)


@given(SEEDS, st.floats(0.01, 100), st.floats(0.01, 100))
def test_scales_of_direction_and_logits_do_not_matter(seed: int, length: float, gain: float) -> None:
    activation, gradients, directions, maps, weights = _random(seed)
    whole = reference_attribution(activation, gradients, directions, maps, weights)
    scaled = reference_attribution(activation, gain * gradients, length * directions, maps, weights)
    torch.testing.assert_close(scaled, whole, atol=1e-6, rtol=1e-5)


@given(SEEDS)
def test_a_common_reordering_of_channels_does_not_matter(seed: int) -> None:
    activation, gradients, directions, maps, weights = _random(seed)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    shuffled = reference_attribution(activation[:, order], gradients[:, :, order], directions[:, order], maps, weights)
    torch.testing.assert_close(shuffled, reference_attribution(activation, gradients, directions, maps, weights))


@given(SEEDS, st.floats(-50, 50), st.floats(0.01, 100))
def test_class_weights_ignore_a_constant_and_a_scale_of_the_logits(seed: int, constant: float, gain: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, start = torch.randn(2, 2, 5, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        class_weights(gain * logits + constant, gain * start + constant), class_weights(logits, start)
    )


def test_a_negative_channel_under_the_map_is_aligned_with_a_negative_direction() -> None:
    activation = torch.tensor([[[1.0]], [[-2.0]], [[-1.0]]])
    weights = direction_weights(activation, torch.tensor([0.5, -1.0, 1.0]), torch.ones(1, 1))
    assert weights.tolist() == [0.5, 1.0, 0.0]
    # Nowhere negative: the sign of the direction alone decides, even for a channel that is silent.
    assert direction_weights(activation.abs(), torch.tensor([0.5, -1.0, 1.0]), torch.ones(1, 1)).tolist() == [
        0.5,
        0.0,
        1.0,
    ]


def test_no_positive_direction_scores_zero() -> None:
    gradients, weights, maps = _hand()
    assert float(reference_attribution(HAND_F, gradients, -HAND_P.abs(), maps, weights).abs().max()) == 0


@given(SEEDS)
def test_the_parts_of_the_signed_contribution_add_up(seed: int) -> None:
    activation, gradients, directions, maps, _ = _random(seed)
    positive = signed_contribution(activation, gradients.relu(), directions, maps)
    negative = signed_contribution(activation, -(-gradients).relu(), directions, maps)
    assert bool((positive >= 0).all())
    assert bool((negative <= 0).all())
    torch.testing.assert_close(positive + negative, signed_contribution(activation, gradients, directions, maps))


def test_shapes_that_do_not_fit_are_named() -> None:
    gradients, weights, _ = _hand()
    with pytest.raises(PellucidError, match=r"\(3, 2, 2\).*\(2, 3, 2, 2\).*\(3,\).*\(2, 3\).*do not fit together"):
        reference_attribution(HAND_F, gradients, HAND_P, torch.ones(2, 3), weights)
