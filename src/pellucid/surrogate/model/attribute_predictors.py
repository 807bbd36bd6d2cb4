"""E_c: what the contexts of an image are, by regressors that are trained first and then frozen.

Several judges are trained on disjoint images. A generator that fools one with faint smudges does not fool all, and
where they disagree, none is to be believed.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pellucid.surrogate.model import ConvEncoder, to_channels_last
from pellucid.surrogate.training.fitting import determination, fit_regressor, temporary_seed
from pellucid.surrogate.training.image_datasets import Images
from pellucid.surrogate.training.sampling import draw_rows
from pellucid.surrogate.training.training_options import TrainingOptions

Rerender = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""Draws images anew with other contexts, set by code: the strongest cure for contexts that are tied in the data.

Takes images (N, C, H, W) in the classifier's input space and a generator of random numbers; returns as many images,
each a version of the one in its place that differs in its contexts only, and their context (N, K) in the table's units.
A row whose context could not be told is NaN; it is left out.
"""

NOISE = 0.1
"""Most standard deviation of the noise added to the judges' training images, display space."""


class AttributePredictors(nn.Module):
    """Context regressors; the context of an image is their mean.

    Args:
        channels: of the images.
        contexts: K_c.
        options: resolution, widths and number of judges.
    """

    def __init__(self, channels: int, contexts: int, options: TrainingOptions) -> None:
        super().__init__()
        size = {"base": options.encoder_base, "most": options.encoder_most}
        self.members = nn.ModuleList(
            ConvEncoder(options.resolution, channels, contexts, **size) for _ in range(options.judges)
        )

    def each(self, shown: Tensor) -> Tensor:
        """Standardized contexts (J, N, K) of images (N, C, R, R) in display space, judge by judge."""
        return torch.stack([member(shown) for member in self.members])

    def forward(self, shown: Tensor) -> Tensor:
        """Standardized contexts (N, K)."""
        return self.each(shown).mean(0)

    def disagreement(self, shown: Tensor) -> Tensor:
        """Largest difference between judges, (N, K), in standard deviations of the table."""
        found = self.each(shown)
        return found.amax(0) - found.amin(0)


def fit_attribute_predictors(
    images: Images,
    context: Tensor,
    family: Tensor,
    weights: Tensor,
    options: TrainingOptions,
    device: torch.device,
) -> tuple[AttributePredictors, Tensor]:
    """Train the judges, each on its own share of the families, with noise added to the images.

    Args:
        images: rows in display space.
        context: (N, K), standardized.
        family: (N,), which rows are versions of one image; a tenth of the families is kept for testing.
        weights: (N,), of the draws.
        options: sizes, steps, seed.
        device: where to train.

    Returns:
        The judges, frozen, and their R^2 (J, K) on the families that none was trained on, drawn by the same weights.
    """
    random = torch.Generator().manual_seed(options.seed + 1)
    with temporary_seed(options.seed + 1):
        judges = AttributePredictors(len(images[torch.tensor([0])][0]), context.shape[1], options)
    to_channels_last(judges, device)
    share = torch.randperm(int(family.max()) + 1, generator=random)[family]
    tested = share % 10 == 0
    for index, member in enumerate(judges.members):
        mine = weights * (~tested & (share // 10 % options.judges == index))

        def batch(mine: Tensor = mine) -> tuple[Tensor, Tensor]:
            rows = draw_rows(mine, options.judge_batch, random)
            return _noisy(images[rows], random).to(device), context[rows].to(device)

        fit_regressor(member, batch, steps=options.judge_steps, rate=options.judge_rate)
    rows = draw_rows(weights * tested, min(2000, int(tested.sum())), random)
    found = map_in_batches(judges.each, images, rows, device, dim=1)
    return judges, torch.stack([determination(each, context[rows]) for each in found])


def map_in_batches(
    function: Callable[[Tensor], Tensor], images: Images, rows: Tensor, device: torch.device, dim: int = 0
) -> Tensor:
    """`function` of the images in `rows`, 128 at a time, joined along `dim` on the CPU."""
    with torch.no_grad():
        return torch.cat([function(images[chunk].to(device)).cpu() for chunk in torch.split(rows, 128)], dim=dim)


def _noisy(shown: Tensor, random: torch.Generator) -> Tensor:
    strength = NOISE * torch.rand(len(shown), 1, 1, 1, generator=random)
    return shown + strength * torch.randn(shown.shape, generator=random)
