"""Would the decision fall without a concept, and would adding the concept bring the decision about?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.statistics import binomial_interval
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, predict_class


@dataclass(frozen=True)
class Proportion:
    """A share of trials with its 95 % interval, by the exact test with mid-p.

    Attributes:
        estimate: successes over trials, in [0, 1].
        low, high: of the interval.
        trials: how many.

    >>> Proportion(estimate=0.5, low=0.24, high=0.76, trials=10).trials
    10
    """

    estimate: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True)
class Necessity:
    """A concept's part in a class.

    Attributes:
        concept: its name.
        necessity: share of the class's images that leave it when the concept takes the value of a contrast image.
        sufficiency: share of contrast images that become the class when the concept takes the value of one of its
            images.

    >>> never = estimate_proportion(0, 10)
    >>> Necessity("width", necessity=never, sufficiency=never).necessity.estimate
    0.0
    """

    concept: str
    necessity: Proportion
    sufficiency: Proportion


def estimate_proportion(successes: int, trials: int, level: float = 0.95) -> Proportion:
    """A binomial proportion with its interval (`pellucid.statistics.binomial_interval`).

    Args:
        successes: how many trials succeeded.
        trials: how many there were, 1 or more.
        level: confidence of the interval.

    >>> estimate_proportion(0, 10).high < 0.3
    True
    """
    return Proportion(successes / trials, *binomial_interval(successes, trials, level=level), trials)


def estimate_necessity(batch: EncodedBatch, target: int, *, seed: int = 0) -> tuple[Necessity, ...]:
    """Necessity and sufficiency of every concept for a class.

    Source: Pearl (1999), probabilities of causation; both by interventions through the surrogate.

    Args:
        batch: images, some that the classifier gives to the class and some that it gives to others.
        target: the class.
        seed: of which image gives its value to which.

    Returns:
        One for each concept, contexts first.

    Raises:
        PellucidError: there are no images of the class, or none of others.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> digits = draw_digits(torch.tensor([3, 3, 7, 7]), size=32, jitter=0.5)[:, None] / 127.5 - 1
    >>> [each.concept for each in estimate_necessity(digit_surrogate().encode_batch(digits), target=3)][:2]
    ['thickness', 'intensity']
    """
    of_class = batch.classes == target
    inside, contrast = (batch[rows.nonzero()[:, 0]] for rows in (of_class, ~of_class))
    if not len(inside) or not len(contrast):
        raise PellucidError(
            f"necessity needs images of the class and images of others: there are {len(inside)} and {len(contrast)}"
        )
    random = torch.Generator().manual_seed(seed)
    donors_outside = torch.randint(len(contrast), (len(inside),), generator=random)
    donors_inside = torch.randint(len(inside), (len(contrast),), generator=random)
    results = []
    for column, name in enumerate(batch.concept_names):
        removed = _classes_with(inside, column, contrast.codes.concept_coordinates()[donors_outside, column])
        added = _classes_with(contrast, column, inside.codes.concept_coordinates()[donors_inside, column])
        lost, won = int((removed != target).sum()), int((added == target).sum())
        results.append(Necessity(name, estimate_proportion(lost, len(inside)), estimate_proportion(won, len(contrast))))
    return tuple(results)


def _classes_with(batch: EncodedBatch, column: int, values: Tensor) -> Tensor:
    concepts = batch.codes.concept_coordinates().clone()
    concepts[:, column] = values
    return predict_class(batch.counterfactual_logits(batch.codes.replace_concepts(concepts)))
