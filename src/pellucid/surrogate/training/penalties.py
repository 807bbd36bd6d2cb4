"""Regularisers as pure functions: R1, Hessian penalty, path length, moments of codes."""

from collections.abc import Callable

import torch
from torch import Tensor


def r1(scores: Tensor, images: Tensor) -> Tensor:
    """Mean squared norm of the gradient of scores (N,) at real images (N, C, H, W) (Mescheder et al. 2018).

    Args:
        scores: computed from `images`, which require a gradient.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def second_differences(function: Callable[[Tensor], Tensor], codes: Tensor, directions: Tensor, step: float) -> Tensor:
    """(f(w + h v) - 2 f(w) + f(w - h v)) / h^2, which tends to v^T H v.

    Args:
        function: codes (R, D) to outputs (R, ...).
        codes: w, (N, D).
        directions: v, (k, N, D).
        step: h.

    Returns:
        (k, N, ...).
    """
    moves = step * directions
    stacked = torch.cat([(codes + moves).flatten(0, 1), (codes - moves).flatten(0, 1), codes])
    outputs = function(stacked)
    count = len(directions) * len(codes)
    up, down = (part.reshape(*moves.shape[:2], *outputs.shape[1:]) for part in torch.split(outputs, count)[:2])
    second: Tensor = (up - 2 * outputs[2 * count :] + down) / step**2
    return second


def hessian_penalty(
    function: Callable[[Tensor], Tensor], codes: Tensor, directions: Tensor, step: float = 0.1
) -> Tensor:
    """Mean over outputs of Var_v[v^T H v], which is zero where no two coordinates interact (Peebles et al. 2020).

    For Rademacher v the variance is 4 times the sum of the squared off-diagonal entries above the diagonal.

    Args:
        function, codes, step: as in `second_differences`.
        directions: (k, N, D) of -1 and 1, zero for coordinates that may interact; k at least 2.
    """
    return second_differences(function, codes, directions, step).var(dim=0, unbiased=True).mean()


def path_lengths(images: Tensor, codes: Tensor, noise: Tensor) -> Tensor:
    """|J^T y| of each image (N,), with y images of noise of unit variance over the number of pixels.

    StyleGAN2 pulls the lengths towards their running mean (Karras et al. 2020, section 3.2).

    Args:
        images: (N, C, H, W), computed from `codes` (N, D), which require a gradient.
        noise: (N, C, H, W), standard normal.
    """
    scaled = noise / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * scaled).sum(), codes, create_graph=True)
    return gradient.square().sum(1).sqrt()


def moment_penalty(codes: Tensor, off_diagonal: float = 0.1) -> Tensor:
    """How far codes (N, D) are from mean 0, variance 1 and, weakly, no covariance: fixes scale, prevents collapse."""
    centered = codes - codes.mean(0)
    covariance = centered.T @ centered / max(1, len(codes) - 1)
    variance = covariance.diagonal()
    rest = covariance - torch.diag(variance)
    return codes.mean(0).square().mean() + (variance - 1).square().mean() + off_diagonal * rest.square().mean()
