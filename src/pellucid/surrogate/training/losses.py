"""Loss terms and regularizers of a training, as pure functions of tensors."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities (N, K) of logits; of one logit, those of no and yes (N, 2).

    >>> log_probabilities(torch.zeros(1, 2)).exp()
    tensor([[0.5000, 0.5000]])
    """
    if logits.shape[1] == 1:
        return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=1)
    return F.log_softmax(logits, dim=1)


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of each row (N,), in nats, from logits (N, K).

    >>> logits = torch.tensor([[0.0, 1.0]])
    >>> kl_divergence(logits, logits)
    tensor([0.])
    """
    target = log_probabilities(teacher)
    return (target.exp() * (target - log_probabilities(student))).sum(1)


def brightness_divergence(generated: Tensor, target: Tensor, softening: float = 0.01) -> Tensor:
    """Mean relative entropy of pixels in display space, brightness (x + 1) / 2 read as a probability.

    Where a saturated pixel is wrong, tanh has no slope left and the absolute difference cannot correct it; this can.

    Args:
        generated: (N, C, H, W) in [-1, 1].
        target: (N, C, H, W) in [-1, 1].
        softening: Distance from 0 and 1 at which brightness is kept.

    Returns:
        One number, in nats.

    >>> image = torch.tensor([[[[-1.0, 1.0]]]])
    >>> float(brightness_divergence(image, image)), round(float(brightness_divergence(-image, image)), 1)
    (0.0, 4.5)
    """
    p, q = (softening + (1 - 2 * softening) * ((x + 1) / 2).clamp(0, 1) for x in (target, generated))
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()


def feature_distance(generated: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Sum over layers of mean |generated - target| / mean |target|; a perceptual loss in the classifier's own eyes.

    >>> feature_distance([torch.full((1, 2, 2, 2), 3.0)], [torch.full((1, 2, 2, 2), 2.0)])
    tensor(0.5000)
    """
    terms = [(a - b).abs().mean() / b.abs().mean().clamp_min(1e-6) for a, b in zip(generated, target, strict=True)]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def row_distance(values: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 distance of each row, mean over columns: (..., N, D) -> (..., N).

    >>> row_distance(torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 1.0]]))
    tensor([0.7500])
    """
    return F.smooth_l1_loss(values, target.expand_as(values), reduction="none").mean(-1)


def real_loss(scores: Tensor) -> Tensor:
    """Logistic loss of scores (N,) that should be high.

    >>> real_loss(torch.zeros(3))
    tensor(0.6931)
    """
    return F.softplus(-scores).mean()


def fake_loss(scores: Tensor) -> Tensor:
    """Logistic loss of scores (N,) that should be low.

    >>> fake_loss(torch.zeros(3))
    tensor(0.6931)
    """
    return F.softplus(scores).mean()


def r1_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Mean squared norm of the gradient of scores (N,) at real images (N, C, H, W) (Mescheder et al. 2018).

    Args:
        scores: Computed from `images`, which require a gradient.
        images: Real images.

    >>> images = torch.zeros(2, 1, 2, 2, requires_grad=True)
    >>> float(r1_penalty(3 * images.sum(dim=(1, 2, 3)), images))
    36.0
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def second_differences(function: Callable[[Tensor], Tensor], codes: Tensor, directions: Tensor, step: float) -> Tensor:
    """(f(w + h v) - 2 f(w) + f(w - h v)) / h^2, which tends to v^T H v.

    Args:
        function: Codes (R, D) to outputs (R, ...).
        codes: w, (N, D).
        directions: v, (k, N, D).
        step: h.

    Returns:
        (k, N, ...).

    >>> codes, directions = torch.zeros(1, 2).double(), torch.ones(1, 1, 2).double()
    >>> round(float(second_differences(lambda w: (w**2).sum(1), codes, directions, 0.1)), 6)
    4.0
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
        function: Codes (R, D) to outputs (R, ...).
        codes: (N, D).
        directions: (k, N, D) of -1 and 1, zero for coordinates that may interact; k at least 2.
        step: Length of the step along a direction.

    >>> signs = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]]).double()
    >>> additive, product = (lambda w: w.sum(1), lambda w: w.prod(1))
    >>> [round(float(hessian_penalty(f, torch.zeros(1, 2).double(), signs)), 6) for f in (additive, product)]
    [0.0, 8.0]
    """
    return second_differences(function, codes, directions, step).var(dim=0, unbiased=True).mean()


def path_lengths(images: Tensor, codes: Tensor, noise: Tensor) -> Tensor:
    """|J^T y| of each image (N,), with y images of noise of unit variance over the number of pixels.

    StyleGAN2 pulls the lengths towards their running mean (Karras et al. 2020, section 3.2).

    Args:
        images: (N, C, H, W), computed from `codes`.
        codes: (N, D), which require a gradient.
        noise: (N, C, H, W), standard normal.

    >>> codes = torch.zeros(1, 1, requires_grad=True)
    >>> images = (codes @ torch.ones(1, 4)).view(1, 1, 2, 2)
    >>> path_lengths(images, codes, torch.ones(1, 1, 2, 2)).detach()
    tensor([2.])
    """
    scaled = noise / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * scaled).sum(), codes, create_graph=True)
    return gradient.square().sum(1).sqrt()


def moment_penalty(codes: Tensor, off_diagonal: float = 0.1) -> Tensor:
    """Distance of codes (N, D) from mean 0, variance 1 and, weakly, no covariance: fixes scale, prevents collapse.

    >>> round(float(moment_penalty(torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0)))), 2)
    0.0
    """
    centered = codes - codes.mean(0)
    covariance = centered.T @ centered / max(1, len(codes) - 1)
    variance = covariance.diagonal()
    rest = covariance - torch.diag(variance)
    return codes.mean(0).square().mean() + (variance - 1).square().mean() + off_diagonal * rest.square().mean()
