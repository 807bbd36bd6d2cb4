"""Rules of layer-wise relevance propagation: how the relevance of an operation's output is shared among its inputs.

Pure functions of tensors. Relevance comes as (T, N, ...), T targets of N images, and leaves as (T, N, ...), so that
what the targets have in common is computed once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.attribution.lrp.sharing import epsilon_share
from pellucid.errors import LayerError, PellucidError
from pellucid.shapes import Float


@dataclass(frozen=True)
class LinearLayer:
    """A layer with weights, y = apply(x, weight) + bias.

    Attributes:
        apply: linear in x (N, ...) and in the weight, without bias.
        weight: any shape that `apply` takes.
        bias: broadcasts to y; None also where biases shall take no part of the relevance.
        box: smallest and largest possible x, each (1, ...) or (N, ...), where they are known.
        output: y where it is known. Relevance in proportion to y is divided by just that number, so that a y that is
            nearly 0 does not magnify the rounding of another way to compute it.

    >>> layer = LinearLayer(torch.nn.functional.linear, torch.tensor([[1.0, -1.0]]), torch.tensor([0.5]))
    >>> layer(torch.tensor([[3.0, 1.0]])).tolist()
    [[2.5]]
    """

    apply: Callable[[Tensor, Tensor], Tensor]
    weight: Tensor
    bias: Tensor | None = None
    box: tuple[Tensor, Tensor] | None = None
    output: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output, y."""
        output = self.apply(x, self.weight)
        return output if self.bias is None else output + self.bias


@dataclass(frozen=True)
class Rule(ABC):
    """How a layer with weights shares its relevance."""

    @abstractmethod
    def __call__(
        self, layer: LinearLayer, x: Float[Tensor, " N *inputs"], relevance: Float[Tensor, " T N *outputs"]
    ) -> Float[Tensor, " T N *inputs"]:
        """Relevance (T, N, *in) of the layer's input x (N, *in), given that of its output, (T, N, *out)."""


@dataclass(frozen=True)
class Epsilon(Rule):
    """R_i = x_i sum_j w_ij R_j / (z_j + epsilon sign z_j), z the output with its bias (Bach et al., 2015, eq. 58).

    >>> layer = LinearLayer(torch.nn.functional.linear, torch.tensor([[1.0, -1.0, 2.0]]))
    >>> x, relevance = torch.tensor([[1.0, 1.0, 1.0]]), torch.ones(1, 1, 1)
    >>> Epsilon(0.0)(layer, x, relevance).tolist()
    [[[0.5, -0.5, 1.0]]]
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        _check_not_negative(self)

    def __call__(
        self, layer: LinearLayer, x: Float[Tensor, " N *inputs"], relevance: Float[Tensor, " T N *outputs"]
    ) -> Float[Tensor, " T N *inputs"]:
        return _share(layer, [(x, layer.weight)], layer.bias, relevance, self.epsilon, layer.output)


@dataclass(frozen=True)
class AlphaBeta(Rule):
    """alpha times the shares of positive contributions x_i w_ij minus beta times those of negative ones.

    A positive bias is one more positive contribution, a negative bias a negative one (Bach et al., 2015, eq. 60). An
    output without contributions of one sign loses that sign's part of its relevance.

    >>> layer = LinearLayer(torch.nn.functional.linear, torch.tensor([[1.0, -1.0, 2.0]]))
    >>> x, relevance = torch.tensor([[1.0, 1.0, 1.0]]), torch.ones(1, 1, 1)
    >>> [round(share, 3) for share in AlphaBeta(2, 1, 0.0)(layer, x, relevance).flatten().tolist()]
    [0.667, -1.0, 1.333]
    """

    alpha: float = 2.0
    beta: float = 1.0
    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        _check_not_negative(self)
        if abs(self.alpha - self.beta - 1) > 1e-9:
            raise PellucidError(f"alpha - beta must be 1 to conserve relevance, not {self.alpha} - {self.beta}")

    def __call__(
        self, layer: LinearLayer, x: Float[Tensor, " N *inputs"], relevance: Float[Tensor, " T N *outputs"]
    ) -> Float[Tensor, " T N *inputs"]:
        positive, negative = _by_sign(layer.weight)
        bias = _by_sign(layer.bias)
        shares = self.alpha * _share(layer, _parts(x, positive, negative), bias[0], relevance, self.stabilizer)
        if self.beta == 0:
            return shares
        return shares - self.beta * _share(layer, _parts(x, negative, positive), bias[1], relevance, self.stabilizer)


@dataclass(frozen=True)
class ZPlus(Rule):
    """Relevance goes to positive contributions alone: alpha 1, beta 0 (Montavon et al., 2017, for x >= 0).

    >>> layer = LinearLayer(torch.nn.functional.linear, torch.tensor([[1.0, -1.0, 2.0]]))
    >>> x, relevance = torch.tensor([[1.0, 1.0, 1.0]]), torch.ones(1, 1, 1)
    >>> [round(share, 3) for share in ZPlus(0.0)(layer, x, relevance).flatten().tolist()]
    [0.333, 0.0, 0.667]
    """

    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        _check_not_negative(self)

    def __call__(
        self, layer: LinearLayer, x: Float[Tensor, " N *inputs"], relevance: Float[Tensor, " T N *outputs"]
    ) -> Float[Tensor, " T N *inputs"]:
        return AlphaBeta(1.0, 0.0, self.stabilizer)(layer, x, relevance)


@dataclass(frozen=True)
class Gamma(Rule):
    """Contributions of the output's own sign count 1 + gamma times (Montavon et al., 2019; Andeol et al., 2021).

    For x >= 0 and a positive output the weights become w + gamma max(w, 0).

    >>> layer = LinearLayer(torch.nn.functional.linear, torch.tensor([[1.0, -1.0, 2.0]]))
    >>> x, relevance = torch.tensor([[1.0, 1.0, 1.0]]), torch.ones(1, 1, 1)
    >>> [round(share, 3) for share in Gamma(1.0, 0.0)(layer, x, relevance).flatten().tolist()]
    [0.4, -0.2, 0.8]
    """

    gamma: float = 0.25
    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        _check_not_negative(self)

    def __call__(
        self, layer: LinearLayer, x: Float[Tensor, " N *inputs"], relevance: Float[Tensor, " T N *outputs"]
    ) -> Float[Tensor, " T N *inputs"]:
        output = layer(x) if layer.output is None else layer.output
        raised, lowered = (layer.weight + self.gamma * part for part in _by_sign(layer.weight))
        biases = [None if part is None else layer.bias + self.gamma * part for part in _by_sign(layer.bias)]
        of_positive, of_negative = relevance * (output > 0), relevance * (output < 0)
        shares = _share(layer, _parts(x, raised, lowered), biases[0], of_positive, self.stabilizer)
        if not bool(of_negative.any()):
            return shares
        return shares + _share(layer, _parts(x, lowered, raised), biases[1], of_negative, self.stabilizer)


@dataclass(frozen=True)
class ZBox(Rule):
    """z^B for inputs between l and h (Montavon et al., 2017, table 1).

    R_i = sum_j (x_i w_ij - l_i max(w_ij, 0) - h_i min(w_ij, 0)) R_j / (the same summed over i); the bias takes no part.

    >>> box = torch.tensor([[-1.0]]), torch.tensor([[1.0]])
    >>> layer = LinearLayer(torch.nn.functional.linear, torch.tensor([[1.0, 1.0]]), box=box)
    >>> ZBox(0.0)(layer, torch.tensor([[1.0, -1.0]]), torch.ones(1, 1, 1)).tolist()
    [[[1.0, 0.0]]]
    """

    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        _check_not_negative(self)

    def __call__(
        self, layer: LinearLayer, x: Float[Tensor, " N *inputs"], relevance: Float[Tensor, " T N *outputs"]
    ) -> Float[Tensor, " T N *inputs"]:
        if layer.box is None:
            raise LayerError(
                "the rule ZBox needs the lowest and highest value of its input, known only for layers applied to the "
                "images: give low= and high=, or a preprocess= with mean and std, or choose a rule without box"
            )
        low, high = (bound.expand_as(x) for bound in layer.box)
        positive, negative = _by_sign(layer.weight)
        parts = [(x, layer.weight), (low, -positive), (high, -negative)]
        return _share(layer, parts, None, relevance, self.stabilizer)


@dataclass(frozen=True)
class Flat(Rule):
    """Every input of an output gets the same share, whatever its value and weight (Lapuschkin et al., 2019).

    >>> layer = LinearLayer(torch.nn.functional.linear, torch.tensor([[1.0, -1.0, 2.0]]))
    >>> x, relevance = torch.tensor([[1.0, 1.0, 1.0]]), torch.ones(1, 1, 1)
    >>> [round(share, 3) for share in Flat(0.0)(layer, x, relevance).flatten().tolist()]
    [0.333, 0.333, 0.333]
    """

    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        _check_not_negative(self)

    def __call__(
        self, layer: LinearLayer, x: Float[Tensor, " N *inputs"], relevance: Float[Tensor, " T N *outputs"]
    ) -> Float[Tensor, " T N *inputs"]:
        parts = [(torch.ones_like(x), torch.ones_like(layer.weight))]
        return _share(layer, parts, None, relevance, self.stabilizer)


@dataclass(frozen=True)
class IdentityRule(Rule):
    """Each output has one input, which takes all its relevance; the bias takes none.

    >>> layer = LinearLayer(torch.mul, torch.tensor([2.0]))
    >>> IdentityRule()(layer, torch.ones(1, 1), torch.full((1, 1, 1), 3.0)).tolist()
    [[[3.0]]]
    """

    def __call__(
        self, layer: LinearLayer, x: Float[Tensor, " N *inputs"], relevance: Float[Tensor, " T N *outputs"]
    ) -> Float[Tensor, " T N *inputs"]:
        if x.shape != relevance.shape[1:]:
            raise LayerError(
                f"IdentityRule needs outputs of the input's shape {tuple(x.shape)}; this layer mixes inputs"
            )
        return relevance


def _share(
    layer: LinearLayer,
    parts: Sequence[tuple[Tensor, Tensor]],
    bias: Tensor | None,
    relevance: Tensor,
    stabilizer: float,
    output: Tensor | None = None,
) -> Tensor:
    """Share relevance in proportion to the contributions x_i w_ij of all parts (x, w); the bias keeps its own share.

    `output` is the sum of them all where it is known.
    """
    inputs = [x for x, _ in parts]

    def total(*xs: Tensor) -> Tensor:
        outputs = [layer.apply(x, weight) for x, (_, weight) in zip(xs, parts, strict=True)]
        return sum(outputs[1:], start=outputs[0]) if bias is None else sum(outputs, start=bias)

    shares = epsilon_share(total, inputs, relevance, stabilizer, output)
    return sum(shares[1:], start=shares[0])


def _parts(x: Tensor, of_positive: Tensor, of_negative: Tensor) -> list[tuple[Tensor, Tensor]]:
    """max(x, 0) with one weight and min(x, 0) with another; after a ReLU there is no second part to compute."""
    if not bool((x < 0).any()):
        return [(x, of_positive)]
    return [(x.clamp(min=0), of_positive), (x.clamp(max=0), of_negative)]


def _by_sign(values: Tensor | None) -> Any:
    return (None, None) if values is None else (values.clamp(min=0), values.clamp(max=0))


def _check_not_negative(rule: Rule) -> None:
    for name, value in vars(rule).items():
        if not value >= 0:
            raise PellucidError(f"{name} of the rule {type(rule).__name__} is {value}; it must be at least 0")
