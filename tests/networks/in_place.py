"""Networks that write over tensors which others hold too."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from tests.networks.parts import Head, conv, network
from tests.networks.plain import GapLinear
from torch import Tensor, nn
from torch.nn import functional as F


@network("in_place_module", activate=nn.ReLU(inplace=True))
@network("in_place_functional", activate=partial(F.relu, inplace=True))
@network("in_place_by_keyword", activate=lambda x: F.relu(input=x, inplace=True))
@network("in_place_function", activate=torch.relu_)
@network("in_place_method", activate=lambda x: x.relu_())
@network("in_place_leaky", activate=partial(F.leaky_relu_, negative_slope=0.3))
class InPlace(nn.Module):
    """Activations whose results are thrown away: what counts is that they have changed the tensor."""

    def __init__(self, activate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 8, 2), conv(8, 8), conv(8, 8, 2)
        self.activate = copy.deepcopy(activate)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.conv1(x)
        self.activate(shortcut)
        x = self.conv2(shortcut)
        self.activate(x)
        return self.head(self.conv3(x + shortcut))


@network("augmented_assignment")
class AugmentedAssignment(nn.Module):
    """`out += shortcut` changes a tensor that another name holds too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 8, 2), conv(8, 8), conv(8, 8, 2)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        out = kept = self.conv2(x.relu())
        out += x
        return self.head(self.conv3(out.relu()) + F.avg_pool2d(kept, 2))


@network("preactivation")
class PreActivation(nn.Module):
    """Blocks that begin with an in-place ReLU, so that their shortcut is the rectified tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 2)
        self.relu = nn.ReLU(inplace=True)
        self.conv1, self.conv2 = conv(8, 8), conv(8, 8)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for convolution in (self.conv1, self.conv2):
            x = x + convolution(self.relu(x))
        return self.head(x)


@network("writes_to_its_input")
class WritesToItsInput(nn.Module):
    """Normalizes the images in place."""

    def __init__(self) -> None:
        super().__init__()
        self.features = GapLinear()

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        return self.features(x.div_(0.25))


@network("view_in_place")
class ViewInPlace(nn.Module):
    """Writes to a view; a tracer that knows no memory is wrong here."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(3, 8, 2), conv(8, 8, 2)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x.flatten(2).relu_()
        return self.head(self.conv2(x))


@network("writes_by_index")
class WritesByIndex(nn.Module):
    """Sets a row of the map to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(3, 8, 2), conv(8, 8, 2)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x[:, :, 0] = 0.0
        return self.head(self.conv2(x).relu())
