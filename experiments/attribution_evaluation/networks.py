"""Networks whose real weights come without code: MobileNetV2 with folded batch norm, and CIFAR-10's ResNets."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.classifiers import SamePadding

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and first stride of MobileNetV2's stages (Sandler et al., 2018, table 2)."""


def _unit(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, linear: bool = False
) -> nn.Module:
    """Convolution with bias and, unless linear, ReLU6; at stride 2 with TensorFlow's "SAME" padding."""
    padding = kernel // 2 if stride == 1 else 0
    before = [SamePadding(kernel)] if stride == 2 else []
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups)
    return nn.Sequential(*before, convolution, *([] if linear else [nn.ReLU6()]))


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        widen = [_unit(inputs, inner, 1)] if expansion > 1 else []
        depthwise, narrow = _unit(inner, inner, 3, stride, groups=inner), _unit(inner, outputs, 1, linear=True)
        self.body = nn.Sequential(*widen, depthwise, narrow)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 1.0 with batch norm folded into the convolutions; ReLU6, no normalization left.

    Args:
        classes: number of logits.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers, width = [_unit(3, 32, 3, 2)], 32
        for expansion, channels, blocks, stride in _STAGES:
            for block in range(blocks):
                layers.append(_InvertedResidual(width, channels, stride if block == 0 else 1, expansion))
                width = channels
        self.features = nn.Sequential(*layers, _unit(width, 1280, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes)."""
        return self.classifier(self.flatten(self.pool(self.features(x))))


class _Shortcut(nn.Module):
    """He et al.'s option A: every second pixel, and zeros for the new channels."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else _Shortcut(outputs - inputs)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(inner + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet for 32 x 32 images (He et al., 2016, section 4.2), shortcuts of option A.

    Args:
        depth: 20, 32, 44, 56 ...: 6 b + 2 for b blocks in each of the three stages.
        classes: number of logits.
    """

    def __init__(self, depth: int = 20, classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.pool(x), 1))

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = _BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(_BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
