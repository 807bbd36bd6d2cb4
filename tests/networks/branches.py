"""Shortcuts, dense connections, parallel branches, gates, and a block called twice."""

import torch
from tests.networks.parts import CLASSES, Head, conv, network
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut; one in-place ReLU used twice, `out += identity`."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv(channels_out, channels_out), nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module | None = None
        if stride > 1 or channels_in != channels_out:
            self.downsample = nn.Conv2d(channels_in, channels_out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


@network("residual")
class Residual(nn.Module):
    """As a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 8, 1))
        self.layer2 = nn.Sequential(BasicBlock(8, 12, 2), BasicBlock(12, 12, 1))
        self.layer3 = nn.Sequential(BasicBlock(12, 16, 2))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 16, H / 4, W / 4)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class DenseLayer(nn.Module):
    """New channels from all earlier ones."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm, self.relu, self.conv = nn.BatchNorm2d(channels), nn.ReLU(inplace=True), conv(channels, growth)

    def forward(self, earlier: list[Tensor]) -> Tensor:
        return self.conv(self.relu(self.norm(torch.cat(earlier, 1))))


class DenseBlock(nn.ModuleDict):
    """Layers that each see the outputs of all before."""

    def __init__(self, channels: int, layers: int, growth: int) -> None:
        super().__init__({f"layer{i}": DenseLayer(channels + i * growth, growth) for i in range(layers)})

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.values():
            outputs.append(layer(outputs))
        return torch.cat(outputs, 1)


@network("dense")
class Dense(nn.Module):
    """As a DenseNet, with the functional ReLU after the last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv", conv(3, 8, 2))
        self.features.add_module("block1", DenseBlock(8, 2, 4))
        self.features.add_module("transition", nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2)))
        self.features.add_module("block2", DenseBlock(16, 2, 4))
        self.features.add_module("norm", nn.BatchNorm2d(24))
        self.classifier = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.features(x), inplace=True)
        out = torch.flatten(F.adaptive_avg_pool2d(out, (1, 1)), 1)
        return self.classifier(out)


class InceptionBlock(nn.Module):
    """Parallel branches, concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch1 = nn.Conv2d(channels, 4, 1)
        self.branch2 = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU(inplace=True), conv(4, 8))
        self.branch3 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(channels, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(branch(x)) for branch in (self.branch1, self.branch2, self.branch3)], 1)


@network("inception")
class Inception(nn.Module):
    """As GoogLeNet, rescaling of the images' channels included."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 2), nn.ReLU(inplace=True))
        self.inception1, self.inception2 = InceptionBlock(8), InceptionBlock(16)
        self.pool, self.head = nn.MaxPool2d(2), Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([(x[:, i] * (0.9 + 0.1 * i) - 0.05).unsqueeze(1) for i in range(3)], 1)
        x = self.inception1(self.stem(x))
        return self.head(self.inception2(self.pool(x)))


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate computed from their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


@network("squeeze_excite")
class SqueezeExcitation(nn.Sequential):
    """As an EfficientNet: depthwise convolutions, SiLU, gates."""

    def __init__(self) -> None:
        depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        super().__init__(
            *(conv(3, 8, 2), nn.BatchNorm2d(8), nn.SiLU(inplace=True)),
            *(depthwise, nn.SiLU(inplace=True), SqueezeExcite(8), nn.Conv2d(8, 12, 1)),
            *Head(12),
        )


@network("called_twice")
class CalledTwice(nn.Module):
    """One block, called twice with the same weights; the first output is added to the second."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 2)
        self.block = nn.Sequential(conv(8, 8), nn.ReLU())
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        first = self.block(self.stem(x))
        return self.head(self.block(first) + first)
