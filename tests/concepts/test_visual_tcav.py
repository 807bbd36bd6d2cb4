"""Visual-TCAV as users call it: numbers, statuses, significance, sharing, and bad input."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.concepts.support import (
    HAND_B,
    HAND_F,
    HAND_P,
    HAND_W,
    Function,
    LinearHead,
    cav_for,
    curved_view,
    make_cav,
    view_of,
)
from torch import Tensor, nn

import pellucid as pl
from pellucid.attribution import Target
from pellucid.concepts import (
    CAV,
    Emblems,
    FitOptions,
    Status,
    VisualTCAV,
    adjust_over_layers,
    class_weights,
    concept_map,
    fit_cav,
    fit_cavs,
    null_directions,
    reference_attribution,
    signed_contribution,
)
from pellucid.errors import ModelError, PellucidError, TargetError
from pellucid.statistics import correct

VIEW = curved_view()
IMAGES = torch.randn(3, 4, 3, 5, generator=torch.Generator().manual_seed(3))
CAVS = [
    cav_for(VIEW, torch.tensor([1.0, -0.5, 0.2, 0.1]), 0.1, 1.0, name="one"),
    cav_for(VIEW, torch.tensor([-0.3, 0.8, 0.4, -0.2]), 0.0, 0.9, name="other"),
]


def test_the_hand_checked_example_comes_out_of_the_whole() -> None:
    view = view_of(LinearHead(HAND_W, HAND_B), (3, 2, 2))
    result = VisualTCAV(view, [cav_for(view, HAND_P, 0.1, 2.0)], permutations=0)(HAND_F[None], [0, 1])
    torch.testing.assert_close(result.reference[0, 0], torch.tensor([0.8019736842, 0.0032894737]), atol=1e-6, rtol=0)
    torch.testing.assert_close(result.class_weights[0], torch.tensor([1.0, 2 / 3]), atol=1e-6, rtol=0)
    torch.testing.assert_close(result.maps[0, 0], torch.tensor([[1.0, 0.0], [0.0789473684, 0.0]]), atol=1e-6, rtol=0)
    # By hand: IG of class 0 is (2, -.25, .25) x F per channel; phat = (1, 0, .25).
    assert float(result.signed[0, 0, 0]) == pytest.approx(2.0 * 1 + 0.25 * (0.25 * 0.0789473684), abs=1e-6)
    assert result.status.tolist() == [[[Status.OK, Status.OK]]]


def test_every_number_is_what_the_pure_functions_give() -> None:
    result = VisualTCAV(VIEW, CAVS, permutations=0, tolerance=None)(IMAGES, [2, 0])
    directions, nodes = torch.stack([cav.direction for cav in CAVS]), torch.linspace(0, 1, 51)
    maps = concept_map(IMAGES, directions, torch.tensor([0.1, 0.0]), torch.tensor([1.0, 0.9]))
    torch.testing.assert_close(result.maps, maps)
    gradients = []
    for target in (2, 0):
        steps = []
        for node in nodes:
            point = (node * IMAGES).requires_grad_()
            steps.append(torch.autograd.grad(VIEW.logits(point)[:, target].sum(), point)[0])
        gradients.append(sum((a + b) / 2 for a, b in pairwise(steps)) / 50 * IMAGES)
    values = torch.stack(gradients, dim=1)
    weights = class_weights(VIEW.logits(IMAGES), VIEW.logits(torch.zeros_like(IMAGES)))[:, [2, 0]]
    expected = reference_attribution(IMAGES, values, directions, maps, weights)
    torch.testing.assert_close(result.reference, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(
        result.signed, signed_contribution(IMAGES, values, directions, maps), atol=1e-6, rtol=1e-4
    )
    torch.testing.assert_close(result.positive + result.negative, result.signed)
    assert bool((result.positive >= 0).all())
    assert bool((result.negative <= 1e-9).all())
    torch.testing.assert_close(result.positive_mass + result.negative_mass, result.delta, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(result.joint.contributions.sum(1) + result.joint.residual, result.delta)


def test_a_real_fit_at_a_hidden_layer_of_a_network_works_end_to_end() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    view = pl.Classifier(net.eval(), input_size=(3, 12, 10)).at("1")
    cav = fit_cav(
        view, torch.randn(12, 3, 12, 10) + torch.tensor([1.0, -1.0, 0])[:, None, None], torch.randn(14, 3, 12, 10)
    )
    result = VisualTCAV(view, [cav], permutations=19)(torch.randn(2, 3, 12, 10))
    assert result.maps.shape == (2, 1, 10, 8)
    assert result.signed.shape == (2, 1, 3)
    assert float(result.gap.max()) < 0.02
    assert result.p_values is not None
    assert float(result.p_values.min()) >= 1 / 20
    rows = [row for row in result.rows() if row["number"] in ("signed", "reference")]
    assert len(rows) == 2 * 6
    assert all(row["p_value"] is not None for row in rows)


@pytest.mark.parametrize("max_batch", [1, 4, 64])
def test_batch_size_and_company_do_not_matter(max_batch: int) -> None:
    whole = VisualTCAV(VIEW, CAVS, permutations=9)(IMAGES, [0, 1])
    result = VisualTCAV(VIEW, CAVS, permutations=9, max_batch=max_batch)(IMAGES.flip(0), [0, 1])
    for name in ("maps", "negative_maps", "reference", "signed", "class_weights", "gap"):
        torch.testing.assert_close(getattr(result, name).flip(0), getattr(whole, name), atol=1e-5, rtol=1e-4)
    assert result.status[::-1].tolist() == whole.status.tolist()
    alone = VisualTCAV(VIEW, CAVS[1:], permutations=9)(IMAGES, [1])
    torch.testing.assert_close(alone.signed[:, 0, 0], whole.signed[:, 1, 1])
    torch.testing.assert_close(alone.p_values[:, 0, 0], whole.p_values[:, 1, 1])  # type: ignore[index]


def test_scaling_or_shifting_all_logits_leaves_the_reference_as_it_is() -> None:
    module = VIEW.classifier._module
    plain = VisualTCAV(VIEW, CAVS, permutations=0, tolerance=None)(IMAGES, [0, 1])
    other = view_of(Function(lambda x: 3 * module(x) - 7), (4, 3, 5))
    cavs = [dataclasses.replace(cav, fingerprint=other.classifier.fingerprint()) for cav in CAVS]
    changed = VisualTCAV(other, cavs, permutations=0, tolerance=None)(IMAGES, [0, 1])
    torch.testing.assert_close(changed.reference, plain.reference, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(changed.signed, 3 * plain.signed, atol=1e-5, rtol=1e-4)


def test_more_concepts_cost_no_pass_through_the_network() -> None:
    one = VisualTCAV(VIEW, CAVS[:1])(IMAGES, [0, 1]).passes
    assert VisualTCAV(VIEW, CAVS)(IMAGES, [0, 1]).passes == one
    assert one.prefix_forward == 3


def test_targets_that_go_image_by_image() -> None:
    explainer = VisualTCAV(VIEW, CAVS, permutations=0)
    result = explainer(IMAGES, torch.tensor([2, 0, 1]))
    for n, target in enumerate((2, 0, 1)):
        torch.testing.assert_close(
            result.signed[n], explainer(IMAGES[n : n + 1], target).signed[0], atol=1e-6, rtol=1e-4
        )
    assert result.targets == (("class 2",), ("class 0",), ("class 1",))


def test_a_contrast_is_the_difference_of_two_classes() -> None:
    explainer = VisualTCAV(VIEW, CAVS, permutations=0, tolerance=None)
    contrast, plain = explainer(IMAGES, Target(0, minus=2)), explainer(IMAGES, [0, 2])
    torch.testing.assert_close(
        contrast.signed[..., 0], plain.signed[..., 0] - plain.signed[..., 1], atol=1e-6, rtol=1e-4
    )
    torch.testing.assert_close(contrast.reference[..., 0], plain.reference[..., 0])
    assert contrast.targets[0] == ("class 0 minus class 2",)


def test_logits_may_be_moved_together_without_moving_centred_evidence() -> None:
    drift = view_of(Function(lambda x: VIEW.classifier._module(x) + x.mean((1, 2, 3))[:, None]), (4, 3, 5))
    cavs = [dataclasses.replace(cav, fingerprint=drift.classifier.fingerprint()) for cav in CAVS]
    for output, same in (("logit", False), ("centered", True), ("log_probability", True)):
        target = Target([0, 1], output=output)  # type: ignore[arg-type]
        plain = VisualTCAV(VIEW, CAVS, permutations=0, tolerance=None)(IMAGES, target).signed
        moved = VisualTCAV(drift, cavs, permutations=0, tolerance=None)(IMAGES, target).signed
        assert torch.allclose(plain, moved, atol=1e-4) is same


def test_the_mean_of_the_negatives_can_be_the_baseline() -> None:
    result = VisualTCAV(VIEW, CAVS[:1], baseline="negatives", permutations=0, tolerance=None)(IMAGES, [0])
    mean = CAVS[0].negative_features.mean(0)[:, None, None]
    explicit = VisualTCAV(VIEW, CAVS[:1], baseline=mean, permutations=0, tolerance=None)(IMAGES, [0])
    zero = VisualTCAV(VIEW, CAVS[:1], permutations=0, tolerance=None)(IMAGES, [0])
    torch.testing.assert_close(result.signed, explicit.signed)
    torch.testing.assert_close(result.reference, zero.reference)
    assert not torch.allclose(result.signed, zero.signed, atol=1e-4)
    start = VIEW.logits(mean.expand(1, 4, 3, 5))[:, 0]
    torch.testing.assert_close(result.delta[:, 0], VIEW.logits(IMAGES)[:, 0] - start)


def test_the_mean_of_different_negatives_is_an_error() -> None:
    with pytest.raises(PellucidError, match="fitted against different negatives"):
        VisualTCAV(VIEW, CAVS, baseline="negatives")(IMAGES, [0])


def _status(view: pl.classifiers.LayerView, cav: CAV, images: Tensor, target: int = 0) -> tuple[Status, Status, float]:
    result = VisualTCAV(view, [cav], permutations=0)(images, target)
    return result.status[0, 0, 0], result.signed_status[0, 0, 0], float(result.reference[0, 0, 0])


LINEAR = view_of(LinearHead(HAND_W, HAND_B), (3, 2, 2))


@pytest.mark.parametrize(
    ("direction", "low", "high", "images", "target", "expected"),
    [
        (HAND_P, 2.0, 2.0, HAND_F, 0, Status.NOT_SEPARABLE),
        (HAND_P, 2.0, 0.1, HAND_F, 0, Status.NOT_SEPARABLE),
        (HAND_P, 50.0, 60.0, HAND_F, 0, Status.EMPTY_MAP),
        (HAND_P.abs(), 0.1, 2.0, -HAND_F, 0, Status.EMPTY_MAP),
        (torch.zeros(3), 0.0, 1.0, HAND_F, 0, Status.NO_POSITIVE_DIRECTION),
        (-HAND_P.abs(), 0.1, 2.0, HAND_F, 0, Status.NO_POSITIVE_DIRECTION),
        (HAND_P, 0.1, 2.0, torch.tensor([1.0, 0.0, -30.0])[:, None, None] * HAND_F, 0, Status.CLASS_WEIGHT_ZERO),
        (torch.tensor([0.0, 1.0, 0.0]), 0.1, 2.0, HAND_F, 0, Status.NO_EVIDENCE),
    ],
)
def test_every_zero_has_its_reason(
    direction: Tensor, low: float, high: float, images: Tensor, target: int, expected: Status
) -> None:
    status, _, score = _status(LINEAR, cav_for(LINEAR, direction, low, high), images[None], target)
    assert score == 0
    assert status == expected
    assert status.explanation.startswith("0: ")


def test_a_class_below_its_baseline_has_no_reference_score_but_signed_evidence() -> None:
    images = torch.tensor([1.0, 0.0, -30.0])[:, None, None] * HAND_F
    status, signed_status, score = _status(LINEAR, cav_for(LINEAR, HAND_P, 0.1, 2.0), images[None])
    assert (status, signed_status, score) == (Status.CLASS_WEIGHT_ZERO, Status.OK, 0.0)


def test_a_weak_cav_and_a_coarse_path_are_told_of() -> None:
    weak = dataclasses.replace(CAVS[0], auc=0.6)
    result = VisualTCAV(VIEW, [weak], permutations=0, tolerance=1e-12, max_steps=50)(IMAGES, [0])
    assert set(result.status.flatten()) == {Status.CAV_WEAK}
    assert set(result.signed_status.flatten()) == {Status.NOT_CONVERGED}


def test_local_p_values_are_ranks_among_relabelled_directions_under_the_concepts_own_emblems() -> None:
    explainer = VisualTCAV(VIEW, CAVS, permutations=39, tolerance=None, seed=5)
    result = explainer(IMAGES, [0, 1])
    plain = VisualTCAV(VIEW, CAVS[:1], permutations=0, tolerance=None)(IMAGES, [0, 1])
    nulls = null_directions(CAVS[0], 39, seed=5)
    larger, larger_reference = torch.ones(3, 2), torch.ones(3, 2)
    for index, null in enumerate(nulls):
        # One null direction is one CAV with the emblems of the concept.
        cav = dataclasses.replace(CAVS[0], direction=null, name=f"null {index}")
        scores = VisualTCAV(VIEW, [cav], permutations=0, tolerance=None)(IMAGES, [0, 1])
        larger += (scores.signed[:, 0].abs() >= plain.signed[:, 0].abs()).float()
        larger_reference += (scores.reference[:, 0] >= plain.reference[:, 0]).float()
    torch.testing.assert_close(result.p_values[:, 0].float(), larger / 40)  # type: ignore[index]
    torch.testing.assert_close(result.reference_p_values[:, 0].float(), larger_reference / 40)  # type: ignore[index]


def test_p_values_are_adjusted_within_each_image_and_over_layers() -> None:
    result = VisualTCAV(VIEW, CAVS, permutations=39, correction="holm")(IMAGES, [0, 1])
    assert result.p_values is not None
    assert result.adjusted_p_values is not None
    for n in range(3):
        torch.testing.assert_close(result.adjusted_p_values[n], correct(result.p_values[n], "holm"))
    first, second = adjust_over_layers([result, result], "bonferroni")
    torch.testing.assert_close(first, (result.p_values * 8).clamp(max=1))
    torch.testing.assert_close(first, second)


def test_permutations_that_are_too_few_for_the_correction_are_told_of() -> None:
    few = VisualTCAV(VIEW, CAVS, permutations=39, correction="holm")(IMAGES, [0, 1])
    assert any("39 permutations cannot make 4 p-values adjusted by holm fall below 0.1" in note for note in few.notes)
    enough = VisualTCAV(VIEW, CAVS, permutations=79, correction="holm")(IMAGES, [0, 1])
    assert not any("permutations" in note for note in enough.notes)


def test_explaining_works_under_inference_mode() -> None:
    expected = VisualTCAV(VIEW, CAVS, permutations=9)(IMAGES, [0])
    with torch.inference_mode():
        result = VisualTCAV(VIEW, CAVS, permutations=9)(IMAGES.clone(), [0])
    torch.testing.assert_close(result.signed, expected.signed)


def test_without_permutations_there_are_no_p_values() -> None:
    result = VisualTCAV(VIEW, CAVS, permutations=0)(IMAGES, [0])
    assert result.p_values is result.adjusted_p_values is result.reference_p_values is None
    assert all(row["p_value"] is None for row in result.rows())
    with pytest.raises(PellucidError, match="has no p-values"):
        adjust_over_layers([result])


@pytest.mark.slow
def test_a_concept_made_of_chance_is_found_significant_no_more_often_than_stated() -> None:
    generator = torch.Generator().manual_seed(11)
    view, hits, trials = curved_view(channels=10), 0, 120
    for _ in range(trials):
        pool = torch.randn(30, 10, 3, 5, generator=generator) + torch.randn(30, 10, 1, 1, generator=generator)
        cav = _quiet_fit(view, pool[:15], pool[15:])
        image = torch.randn(1, 10, 3, 5, generator=generator) + torch.randn(1, 10, 1, 1, generator=generator)
        result = VisualTCAV(view, [cav], permutations=39, tolerance=None)(image, [0])
        hits += int(float(result.p_values[0, 0, 0]) <= 0.1)  # type: ignore[index]
    assert hits / trials < 0.1 + 2 * (0.1 * 0.9 / trials) ** 0.5


def _quiet_fit(view: pl.classifiers.LayerView, concept: Tensor, negatives: Tensor) -> CAV:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit_cav(view, concept, negatives, options=FitOptions(splits=1, resamples=2))


def test_resamples_give_the_scores_of_the_resampled_cavs() -> None:
    explainer = VisualTCAV(VIEW, CAVS, permutations=0, tolerance=None)
    result = explainer.explain(IMAGES, [0, 1], resample=True)
    assert result.resamples is not None
    for index in range(4):
        low, high = CAVS[1].resample_emblems[index].tolist()
        cav = dataclasses.replace(CAVS[1], direction=CAVS[1].resamples[index], emblems=Emblems(low, high))
        alone = VisualTCAV(VIEW, [cav], permutations=0, tolerance=None)(IMAGES, [0, 1])
        torch.testing.assert_close(result.resamples.signed[:, 1, index], alone.signed[:, 0], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(result.resamples.reference[:, 1, index], alone.reference[:, 0], atol=1e-6, rtol=1e-4)


def test_correlated_concepts_are_named_and_their_evidence_is_shared() -> None:
    twin = dataclasses.replace(CAVS[0], name="twin")
    result = VisualTCAV(VIEW, [CAVS[0], twin], permutations=0)(IMAGES, [0])
    assert any("one and twin are correlated (cosine 1.00)" in note for note in result.notes)
    torch.testing.assert_close(result.joint.contributions[:, 0], result.joint.contributions[:, 1])
    torch.testing.assert_close(result.gram, torch.ones(2, 2).double())


def test_shapley_sharing_can_be_chosen() -> None:
    least, fair = (
        VisualTCAV(VIEW, CAVS, permutations=0, joint=method)(IMAGES, [0]).joint
        for method in ("least_squares", "shapley")
    )
    torch.testing.assert_close(least.residual, fair.residual, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(least.contributions, fair.contributions, atol=1e-5)


def test_a_layer_without_extent_works_and_says_that_there_is_no_map() -> None:
    view = view_of(LinearHead(HAND_W, HAND_B), (3, 2, 2), "pool")
    result = VisualTCAV(view, [cav_for(view, HAND_P, 0.1, 2.0)], permutations=0)(HAND_F[None], [0])
    assert result.maps.shape == (1, 1, 1, 1)
    assert any("'pool' has no spatial extent" in note for note in result.notes)
    raw = float(HAND_P @ HAND_F.mean((1, 2)))
    assert float(result.maps) == pytest.approx((raw - 0.1) / 1.9)


def test_one_logit_has_a_score_for_the_class_and_against_it() -> None:
    view = view_of(Function(lambda x: (x[:, 0] - x[:, 1]).mean((1, 2))[:, None]), (2, 2, 2))
    images = torch.tensor([[[[2.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]]])
    cavs = [cav_for(view, torch.eye(2)[side], 0.0, 1.0, name=f"channel {side}") for side in (0, 1)]
    result = VisualTCAV(view, cavs, permutations=0)(images)
    assert result.targets == (("class 0", "not class 0"),)
    # IG = (2, -1) / 4 in one cell each: masses .5 and .25, weights 1 and .5.
    torch.testing.assert_close(result.reference[0], torch.tensor([[1.0, 0.0], [0.0, 0.5]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.signed[0], torch.tensor([[0.5, -0.5], [-0.25, 0.25]]), atol=1e-5, rtol=0)


def test_two_classes_work_like_many() -> None:
    view = curved_view(classes=2)
    result = VisualTCAV(view, [cav_for(view, CAVS[0].direction)], permutations=0)(IMAGES)
    assert result.signed.shape == (3, 1, 2)


def test_the_map_of_a_token_grid_is_its_grid() -> None:
    from tests.networks import NETWORKS, images

    classifier = pl.Classifier(NETWORKS["vit"](), input_size=(3, 32, 32))
    view = next(
        classifier.at(layer.name)
        for layer in classifier.layers()
        if len(layer.shape) == 3 and layer.kind and layer.shape[1:] not in ((32, 32), (1, 1))
    )
    x = images("vit", 24)
    cav = _quiet_fit(view, x[:12] + 0.5, x[12:])
    result = VisualTCAV(view, [cav], permutations=9)(x[:2])
    assert result.maps.shape[2:] == view.activation(x[:1]).shape[2:]
    assert bool(result.signed.isfinite().all())


def test_explaining_leaves_the_network_and_the_random_state_as_they_were() -> None:
    module = VIEW.classifier._module
    before, state = module.salt.clone(), torch.random.get_rng_state()
    VisualTCAV(VIEW, CAVS)(IMAGES, [0])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(module.salt, before)
    assert module.salt.grad is None


@pytest.mark.parametrize(
    ("cavs", "message"),
    [
        ([], "no concepts to explain with"),
        ([CAVS[0], CAVS[0]], "same name: one"),
        ([make_cav(HAND_P, layer="layer4")], "fitted at layer 'layer4', this view is at 'input'"),
        ([make_cav(HAND_P, fingerprint="other")], "whose weights are not those of this classifier"),
        (
            [cav_for(VIEW, torch.ones(60), options={"features": "flattened"})],
            "concept: fitted to flattened activations",
        ),
    ],
)
def test_cavs_that_do_not_belong_here_are_errors(cavs: list[CAV], message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        VisualTCAV(VIEW, cavs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "grey"}, "unknown baseline 'grey'"),
        ({"correction": "fdr"}, "unknown correction 'fdr'"),
        ({"joint": "fair"}, "unknown joint attribution"),
        ({"permutations": -1}, "permutations >= 0"),
        ({"tolerance": 0.0}, "tolerance > 0"),
    ],
)
def test_options_that_make_no_sense_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        VisualTCAV(VIEW, CAVS, **options)  # type: ignore[arg-type]


def test_no_images_unknown_classes_and_numbers_that_are_none_are_errors() -> None:
    explainer = VisualTCAV(VIEW, CAVS)
    with pytest.raises(PellucidError, match="the batch is empty"):
        explainer(IMAGES[:0])
    with pytest.raises(TargetError, match="no class 'zebra'"):
        explainer(IMAGES, "zebra")
    with pytest.raises(ModelError, match="NaN or infinite"):
        explainer(IMAGES * torch.nan)


def test_a_status_prints_as_its_words() -> None:
    assert str(Status.EMPTY_MAP) == "empty map"
    assert all(status.explanation for status in Status)
    result = VisualTCAV(VIEW, CAVS, permutations=0)(IMAGES, [0])
    assert np.mean(result.status == "ok") + np.mean(result.status != "ok") == 1


def test_a_shared_fit_can_be_explained_against_the_mean_of_its_negatives() -> None:
    images = torch.randn(34, 4, 3, 5)
    cavs = fit_cavs(VIEW, {"a": images[:11] + 1, "b": images[11:22] - 1}, images[22:])
    result = VisualTCAV(VIEW, cavs, baseline="negatives")(IMAGES, [0])
    assert bool(result.signed.isfinite().all())
