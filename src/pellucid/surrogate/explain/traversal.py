"""One concept of one picture moved over its range: the pictures, what the classifier says, and where it shows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import Painting, classified, probabilities
from pellucid.surrogate.explain.validity import Support
from pellucid.surrogate.model.codes import Codes


@dataclass(frozen=True)
class Strip:
    """A concept moved over its range, V values.

    Attributes:
        concept: its name.
        levels: (V,) what it was set to, in standard deviations of the training table.
        raw: (V, C, H, W) as the twin draws.
        pictures: (V, C, H, W) the picture itself with the change transferred.
        probabilities: (V, K) that the classifier gives to `pictures`.
        judged: (V,) the value that the twin's encoder reads off `pictures`, same unit as `levels`; it should follow.
        supported: (V,) whether real pictures lie near these concepts.
    """

    concept: str
    levels: Tensor
    raw: Tensor
    pictures: Tensor
    probabilities: Tensor
    judged: Tensor
    supported: Tensor


def strip(
    painting: Painting,
    concept: str,
    reference: Codes,
    *,
    values: int = 9,
    support: Support | None = None,
) -> Strip:
    """Move one concept of one picture evenly between the 2 % and 98 % quantiles of real pictures.

    Args:
        painting: one picture.
        concept: name of a context or latent.
        reference: codes of real pictures.
        values: how many levels.
        support: made of the reference by default.

    Raises:
        PellucidError: more than one picture, or an unknown concept.
    """
    column = concept_column(painting, concept)
    if len(painting) != 1:
        raise PellucidError(f"a strip is of one picture; {len(painting)} were given")
    ends = torch.quantile(reference.concepts()[:, column], torch.tensor([0.02, 0.98]).to(painting.pictures))
    levels = torch.linspace(0, 1, values).to(ends) * (ends[1] - ends[0]) + ends[0]
    many = painting.repeat(values)
    concepts = many.codes.concepts().clone()
    concepts[:, column] = levels
    codes = many.codes.with_concepts(concepts)
    raw = many.drawn(codes)
    pictures = many.transferred(raw)
    logits = classified(painting.twin, pictures, painting.max_batch)  # a Painting of them would redraw every one
    return Strip(
        concept,
        levels,
        raw,
        pictures,
        probabilities(logits),
        painting.twin.encode(pictures).concepts()[:, column],
        (support or Support(reference)).holds(concepts),
    )


def concept_column(painting: Painting, concept: str) -> int:
    """The column of a concept among contexts and latents.

    Raises:
        PellucidError: no such concept.
    """
    names = (*painting.twin.context_names, *painting.twin.latent_names)
    if concept not in names:
        raise PellucidError(f"no concept {concept!r}; there are {list(names)}")
    return names.index(concept)


def difference_map(painting: Painting, changed: Tensor, sign: Tensor | None = None) -> Tensor:
    """Where a counterfactual differs from the picture: |x' - x| summed over channels, (N, 1, H, W) in input units.

    It is a map of evidence like any other, so the evaluation package can score it.

    Args:
        painting: N pictures.
        changed: (N, C, H, W) their counterfactuals.
        sign: (N,) optional, to mark maps of changes that speak for (+1) or against (-1) the class.
    """
    where = (changed - painting.pictures).abs().sum(1, keepdim=True)
    return where if sign is None else where * sign.view(-1, 1, 1, 1)
