"""The networks of the twin surrogate, in plain PyTorch: generator, discriminator, encoders, and their running mean."""

from pellucid.surrogate.model.discriminator import Discriminator
from pellucid.surrogate.model.ema import RunningMean
from pellucid.surrogate.model.encoders import MLP, ConvEncoder, call_frozen
from pellucid.surrogate.model.equalized import (
    ScaledConv,
    ScaledLinear,
    channels_at,
    resolutions_up_to,
    to_channels_last,
)
from pellucid.surrogate.model.generator import Generator
from pellucid.surrogate.model.modulated import ModulatedConv, modulated_conv

__all__ = [
    "MLP",
    "ConvEncoder",
    "Discriminator",
    "Generator",
    "ModulatedConv",
    "RunningMean",
    "ScaledConv",
    "ScaledLinear",
    "call_frozen",
    "channels_at",
    "modulated_conv",
    "resolutions_up_to",
    "to_channels_last",
]
