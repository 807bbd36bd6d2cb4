"""What all concepts share: targets, baselines, class weights, one logit, and how often the network runs."""

import pytest
import torch
from tests.concepts.support import Function, LinearHead, curved_view, view_of
from torch import Tensor

from pellucid.attribution import Target
from pellucid.concepts import class_weights
from pellucid.concepts.evidence import gather_evidence
from pellucid.errors import ModelError, TargetError

IMAGES = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(3))


def test_the_three_most_likely_classes_are_explained_by_default() -> None:
    view = curved_view(classes=6)
    evidence = gather_evidence(view, IMAGES, None)
    order = view.logits(IMAGES).argsort(1, descending=True)[:, :3]
    assert evidence.labels == tuple(tuple(f"class {k}" for k in row) for row in order.tolist())
    assert evidence.reference.shape == (2, 3, 4, 3, 5)


def test_two_classes_are_both_explained_by_default() -> None:
    assert gather_evidence(curved_view(classes=2), IMAGES, None).scores.shape == (2, 2)


def test_class_weights_compare_with_all_classes_and_not_only_the_targets() -> None:
    view = curved_view(classes=6)
    weights = class_weights(view.logits(IMAGES), view.logits(torch.zeros_like(IMAGES)))
    torch.testing.assert_close(gather_evidence(view, IMAGES, [4, 1]).class_weights, weights[:, [4, 1]])


@pytest.mark.parametrize(
    ("target", "score"),
    [
        (Target([1], output="log_probability"), lambda z: z.log_softmax(1)[:, 1]),
        (Target([1], output="centered"), lambda z: z[:, 1] - z.mean(1)),
        (Target([1], minus=2), lambda z: z[:, 1] - z[:, 2]),
    ],
)
def test_other_outputs_concern_the_signed_path_and_never_the_reference(target: Target, score: object) -> None:
    view = curved_view()
    evidence, plain = gather_evidence(view, IMAGES, target), gather_evidence(view, IMAGES, [1])
    torch.testing.assert_close(evidence.reference, plain.reference)
    torch.testing.assert_close(evidence.class_weights, plain.class_weights)
    expected = score(view.logits(IMAGES)) - score(view.logits(torch.zeros_like(IMAGES)))  # type: ignore[operator]
    torch.testing.assert_close(evidence.path.delta[:, 0], expected)
    torch.testing.assert_close(evidence.path.values.sum((2, 3, 4))[:, 0], expected, atol=2e-3, rtol=0)
    assert not torch.allclose(evidence.path.mean, plain.path.mean, atol=1e-4)


def test_another_baseline_concerns_the_signed_path_and_never_the_reference() -> None:
    view, baseline = curved_view(), torch.tensor([0.5, -0.2, 0.1, 0.3])[:, None, None]
    evidence, plain = gather_evidence(view, IMAGES, [1], baseline=baseline), gather_evidence(view, IMAGES, [1])
    torch.testing.assert_close(evidence.reference, plain.reference)
    torch.testing.assert_close(evidence.path.difference, IMAGES - baseline)
    start = view.logits(baseline.expand(1, 4, 3, 5))[:, 1]
    torch.testing.assert_close(evidence.path.delta[:, 0], view.logits(IMAGES)[:, 1] - start)


def test_refinement_concerns_the_signed_path_and_never_the_reference() -> None:
    view = view_of(Function(lambda x: torch.stack([(x.sum((1, 2, 3)) - 1).relu(), x.mean((1, 2, 3))], 1)), (1, 2, 1))
    images = torch.full((1, 1, 2, 1), 1.0)
    evidence = gather_evidence(view, images, [0], tolerance=0.006, max_steps=400)
    assert float(evidence.reference.sum()) == pytest.approx(0.98, abs=1e-6)
    assert float(evidence.reference_gap) == pytest.approx(0.02, abs=1e-6)
    assert evidence.path.steps.tolist() == [200]
    assert float(evidence.path.relative_gap) < 0.006


def test_the_part_before_the_layer_runs_once_per_image() -> None:
    evidence = gather_evidence(curved_view(), IMAGES, Target([0, 1], output="centered"), tolerance=1e-9, max_steps=100)
    assert evidence.passes.prefix_forward == 2
    # Logits once; then for logits and centered logits each: score, baseline, 51 nodes; and 50 midpoints more.
    assert evidence.passes.suffix_forward == 2 * (1 + 2 * (1 + 1 + 51) + 50)
    assert evidence.passes.suffix_backward == 2 * 2 * (2 * 51 + 50)


def test_a_linear_head_takes_one_gradient_per_image_and_class() -> None:
    view = view_of(LinearHead(torch.randn(3, 4), torch.zeros(3)), (4, 3, 5))
    passes = gather_evidence(view, IMAGES, [0, 1], tolerance=0.01).passes
    assert (passes.prefix_forward, passes.suffix_forward, passes.suffix_backward) == (2, 2 * 3, 2 * 2)


def _one_logit(x: Tensor) -> Tensor:
    return (x[:, 0] - x[:, 1].square() + 0.1).mean((1, 2))[:, None]


def test_a_network_with_one_logit_has_a_class_and_its_opposite() -> None:
    view = view_of(Function(_one_logit), (4, 3, 5))
    both = gather_evidence(view, IMAGES, None)
    assert both.labels == (("class 0", "not class 0"),) * 2
    torch.testing.assert_close(both.reference[:, 1], -both.reference[:, 0])
    torch.testing.assert_close(both.path.delta[:, 1], -both.path.delta[:, 0])
    positive, negative = both.reference[:, 0].relu().sum((1, 2, 3)), (-both.reference[:, 0]).relu().sum((1, 2, 3))
    expected = torch.stack([positive, negative], 1) / torch.maximum(positive, negative)[:, None]
    torch.testing.assert_close(both.class_weights, expected)
    torch.testing.assert_close(both.path.values.sum((2, 3, 4)), both.path.delta, atol=1e-4, rtol=0)


@pytest.mark.parametrize("target", [1, "not class 0", [1], torch.tensor([1, 1]), Target("Not Class 0")])
def test_the_opposite_class_of_one_logit_can_be_asked_for(target: object) -> None:
    view = view_of(Function(_one_logit), (4, 3, 5))
    result, both = gather_evidence(view, IMAGES, target), gather_evidence(view, IMAGES, None)
    torch.testing.assert_close(result.reference[:, 0], both.reference[:, 1])
    torch.testing.assert_close(result.scores[:, 0], both.scores[:, 1])


@pytest.mark.parametrize("target", [2, -1, "zebra", Target(0, output="log_probability"), torch.tensor([0, 2])])
def test_what_one_logit_cannot_explain_is_an_error(target: object) -> None:
    with pytest.raises(TargetError, match="one logit"):
        gather_evidence(view_of(Function(_one_logit), (4, 3, 5)), IMAGES, target)


def test_an_unknown_class_is_an_error() -> None:
    with pytest.raises(TargetError, match="class 7 does not exist"):
        gather_evidence(curved_view(), IMAGES, 7)


def test_activations_that_are_not_numbers_are_an_error() -> None:
    images = IMAGES.clone()
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        gather_evidence(curved_view(), images, 0)
