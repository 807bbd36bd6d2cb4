"""Bars: drawn exactly, caused as stated, and classified by nothing but what was planted."""

import numpy as np
import pytest
import torch

import pellucid as pl
from pellucid.data import ContextTable
from pellucid.errors import PellucidError
from pellucid.synthetic import BAR_FEATURES, IntensityClassifier, ThicknessClassifier, bars_model, draw_bars


def test_a_bar_between_pixels_has_known_pixels() -> None:
    (image,) = draw_bars(torch.tensor([[3.5, 0.8, 7.0]]))  # from 5.25 to 8.75
    row = np.zeros(16)
    row[5:9] = 0.8 * np.array([0.75, 1, 1, 0.75])
    expected = np.zeros((16, 16))
    expected[2:14] = row
    assert np.allclose(image[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("size", [8, 16, 24, 64])
def test_ink_and_center_are_those_asked_for_at_every_size(size: int) -> None:
    context = bars_model().sample(200, seed=1)
    images = draw_bars(context, size)[:, 0].double()
    thickness, intensity, position = context.values.unbind(1)
    ink = images.sum((1, 2)) * (16 / size) ** 2
    assert torch.allclose(ink, thickness * intensity * 12, rtol=1e-5)
    x = (torch.arange(size) + 0.5) * 16 / size
    center = images.sum(1) @ x.double() / images.sum((1, 2))
    assert torch.allclose(center, position, atol=0.5 * 16 / size)  # the edges' pixels are spread evenly


def test_a_fine_image_averages_to_a_coarse_one() -> None:
    context = bars_model().sample(20)
    fine = draw_bars(context, 64)
    assert torch.allclose(torch.nn.functional.avg_pool2d(fine, 4), draw_bars(context, 16), atol=1e-6)


def test_drawing_is_differentiable() -> None:
    values = torch.tensor([[3.3, 0.8, 7.1]], dtype=torch.float64, requires_grad=True)
    draw_bars(values).sum().backward()
    assert torch.allclose(values.grad, torch.tensor([[0.8 * 12, 3.3 * 12, 0.0]], dtype=torch.float64), atol=1e-4)


def test_the_default_model_ties_thickness_and_intensity_at_091() -> None:
    context = bars_model().sample(100_000)
    correlations = torch.corrcoef(context.values.T)
    assert correlations[0, 1] == pytest.approx(0.91, abs=0.005)
    assert correlations[0, 2] == pytest.approx(0, abs=0.01)
    assert context.column("thickness").mean() == pytest.approx(4.5, abs=0.01)
    assert context.column("thickness").var() == pytest.approx(25 / 20, abs=0.01)


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.51, 0.95])
def test_the_tie_can_be_chosen(correlation: float) -> None:
    context = bars_model(correlation).sample(100_000)
    drive = torch.logit((context.column("intensity") - 0.3) / 0.7)
    tie = torch.corrcoef(torch.stack([context.column("thickness"), drive]))[0, 1]
    assert tie == pytest.approx(correlation, abs=0.01)
    with pytest.raises(PellucidError, match="between -1 and 1"):
        bars_model(1.0)


def test_counterfactuals_follow_the_stated_equation() -> None:
    context = bars_model().sample(500, seed=3)
    changed = bars_model().counterfactual(context, {"thickness": 6.0})
    noise = (torch.logit((context.column("intensity") - 0.3) / 0.7) - 1.4 * (context.column("thickness") - 4.5)) / 0.7
    expected = 0.3 + 0.7 * torch.sigmoid(1.4 * 1.5 + 0.7 * noise)
    assert torch.allclose(changed.column("intensity"), expected, atol=1e-9)
    assert torch.equal(changed.column("position"), context.column("position"))


def test_planted_classifiers_compute_their_formula() -> None:
    context = bars_model().sample(50)
    images = draw_bars(context)
    flat = images.double().numpy().reshape(50, -1)
    weights = np.exp(50 * flat)
    soft_maximum = (flat * weights).sum(1) / weights.sum(1)
    width = flat.sum(1) / soft_maximum / 12
    for classifier, margin in (
        (IntensityClassifier(), 20 * (soft_maximum - 0.65)),
        (ThicknessClassifier(), 3.5 * (width - 4.5)),
    ):
        logits = classifier(images).double().numpy()
        assert np.allclose(logits, np.stack([-margin / 2, margin / 2], 1), atol=1e-4)


def test_planted_classifiers_read_the_very_value_where_edges_fall_between_pixels() -> None:
    grid = torch.cartesian_prod(torch.tensor([2.0, 4.0, 6.0]), torch.tensor([0.3, 0.6, 1.0]), torch.tensor([6.0, 9.0]))
    images = draw_bars(grid)
    read_intensity = 2 * IntensityClassifier(1.0, 0.0)(images)[:, 1]
    read_thickness = 2 * ThicknessClassifier(1.0, 0.0)(images)[:, 1]
    assert torch.allclose(read_intensity, grid[:, 1], rtol=1e-4)
    assert torch.allclose(read_thickness, grid[:, 0], rtol=1e-4)


@pytest.mark.parametrize("size", [16, 32])
def test_planted_classifiers_read_within_3_percent_anywhere(size: int) -> None:
    context = bars_model(0.0).sample(2000)
    images = draw_bars(context, size)
    for classifier, name in (
        (IntensityClassifier(1.0, 0.0), "intensity"),
        (ThicknessClassifier(1.0, 0.0), "thickness"),
    ):
        read = 2 * classifier(images)[:, 1].double()
        assert (read / context.column(name) - 1).abs().max() < 0.03


@pytest.mark.parametrize(
    ("classifier", "cause", "other"),
    [(ThicknessClassifier(), "thickness", "intensity"), (IntensityClassifier(), "intensity", "thickness")],
)
def test_intervening_on_the_planted_cause_alone_moves_the_decision(
    classifier: torch.nn.Module, cause: str, other: str
) -> None:
    context = bars_model().sample(1000)

    def reach(name: str) -> float:
        levels = context.column(name).quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64))
        means = [classifier(draw_bars(context.with_columns({name: float(level)})))[:, 1].mean() * 2 for level in levels]
        return float(max(means) - min(means))

    assert reach(cause) > 12
    assert reach(other) < 0.05


def test_planted_classifiers_are_classifiers_of_the_package() -> None:
    context = bars_model().sample(8)
    images = draw_bars(context, 32)
    for module in (IntensityClassifier(), ThicknessClassifier()):
        classifier = pl.Classifier(module.eval(), class_names=["low", "high"], input_size=(1, 32, 32))
        assert classifier.num_classes == 2
        assert torch.allclose(classifier.logits(images), module(images))
        assert torch.allclose(module(images.expand(-1, 3, -1, -1)), module(images), atol=1e-5)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(PellucidError, match=r"\(N, 3\)"):
        draw_bars(torch.zeros(3, 2))
    with pytest.raises(PellucidError, match="no context column 'position'"):
        draw_bars(ContextTable(BAR_FEATURES[:2], torch.zeros(3, 2)))
