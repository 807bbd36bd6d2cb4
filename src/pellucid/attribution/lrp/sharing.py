"""How operations without weights share relevance: in proportion to their terms, or along the copies that they make.

Pure functions of tensors. Relevance comes as (T, N, ...), T targets of N images, and leaves as (T, N, ...).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def epsilon_share(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    relevance: Tensor,
    stabilizer: float,
    output: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Share the relevance of a sum or mean in proportion to its terms (the norm rule; epsilon rule without weights).

    Args:
        function: affine in each of its inputs; what is constant in it takes its own proportional part, which is lost.
        inputs: tensors (N, ...).
        relevance: (T, N, ...) of the function's output.
        stabilizer: moves denominators away from zero.
        output: of the function, where it is known.

    Returns:
        Relevance (T, N, ...) of each input.

    >>> epsilon_share(torch.add, [torch.tensor([1.0]), torch.tensor([3.0])], torch.tensor([[8.0]]), 0.0)
    (tensor([[2.]]), tensor([[6.]]))
    """
    computed, pullback = _pullback(function, inputs)
    gradients = pullback([stabilized_quotient(relevance, computed if output is None else output, stabilizer)])
    return tuple(x * gradient for x, gradient in zip(inputs, gradients, strict=True))


def vjp_routing(
    function: Callable[..., Any], inputs: Sequence[Tensor], relevance: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Carry relevance back along an operation whose outputs are copies of its inputs or constants, as max pooling is.

    Args:
        function: returns a tensor or several.
        inputs: tensors (N, ...).
        relevance: (T, N, ...) of each output, None where there is none.

    Returns:
        Relevance (T, N, ...) of each input.

    >>> vjp_routing(lambda x: x.max(1).values, [torch.tensor([[1.0, 3.0]])], [torch.tensor([[5.0]])])
    (tensor([[[0., 5.]]]),)
    """
    return _pullback(function, inputs)[1](relevance)


def stabilized_quotient(relevance: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """Relevance / (z + epsilon sign z), where the sign of 0 is 1; 0 where that denominator is 0.

    Args:
        relevance: (T, N, ...).
        z: (N, ...) denominators.
        epsilon: moves them away from zero.

    >>> stabilized_quotient(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0]), 0.0).tolist()
    [0.5, 0.0]
    """
    if epsilon > 0:
        return relevance / torch.where(z >= 0, z + epsilon, z - epsilon)
    return torch.where(z == 0, 0.0, relevance / torch.where(z == 0, 1.0, z))


Pullback = Callable[[Sequence[Tensor | None]], tuple[Tensor, ...]]


def _pullback(function: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Any, Pullback]:
    """Outputs, and the transposed Jacobian as a function of cotangents (T, N, ...)."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        outputs = function(*leaves)
    several = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)

    def pullback(cotangents: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        pairs = [
            (output, cotangent) for output, cotangent in zip(several, cotangents, strict=True) if cotangent is not None
        ]
        reached, seeds = zip(*pairs, strict=True)
        columns = [
            torch.autograd.grad(reached, leaves, column, retain_graph=True, allow_unused=True, materialize_grads=True)
            for column in zip(*seeds, strict=True)
        ]
        return tuple(torch.stack(gradients) for gradients in zip(*columns, strict=True))

    return outputs.detach() if isinstance(outputs, Tensor) else outputs, pullback
