"""What all the small networks are made with: the registry, convolutions, heads."""

import zlib
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import nn

Kind = TypeVar("Kind", bound=nn.Module)

CLASSES = 5
NETWORKS: dict[str, Callable[[], nn.Module]] = {}


def network(name: str, **options: object) -> Callable[[type[Kind]], type[Kind]]:
    """Register a class of networks under a name; it may have several names with different options."""

    def register(make: type[Kind]) -> type[Kind]:
        NETWORKS[name] = partial(_seeded, make, options, seed=zlib.crc32(name.encode()))
        return make

    return register


def _seeded(make: Callable[..., nn.Module], options: dict[str, object], *, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make(**options).eval()
        for part in made.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, std=0.3)
                nn.init.uniform_(part.running_var, 0.5, 2.0)
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.3)
    return made


def conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)


class Head(nn.Sequential):
    """Global average pooling and a linear layer."""

    def __init__(self, channels: int, classes: int = CLASSES) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
