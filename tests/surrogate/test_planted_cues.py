"""The experiments on planted cues and architectures: their measures against surrogates and images that are known."""

from pathlib import Path

import pytest
import torch
from experiments.surrogate.architectures.networks import NETWORKS
from experiments.surrogate.architectures.run import CONTEXTS, draw_strokes, versions_of
from experiments.surrogate.planted_cues.digits import correlation_ratio, planted_margin, remembered
from experiments.surrogate.planted_cues.effects import (
    causal_effects,
    interventions,
    plain_correlation,
    true_effects,
)
from experiments.surrogate.planted_cues.run import ratios
from tests.surrogate.linear_surrogate import LinearSurrogate, encoded
from torch import Tensor

from pellucid import Classifier
from pellucid.data import ContextTable
from pellucid.surrogate import EncodedBatch
from pellucid.surrogate.model.features import FeatureExtractor


class ScaledSurrogate(LinearSurrogate):
    """The linear surrogate, its contexts told in units of a table: twice as large, and one more."""

    def context_values(self, standard: Tensor) -> Tensor:
        return 2 * standard + 1

    def standard_context(self, values: Tensor) -> Tensor:
        return (values - 1) / 2


def drawn_truly(explainer: ScaledSurrogate, batch: EncodedBatch, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the images are with each context set as `interventions` asks, all else held."""
    result = {}
    for column, (name, column_values) in enumerate(values.items()):
        rows = []
        for row in interventions(column_values):
            change = torch.zeros_like(batch.codes.to_vector())
            change[:, column] = (row - column_values) / 2
            rows.append(batch.images + (change @ explainer.basis).view(-1, 1, 4, 4))
        result[name] = torch.stack(rows)
    return result


def test_the_effects_of_a_perfect_surrogate_are_the_true_ones() -> None:
    explainer = ScaledSurrogate((2.0, 0.0, 1.0))
    batch = encoded(explainer, 40)
    values = dict(zip(explainer.context_names, explainer.context_values(batch.codes.context).T, strict=True))
    truth = true_effects(explainer.logits, batch.images, batch.images, drawn_truly(explainer, batch, values))
    usable = torch.ones(2, 40, dtype=torch.bool)
    usable[0, :10] = False
    result = causal_effects(batch, batch, explainer.standard_context, values, truth, usable)
    width, gray = result.values()
    drawn = causal_effects(batch.reconstructed(), batch, explainer.standard_context, values, truth, usable)
    assert drawn["width"]["reach"] == pytest.approx(width["reach"], rel=1e-4)
    assert width["images"] == 30
    assert width["strength"] == pytest.approx(width["true_strength"], rel=1e-4)
    assert width["flips"] == width["true_flips"] > 0
    assert width["correlation"] == pytest.approx(1, abs=1e-4)
    low, high = torch.quantile(values["width"], torch.tensor([0.05, 0.95])).tolist()
    assert width["reach"] == pytest.approx(high - low, rel=1e-4)  # 2 logits per standard unit, 2 units in the table
    assert gray["reach"] == pytest.approx(0, abs=1e-4)
    assert gray["strength"] == pytest.approx(0, abs=1e-4)


def test_correlation_blames_what_is_tied_to_the_cue() -> None:
    cue = torch.randn(500, generator=torch.Generator().manual_seed(0))
    tied = 0.91 * cue + (1 - 0.91**2) ** 0.5 * torch.randn(500, generator=torch.Generator().manual_seed(1))
    result = plain_correlation(3 * cue, {"cue": cue, "tied": tied})
    assert result["cue"] == pytest.approx(1)
    assert result["tied"] == pytest.approx(0.91, abs=0.03)


def test_ratios_are_those_of_the_cue_to_its_companion() -> None:
    one, other = ({"strength": s, "true_strength": 2 * s, "reach": 3 * s} for s in (6.0, 2.0))
    reported = {
        "effects": {"thickness": one, "intensity": other},
        "edges": {"thickness": one, "intensity": other},
        "importance": {"thickness": 4.0, "intensity": 1.0},
    }
    row = {"cue": "thickness", "drawn": reported, "plain_correlation": {"thickness": -1.0, "intensity": 0.8}}
    result = ratios(row, "drawn")
    assert result == {"edge": 3, "importance": 4, "reach": 3, "truth": 3, "plain correlation": 1.25}


def test_the_correlation_ratio_is_the_share_of_the_variance_between_groups() -> None:
    group = torch.arange(300) % 3
    assert correlation_ratio(group.float(), group) == pytest.approx(1)
    assert correlation_ratio(torch.arange(300) // 3 % 2 * 1.0, group) == pytest.approx(0, abs=1e-6)
    noisy = group + torch.tensor([-0.5, 0.5]).repeat_interleave(3).repeat(50)
    assert correlation_ratio(noisy, group) == pytest.approx((2 / 3) / (2 / 3 + 0.25), rel=1e-5)


def test_the_planted_margin_is_three_logits_per_standard_deviation_from_the_median() -> None:
    values = torch.tensor([[1.0, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0]], dtype=torch.float64)
    given = ContextTable(CONTEXTS, values)
    result = planted_margin("thickness", values, given)
    torch.testing.assert_close(result, (3 * (values[:, 0] - 2) / values[:, 0].std()).float())


def test_a_remembered_request_is_drawn_once_and_leaves_the_same_random_numbers(tmp_path: Path) -> None:
    requested = []

    def rerender(images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        requested.append(len(images))
        return images + torch.rand(images.shape, generator=random), torch.zeros(len(images), 1)

    recall, images = remembered(rerender, tmp_path / "kept"), torch.zeros(5, 1, 4, 4)
    first, second = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    torch.testing.assert_close(recall(images, first), recall(images, second))
    assert requested == [5]
    assert torch.equal(first.get_state(), second.get_state())
    recall(images, second)
    assert requested == [5, 5]


def test_versions_of_strokes_are_the_same_digits_with_other_pens() -> None:
    strokes = draw_strokes(60, seed=0)
    torch.testing.assert_close(strokes.redrawn(strokes.context.values), strokes.images)
    rows = torch.tensor([41, 7, 23])
    drawn, values = versions_of(strokes)(strokes.images[rows], torch.Generator().manual_seed(1))
    whole = strokes.context.values.float().clone()
    whole[rows] = values
    torch.testing.assert_close(drawn, strokes.redrawn(whole)[rows])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_architecture_is_seen_at_several_layers_without_being_told_which(name: str) -> None:
    network = NETWORKS[name](10).eval()
    features = FeatureExtractor(Classifier(network, input_size=(1, 16, 16), name=name))
    images = torch.randn(2, 1, 16, 16, requires_grad=True)
    seen = features(images)
    assert len(features.layers) >= 2
    assert features.head is not None
    torch.testing.assert_close(seen.logits, network(images))
    seen.phi.square().sum().backward()
    assert bool(images.grad.abs().sum() > 0)
