"""Filling in missing pixels from their surroundings, so that what is removed leaves no shape behind (ROAD)."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.errors import PellucidError

_STRAIGHT, _DIAGONAL = 1 / 6, 1 / 12


@dataclass(frozen=True)
class NoisyLinear:
    """Noisy linear imputation: missing pixels are the weighted mean of their neighbors, plus noise.

    Source: Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods (ROAD), ICML 2022.

    Attributes:
        noise: standard deviation of the Gaussian noise that is added to imputed pixels, in the unit of the images.

    >>> image, removed = torch.tensor([[[1.0, 9.0, 3.0]]]), torch.tensor([[[False, True, False]]])
    >>> NoisyLinear(noise=0)(image, removed)
    tensor([[[[1., 2., 3.]]]])
    """

    noise: float = 0.01

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise PellucidError(f"noise is {self.noise}; it is a standard deviation, at least 0")

    def __call__(self, image: Tensor, removed: Tensor, *, seed: int = 0) -> Tensor:
        """Impute one image with several masks.

        Args:
            image: (C, H, W).
            removed: (B, H, W) bool.
            seed: of the noise, which is that of the pixel, whatever else is removed.

        Returns:
            (B, C, H, W).
        """
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).to(image)
        imputed = torch.stack([impute_linearly(image, mask) for mask in removed])
        return imputed + self.noise * noise * removed[:, None]


def impute_linearly(image: Tensor, removed: Tensor) -> Tensor:
    """Fill in missing pixels so that each is the weighted mean of its 8 neighbors, known or filled in.

    Neighbors along an axis weigh 1/6, diagonal ones 1/12; at the border the weights of those that there are sum to 1.
    One sparse linear system for all channels, solved directly. Where every pixel is missing nothing is known but the
    image's mean color, which is then used.

    Args:
        image: (C, H, W).
        removed: (H, W) bool, True where a pixel is missing; its value is not read, unless all are missing.

    Returns:
        (C, H, W); known pixels as they are.

    Raises:
        PellucidError: the mask is not one of the image's pixels.

    >>> image, removed = torch.tensor([[[1.0, 9.0, 3.0]]]), torch.tensor([[False, True, False]])
    >>> impute_linearly(image, removed)
    tensor([[[1., 2., 3.]]])
    """
    if image.ndim != 3 or removed.shape != image.shape[1:] or removed.dtype != torch.bool:
        raise PellucidError(
            f"image {tuple(image.shape)} and mask {tuple(removed.shape)} {removed.dtype}: "
            "expected (C, H, W) and a mask (H, W) of torch.bool"
        )
    if not bool(removed.any()):
        return image.clone()
    if bool(removed.all()):
        return image.mean((1, 2), keepdim=True).expand_as(image).clone()
    filled = image.clone()
    solution = _solve(image.detach().cpu().double().numpy(), removed.cpu().numpy())
    filled[:, removed] = torch.from_numpy(solution.T).to(image)
    return filled


def _solve(image: NDArray[np.float64], removed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values (M, C) of the M missing pixels: (sum of weights) x - (missing neighbors) = (known neighbors)."""
    from scipy.sparse import coo_array, csc_array, diags_array
    from scipy.sparse.linalg import splu

    (height, width), count = removed.shape, int(removed.sum())
    number = np.full(removed.shape, -1)
    number[removed] = np.arange(count)
    rows, columns = np.nonzero(removed)
    weights, known, links = np.zeros(count), np.zeros((count, len(image))), csc_array((count, count))
    for down, across in product((-1, 0, 1), repeat=2):
        y, x = rows + down, columns + across
        inside = ((down, across) != (0, 0)) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        center, y, x = np.nonzero(inside)[0], y[inside], x[inside]
        weight = _DIAGONAL if down and across else _STRAIGHT
        missing = removed[y, x]
        weights[center] += weight
        known[center[~missing]] += weight * image[:, y[~missing], x[~missing]].T
        pairs = (center[missing], number[y[missing], x[missing]])
        links += coo_array((np.full(len(pairs[0]), weight), pairs), shape=(count, count)).tocsc()
    system = csc_array(diags_array(weights) - links)
    # The matrix is symmetric and diagonally dominant, so it needs no pivots and an ordering of its own pattern.
    factors = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    solution: NDArray[np.float64] = factors.solve(known)
    return solution
