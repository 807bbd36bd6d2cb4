"""The networks of the twin surrogate, in plain PyTorch: generator, discriminator, encoders, and their running mean."""

from pellucid.surrogate.networks.discriminator import Discriminator
from pellucid.surrogate.networks.encoders import ConvEncoder, Perceptron, frozen_call
from pellucid.surrogate.networks.generator import Generator
from pellucid.surrogate.networks.modulated import ModulatedConv, modulated_conv
from pellucid.surrogate.networks.running_mean import RunningMean
from pellucid.surrogate.networks.scaled import ScaledConv, ScaledLinear, channels_at, packed, resolutions_to

__all__ = [
    "ConvEncoder",
    "Discriminator",
    "Generator",
    "ModulatedConv",
    "Perceptron",
    "RunningMean",
    "ScaledConv",
    "ScaledLinear",
    "channels_at",
    "frozen_call",
    "modulated_conv",
    "packed",
    "resolutions_to",
]
