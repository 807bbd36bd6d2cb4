"""Latent traversal: one concept of one image moved over its range, and what the classifier makes of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, classify, probabilities
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.explain.validity import MIN_OF_CLASS, ControlGate, DataSupport


@dataclass(frozen=True)
class LatentTraversal:
    """A concept moved over its range, V levels.

    Attributes:
        concept: its name.
        levels: (V,) that it was set to, in standard deviations of the training table.
        images: (V, C, H, W) as the surrogate generates them.
        transferred: (V, C, H, W) the input image with the residual transferred; None where that was not measured to
            follow.
        probabilities: (V, K) that the classifier gives to `images`.
        predicted: (V,) the concept as the surrogate's encoder predicts it from `images`, same unit as `levels`; it
            should follow them.
        in_distribution: (V,) whether real images of the class lie near these concepts.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> traversal = traverse_latent(explainer.encode_batch(digits[:1]), "width", explainer.reference, levels=2)
    >>> traversal.concept, traversal.probabilities.shape
    ('width', torch.Size([2, 10]))
    """

    concept: str
    levels: Tensor
    images: Tensor
    transferred: Tensor | None
    probabilities: Tensor
    predicted: Tensor
    in_distribution: Tensor


def traverse_latent(
    batch: EncodedBatch,
    concept: str,
    reference: ReferenceSet,
    *,
    levels: int = 9,
    support: DataSupport | None = None,
    gate: ControlGate | None = None,
) -> LatentTraversal:
    """Move one concept of one image evenly between the 2 % and 98 % quantiles of the real images of its class.

    Args:
        batch: one image.
        concept: name of a context or latent.
        reference: real images; all of them give the quantiles where those of the class are fewer than five.
        levels: how many.
        support: of the reference; computed from it by default.
        gate: what is known of the contexts' control; nothing by default.

    Raises:
        PellucidError: more than one image, or an unknown concept.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> batch = explainer.encode_batch(draw_digits(torch.tensor([3]), size=32)[:, None] / 127.5 - 1)
    >>> traversal = traverse_latent(batch, "slant", explainer.reference, levels=3)
    >>> traversal.images.shape, bool((traversal.predicted.diff() > 0).all())
    (torch.Size([3, 1, 32, 32]), True)
    """
    column = concept_column(batch, concept)
    if len(batch) != 1:
        raise PellucidError(f"a latent traversal is of one image; {len(batch)} were given")
    known = reference.of_class(int(batch.classes[0]))
    if len(known) < MIN_OF_CLASS:
        known = reference.codes.concept_coordinates()
    ends = torch.quantile(known[:, column], torch.tensor([0.02, 0.98]).to(batch.images))
    values = torch.linspace(0, 1, levels).to(ends) * (ends[1] - ends[0]) + ends[0]
    repeated = batch.repeat(levels)
    concepts = repeated.codes.concept_coordinates().clone()
    concepts[:, column] = values
    images = repeated.decode(repeated.codes.replace_concepts(concepts))
    gate = gate or ControlGate(tuple(batch.surrogate.context_names))
    logits = classify(batch.surrogate, images, batch.max_batch)  # encode_batch would also reconstruct every one
    return LatentTraversal(
        concept=concept,
        levels=values,
        images=images,
        transferred=repeated.apply_residual(images) if gate.allows_transfer([concept]) else None,
        probabilities=probabilities(logits),
        predicted=batch.surrogate.encode(images).concept_coordinates()[:, column],
        in_distribution=(support or DataSupport(reference)).in_distribution(concepts, repeated.classes),
    )


def concept_column(batch: EncodedBatch, concept: str) -> int:
    """The column of a concept among contexts and latents.

    Raises:
        PellucidError: no such concept.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> concept_column(explainer.encode_batch(digits), "latent 1")
    4
    """
    if concept not in batch.concept_names:
        raise PellucidError(f"no concept {concept!r}; there are {list(batch.concept_names)}")
    return batch.concept_names.index(concept)


def difference_map(batch: EncodedBatch, changed: Tensor, sign: Tensor | None = None) -> Tensor:
    """Where counterfactuals differ from the reconstructions: |x' - G(w)| summed over channels, (N, 1, H, W).

    Against the reconstructions, so that what the surrogate missed of an image does not count as change. In input
    units. It is a map of evidence like any other, so the evaluation package can score it.

    Args:
        batch: N images.
        changed: (N, C, H, W) their counterfactuals, as the surrogate generates them.
        sign: (N,) optional, to mark maps of changes that speak for (+1) or against (-1) the class.

    >>> from pellucid.surrogate import digit_surrogate
    >>> batch = digit_surrogate().encode_batch(torch.full((1, 1, 32, 32), -1.0))
    >>> difference_map(batch, batch.reconstructions + 0.5).mean().round(decimals=4)
    tensor(0.5000)
    """
    difference = (changed - batch.reconstructions).abs().sum(1, keepdim=True)
    return difference if sign is None else difference * sign.view(-1, 1, 1, 1)
