"""Fitting the attribute predictors: each on images of its own, with noise added."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pellucid.surrogate.model.auxiliary_models import AttributePredictors
from pellucid.surrogate.model.batches import map_batches
from pellucid.surrogate.model.encoders import fit_regressor, r2_score
from pellucid.surrogate.model.network_layers import temporary_seed, to_channels_last
from pellucid.surrogate.training.image_datasets import gather_images
from pellucid.surrogate.training.sampling import draw_rows
from pellucid.surrogate.training_options import TrainingOptions

MAX_NOISE = 0.1
"""Largest standard deviation of the noise added to the predictors' training images, display space."""


def fit_attribute_predictors(
    images: Dataset[Tensor],
    context: Tensor,
    family: Tensor,
    weights: Tensor,
    options: TrainingOptions,
    device: torch.device,
) -> tuple[AttributePredictors, Tensor]:
    """Train the predictors, each on its own share of the families, with noise added to the images.

    Args:
        images: M images in display space.
        context: (M, K_c), standardized.
        family: (M,), which rows are versions of one image; a tenth of the families is kept for testing.
        weights: (M,), probability of each row in the draws, up to a factor.
        options: Sizes, steps, seed.
        device: Where to train.

    Returns:
        The predictors, frozen, and their R^2 (J, K_c) on the families that none was trained on, drawn by the same
        weights.
    """
    random = torch.Generator().manual_seed(options.seed + 1)
    with temporary_seed(options.seed + 1):
        predictors = AttributePredictors(len(images[0]), context.shape[1], options)
    to_channels_last(predictors, device)
    share = torch.randperm(int(family.max()) + 1, generator=random)[family]
    tested = share % 10 == 0
    for index, member in enumerate(predictors.members):
        member_weights = weights * (~tested & (share // 10 % options.num_predictors == index))

        def draw_batch(member_weights: Tensor = member_weights) -> tuple[Tensor, Tensor]:
            rows = draw_rows(member_weights, options.predictor_batch_size, random)
            return _add_noise(gather_images(images, rows), random).to(device), context[rows].to(device)

        fit_regressor(member, draw_batch, steps=options.predictor_steps, learning_rate=options.predictor_lr)
    rows = draw_rows(weights * tested, min(2000, int(tested.sum())), random)
    predicted = map_images(predictors.predict_each, images, rows, device, dim=1)
    return predictors, torch.stack([r2_score(each, context[rows]) for each in predicted])


def map_images(
    function: Callable[[Tensor], Tensor], images: Dataset[Tensor], rows: Tensor, device: torch.device, dim: int = 0
) -> Tensor:
    """`function` of the images in `rows`, 128 at a time and without gradients, joined along `dim` on the CPU.

    Args:
        function: From images (N, C, R, R) in display space.
        images: Where the images are taken from.
        rows: Which images.
        device: Where `function` runs.
        dim: Dimension of the result that runs over the images.
    """
    return map_batches(lambda chunk: function(gather_images(images, chunk).to(device)).cpu(), rows, size=128, dim=dim)


def _add_noise(images: Tensor, random: torch.Generator) -> Tensor:
    strength = MAX_NOISE * torch.rand(len(images), 1, 1, 1, generator=random)
    return images + strength * torch.randn(images.shape, generator=random)
