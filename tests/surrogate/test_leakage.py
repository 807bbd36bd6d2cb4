"""What is measured to move against what a linear surrogate must move."""

import pytest
import torch
from tests.surrogate.linear_surrogate import LinearSurrogate, encoded

from pellucid.errors import PellucidError
from pellucid.surrogate.assess.leakage import ContextMeasurement, concept_leakage, measure_intervention
from pellucid.surrogate.model.codes import Codes


def test_in_a_clean_surrogate_only_what_is_set_changes_and_by_as_much_as_requested() -> None:
    surrogate = LinearSurrogate()
    batch = encoded(surrogate, 60)
    moved = concept_leakage(batch, ContextMeasurement(surrogate.perceived_context))
    context = batch.codes.context
    low, high = torch.quantile(context, torch.tensor((0.05, 0.95)), dim=0)
    target_value = ((context - low).abs().mean(0) + (context - high).abs().mean(0)) / 2
    assert moved.coordinates == ("width", "gray", "u0")
    assert moved.contexts == ("width", "gray")
    expected = torch.cat([target_value.diag(), torch.zeros(1, 2)])
    assert torch.allclose(torch.tensor(moved.change), expected, atol=1e-5)
    assert torch.allclose(
        torch.tensor(moved.signed_change), torch.cat([(high - low).diag(), torch.zeros(1, 2)]), atol=1e-5
    )
    assert moved.num_images == (60, 60, 60)


class Tied(LinearSurrogate):
    """The latent also takes half of itself from the grey that is drawn."""

    def decode(self, codes: Codes) -> torch.Tensor:
        context = torch.stack([codes.context[:, 0], codes.context[:, 1] - codes.latent[:, 0] / 2], 1)
        return super().decode(Codes(context, codes.latent, codes.nuisance))


def test_a_latent_that_darkens_the_image_is_found_out_with_its_sign() -> None:
    surrogate = Tied()
    batch = encoded(surrogate, 60)
    moved = concept_leakage(batch, ContextMeasurement(surrogate.perceived_context))
    low, high = torch.quantile(batch.codes.latent[:, 0], torch.tensor((0.05, 0.95)))
    assert moved.signed_change[2][1] == pytest.approx(-float(high - low) / 2, abs=1e-5)
    assert moved.change[2][1] > 0.3
    assert moved.change[2][0] == pytest.approx(0, abs=1e-5)


def test_transferred_changes_are_held_against_the_image_itself() -> None:
    surrogate = LinearSurrogate(blind=True)  # draws nothing, so nothing moves, however poor the redrawing
    moved = concept_leakage(
        encoded(surrogate, 20), ContextMeasurement(surrogate.perceived_context, residual_transfer=True)
    )
    assert torch.tensor(moved.change).abs().max() < 1e-5


def test_images_that_cannot_be_measured_are_left_out() -> None:
    surrogate = LinearSurrogate()
    batch = encoded(surrogate, 40)

    def measure(images: torch.Tensor) -> torch.Tensor:
        result = surrogate.perceived_context(images)
        result[::4, 1] = torch.nan
        return result

    reported: list[tuple[int, int]] = []
    moved = concept_leakage(
        batch, ContextMeasurement(measure), on_progress=lambda done, total: reported.append((done, total))
    )
    assert moved.num_images == (30, 30, 30)
    assert torch.tensor(moved.change).isfinite().all()
    assert reported == [(1, 3), (2, 3), (3, 3)]


def test_a_coordinate_may_be_set_to_a_value_of_each_image() -> None:
    surrogate = LinearSurrogate()
    batch = encoded(surrogate, 10)
    requested = torch.linspace(-1, 1, 10)
    result = measure_intervention(batch, 0, requested, ContextMeasurement(surrogate.perceived_context))
    assert torch.allclose(result[:, 0], requested, atol=1e-5)
    assert torch.allclose(result[:, 1], batch.codes.context[:, 1], atol=1e-5)


def test_leakage_refuses_no_images_and_quantiles_that_do_not_increase() -> None:
    batch = encoded(LinearSurrogate(), 5)
    with pytest.raises(PellucidError, match="quantiles"):
        concept_leakage(batch, ContextMeasurement(batch.surrogate.perceived_context), quantiles=(0.9, 0.1))
    with pytest.raises(PellucidError, match="give images"):
        concept_leakage(batch[:0], ContextMeasurement(batch.surrogate.perceived_context))
