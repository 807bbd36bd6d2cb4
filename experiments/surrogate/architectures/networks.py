"""Small classifiers of grey images with the wirings of well-known ones, to be trained in a minute."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.attribution_evaluation.networks import CifarResNet


def plain_cnn(classes: int, *, batch_norm: bool) -> nn.Sequential:
    """Three 3 x 3 convolutions of 32, 32 and 64 channels, each with ReLU and 2 x 2 max pooling, and a linear layer."""
    features, width = nn.Sequential(), 1
    for channels in (32, 32, 64):
        features.append(_conv(width, channels, bias=not batch_norm))
        if batch_norm:
            features.append(nn.BatchNorm2d(channels))
        features.extend([nn.ReLU(), nn.MaxPool2d(2)])
        width = channels
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, classes))


def resnet20(classes: int) -> CifarResNet:
    """ResNet-20 of He et al. (2016), section 4.2, for grey images."""
    network = CifarResNet(20, classes)
    network.conv1 = _conv(1, 16, bias=False)
    return network


class DenseNet(nn.Module):
    """As DenseNet-BC (Huang et al., 2017): dense blocks, halving transitions, a norm and ReLU at the end.

    Args:
        classes: number of logits.
        growth: channels that each layer adds.
        blocks: layers in each dense block.
    """

    def __init__(self, classes: int, growth: int = 8, blocks: tuple[int, ...] = (3, 3, 3)) -> None:
        super().__init__()
        width = 2 * growth
        self.features = nn.Sequential(_conv(1, width, bias=False))
        for index, layers in enumerate(blocks):
            self.features.append(nn.Sequential(*(_DenseLayer(width + i * growth, growth) for i in range(layers))))
            width += layers * growth
            if index < len(blocks) - 1:
                self.features.append(_transition(width))
                width //= 2
        self.features.extend([nn.BatchNorm2d(width), nn.ReLU()])
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, classes)."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class _DenseLayer(nn.Module):
    """A bottleneck whose output is laid beside its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False))
        self.widen = nn.Sequential(nn.BatchNorm2d(4 * growth), nn.ReLU(), _conv(4 * growth, growth, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.widen(self.narrow(x))], 1)


def _transition(width: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2))


class Inception(nn.Module):
    """As GoogLeNet with batch norm (Szegedy et al., 2015): blocks of four parallel branches, laid side by side.

    Args:
        classes: number of logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = _unit(1, 24, 3)
        self.block1, self.block2 = _InceptionBlock(24, 8), _InceptionBlock(32, 12)
        self.block3, self.block4 = _InceptionBlock(48, 12), _InceptionBlock(48, 16)
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, classes)."""
        x = self.block1(self.pool(self.stem(x)))
        x = self.block3(self.pool(self.block2(x)))
        logits: Tensor = self.classifier(self.block4(x).mean((2, 3)))
        return logits


class _InceptionBlock(nn.Module):
    """1 x 1, 3 x 3 and 5 x 5 convolutions and a pooling, `width` channels each."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.point = _unit(inputs, width, 1)
        self.small = nn.Sequential(_unit(inputs, width, 1), _unit(width, width, 3))
        self.large = nn.Sequential(_unit(inputs, width // 2, 1), _unit(width // 2, width, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), _unit(inputs, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.point(x), self.small(x), self.large(x), self.pooled(x)], 1)


class VisionTransformer(nn.Module):
    """As ViT (Dosovitskiy et al., 2021): patches of 4 x 4 pixels, a class token, pre-norm blocks.

    Args:
        classes: number of logits.
        size: side of the images.
        width: length of a token.
        depth: number of blocks.
        heads: of the attention.
    """

    def __init__(self, classes: int, size: int = 16, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 1 + (size // 4) ** 2, width))
        self.blocks = nn.Sequential(*(_TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, classes)."""
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.places
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


class _TransformerBlock(nn.Module):
    """Attention and a perceptron, each added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(count, length, width)
        x = x + self.out(mixed)
        added: Tensor = self.perceptron(self.norm2(x))
        return x + added


def _conv(inputs: int, outputs: int, *, bias: bool) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return convolution


def _unit(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


NETWORKS: Mapping[str, Callable[[int], nn.Module]] = {
    "CNN": lambda classes: plain_cnn(classes, batch_norm=True),
    "CNN without BatchNorm": lambda classes: plain_cnn(classes, batch_norm=False),
    "ResNet-20": resnet20,
    "DenseNet": DenseNet,
    "Inception": Inception,
    "ViT": VisionTransformer,
}
"""Name -> network of so many classes for grey images of 16 x 16 pixels, with random weights."""
