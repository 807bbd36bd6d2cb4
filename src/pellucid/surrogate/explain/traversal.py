"""One concept of one image moved over its range: the images, what the classifier says, and where it shows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, classify, probabilities
from pellucid.surrogate.explain.validity import DataSupport
from pellucid.surrogate.model.codes import Codes


@dataclass(frozen=True)
class LatentTraversal:
    """A concept moved over its range, V values.

    Attributes:
        concept: its name.
        levels: (V,) what it was set to, in standard deviations of the training table.
        raw: (V, C, H, W) as the twin draws.
        images: (V, C, H, W) the image itself with the change transferred.
        probabilities: (V, K) that the classifier gives to `images`.
        judged: (V,) the value that the twin's encoder reads off `images`, same unit as `levels`; it should follow.
        supported: (V,) whether real images lie near these concepts.
    """

    concept: str
    levels: Tensor
    raw: Tensor
    images: Tensor
    probabilities: Tensor
    predicted: Tensor
    in_distribution: Tensor


def strip(
    batch: EncodedBatch,
    concept: str,
    reference: Codes,
    *,
    values: int = 9,
    support: DataSupport | None = None,
) -> LatentTraversal:
    """Move one concept of one image evenly between the 2 % and 98 % quantiles of real images.

    Args:
        painting: one image.
        concept: name of a context or latent.
        reference: codes of real images.
        values: how many levels.
        support: made of the reference by default.

    Raises:
        PellucidError: more than one image, or an unknown concept.
    """
    column = concept_column(batch, concept)
    if len(batch) != 1:
        raise PellucidError(f"a strip is of one image; {len(batch)} were given")
    ends = torch.quantile(reference.concept_coordinates()[:, column], torch.tensor([0.02, 0.98]).to(batch.images))
    levels = torch.linspace(0, 1, values).to(ends) * (ends[1] - ends[0]) + ends[0]
    many = batch.repeat(values)
    concepts = many.codes.concept_coordinates().clone()
    concepts[:, column] = levels
    codes = many.codes.replace_concepts(concepts)
    raw = many.drawn(codes)
    images = many.transferred(raw)
    logits = classify(batch.surrogate, images, batch.max_batch)  # a EncodedBatch of them would redraw every one
    return LatentTraversal(
        concept,
        levels,
        raw,
        images,
        probabilities(logits),
        batch.surrogate.encode(images).concept_coordinates()[:, column],
        (support or DataSupport(reference)).in_distribution(concepts),
    )


def concept_column(batch: EncodedBatch, concept: str) -> int:
    """The column of a concept among contexts and latents.

    Raises:
        PellucidError: no such concept.
    """
    names = (*batch.surrogate.context_names, *batch.surrogate.latent_names)
    if concept not in names:
        raise PellucidError(f"no concept {concept!r}; there are {list(names)}")
    return names.index(concept)


def difference_map(batch: EncodedBatch, changed: Tensor, sign: Tensor | None = None) -> Tensor:
    """Where a counterfactual differs from the image: |x' - x| summed over channels, (N, 1, H, W) in input units.

    It is a map of evidence like any other, so the evaluation package can score it.

    Args:
        painting: N images.
        changed: (N, C, H, W) their counterfactuals.
        sign: (N,) optional, to mark maps of changes that speak for (+1) or against (-1) the class.
    """
    where = (changed - batch.images).abs().sum(1, keepdim=True)
    return where if sign is None else where * sign.view(-1, 1, 1, 1)
