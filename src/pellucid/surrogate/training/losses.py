"""The terms that generator and encoders are trained by (section 2.2 of the method), as pure functions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities (N, K) of logits; of one logit, those of no and yes (N, 2)."""
    if logits.shape[1] == 1:
        return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=1)
    return F.log_softmax(logits, dim=1)


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of each row (N,), in nats, from logits (N, K)."""
    wanted = log_probabilities(teacher)
    return (wanted.exp() * (wanted - log_probabilities(student))).sum(1)


def brightness_divergence(found: Tensor, wanted: Tensor, softening: float = 0.01) -> Tensor:
    """Mean relative entropy of pixels in display space, brightness (x + 1) / 2 read as a probability.

    Where a saturated pixel is wrong, tanh has no slope left and the absolute difference cannot mend it; this can.

    Args:
        found, wanted: (N, C, H, W) in [-1, 1].
        softening: how far from 0 and 1 brightness is kept.
    """
    p, q = (softening + (1 - 2 * softening) * ((x + 1) / 2).clamp(0, 1) for x in (wanted, found))
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()


def feature_distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Sum over layers of mean |found - wanted| / mean |wanted|; a perceptual loss in the classifier's own eyes."""
    terms = [(a - b).abs().mean() / b.abs().mean().clamp_min(1e-6) for a, b in zip(found, wanted, strict=True)]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def row_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Smooth L1 distance of each row, mean over columns: (..., N, D) -> (..., N)."""
    return F.smooth_l1_loss(found, wanted.expand_as(found), reduction="none").mean(-1)


def real_loss(scores: Tensor) -> Tensor:
    """Logistic loss of scores (N,) that should be high."""
    return F.softplus(-scores).mean()


def fake_loss(scores: Tensor) -> Tensor:
    """Logistic loss of scores (N,) that should be low."""
    return F.softplus(scores).mean()
