"""Do generated images look real to the classifier itself?"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import PellucidError


@dataclass(frozen=True)
class Realism:
    """Comparison of the classifier's features of images and of their reconstructions.

    Attributes:
        cosine: mean cosine of the features of an image and of its reconstruction; 1 is the same.
        frechet: Fréchet distance of the features of all reconstructions from those of all images, >= 0.
        floor: the same between two halves of the images: what the number of images alone accounts for.

    >>> Realism(cosine=0.95, frechet=52.1, floor=94.9).frechet < 94.9
    True
    """

    cosine: float
    frechet: float
    floor: float


def measure_realism(real: Tensor, reconstructed: Tensor, *, seed: int = 0) -> Realism:
    """Compare features (N, F) of images with those of their reconstructions, row by row and as a whole.

    Args:
        real: features of the images.
        reconstructed: features of their reconstructions, in the same order.
        seed: of the two halves.

    Raises:
        PellucidError: fewer than four images.

    >>> features = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    >>> round(measure_realism(features, features).cosine, 3)
    1.0
    """
    if len(real) < 4:
        raise PellucidError(f"{len(real)} images are too few to compare their features: give four or more")
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed)).to(real.device)
    first, second = real[order[: len(real) // 2]], real[order[len(real) // 2 :]]
    cosine = F.cosine_similarity(real.double(), reconstructed.double(), dim=1).mean()
    return Realism(float(cosine), frechet_distance(reconstructed, real), frechet_distance(first, second))


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Fréchet distance of two samples taken as normal: (N, F), (M, F) -> >= 0.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). Source: Dowson and Landau (1982); for generated images Heusel et al.
    (2017), who use the features of an ImageNet network.

    >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]))
    9.0
    """
    first, second = first.double(), second.double()
    size = first.shape[1]  # of one feature torch.cov makes a number
    cov_first, cov_second = torch.cov(first.T).view(size, size), torch.cov(second.T).view(size, size)
    values, vectors = torch.linalg.eigh(cov_first)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ cov_second @ root).clamp_min(0).sqrt().sum()
    means = (first.mean(0) - second.mean(0)).square().sum()
    return max(0.0, float(means + cov_first.trace() + cov_second.trace() - 2 * mixed))
