"""Plain stacks of layers, heads, and weights that are computed or hooked."""

import warnings
from collections.abc import Callable

import torch
from tests.networks.parts import CLASSES, Head, conv, network
from torch import Tensor, nn
from torch.nn import functional as F


@network("gap_linear")
class GapLinear(nn.Sequential):
    """Convolutions, global average pooling, a linear layer: affine after the last ReLU."""

    def __init__(self) -> None:
        super().__init__(conv(3, 8, 2), nn.ReLU(), conv(8, 12, 2), nn.ReLU(), *Head(12))


@network("nested_sequential")
class NestedSequential(nn.Module):
    """Blocks in blocks, with batch norm, in-place ReLU, dropout and max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            nn.Sequential(nn.Sequential(conv(8, 12), nn.BatchNorm2d(12)), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        )
        self.dropout = nn.Dropout()
        self.head = Head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (N, 12, 8, 8)
        return self.head(self.dropout(x))


@network("flatten_head")
class FlattenHead(nn.Module):
    """As VGG: fully connected layers on the flattened map, by `x.view(x.size(0), -1)`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(conv(3, 8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(conv(8, 8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(nn.Linear(8 * 8 * 8, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.view(x.size(0), -1)
        return self.classifier(x)


@network("one_logit", classes=1)
@network("gray", channels=1)
@network("functional_relu", activate=F.relu)
@network("gelu", activate=F.gelu)
class Functional(nn.Module):
    """Activation and pooling as functions, `torch.flatten` before the head."""

    def __init__(
        self, channels: int = 3, classes: int = CLASSES, activate: Callable[[Tensor], Tensor] = torch.relu
    ) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(channels, 8, 2), conv(8, 12, 2)
        self.fc = nn.Linear(12, classes)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.activate(self.conv1(x))
        x = self.activate(self.conv2(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


@network("reused_relu")
class ReusedReLU(nn.Module):
    """One ReLU module for all layers, and a function of the same name as the module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 8, 2), conv(8, 8), conv(8, 8, 2)
        self.relu = nn.ReLU()
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        return self.head(torch.relu(self.conv3(x)))


@network("weight_norm")
class WeightNorm(nn.Module):
    """Weights computed from others, as a parametrization and, as older code does, by a hook before the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.utils.parametrizations.weight_norm(conv(3, 8, 2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.conv2 = nn.utils.weight_norm(conv(8, 8, 2))
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(self.conv1(x).relu()).relu())


@network("hooked")
class Hooked(GapLinear):
    """A network whose user has put hooks on it: one scales an output, one keeps the last output it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Tensor] = {}
        self[0].register_forward_hook(lambda module, inputs, output: 2 * output)
        self[2].register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen["2"] = output


class SamePadding(nn.Conv2d):
    """Pads by what the size asks for, in Python numbers, as TensorFlow does: torch.fx cannot look inside."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (max((-(-side // 2) - 1) * 2 + 3 - side, 0) for side in map(int, x.shape[-2:]))
        return super().forward(F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2]))


@network("same_padding")
class SamePadded(nn.Sequential):
    """Convolutions that torch.fx must take as one operation each."""

    def __init__(self) -> None:
        super().__init__(SamePadding(3, 8, 3, stride=2), nn.ReLU(), SamePadding(8, 8, 3, stride=2), nn.ReLU(), Head(8))
