"""Networks whose control flow depends on data, or that torch.fx cannot trace for other reasons."""

import torch
from tests.networks.branches import BasicBlock
from tests.networks.parts import Head, conv, network
from torch import Tensor, nn
from torch.nn import functional as F


@network("control_flow")
class ControlFlow(nn.Module):
    """What is computed depends on the data; shortcuts by addition and concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 2), nn.ReLU(inplace=True))
        self.block, self.rare = BasicBlock(8, 8, 1), conv(8, 8)
        self.merge, self.head = conv(16, 8, 2), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.block(x)
        if bool(x.max() > 1e6):
            out = self.rare(out)
        return self.head(self.merge(torch.cat([out, x], 1)).relu())


@network("control_flow_in_place")
class ControlFlowInPlace(nn.Module):
    """In-place ReLU modules whose results are thrown away, after images that are normalized in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 8, 2), conv(8, 8), conv(8, 8, 2)
        self.relu = nn.ReLU(inplace=True)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0)
        if not bool(x.isfinite().all()):
            x = x.nan_to_num()
        shortcut = self.conv1(x)
        self.relu(shortcut)
        x = self.conv2(shortcut)
        self.relu(x)
        return self.head(self.conv3(x + shortcut))


@network("loop")
class Loop(nn.Module):
    """A block called as often as the data say (twice)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = conv(3, 8, 2), nn.Sequential(conv(8, 8), nn.Tanh()), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2 + int(x.max() > 1e6)):
            x = x + self.block(x)
        return self.head(x)


class Gate(nn.Module):
    """Remembers a gate that it does not return."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(8, 8)
        self.gate: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.gate = x.mean((2, 3), keepdim=True).sigmoid()
        return F.relu(self.conv(x))


@network("remembers")
class Remembers(nn.Module):
    """A submodule's memory is a path around its output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.block = nn.Sequential(conv(3, 8, 2), nn.ReLU()), Gate(), conv(8, 8)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.stem(x))
        assert self.gate.gate is not None
        return self.head(self.block(x) * (self.gate.gate if bool(x.max() < 1e6) else 1.0))


class Maps:
    """An object of the user's own that holds tensors."""

    def __init__(self, fine: Tensor, coarse: Tensor) -> None:
        self.fine, self.coarse = fine, coarse


class Encoder(nn.Module):
    """Returns an object of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(3, 8, 2), conv(8, 8, 2)

    def forward(self, x: Tensor) -> Maps:
        fine = F.relu(self.conv1(x))
        return Maps(fine, F.relu(self.conv2(fine)))


@network("own_outputs")
class OwnOutputs(nn.Module):
    """A submodule returns an object that nobody else knows how to split by images."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mix, self.head = Encoder(), conv(8, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.encoder(x)
        scale = 1.0 if bool(maps.fine.max() < 1e6) else 0.5
        return self.head(F.relu(self.mix(maps.coarse)) * scale + F.avg_pool2d(maps.fine, 2))


@network("asks_for_a_tensor")
class AsksForATensor(nn.Module):
    """Takes a tensor or a list; what a tracer passes is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.head = conv(3, 8, 2), conv(8, 8), Head(8)

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        maps = [x] if isinstance(x, Tensor) else x
        return self.head(self.conv2(torch.cat([F.relu(self.conv1(maps[0]))], 1)))
