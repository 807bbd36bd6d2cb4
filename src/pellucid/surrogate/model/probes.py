"""Q: a probe that reads the context off the classifier's own features."""

import torch
from torch import Tensor, nn

from pellucid.surrogate.model.encoders import MLP, fit_regressor
from pellucid.surrogate.model.layers import temporary_seed

FOLDS = 3


class ContextProbe(nn.Module):
    """Cross-fitted MLPs from standardized features phi (N, F) to standardized context (N, K_c); their mean.

    Args:
        features: F.
        contexts: K_c.

    >>> ContextProbe(6, 2)(torch.zeros(5, 6)).shape
    torch.Size([5, 2])
    """

    def __init__(self, features: int, contexts: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(MLP(features, contexts) for _ in range(FOLDS))

    def forward(self, phi: Tensor) -> Tensor:
        return torch.stack([member(phi) for member in self.members]).mean(0)


def fit_context_probe(phi: Tensor, context: Tensor, *, steps: int, seed: int) -> tuple[ContextProbe, Tensor]:
    """Train each member on two thirds of the images, drawn evenly: re-weighted batches would tie the members' errors.

    Args:
        phi: (N, F), standardized.
        context: (N, K_c), standardized.
        steps: Training steps of each member.
        seed: Seed of weights and draws.

    Returns:
        The probe, frozen, and its cross-fitted prediction (N, K_c): of each image by the member that never saw it.
    """
    random = torch.Generator().manual_seed(seed)
    with temporary_seed(seed):
        probe = ContextProbe(phi.shape[1], context.shape[1])
    fold = torch.arange(len(phi)) % FOLDS
    cross_fitted = torch.empty_like(context)
    for index, member in enumerate(probe.members):
        training_rows = (fold != index).nonzero()[:, 0]

        def draw_batch(training_rows: Tensor = training_rows) -> tuple[Tensor, Tensor]:
            rows = training_rows[torch.randint(len(training_rows), (128,), generator=random)]
            return phi[rows], context[rows]

        fit_regressor(member, draw_batch, steps=steps, learning_rate=1e-3, weight_decay=1e-2)
        with torch.no_grad():
            cross_fitted[fold == index] = member(phi[fold == index])
    return probe, cross_fitted
