"""E_c: regressors that predict the context of an image, trained first and then frozen.

Several are trained on disjoint images. A generator that fools one with faint smudges does not fool all, and where they
disagree, none is to be believed.
"""

import torch
from torch import Tensor, nn

from pellucid.surrogate.model.encoders import ConvEncoder
from pellucid.surrogate.training_options import TrainingOptions


class AttributePredictors(nn.Module):
    """Context regressors; the context of an image is their mean.

    Args:
        channels: Channels of the images.
        contexts: K_c.
        options: Resolution, widths and number of predictors.

    >>> from pellucid.surrogate import PRESETS
    >>> AttributePredictors(1, 2, PRESETS["ci-16"])(torch.zeros(5, 1, 16, 16)).shape
    torch.Size([5, 2])
    """

    def __init__(self, channels: int, contexts: int, options: TrainingOptions) -> None:
        super().__init__()
        size = {"channel_base": options.encoder_channel_base, "max_channels": options.encoder_max_channels}
        self.members = nn.ModuleList(
            ConvEncoder(options.resolution, channels, contexts, **size) for _ in range(options.num_predictors)
        )

    def predict_each(self, images: Tensor) -> Tensor:
        """Standardized contexts (J, N, K_c) of images (N, C, R, R) in display space, predictor by predictor."""
        return torch.stack([member(images) for member in self.members])

    def forward(self, images: Tensor) -> Tensor:
        """Standardized contexts (N, K_c)."""
        return self.predict_each(images).mean(0)

    def disagreement(self, images: Tensor) -> Tensor:
        """Largest difference between predictors, (N, K_c), in standard deviations of the table."""
        predicted = self.predict_each(images)
        return predicted.amax(0) - predicted.amin(0)
