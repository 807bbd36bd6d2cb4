"""The networks of the twin surrogate, in plain PyTorch: generator, discriminator, encoders, and their running mean."""

from pellucid.surrogate.model.discriminator import Discriminator
from pellucid.surrogate.model.ema import RunningMean
from pellucid.surrogate.model.encoders import ConvEncoder, Perceptron, frozen_call
from pellucid.surrogate.model.equalized import (
    ScaledConv,
    ScaledLinear,
    channels_at,
    packed,
    resolutions_to,
)
from pellucid.surrogate.model.generator import Generator
from pellucid.surrogate.model.modulated import ModulatedConv, modulated_conv

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
