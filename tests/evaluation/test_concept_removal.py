"""Concept deletion and insertion: closed forms on linear suffixes, and the definition step by step on others."""

from dataclasses import replace

import pytest
import torch
from tests.concepts.support import Function, LinearHead, cav_for, curved_view, view_of
from torch import Tensor, nn

from pellucid.attribution import Target
from pellucid.classifiers import LayerView
from pellucid.concepts import CAV
from pellucid.errors import PellucidError, TargetError
from pellucid.evaluation.metrics import concept_amounts, deletion_rank_correlation, remove_concepts

DIRECTIONS = torch.tensor([[1.0, -0.5, 0.25, 0.0], [0.0, 2.0, 0.0, -1.0], [0.3, 0.3, 0.3, 0.3]])


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear_view() -> LayerView:
    return view_of(LinearHead(random(3, 4), random(3, seed=2)), (4, 3, 5))


def cavs_for(view: LayerView) -> list[CAV]:
    return [cav_for(view, direction, name=f"concept {i}") for i, direction in enumerate(DIRECTIONS)]


def component(image: Tensor, cav: CAV) -> Tensor:
    """D (C, h, w), cell by cell from the definition."""
    p = cav.direction.double()
    usual = sum(float(features.double() @ p / (p @ p)) for features in cav.negative_features)
    usual /= len(cav.negative_features)
    result = torch.zeros(image.shape, dtype=torch.float64)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            alpha = float(image[:, row, column].double() @ p / (p @ p))
            result[:, row, column] = max(alpha - usual, 0.0) * p
    return result


def test_areas_on_a_linear_suffix_have_their_closed_form() -> None:
    view, images = linear_view(), random(4, 4, 3, 5)
    cavs = cavs_for(view)
    curves = remove_concepts(view, images, cavs, [0, 2], clamp=False, max_batch=5)
    logits, bias = view.logits(view.activation(images)).double(), view.logits(torch.zeros(1, 4, 3, 5)).double()
    for index, cav in enumerate(cavs):
        parts = torch.stack([component(image, cav) for image in images]).float()
        linear = (view.logits(parts) - bias).double()[:, [0, 2]]
        assert bool((linear.abs() > 0.01).any())
        expected = logits[:, [0, 2]] - linear / 2
        torch.testing.assert_close(curves.deletion_area[:, index], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(curves.insertion_area[:, index], linear / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize("clamp", [False, True])
def test_curves_follow_the_definition_on_a_curved_suffix(clamp: bool) -> None:
    view, images = curved_view(), random(2, 4, 3, 5)
    images = images.abs() if clamp else images
    cavs = cavs_for(view)
    curves = remove_concepts(view, images, cavs, 1, steps=4)
    assert curves.clamped.tolist() == [clamp, clamp]
    for n, image in enumerate(images):
        for d, cav in enumerate(cavs):
            taken = component(image, cav)

            def score(t: float, image: Tensor = image, taken: Tensor = taken) -> float:
                point = (image.double() - t * taken).float()
                return float(view.logits((point.clamp(min=0) if clamp else point)[None])[0, 1])

            deletion = [score(t) for t in (0, 0.25, 0.5, 0.75, 1)]
            insertion = [score(1 - t) - score(1) for t in (0, 0.25, 0.5, 0.75, 1)]
            assert curves.scores[n, d, 0].tolist() == pytest.approx(deletion, abs=1e-5)
            assert curves.insertion[n, d, 0].tolist() == pytest.approx(insertion, abs=1e-5)


def test_clamping_changes_what_a_negative_activation_would_give() -> None:
    view, images = curved_view(), random(2, 4, 3, 5).abs()
    cavs = cavs_for(view)
    clamped, free = (remove_concepts(view, images, cavs, 0, clamp=clamp).scores for clamp in (None, False))
    assert torch.equal(clamped[..., 0], free[..., 0])
    assert float((clamped - free).abs().max()) > 0.01
    signed = torch.cat([images[:1], -images[1:]])
    assert remove_concepts(view, signed, cavs, 0).clamped.tolist() == [True, False]


def test_batches_change_nothing_and_every_point_is_run_once() -> None:
    view, images = curved_view(), random(5, 4, 3, 5)
    cavs, target = cavs_for(view), Target(torch.tensor([0, 1, 2, 1, 0]), output="log_probability")
    whole = remove_concepts(view, images, cavs, target, max_batch=1000)
    parts = remove_concepts(view, images, cavs, target, max_batch=2)
    torch.testing.assert_close(whole.scores, parts.scores)
    assert whole.targets == parts.targets
    for curves in (whole, parts):
        # One pass of the images themselves, and ten points for each image and concept.
        assert curves.passes.prefix_forward == 5
        assert curves.passes.suffix_forward == 5 + 5 * 3 * 10
        assert curves.passes.suffix_backward == 0


class Skipping(nn.Module):
    """A network whose input crosses the cut behind `first`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.cat([self.first(x).tanh(), x], dim=1)).relu().mean((2, 3))


def test_what_else_crosses_the_cut_goes_along_with_its_image() -> None:
    view = view_of(Skipping(), (3, 4, 4), "first")
    assert view.side_input_names
    images, cavs = random(3, 3, 4, 4), cavs_for(view)
    together = remove_concepts(view, images, cavs, 1, max_batch=7).scores
    alone = torch.cat([remove_concepts(view, image[None], cavs, 1).scores for image in images])
    torch.testing.assert_close(together, alone)


def test_the_longest_of_a_concept_is_what_a_cell_of_its_direction_holds() -> None:
    view = linear_view()
    cav = replace(cavs_for(view)[0], negative_features=torch.zeros(3, 4))
    activation = torch.zeros(1, 4, 1, 3)
    activation[0, :, 0, 0], activation[0, :, 0, 1] = 2 * cav.direction, -cav.direction
    torch.testing.assert_close(concept_amounts(activation, cav), torch.tensor([[[2.0, 0.0, 0.0]]]))


def test_the_ranks_of_true_attributions_are_those_of_the_areas_reversed() -> None:
    view, images = linear_view(), random(4, 4, 3, 5)
    cavs = cavs_for(view)
    curves = remove_concepts(view, images, cavs, [0, 2])
    truth = curves.scores[..., 0] - curves.scores[..., -1]
    assert deletion_rank_correlation(truth, curves).tolist() == [[pytest.approx(-1.0)] * 2] * 4
    assert deletion_rank_correlation(-truth, curves).tolist() == [[pytest.approx(1.0)] * 2] * 4
    half = truth.clone()
    half[:, [0, 1]] = half[:, [1, 0]]
    from scipy.stats import spearmanr

    result = deletion_rank_correlation(half, curves)
    for n in range(4):
        for t in range(2):
            expected = spearmanr(half[n, :, t].numpy(), curves.deletion_area[n, :, t].numpy()).statistic
            assert float(result[n, t]) == pytest.approx(expected)
    assert bool(deletion_rank_correlation(torch.ones(4, 3, 2), curves).isnan().all())


def test_a_concept_that_cannot_be_taken_out_is_refused() -> None:
    view, images = linear_view(), random(2, 4, 3, 5)
    with pytest.raises(PellucidError, match="length zero"):
        remove_concepts(view, images, [cav_for(view, torch.zeros(4))], 0)
    with pytest.raises(PellucidError, match="flattened"):
        remove_concepts(view, images, [cav_for(view, torch.ones(60), options={"features": "flattened"})], 0)
    with pytest.raises(PellucidError, match="at least 1"):
        remove_concepts(view, images[:0], cavs_for(view), 0)
    with pytest.raises(PellucidError, match="layer"):
        remove_concepts(view, images, [cav_for(view, torch.ones(4), layer="elsewhere")], 0)
    with pytest.raises(TargetError):
        remove_concepts(view, images, cavs_for(view), 9)
    with pytest.raises(PellucidError, match="the same"):
        deletion_rank_correlation(torch.ones(2, 3), remove_concepts(view, images, cavs_for(view), 0))


def test_a_layer_that_ignores_a_concept_loses_nothing_without_it() -> None:
    blind = view_of(Function(lambda x: x[:, 2:].mean((2, 3)).square()), (4, 3, 5))
    curves = remove_concepts(blind, random(3, 4, 3, 5), [cav_for(blind, torch.tensor([1.0, 1.0, 0.0, 0.0]))], 0)
    torch.testing.assert_close(curves.deletion_area[:, 0], curves.scores[:, 0, :, 0])
    assert not curves.insertion_area.any()
