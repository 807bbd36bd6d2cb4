"""Forwards with more arguments, submodules with structured outputs, awkward names."""

from tests.networks.parts import CLASSES, Head, conv, network
from torch import Tensor, nn
from torch.nn import functional as F


@network("default_arguments")
class DefaultArguments(nn.Module):
    """A forward with more arguments than the images."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.fc = nn.Sequential(conv(3, 8, 2), nn.ReLU()), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None, *, flip: bool = False) -> Tensor:
        x = self.features(x.flip(3) if flip else x) * scale
        return self.fc(pooled(x if mask is None else x * mask, axes=(2, 3)))


def pooled(x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
    """Mean over some axes."""
    return x.mean(dim=axes)


class Pyramid(nn.Module):
    """Hands on several maps by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(3, 8, 2), conv(8, 8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = F.relu(self.conv1(x))
        return {"fine": fine, "coarse": F.relu(self.conv2(fine))}


class Split(nn.Module):
    """Hands on two halves of the channels, and a number."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        first, second = x.chunk(2, dim=1)
        return first, second, 2


@network("structured_outputs")
class StructuredOutputs(nn.Module):
    """Submodules that return dictionaries and tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid, self.split, self.mix, self.head = Pyramid(), Split(), conv(4, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.pyramid(x)
        first, second, factor = self.split(maps["coarse"])
        return self.head(self.mix(first * factor - second) + F.avg_pool2d(maps["fine"], 2))


@network("names_of_aliases")
class NamesOfAliases(nn.Module):
    """Submodules that are called like pellucid's aliases."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.middle, self.final = conv(3, 8, 2), conv(8, 8, 2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.middle(self.input(x).relu()).relu().mean((2, 3)))
