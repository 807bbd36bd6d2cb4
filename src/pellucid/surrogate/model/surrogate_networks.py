"""The networks that are trained together: encoders of latents and nuisance, head, and generator; and their opponent."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.errors import PellucidError
from pellucid.surrogate.model.codes import Codes
from pellucid.surrogate.model.encoders import MLP, ConvEncoder
from pellucid.surrogate.model.gan import Discriminator, Generator
from pellucid.surrogate.model.network_layers import temporary_seed
from pellucid.surrogate.training_options import TrainingOptions


@dataclass(frozen=True)
class DataSizes:
    """What the data says about a surrogate's shape.

    Attributes:
        channels: Channels of the images.
        features: Length of phi, the classifier's pooled features.
        classes: Number of logits of the classifier.
        context_names: Names of the contexts.
    """

    channels: int
    features: int
    classes: int
    context_names: tuple[str, ...]


class SurrogateNetworks(nn.Module):
    """Encoders of latents and nuisance, the head that reproduces the classifier, and the generator.

    Args:
        sizes: Sizes of the data.
        options: Options of the training.

    >>> from pellucid.surrogate import PRESETS
    >>> networks = SurrogateNetworks(DataSizes(1, 8, 3, ("thickness",)), PRESETS["ci-16"])
    >>> codes = Codes(torch.zeros(2, 1), torch.zeros(2, 4), torch.zeros(2, 4))
    >>> networks.generate(codes).shape
    torch.Size([2, 1, 16, 16])
    """

    def __init__(self, sizes: DataSizes, options: TrainingOptions) -> None:
        super().__init__()
        contexts = len(sizes.context_names)
        self.blocks = (contexts, options.latent_dim, options.nuisance_dim)
        width = {"channel_base": options.encoder_channel_base, "max_channels": options.encoder_max_channels}
        with temporary_seed(options.seed):
            self.latent = MLP(sizes.features, options.latent_dim)
            self.nuisance = ConvEncoder(options.resolution, sizes.channels, options.nuisance_dim, **width)
            self.head = MLP(contexts + options.latent_dim, sizes.classes)
            self.generator = Generator(
                sum(self.blocks),
                options.resolution,
                sizes.channels,
                channel_base=options.channel_base,
                max_channels=options.max_channels,
                noise_inputs=options.noise_inputs,
                brightness_column=find_brightness_column(options.brightness_context, sizes.context_names),
                equalized_lr=options.equalized_lr,
            )

    def generate(self, codes: Codes, random: torch.Generator | None = None) -> Tensor:
        """Images (N, C, R, R) of codes, display space."""
        images: Tensor = self.generator(codes.to_vector(), random)
        return images


def make_discriminator(sizes: DataSizes, options: TrainingOptions) -> Discriminator:
    """The discriminator of a training."""
    with temporary_seed(options.seed + 7):
        return Discriminator(
            options.resolution,
            sizes.channels,
            sizes.features,
            channel_base=options.channel_base,
            max_channels=options.max_channels,
            equalized_lr=options.equalized_lr,
        )


def find_brightness_column(name: str | None, context_names: Sequence[str]) -> int | None:
    """The column of the context that drives the generator's brightness; None without one.

    >>> find_brightness_column("intensity", ("thickness", "intensity"))
    1

    Raises:
        PellucidError: There is no such context.
    """
    if name is None:
        return None
    if name not in context_names:
        there = ", ".join(context_names) or "none"
        raise PellucidError(f"brightness_context={name!r} is not a context; there are {there}")
    return list(context_names).index(name)
