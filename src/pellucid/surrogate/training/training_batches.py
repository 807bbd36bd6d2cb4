"""What a step works on: images drawn by weight, and interventions on their codes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.surrogate.model.codes import Codes
from pellucid.surrogate.training.image_datasets import gather_images
from pellucid.surrogate.training.preparation import TrainingData
from pellucid.surrogate.training.sampling import draw_rows

CONTEXT_SHARE, LATENT_SHARE = 0.45, 0.2
"""Of the changed codes; in the rest the whole nuisance is another image's."""


@dataclass(frozen=True)
class Batch:
    """Images to be reconstructed, and the versions of them whose latents and nuisance are used.

    Attributes:
        images: (B, C, R, R) in display space, to be reconstructed.
        context: (B, K_c), of the images.
        phi: (B, F), of the images, standardized.
        sources: (B, C, R, R), where the nuisance is encoded: the same images, or other versions of them.
        source_context: (B, K_c), of the sources.
        source_phi: (B, F), of the sources, standardized.
        source_logits: (B, K), of the sources.
    """

    images: Tensor
    context: Tensor
    phi: Tensor
    sources: Tensor
    source_context: Tensor
    source_phi: Tensor
    source_logits: Tensor


def draw_batch(
    data: TrainingData, size: int, *, paired_fraction: float, random: torch.Generator, device: torch.device
) -> Batch:
    """Draw a batch by the sampler's weights.

    Where images have versions with other contexts, a fraction is reconstructed from the latents and nuisance of
    another version: the true image of an intervention, known pixel by pixel. Latents and nuisance thereby learn to
    leave to the contexts what is theirs.

    Args:
        data: The training set.
        size: B.
        paired_fraction: Fraction of the rows whose source is another version.
        random: Generator of the draws.
        device: Where the batch goes.
    """
    chosen = draw_rows(data.weights, size, random)
    shift = data.num_images * torch.randint(data.num_versions, (size,), generator=random)
    paired = torch.rand(size, generator=random) < paired_fraction
    other = (chosen + shift) % (data.num_images * data.num_versions)
    source = torch.where(paired & (data.weights[other] > 0), other, chosen)  # not those that are left out

    def rows_of(table: Tensor, rows: Tensor) -> Tensor:
        return table[rows].to(device)

    images = gather_images(data.images, chosen).to(device)
    return Batch(
        images,
        rows_of(data.context, chosen),
        rows_of(data.phi, chosen),
        images if torch.equal(source, chosen) else gather_images(data.images, source).to(device),
        rows_of(data.context, source),
        rows_of(data.phi, source),
        rows_of(data.logits, source),
    )


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

    >>> codes = Codes(torch.zeros(20, 2), torch.zeros(20, 3), torch.zeros(20, 4))
    >>> batch = intervene(codes, torch.tensor([[5.0, 5.0], [6.0, 6.0]]), torch.Generator())
    >>> batch.bounds, int((batch.codes.context != 0).sum())
    ((9, 13), 9)
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
