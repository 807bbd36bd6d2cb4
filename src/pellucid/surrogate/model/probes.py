"""Q: the context that the classifier's own features tell of."""

import torch
from torch import Tensor, nn

from pellucid.surrogate.model import MLP
from pellucid.surrogate.training.fitting import determination, fit_regressor, temporary_seed

FOLDS = 3


class ContextProbe(nn.Module):
    """Readers of features phi (N, F), standardized; what is perceived is their mean (N, K), standardized."""

    def __init__(self, features: int, contexts: int) -> None:
        super().__init__()
        self.readers = nn.ModuleList(MLP(features, contexts) for _ in range(FOLDS))

    def forward(self, phi: Tensor) -> Tensor:
        return torch.stack([reader(phi) for reader in self.readers]).mean(0)


def fit_context_probe(phi: Tensor, context: Tensor, *, steps: int, seed: int) -> tuple[ContextProbe, Tensor]:
    """Train each reader on two thirds of the images, drawn evenly: re-weighted batches tie the readers' errors.

    Args:
        phi: (N, F), standardized.
        context: (N, K), standardized.
        steps: for each reader.
        seed: of weights and draws.

    Returns:
        The readers, frozen, and what each image's context is read as by the one that never saw it, (N, K).
    """
    random = torch.Generator().manual_seed(seed)
    with temporary_seed(seed):
        perception = ContextProbe(phi.shape[1], context.shape[1])
    fold = torch.arange(len(phi)) % FOLDS
    unseen = torch.empty_like(context)
    for index, reader in enumerate(perception.readers):
        mine = (fold != index).nonzero()[:, 0]

        def batch(mine: Tensor = mine) -> tuple[Tensor, Tensor]:
            rows = mine[torch.randint(len(mine), (128,), generator=random)]
            return phi[rows], context[rows]

        fit_regressor(reader, batch, steps=steps, rate=1e-3, decay=1e-2)
        with torch.no_grad():
            unseen[fold == index] = reader(phi[fold == index])
    return perception, unseen


def perceived_share(unseen: Tensor, context: Tensor) -> tuple[float, ...]:
    """R^2 of each context as perceived: 0 where the classifier's features do not tell it."""
    return tuple(determination(unseen, context).tolist())
