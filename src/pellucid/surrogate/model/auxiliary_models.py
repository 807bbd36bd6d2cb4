"""What is fitted before the surrogate and then frozen: attribute predictors, a probe of the features, and scales."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.surrogate.model.attribute_predictors import AttributePredictors
from pellucid.surrogate.model.layers import temporary_seed
from pellucid.surrogate.model.probes import ContextProbe
from pellucid.surrogate.training_options import TrainingOptions


@dataclass(frozen=True)
class AuxiliaryQuality:
    """How far the auxiliary models can be trusted, by context.

    Attributes:
        predictor_r2: R^2 of each attribute predictor on images that none was trained on, (J, K_c).
        probe_r2: R^2 of the context that the probe reads off the classifier's features, images unseen by the probe,
            (K_c,): about 0 where the classifier does not perceive it.
        untrained_baseline: The same from the features of the classifier with random weights: what can be read there
            although nothing was learned, (K_c,). Empty where there are no weights.
    """

    predictor_r2: tuple[tuple[float, ...], ...]
    probe_r2: tuple[float, ...]
    untrained_baseline: tuple[float, ...]


class AuxiliaryModels(nn.Module):
    """Frozen parts of a surrogate that are not trained with it.

    Args:
        channels: Channels of the images.
        features: Length of phi.
        contexts: K_c; may be 0.
        options: Sizes.
    """

    context_mean: Tensor
    context_std: Tensor
    phi_mean: Tensor
    phi_std: Tensor

    def __init__(self, channels: int, features: int, contexts: int, options: TrainingOptions) -> None:
        super().__init__()
        for name, length in (("context", contexts), ("phi", features)):
            self.register_buffer(f"{name}_mean", torch.zeros(length))
            self.register_buffer(f"{name}_std", torch.ones(length))
        with temporary_seed(options.seed):
            self.attribute_predictors = AttributePredictors(channels, contexts, options)
            self.context_probe = ContextProbe(features, contexts)
        self.eval().requires_grad_(False)

    def set_scales(self, context: Tensor, phi: Tensor) -> None:
        """Take means and standard deviations from the given images' context (N, K_c) and features (N, F)."""
        self.context_mean, self.context_std = mean_and_std(context)
        self.phi_mean, self.phi_std = mean_and_std(phi)

    def standard_context(self, values: Tensor) -> Tensor:
        """Context in the table's units (N, K_c) in standard deviations from its mean."""
        return (values - self.context_mean) / self.context_std

    def context_values(self, standard: Tensor) -> Tensor:
        """Standardized context (N, K_c) in the table's units."""
        return standard * self.context_std + self.context_mean

    def standard_phi(self, phi: Tensor) -> Tensor:
        """Raw features (N, F) in standard deviations from their mean."""
        return (phi - self.phi_mean) / self.phi_std


def mean_and_std(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the columns of (N, D); 1 in place of the deviation of a constant column.

    >>> mean_and_std(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    (tensor([1., 5.]), tensor([1., 1.]))
    """
    mean = values.mean(0)
    std = (values - mean).square().mean(0).sqrt()
    return mean, torch.where(std > 1e-6, std, torch.ones_like(std))
