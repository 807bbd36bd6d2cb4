"""What is fitted before the surrogate and then frozen: attribute predictors, a probe of the features, and scales."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.surrogate.model.encoders import MLP, ConvEncoder, fit_regressor
from pellucid.surrogate.model.network_layers import temporary_seed
from pellucid.surrogate.training_options import TrainingOptions

FOLDS = 3
"""Of the cross-fitting of a probe."""


class AttributePredictors(nn.Module):
    """E_c: regressors that predict the context of an image; their mean is its context.

    They are trained on disjoint images. A generator that fools one with faint smudges does not fool all, and where they
    disagree, none is to be believed.

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


class ContextProbe(nn.Module):
    """Q: what context the classifier's features hold; the mean of cross-fitted MLPs, phi (N, F) to context (N, K_c).

    Args:
        features: F.
        contexts: K_c.

    >>> ContextProbe(6, 2)(torch.zeros(5, 6)).shape
    torch.Size([5, 2])
    """

    def __init__(self, features: int, contexts: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(MLP(features, contexts) for _ in range(FOLDS))

    def forward(self, phi: Tensor) -> Tensor:
        return torch.stack([member(phi) for member in self.members]).mean(0)


def fit_context_probe(phi: Tensor, context: Tensor, *, steps: int, seed: int) -> tuple[ContextProbe, Tensor]:
    """Train each member on two thirds of the images, drawn evenly: re-weighted batches would tie the members' errors.

    Args:
        phi: (N, F), standardized.
        context: (N, K_c), standardized.
        steps: Training steps of each member.
        seed: Seed of weights and draws.

    Returns:
        The probe, frozen, and its cross-fitted prediction (N, K_c): of each image by the member that never saw it.

    >>> phi = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    >>> probe, cross_fitted = fit_context_probe(phi, phi[:, :1], steps=5, seed=0)
    >>> probe(phi).shape, cross_fitted.shape
    (torch.Size([90, 1]), torch.Size([90, 1]))
    """
    random = torch.Generator().manual_seed(seed)
    with temporary_seed(seed):
        probe = ContextProbe(phi.shape[1], context.shape[1])
    fold = torch.arange(len(phi)) % FOLDS
    cross_fitted = torch.empty_like(context)
    for index, member in enumerate(probe.members):
        training_rows = (fold != index).nonzero()[:, 0]

        def draw_batch(training_rows: Tensor = training_rows) -> tuple[Tensor, Tensor]:
            rows = training_rows[torch.randint(len(training_rows), (128,), generator=random)]
            return phi[rows], context[rows]

        fit_regressor(member, draw_batch, steps=steps, learning_rate=1e-3, weight_decay=1e-2)
        with torch.no_grad():
            cross_fitted[fold == index] = member(phi[fold == index])
    return probe, cross_fitted


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
