"""The networks that are trained together: the discriminative twin (encoders and head) and the generative twin."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.errors import PellucidError
from pellucid.surrogate.model import (
    MLP,
    ConvEncoder,
    Discriminator,
    Generator,
)
from pellucid.surrogate.model.codes import Codes
from pellucid.surrogate.training.fitting import temporary_seed
from pellucid.surrogate.training.training_options import TrainingOptions


@dataclass(frozen=True)
class DataSizes:
    """What the data says about a twin's shape: image channels, length of phi, classes, and names of the contexts."""

    channels: int
    features: int
    classes: int
    context_names: tuple[str, ...]


class SurrogateNetworks(nn.Module):
    """Encoders of latents and nuisance, the head that reproduces the classifier, and the generator.

    Args:
        sizes: of the data.
        options: of the training.
    """

    def __init__(self, sizes: DataSizes, options: TrainingOptions) -> None:
        super().__init__()
        contexts = len(sizes.context_names)
        self.blocks = (contexts, options.latents, options.nuisance)
        width = {"base": options.encoder_base, "most": options.encoder_most}
        with temporary_seed(options.seed):
            self.latent = MLP(sizes.features, options.latents)
            self.nuisance = ConvEncoder(options.resolution, sizes.channels, options.nuisance, **width)
            self.head = MLP(contexts + options.latents, sizes.classes)
            self.generator = Generator(
                sum(self.blocks),
                options.resolution,
                sizes.channels,
                base=options.base,
                most=options.most,
                noise=options.noise,
                gain=gain_column(options.gain, sizes.context_names),
                equalized=options.equalized,
            )

    def codes(self, joined: Tensor) -> Codes:
        """The blocks of joined codes (N, K_c + K_u + K_n)."""
        return Codes(*torch.split(joined, list(self.blocks), dim=1))

    def generate(self, codes: Codes, random: torch.Generator | None = None) -> Tensor:
        """Images (N, C, R, R) of codes, display space."""
        drawn: Tensor = self.generator(codes.joined(), random)
        return drawn


def make_discriminator(sizes: DataSizes, options: TrainingOptions) -> Discriminator:
    """The discriminator of a training."""
    with temporary_seed(options.seed + 7):
        return Discriminator(
            options.resolution,
            sizes.channels,
            sizes.features,
            base=options.base,
            most=options.most,
            equalized=options.equalized,
        )


def gain_column(name: str | None, names: Sequence[str]) -> int | None:
    """Which context drives the gain layer.

    Raises:
        PellucidError: there is no such context.
    """
    if name is None:
        return None
    if name not in names:
        raise PellucidError(f"gain={name!r} is no context; there are {', '.join(names) or 'none'}")
    return list(names).index(name)
