"""Every rule against the formula of its paper, written out over the dense matrix of the layer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.attribution.lrp.rules import AlphaBeta, Epsilon, Flat, Gamma, IdentityRule, LinearLayer, Rule, ZBox, ZPlus
from pellucid.attribution.lrp.sharing import epsilon_share, stabilized_quotient, vjp_routing
from pellucid.errors import LayerError, PellucidError

STABILIZER = 0.01  # large enough that leaving it out would be seen


@dataclass(frozen=True)
class Shape:
    """A kind of layer: shapes of input and weight, and the operation."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    apply: Callable[[Tensor, Tensor], Tensor]


SHAPES = {
    "linear": Shape((7,), (5, 7), F.linear),
    "convolution": Shape((3, 4, 5), (4, 3, 3, 3), partial(F.conv2d, bias=None, padding=1)),
    "strided": Shape((2, 5, 6), (3, 2, 3, 2), partial(F.conv2d, bias=None, stride=2)),
    "grouped": Shape((4, 5, 5), (6, 2, 2, 2), partial(F.conv2d, bias=None, groups=2, dilation=2, padding=1)),
}


def signs(values: Tensor) -> Tensor:
    return torch.where(values >= 0, 1.0, -1.0).to(values)


def matrix(shape: Shape, weight: Tensor) -> Tensor:
    """(outputs, inputs), by feeding one unit vector after the other."""
    columns = [
        shape.apply(unit.reshape(1, *shape.input), weight).flatten()
        for unit in torch.eye(torch.Size(shape.input).numel(), dtype=weight.dtype)
    ]
    return torch.stack(columns, dim=1)


def divide(contributions: Tensor, denominators: Tensor, relevance: Tensor) -> Tensor:
    stabilized = denominators + STABILIZER * signs(denominators)
    return sum(c * r / d for c, r, d in zip(contributions, relevance, stabilized, strict=True))  # over outputs


def by_epsilon(z: Tensor, b: Tensor, r: Tensor, **_: Tensor) -> Tensor:
    return divide(z, z.sum(1) + b, r)


def by_alpha_beta(z: Tensor, b: Tensor, r: Tensor, alpha: float = 2.0, **_: Tensor) -> Tensor:
    positive = divide(z.clamp(min=0), z.clamp(min=0).sum(1) + b.clamp(min=0), r)
    negative = divide(z.clamp(max=0), z.clamp(max=0).sum(1) + b.clamp(max=0), r)
    return alpha * positive - (alpha - 1) * negative


def by_gamma(z: Tensor, b: Tensor, r: Tensor, **_: Tensor) -> Tensor:
    gamma, output = 0.3, z.sum(1) + b
    raised = torch.where(output[:, None] * z > 0, (1 + gamma) * z, z)  # contributions of the output's own sign
    raised_bias = torch.where(output * b > 0, (1 + gamma) * b, b)
    return divide(raised, raised.sum(1) + raised_bias, r * (output != 0))


def by_box(z: Tensor, b: Tensor, r: Tensor, w: Tensor, low: Tensor, high: Tensor, **_: Tensor) -> Tensor:
    contributions = z - low * w.clamp(min=0) - high * w.clamp(max=0)
    return divide(contributions, contributions.sum(1), r)


def by_flat(z: Tensor, b: Tensor, r: Tensor, connected: Tensor, **_: Tensor) -> Tensor:
    return divide(connected, connected.sum(1), r)


RULES: dict[str, tuple[Rule, Callable[..., Tensor]]] = {
    "epsilon": (Epsilon(STABILIZER), by_epsilon),
    "z_plus": (ZPlus(STABILIZER), partial(by_alpha_beta, alpha=1.0)),
    "alpha_beta": (AlphaBeta(2, 1, STABILIZER), by_alpha_beta),
    "gamma": (Gamma(0.3, STABILIZER), by_gamma),
    "box": (ZBox(STABILIZER), by_box),
    "flat": (Flat(STABILIZER), by_flat),
}


@pytest.mark.parametrize("after_relu", [False, True], ids=["signed input", "input after a ReLU"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_the_formula_of_its_paper(name: str, kind: str, with_bias: bool, after_relu: bool) -> None:
    rule, formula = RULES[name]
    shape = SHAPES[kind]
    x = torch.randn(2, *shape.input, dtype=torch.float64)
    x = x.clamp(min=0) if after_relu else x
    weight = torch.randn(shape.weight, dtype=torch.float64)
    bias = torch.randn(shape.weight[0], *[1] * (len(shape.weight) - 2), dtype=torch.float64) if with_bias else None
    low, high = torch.full_like(x[:1], -2.5), torch.full_like(x[:1], 3.0)
    layer = LinearLayer(shape.apply, weight, bias, box=(low, high))
    output = shape.apply(x, weight)
    relevance = torch.randn(3, *output.shape, dtype=torch.float64)

    found = rule(layer, x, relevance)

    dense = matrix(shape, weight)
    biases = torch.zeros_like(output[0]) + (0 if bias is None else bias)
    connected = matrix(shape, torch.ones_like(weight))
    details = {"w": dense, "low": low.flatten(), "high": high.flatten(), "connected": connected}
    for target in range(3):
        for image in range(2):
            z = dense * x[image].flatten()
            wanted = formula(z, biases.flatten(), relevance[target, image].flatten(), **details)
            torch.testing.assert_close(found[target, image].flatten(), wanted)


def test_the_box_rule_says_what_it_lacks_where_no_box_is_known() -> None:
    layer = LinearLayer(F.linear, torch.randn(2, 3))
    with pytest.raises(LayerError, match="give low= and high="):
        ZBox()(layer, torch.randn(1, 3), torch.randn(1, 1, 2))


def test_passing_needs_as_many_outputs_as_inputs() -> None:
    layer = LinearLayer(torch.mul, torch.randn(3))
    relevance = torch.randn(2, 4, 3)
    assert torch.equal(IdentityRule()(layer, torch.randn(4, 3), relevance), relevance)
    with pytest.raises(LayerError, match="mixes inputs"):
        IdentityRule()(LinearLayer(F.linear, torch.randn(2, 3)), torch.randn(4, 3), torch.randn(2, 4, 2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: AlphaBeta(2, 0.5),
        lambda: AlphaBeta(0.5, -0.5),
        lambda: Epsilon(-1e-6),
        lambda: Gamma(float("nan")),
        lambda: ZPlus(-1.0),
    ],
)
def test_rules_refuse_parameters_that_have_no_meaning(make: Callable[[], Rule]) -> None:
    with pytest.raises(PellucidError):
        make()


def test_without_a_stabiliser_an_output_of_zero_passes_nothing_on() -> None:
    quotient = stabilized_quotient(torch.tensor([3.0, 3.0, 3.0]), torch.tensor([0.0, -2.0, 4.0]), 0.0)
    assert quotient.tolist() == [0.0, -1.5, 0.75]


def test_the_stabiliser_moves_denominators_away_from_zero() -> None:
    quotient = stabilized_quotient(torch.ones(3), torch.tensor([0.0, -1.0, 1.0]), 0.5)
    torch.testing.assert_close(quotient, torch.tensor([2.0, -1 / 1.5, 1 / 1.5]))


def test_a_sum_shares_in_proportion_to_its_terms() -> None:
    a, b = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 6.0]])
    shares = epsilon_share(torch.add, [a, b], torch.tensor([[[8.0, 8.0]]]), 0.0)
    assert [share.flatten().tolist() for share in shares] == [[2.0, -4.0], [6.0, 12.0]]


def test_max_pooling_gives_all_to_the_winner() -> None:
    x = torch.tensor([[[[1.0, 5.0, 2.0, 3.0], [4.0, 0.0, 9.0, 7.0]]]])
    (share,) = vjp_routing(partial(F.max_pool2d, kernel_size=2), [x], [torch.tensor([[[[[10.0, 20.0]]]]])])
    assert share.flatten().tolist() == [0.0, 10.0, 0.0, 0.0, 0.0, 0.0, 20.0, 0.0]


def test_a_copy_made_twice_gets_the_relevance_of_both() -> None:
    x = torch.tensor([[2.0, 3.0]])
    (share,) = vjp_routing(lambda x: (x, x.flip(1)), [x], [torch.tensor([[[1.0, 10.0]]]), torch.tensor([[[5.0, 7.0]]])])
    assert share.tolist() == [[[8.0, 15.0]]]
