"""Does what the twin draws look real to the classifier itself?"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import PellucidError


@dataclass(frozen=True)
class Realism:
    """What the classifier's features say of redrawn images.

    Attributes:
        cosine: mean cosine of the features of an image and of its redrawing; 1 is the same.
        frechet: Fréchet distance of the features of all redrawn from those of all given images, >= 0.
        floor: the same between two halves of the given images: what the number of images alone accounts for.
    """

    cosine: float
    frechet: float
    floor: float


def realism(real: Tensor, drawn: Tensor, *, seed: int = 0) -> Realism:
    """Compare features (N, F) of images with those of their redrawings, row by row and as a whole.

    Raises:
        PellucidError: fewer than four images.
    """
    if len(real) < 4:
        raise PellucidError(f"{len(real)} images are too few to compare their features: give four or more")
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed)).to(real.device)
    one, other = real[order[: len(real) // 2]], real[order[len(real) // 2 :]]
    cosine = F.cosine_similarity(real.double(), drawn.double(), dim=1).mean()
    return Realism(float(cosine), frechet_distance(drawn, real), frechet_distance(one, other))


def frechet_distance(found: Tensor, wanted: Tensor) -> float:
    """Squared Fréchet distance of two samples taken as normal: (N, F), (M, F) -> >= 0.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). Source: Dowson and Landau (1982); for generated images Heusel et al.
    (2017), who use the features of an ImageNet network.
    """
    found, wanted = found.double(), wanted.double()
    size = found.shape[1]  # of one feature torch.cov makes a number
    one, other = torch.cov(found.T).view(size, size), torch.cov(wanted.T).view(size, size)
    values, vectors = torch.linalg.eigh(one)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ other @ root).clamp_min(0).sqrt().sum()
    means = (found.mean(0) - wanted.mean(0)).square().sum()
    return max(0.0, float(means + one.trace() + other.trace() - 2 * mixed))
