"""What is measured to move against what a linear twin must move."""

import pytest
import torch
from tests.surrogate.linear_twin import LinearTwin, painted

from pellucid.errors import PellucidError
from pellucid.surrogate.assess.leakage import ENDS, concept_leakage, measure_intervention
from pellucid.surrogate.model.codes import Codes


def test_in_a_clean_twin_only_what_is_set_moves_and_by_as_much_as_asked() -> None:
    surrogate = LinearTwin()
    batch = painted(surrogate, 60)
    moved = concept_leakage(batch, surrogate.perceived_context)
    context = batch.codes.context
    low, high = torch.quantile(context, torch.tensor(ENDS), dim=0)
    wanted = ((context - low).abs().mean(0) + (context - high).abs().mean(0)) / 2
    assert moved.coordinates == ("width", "grey", "u0")
    assert moved.contexts == ("width", "grey")
    expected = torch.cat([wanted.diag(), torch.zeros(1, 2)])
    assert torch.allclose(torch.tensor(moved.change), expected, atol=1e-5)
    assert torch.allclose(
        torch.tensor(moved.signed_change), torch.cat([(high - low).diag(), torch.zeros(1, 2)]), atol=1e-5
    )
    assert moved.images == (60, 60, 60)


class Tied(LinearTwin):
    """The latent also takes half of itself from the grey that is drawn."""

    def decode(self, codes: Codes) -> torch.Tensor:
        context = torch.stack([codes.context[:, 0], codes.context[:, 1] - codes.latent[:, 0] / 2], 1)
        return super().decode(Codes(context, codes.latent, codes.nuisance))


def test_a_latent_that_darkens_the_image_is_found_out_with_its_sign() -> None:
    surrogate = Tied()
    batch = painted(surrogate, 60)
    moved = concept_leakage(batch, surrogate.perceived_context)
    low, high = torch.quantile(batch.codes.latent[:, 0], torch.tensor(ENDS))
    assert moved.signed_change[2][1] == pytest.approx(-float(high - low) / 2, abs=1e-5)
    assert moved.change[2][1] > 0.3
    assert moved.change[2][0] == pytest.approx(0, abs=1e-5)


def test_transferred_changes_are_held_against_the_image_itself() -> None:
    surrogate = LinearTwin(blind=True)  # draws nothing, so nothing moves, however poor the redrawing
    moved = concept_leakage(painted(surrogate, 20), surrogate.perceived_context, transferred=True)
    assert torch.tensor(moved.change).abs().max() < 1e-5


def test_images_that_cannot_be_measured_are_left_out() -> None:
    surrogate = LinearTwin()
    batch = painted(surrogate, 40)

    def measure(images: torch.Tensor) -> torch.Tensor:
        found = surrogate.perceived_context(images)
        found[::4, 1] = torch.nan
        return found

    told: list[tuple[int, int]] = []
    moved = concept_leakage(batch, measure, on_progress=lambda done, total: told.append((done, total)))
    assert moved.images == (30, 30, 30)
    assert torch.tensor(moved.change).isfinite().all()
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_coordinate_may_be_set_to_a_value_of_each_image() -> None:
    surrogate = LinearTwin()
    batch = painted(surrogate, 10)
    asked = torch.linspace(-1, 1, 10)
    found = measure_intervention(batch, 0, asked, surrogate.perceived_context)
    assert torch.allclose(found[:, 0], asked, atol=1e-5)
    assert torch.allclose(found[:, 1], batch.codes.context[:, 1], atol=1e-5)


def test_what_moves_refuses_no_images_and_ends_that_are_none() -> None:
    batch = painted(LinearTwin(), 5)
    with pytest.raises(PellucidError, match="quantiles"):
        concept_leakage(batch, batch.surrogate.perceived_context, ends=(0.9, 0.1))
    with pytest.raises(PellucidError, match="wanted images"):
        concept_leakage(batch[:0], batch.surrogate.perceived_context)
