"""Correlated concepts: their cosines, and one attribution that shares the evidence out among them."""

from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import Literal

import torch
from torch import Tensor

from pellucid.concepts.concept_scores import project_activation
from pellucid.errors import PellucidError
from pellucid.shapes import Float

JointMethod = Literal["least_squares", "shapley"]
SHAPLEY_LIMIT = 10
"""Most concepts that Shapley values are computed for: 2^D coalitions."""


@dataclass(frozen=True)
class JointAttribution:
    """Evidence shared out among concepts; `joint_attribution` computes it.

    Attributes:
        contributions: (N, D, T), signed, in the target's unit; unlike single scores they may be added up.
        residual: (N, T) what no combination of the concepts accounts for: delta minus the sum of the contributions.
    """

    contributions: Float[Tensor, "N D T"]
    residual: Float[Tensor, "N T"]


def gram_matrix(direction: Float[Tensor, "D C"]) -> Float[Tensor, "D D"]:
    """Compute the cosines between directions (D, C): (D, D) float64, 1 on the diagonal; 0 for one of length zero.

    Example:
        >>> gram_matrix(torch.tensor([[1.0, 0.0], [0.0, 2.0]])).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    unit = torch.nn.functional.normalize(direction.double(), dim=1)
    return unit @ unit.T


def sharing_rule(gram: Tensor, method: JointMethod = "least_squares") -> Tensor:
    """Compute how the evidence in the span of the directions is shared out, as weights of its bilinear parts.

    The evidence of a cell, gradient . activation, restricted to the span of unit directions u, is
    sum_ab (G^-1)_ab (F.u_a)(g.u_b). The rule says which concept gets how much of each part W_ab = (F.u_a)(g.u_b).

    Args:
        gram: (D, D) cosines; dependent directions are dealt with by the pseudo-inverse.
        method: "least_squares" gives concept d the evidence of its own least-squares coefficient times u_d; "shapley"
            gives the average, over all orders in which the concepts can join, of what each adds to the span.

    Returns:
        (D, D, D) float64: concept, a, b.

    Raises:
        PellucidError: unknown method, or too many concepts for Shapley values.

    Example:
        >>> sharing_rule(torch.eye(2).double(), "shapley")[0].tolist()  # alone on its axis, a concept keeps all
        [[1.0, 0.0], [0.0, 0.0]]
    """
    count = len(gram)
    if method == "least_squares":
        return torch.diag_embed(_inverse(gram)).transpose(0, 1)
    if method != "shapley":
        raise PellucidError(f"unknown joint attribution {method!r}: least_squares or shapley")
    if count > SHAPLEY_LIMIT:
        raise PellucidError(f"{count} concepts are too many for Shapley values, at most {SHAPLEY_LIMIT}: least_squares")
    rule = torch.zeros(count, count, count, dtype=torch.float64)
    for size in range(1, count + 1):
        for members in combinations(range(count), size):
            value = torch.zeros(count, count, dtype=torch.float64)
            inside = torch.tensor(members)
            value[inside[:, None], inside] = _inverse(gram[inside[:, None], inside])
            # A coalition's value counts for those who complete it, and against those who are still to come.
            rule[inside] += value * factorial(size - 1) * factorial(count - size) / factorial(count)
            outside = torch.tensor([index for index in range(count) if index not in members], dtype=torch.long)
            if size < count:
                rule[outside] -= value * factorial(size) * factorial(count - size - 1) / factorial(count)
    return rule


def joint_attribution(
    difference: Float[Tensor, "N C h w"],
    gradient: Float[Tensor, "N T C h w"],
    direction: Float[Tensor, "D C"],
    delta: Float[Tensor, "N T"],
    rule: Float[Tensor, "D D D"] | None = None,
) -> JointAttribution:
    """Share the evidence that lies in the span of the CAVs out among the concepts.

    Over all cells, with no concept map: sum of the contributions + residual = delta exactly. For an orthonormal basis
    of channel space the residual is the completeness gap.

    Args:
        difference: (N, C, h, w) activation minus baseline.
        gradient: (N, T, C, h, w) mean gradient on the way from the baseline.
        direction: (D, C).
        delta: (N, T) score minus the score at the baseline.
        rule: (D, D, D) from `sharing_rule`; by default that of least squares.

    Returns:
        Contributions (N, D, T) and residual (N, T), in the unit of delta.

    Example:
        >>> difference, gradient = torch.ones(1, 2, 1, 1), torch.tensor([3.0, 1.0]).reshape(1, 1, 2, 1, 1)
        >>> shared = joint_attribution(difference, gradient, torch.eye(2)[:1], delta=torch.tensor([[4.0]]))
        >>> shared.contributions.item(), shared.residual.item()
        (3.0, 1.0)
    """
    rule = sharing_rule(gram_matrix(direction.cpu())) if rule is None else rule
    unit = torch.nn.functional.normalize(direction.double(), dim=1).to(difference)
    parts = torch.einsum("nahw,ntbhw->ntab", project_activation(difference, unit), project_activation(gradient, unit))
    contributions = torch.einsum("dab,ntab->ndt", rule.to(parts), parts)
    return JointAttribution(contributions, delta - contributions.sum(1))


def _inverse(gram: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.pinv(gram, rtol=1e-6, hermitian=True)
    return inverse
