"""A small classifier whose images, concepts and negatives are drawn, so that the truth is known."""

import warnings
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.classifiers import Classifier, LayerView
from pellucid.concepts import CAV, FitOptions, fit_cav

SHIFT = torch.tensor([1.0, -1.0, 0.5])[:, None, None]
"""Direction in color in which the images of a concept that exists differ from the negatives."""


@cache
def view() -> LayerView:
    """A layer of 24 maps under a head that is not linear."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = (nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))
    return Classifier(nn.Sequential(*layers, *head).eval(), input_size=(8, 8)).at("1")


def images(count: int, generator: torch.Generator, shift: float = 0.0) -> Tensor:
    """Noise in front of one color for each image, which moves by `shift` in the concept's direction."""
    noise = torch.randn(count, 3, 8, 8, generator=generator)
    return noise + torch.randn(count, 3, 1, 1, generator=generator) + shift * SHIFT


def generator_of(random: np.random.Generator) -> torch.Generator:
    """A PyTorch generator with a seed from NumPy's."""
    return torch.Generator().manual_seed(int(random.integers(2**31)))


def fit(
    concept: Tensor, negatives: Tensor, estimator: str = "difference", *, name: str = "c", resamples: int = 2
) -> CAV:
    """A CAV without the warnings that chance concepts deserve."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = FitOptions(splits=1, resamples=resamples, max_batch=1024)
        return fit_cav(view(), concept, negatives, estimator, name=name, options=options)
