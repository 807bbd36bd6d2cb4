"""Interventions on codes: the images generated from them must be found to have the codes that were set."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.surrogate.model.codes import Codes

CONTEXT_SHARE, LATENT_SHARE = 0.45, 0.2
"""Of the changed codes; in the rest the whole nuisance is another image's."""


@dataclass(frozen=True)
class InterventionBatch:
    """Changed codes, in three groups of rows.

    Attributes:
        codes: (R, ...), without gradients but for latents and nuisance in the last group: the encoders are to learn
            what is nuisance from how the decision changes when it is another's.
        bounds: Rows up to bounds[0] have one context changed, rows up to bounds[1] one latent, the rest the nuisance.
    """

    codes: Codes
    bounds: tuple[int, int]


def intervene(codes: Codes, span: Tensor, random: torch.Generator) -> InterventionBatch:
    """Change one block of each row: one context, one latent, or the whole nuisance.

    A context becomes a value drawn evenly from its span, whatever the others are: in the data they may be tied, and an
    image of an untied combination is just what an intervention requires. Latent and nuisance become another row's.

    Args:
        codes: (R, ...).
        span: (2, K_c), least and largest value of each context.
        random: Generator of the draws.
    """
    rows = len(codes)
    shares = _shares(codes)
    first, second = round(shares[0] * rows), round(sum(shares) * rows)
    context, latent, nuisance = (block.detach().clone() for block in (codes.context, codes.latent, codes.nuisance))
    other = torch.roll(torch.arange(rows), 1 + int(torch.randint(max(1, rows - 1), (1,), generator=random)))
    if first:
        column = torch.randint(context.shape[1], (first,), generator=random)
        low, high = span.to(context.device)[:, column]
        context[torch.arange(first), column] = low + (high - low) * _uniform(first, random, context)
    column = torch.randint(latent.shape[1], (second - first,), generator=random)
    changed = torch.arange(first, second)
    latent[changed, column] = codes.latent.detach()[other[changed], column]
    latent = torch.cat([latent[:second], codes.latent[second:]])
    nuisance = torch.cat([nuisance[:second], codes.nuisance[other[second:]]])
    return InterventionBatch(Codes(context, latent, nuisance), (first, second))


def _shares(codes: Codes) -> tuple[float, float]:
    context = CONTEXT_SHARE if codes.context.shape[1] else 0.0
    nuisance = 1 - CONTEXT_SHARE - LATENT_SHARE if codes.nuisance.shape[1] else 0.0
    return context, 1 - context - nuisance


def _uniform(count: int, random: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(count, generator=random).to(like)
