"""Joint attribution: additive, complete on a basis, fair to correlated concepts."""

from itertools import permutations

import pytest
import torch
from tests.concepts.support import curved_view
from torch import Tensor

from pellucid.attribution import Case, integrate_path
from pellucid.concepts.joint import gram_matrix, joint_attribution, sharing_rule
from pellucid.errors import PellucidError

GENERATOR = torch.Generator().manual_seed(0)
DIFFERENCE = torch.randn(2, 4, 2, 3, generator=GENERATOR).double()
GRADIENT = torch.randn(2, 3, 4, 2, 3, generator=GENERATOR).double()
DELTA = torch.einsum("nchw,ntchw->nt", DIFFERENCE, GRADIENT)
DIRECTIONS = torch.randn(3, 4, generator=GENERATOR).double()


def _share(directions: Tensor, method: str = "least_squares") -> tuple[Tensor, Tensor]:
    rule = sharing_rule(gram_matrix(directions), method)  # type: ignore[arg-type]
    result = joint_attribution(DIFFERENCE, GRADIENT, directions, DELTA, rule)
    return result.contributions, result.residual


def _in_span(directions: Tensor) -> Tensor:
    """Evidence (N, T) of the activation's orthogonal projection on the span."""
    if not len(directions):
        return torch.zeros_like(DELTA)
    projector = torch.linalg.pinv(directions) @ directions
    return torch.einsum("nchw,cd,ntdhw->nt", DIFFERENCE, projector, GRADIENT)


def test_cosines_are_those_of_the_unit_directions() -> None:
    gram = gram_matrix(torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    expected = torch.tensor([[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 0]]).double()
    torch.testing.assert_close(gram, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("method", ["least_squares", "shapley"])
def test_contributions_and_residual_add_up_to_the_whole(method: str) -> None:
    contributions, residual = _share(DIRECTIONS, method)
    torch.testing.assert_close(contributions.sum(1) + residual, DELTA)
    torch.testing.assert_close(contributions.sum(1), _in_span(DIRECTIONS))


def test_least_squares_gives_each_concept_its_own_coefficient_times_its_gradient() -> None:
    contributions, _ = _share(DIRECTIONS)
    unit = torch.nn.functional.normalize(DIRECTIONS, dim=1)
    for n in range(2):
        cells = DIFFERENCE[n].flatten(1)  # (C, cells)
        coefficients = torch.linalg.lstsq(unit.T, cells).solution  # (D, cells)
        for t in range(3):
            along = unit @ GRADIENT[n, t].flatten(1)
            torch.testing.assert_close(contributions[n, :, t], (coefficients * along).sum(1))


def test_shapley_values_are_averages_over_all_orders() -> None:
    contributions, _ = _share(DIRECTIONS, "shapley")
    expected = torch.zeros_like(contributions)
    orders = list(permutations(range(3)))
    for order in orders:
        for place, concept in enumerate(order):
            gain = _in_span(DIRECTIONS[list(order[: place + 1])]) - _in_span(DIRECTIONS[list(order[:place])])
            expected[:, concept] += gain / len(orders)
    torch.testing.assert_close(contributions, expected)


@pytest.mark.parametrize("method", ["least_squares", "shapley"])
def test_orthogonal_concepts_keep_what_they_have_alone(method: str) -> None:
    basis = torch.linalg.qr(DIRECTIONS.T)[0].T
    contributions, _ = _share(basis, method)
    for d in range(3):
        torch.testing.assert_close(contributions[:, d], _in_span(basis[d : d + 1]))


def test_two_names_for_one_concept_share_its_evidence_equally() -> None:
    twice = torch.stack([DIRECTIONS[0], 2 * DIRECTIONS[0]])
    for method in ("least_squares", "shapley"):
        contributions, _ = _share(twice, method)
        torch.testing.assert_close(contributions[:, 0], contributions[:, 1])
        torch.testing.assert_close(contributions.sum(1), _in_span(twice[:1]))


def test_a_concept_without_direction_gets_nothing() -> None:
    contributions, _ = _share(torch.cat([DIRECTIONS[:1], torch.zeros(1, 4).double()]), "shapley")
    assert not bool(contributions[:, 1].any())


def test_a_basis_of_channel_space_explains_all_but_the_completeness_gap() -> None:
    view, images = curved_view(), torch.randn(2, 4, 3, 5)
    path = integrate_path(Case(view, images, [0, 2]), torch.zeros(()), steps=400)
    basis = torch.linalg.qr(torch.randn(4, 4))[0]
    result = joint_attribution(path.difference, path.mean, basis, path.delta)
    expected = view.logits(images) - view.logits(torch.zeros_like(images))
    torch.testing.assert_close(result.contributions.sum(1), expected[:, [0, 2]], atol=1e-4, rtol=0)
    torch.testing.assert_close(result.residual, path.delta - path.values.sum((2, 3, 4)), atol=1e-5, rtol=0)


def test_too_many_concepts_for_shapley_and_unknown_methods_are_errors() -> None:
    with pytest.raises(PellucidError, match="11 concepts are too many for Shapley values, at most 10"):
        sharing_rule(torch.eye(11).double(), "shapley")
    with pytest.raises(PellucidError, match="unknown joint attribution 'fair'"):
        sharing_rule(torch.eye(2).double(), "fair")  # type: ignore[arg-type]
