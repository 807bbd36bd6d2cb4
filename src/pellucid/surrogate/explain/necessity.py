"""Would the decision fall without a concept, and would adding it bring the decision about?"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, predict_class


@dataclass(frozen=True)
class Proportion:
    """A share of trials with Wilson's interval."""

    estimate: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True)
class Necessity:
    """A concept's part in a class.

    Attributes:
        concept: its name.
        necessity: share of the class's images that leave it when the concept takes a contrast image's value.
        sufficiency: share of contrast images that become the class when the concept takes the value of one of its
            images.
    """

    concept: str
    necessity: Proportion
    sufficiency: Proportion


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> Proportion:
    """A binomial share with Wilson's score interval (1927)."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / trials
    center = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return Proportion(share, max(0.0, center - half), min(1.0, center + half), trials)


def necessity(inside: EncodedBatch, contrast: EncodedBatch, *, seed: int = 0) -> tuple[Necessity, ...]:
    """Necessity and sufficiency of every concept for one class.

    Source: Pearl (1999), probabilities of causation; both by interventions through the twin.

    Args:
        inside: images that the classifier gives to one class.
        contrast: images that it gives to others.
        seed: of who gives its value to whom.

    Raises:
        PellucidError: either is empty, or `inside` holds several classes, or `contrast` that one.
    """
    if not len(inside) or not len(contrast):
        raise PellucidError("necessity needs images of the class and images of others; one of the two is empty")
    wanted = inside.classes[0]
    if bool((inside.classes != wanted).any()) or bool((contrast.classes == wanted).any()):
        raise PellucidError("wanted images decided as one class, and contrast images decided as any other")
    random = torch.Generator().manual_seed(seed)
    givers = torch.randint(len(contrast), (len(inside),), generator=random)
    takers = torch.randint(len(inside), (len(contrast),), generator=random)
    found = []
    for column, name in enumerate((*inside.surrogate.context_names, *inside.surrogate.latent_names)):
        removed = _decided_with(inside, column, contrast.codes.concept_coordinates()[givers, column])
        added = _decided_with(contrast, column, inside.codes.concept_coordinates()[takers, column])
        lost, won = int((removed != wanted).sum()), int((added == wanted).sum())
        found.append(Necessity(name, wilson_interval(lost, len(inside)), wilson_interval(won, len(contrast))))
    return tuple(found)


def _decided_with(batch: EncodedBatch, column: int, values: Tensor) -> Tensor:
    concepts = batch.codes.concept_coordinates().clone()
    concepts[:, column] = values
    return predict_class(batch.changed_logits(batch.codes.replace_concepts(concepts)))
