"""DiFull written as one network on the whole grid: three heads that compute the same from other weights."""

import torch
from torch import Tensor, nn

from experiments.attribution_evaluation.networks import CifarResNet
from pellucid import Classifier
from pellucid.attribution import LRP, Method, ZPlus

HEADS = ("disconnected", "zero weights", "cancelling units")
"""The head sees its own cell's features only; it sees those of all cells, with weights of zero for the others; a layer
before it adds two units, the sum of the others' features and its negative, to which the head gives equal weights."""


class _ConnectedHead(nn.Module):
    """A classifier of one cell of a 2 x 2 grid image whose head is connected to all cells."""

    def __init__(self, network: CifarResNet, cell: int, head: str, side: int) -> None:
        super().__init__()
        stem = (network.conv1, network.bn1, network.relu)
        stages = (network.layer1, network.layer2, network.layer3)
        self.body = nn.Sequential(*stem, *stages, network.pool, nn.Flatten())
        self.head = _head(network.linear, cell, head)
        self.side = side
        self.cells = (cell,) if head == "disconnected" else (0, 1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 2 side, 2 side) -> (N, classes)."""
        places = [(self.side * (cell // 2), self.side * (cell % 2)) for cell in self.cells]
        cells = [x[:, :, top : top + self.side, left : left + self.side] for top, left in places]
        return self.head(torch.cat([self.body(cell) for cell in cells], dim=1))


def connected_classifier(classifier: Classifier, cell: int, head: str) -> Classifier:
    """A head of `HEADS` for one cell, as a classifier of grid images."""
    channels, side, _ = classifier.input_shape
    network = _ConnectedHead(classifier.module, cell, head, side).eval()  # type: ignore[arg-type]
    size = (channels, 2 * side, 2 * side)
    return Classifier(network, preprocess=classifier.preprocess, input_size=size, name=f"{classifier.name}, {head}")


def toy_shares(draws: int, seed: int = 0) -> dict[str, list[float]]:
    """Positive share of the connected cell's relevance on random toys of two cells with four features each.

    Returns:
        "epsilon" and "z+" in the head, for every draw.
    """
    methods: dict[str, Method] = {
        "epsilon": LRP(composite="epsilon"),
        "z+": LRP(composite="epsilon", rules={"*": ZPlus()}),
    }
    generator = torch.Generator().manual_seed(seed)
    shares: dict[str, list[float]] = {name: [] for name in methods}
    while len(shares["epsilon"]) < draws:
        weights = torch.randn(1, 4, generator=generator)
        features = torch.rand(1, 1, 2, 4, generator=generator)
        if float((features[0, 0, 0] * weights).sum()) < 0.1:  # relevance starts at a positive logit
            continue
        own = nn.Linear(4, 1, bias=False)
        own.weight.data = weights
        network = nn.Sequential(nn.Flatten(), _cancelling(own, 0, 2)).eval()
        view = Classifier(network.double(), input_size=(1, 2, 4)).at("input")
        for name, method in methods.items():
            positive = method(view, features.double(), 0).values[0, 0].clamp(min=0)
            shares[name].append(float(positive[0].sum() / positive.sum()))
    return shares


def _head(linear: nn.Linear, cell: int, head: str) -> nn.Module:
    if head == "disconnected":
        return linear
    if head == "cancelling units":
        return _cancelling(linear, cell, 4)
    count = linear.in_features
    wide = nn.Linear(4 * count, linear.out_features)
    wide.weight.data = torch.zeros_like(wide.weight)
    wide.weight.data[:, cell * count : (cell + 1) * count] = linear.weight.detach()
    wide.bias.data = linear.bias.detach().clone()
    return wide


def _cancelling(linear: nn.Linear, cell: int, cells: int) -> nn.Sequential:
    """The cell's own features and the two units, then the head with weight 1 for both units."""
    count = linear.in_features
    own = slice(cell * count, (cell + 1) * count)
    hidden = nn.Linear(cells * count, count + 2, bias=False)
    hidden.weight.data = torch.zeros_like(hidden.weight)
    hidden.weight.data[:count, own] = torch.eye(count)
    hidden.weight.data[count], hidden.weight.data[count + 1] = 1.0, -1.0
    hidden.weight.data[count:, own] = 0.0
    output = nn.Linear(count + 2, linear.out_features, bias=linear.bias is not None)
    output.weight.data = torch.cat([linear.weight.detach(), torch.ones(linear.out_features, 2)], dim=1)
    if linear.bias is not None:
        output.bias.data = linear.bias.detach().clone()
    return nn.Sequential(hidden, output)
