"""Relevance through every kind of operation: the same function written differently, and closed forms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.attribution.support import BranchingNet, TokenNet, WiredNet, images, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

import pellucid as pl
from pellucid.attribution import LRP, Explanation
from pellucid.attribution.lrp import Epsilon, IdentityRule, ZPlus
from pellucid.errors import LayerError

SIZE = 12
BOX = {"low": -4.0, "high": 4.0}
TINY = {"composite": "epsilon", "epsilon": 1e-12, "stabilizer": 1e-12}


def explain(net: nn.Module, layer: str = "input", target: Any = 0, **options: Any) -> Explanation:
    """LRP in double precision on two fixed images."""
    return LRP(**(BOX | options))(
        pl.Classifier(net.double(), input_size=SIZE).at(layer), images(size=SIZE).double(), target
    )


def input_x_gradient(net: nn.Module, target: int = 0) -> Tensor:
    """(N, 1, H, W), by plain autograd on the untraced network."""
    x = images(size=SIZE).double().requires_grad_()
    (gradient,) = torch.autograd.grad(net.double()(x)[:, target].sum(), x)
    return (x * gradient).sum(1, keepdim=True).detach().float()


def assert_same(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    assert float(wanted.abs().max()) > 0
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


class Net(nn.Module):
    """A module of parts with a forward given as a function of them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(inputs: int, outputs: int, kernel: int = 3, bias: bool = False, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=options.pop("padding", kernel // 2), bias=bias, **options)


class StructuralNet(nn.Module):
    """Piecewise linear and without biases, with every operation that only moves, sums or selects values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.left, self.right = conv(4, 4), conv(4, 4, 1)
        self.down = conv(8, 8, stride=2, groups=2, padding="valid")
        self.narrow = conv(8, 6, padding=1, padding_mode="reflect")
        self.weight = nn.Parameter(torch.randn(6, 6, 1, 1))
        self.head = nn.Linear(6 * 3 * 2, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x * 0.5))
        a, b = x.chunk(2, dim=1)
        a = self.left(a) + torch.sub(a, 2 * b)
        x = torch.cat([a, F.leaky_relu(self.right(b), 0.1)], dim=1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = F.relu(self.down(F.pad(x, (1, 2, 1, 2)))) / 3
        x = torch.maximum(self.narrow(x), F.conv2d(self.narrow(x), self.weight))
        x = F.max_pool2d(x, 2) + F.avg_pool2d(x, kernel_size=2)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear")[:, :, 1:, :-1]
        x = torch.stack([x.mean(3), x.sum(dim=3), x.amax(3)], dim=1)
        x = -F.adaptive_avg_pool2d(x.permute(0, 2, 1, 3).flatten(2)[..., None], (6, 1)).squeeze(3)
        return self.head(torch.relu(F.dropout(x, training=False)).flatten(1))


def test_epsilon_to_zero_is_input_x_gradient_whatever_moves_the_values() -> None:
    net = seeded(StructuralNet)
    assert_same(explain(net, **TINY).values, input_x_gradient(net))


@pytest.mark.parametrize("composite", ["epsilon_plus_box", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat", "epsilon"])
def test_modules_functions_reused_and_in_place_relus_give_the_same_relevance(composite: str) -> None:
    maps = {
        way: explain(seeded(lambda way=way: WiredNet(way)), composite=composite).values
        for way in ("module", "functional", "reused", "in place")
    }
    for way in ("functional", "reused", "in place"):
        torch.testing.assert_close(maps[way], maps["module"], rtol=0, atol=0)


def test_functions_with_weights_are_layers_like_modules() -> None:
    parts = seeded(
        lambda: nn.ModuleDict(
            {"conv": nn.Conv2d(3, 4, 3, stride=2, padding=1), "bn": nn.BatchNorm2d(4), "fc": nn.Linear(4, 5)}
        )
    )

    def by_functions(self: Any, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.conv.weight, bias=self.conv.bias, stride=2, padding=1)
        x = F.batch_norm(x, self.bn.running_mean, self.bn.running_var, self.bn.weight, self.bn.bias)
        return F.linear(x.relu().mean((2, 3)), self.fc.weight, self.fc.bias)

    modules = Net(lambda self, x: self.fc(self.bn(self.conv(x)).relu().mean((2, 3))), **dict(parts.items()))
    functions = Net(by_functions, **dict(parts.items()))
    assert_same(explain(functions.eval()).values, explain(modules.eval()).values, 1e-7)


class Blocks(nn.Module):
    """Batch norm after convolutions inside residual, dense and inception wiring, and after a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.residual, self.residual_bn = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.dense, self.dense_bn = nn.Conv2d(6, 4, 3, padding="same"), nn.BatchNorm2d(4)
        self.branch, self.branch_bn = nn.Conv2d(10, 4, 1), nn.BatchNorm2d(4)
        self.hidden, self.hidden_bn = nn.Linear(14, 9), nn.BatchNorm1d(9)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        x = F.relu(x + self.residual_bn(self.residual(x)))
        x = torch.cat([x, F.relu(self.dense_bn(self.dense(x)))], 1)
        x = torch.cat([F.relu(self.branch_bn(self.branch(x))), F.max_pool2d(x, 3, 1, 1)], 1)
        return self.head(F.relu(self.hidden_bn(self.hidden(x.mean((2, 3))))))


def test_batch_norm_is_merged_as_if_the_network_had_none() -> None:
    net = seeded(Blocks).double()
    merged = seeded(Blocks).double()
    for name in ("stem", "residual", "dense", "branch"):
        setattr(merged, name, fuse_conv_bn_eval(getattr(merged, name), getattr(merged, f"{name}_bn")))
        setattr(merged, f"{name}_bn", nn.Identity().eval())
    scale = merged.hidden_bn.weight / (merged.hidden_bn.running_var + merged.hidden_bn.eps).sqrt()
    merged.hidden.bias.data = (merged.hidden.bias - merged.hidden_bn.running_mean) * scale + merged.hidden_bn.bias
    merged.hidden.weight.data *= scale[:, None]
    merged.hidden_bn = nn.Identity().eval()
    for composite in ("epsilon_plus_box", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"):
        assert_same(explain(net, composite=composite).values, explain(merged, composite=composite).values)


def diagonal(bn: nn.BatchNorm2d) -> nn.Conv2d:
    layer = nn.Conv2d(bn.num_features, bn.num_features, 1, groups=bn.num_features).double().eval()
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    layer.weight.data = scale.detach()[:, None, None, None]
    layer.bias.data = (bn.bias - bn.running_mean * scale).detach()
    return layer


def test_batch_norm_that_is_not_merged_is_a_diagonal_convolution() -> None:
    net, as_convolutions = (seeded(lambda: WiredNet("module")).double() for _ in range(2))
    as_convolutions.bn = diagonal(as_convolutions.bn)
    found = explain(net, fold_batch_norm=False)
    assert_same(found.values, explain(as_convolutions).values)
    assert float((found.values - explain(net).values).abs().max()) > 1e-3 * float(found.values.abs().max())


@pytest.mark.parametrize("options", [TINY, {"rules": {"*": Epsilon(1e-12)}}], ids=["composite", "rules"])
def test_batch_norm_before_a_convolution_can_have_the_epsilon_rule(options: dict[str, Any]) -> None:
    net = seeded(
        lambda: nn.Sequential(
            conv(3, 6), nn.ReLU(), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4), nn.Flatten(), nn.Linear(4 * 144, 5)
        )
    )
    assert_same(explain(net, **options).values, input_x_gradient(net))


def test_batch_norm_before_a_convolution_keeps_no_relevance() -> None:
    net = seeded(
        lambda: nn.Sequential(nn.BatchNorm2d(3), conv(3, 6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 144, 5, bias=False))
    )
    found = explain(net, composite="epsilon_plus")
    assert float(found.relative_gap.max()) < 1e-4
    other = explain(net, composite="epsilon_plus", rules={"0": ZPlus()})
    assert float(other.relative_gap.max()) > 0.01


def test_convolutions_that_others_read_too_are_not_merged_with_a_batch_norm() -> None:
    net = seeded(
        lambda: Net(
            lambda self, x: self.head((self.bn(y := self.conv(x)) + y).relu().mean((2, 3))),
            conv=conv(3, 6, bias=True),
            bn=nn.BatchNorm2d(6),
            head=nn.Linear(6, 5),
        )
    )
    assert_same(explain(net, **TINY).values, input_x_gradient(net))


class GatedNet(nn.Module):
    """Squeeze and excitation; `freeze` cuts the gate out of the gradient."""

    def __init__(self, gate: str, freeze: bool = False) -> None:
        super().__init__()
        self.stem, self.squeeze, self.head = conv(3, 6), nn.Conv2d(6, 6, 1), nn.Linear(6, 5, bias=False)
        self.gate, self.freeze = gate, freeze

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.squeeze(F.adaptive_avg_pool2d(x, 1))
        gate = {
            "sigmoid": lambda: y.sigmoid(),
            "hard sigmoid": lambda: F.relu6(y + 3) / 6,
            "broadcast": lambda: 1 + y.square(),
            "of every place": lambda: torch.sigmoid(self.squeeze(x)),
            "softmax": lambda: y.softmax(1).expand(x.shape),
            "division": lambda: x.square().sum(1, keepdim=True).add(1).sqrt(),
        }[self.gate]()
        gate = gate.detach() if self.freeze else gate
        x = x / gate if self.gate == "division" else gate * x
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("gate", ["sigmoid", "hard sigmoid", "broadcast", "of every place", "softmax", "division"])
def test_a_gate_takes_no_relevance(gate: str) -> None:
    found = explain(seeded(lambda: GatedNet(gate)), **TINY)
    assert_same(found.values, input_x_gradient(seeded(lambda: GatedNet(gate, freeze=True))))
    assert float(found.relative_gap.max()) < 1e-5


@pytest.mark.parametrize(
    "product",
    [
        lambda self, x: (self.a(x) * self.b(x)).mean((2, 3)),
        lambda self, x: (self.a(x).flatten(2) @ self.b(x)[:, :1].flatten(2).transpose(1, 2)).squeeze(2),
    ],
    ids=["of elements", "of matrices"],
)
def test_two_factors_of_which_neither_is_a_gate_share_alike(product: Callable[[Any, Tensor], Tensor]) -> None:
    net = seeded(
        lambda: Net(
            lambda self, x: self.head(product(self, x)),
            a=conv(3, 6),
            b=conv(3, 6),
            head=nn.Linear(6, 5, bias=False),
        )
    )
    # Each factor alone would give the whole product, so the gradient of both counts it twice.
    assert_same(explain(net, **TINY).values, input_x_gradient(net) / 2)


class NormalizedNet(nn.Module):
    """Layer norm or group norm; `freeze` cuts the deviation out of the gradient."""

    def __init__(self, kind: str, freeze: bool = False) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 6), nn.Linear(6, 5)
        self.norm = nn.GroupNorm(2, 6) if "group" in kind else nn.LayerNorm(6)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.kind, self.freeze = kind, freeze

    def normalize(self, x: Tensor) -> Tensor:
        if not self.freeze and "function" not in self.kind:
            return self.norm(x)
        if not self.freeze and "group" in self.kind:
            return F.group_norm(x, 2, self.norm.weight, bias=self.norm.bias)
        if not self.freeze:
            return F.layer_norm(x, (6,), self.norm.weight, self.norm.bias)
        flat = x.unflatten(1, (2, 3)).flatten(2) if "group" in self.kind else x
        deviation = (flat.var(-1, correction=0, keepdim=True) + 1e-5).sqrt().detach()
        flat = (flat - flat.mean(-1, keepdim=True)) / deviation
        weight, bias = (
            each[:, None, None] if "group" in self.kind else each for each in (self.norm.weight, self.norm.bias)
        )
        return flat.reshape(x.shape) * weight + bias

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        if "group" in self.kind:
            return self.head(F.relu(self.normalize(x)).mean((2, 3)))
        return self.head(F.relu(self.normalize(x.permute(0, 2, 3, 1))).mean((1, 2)))


@pytest.mark.parametrize("kind", ["layer", "layer function", "group", "group function"])
def test_layer_and_group_norm_are_linear_with_a_constant_deviation(kind: str) -> None:
    found = explain(seeded(lambda: NormalizedNet(kind)), **TINY)
    assert_same(found.values, input_x_gradient(seeded(lambda: NormalizedNet(kind, freeze=True))))


def test_layer_norm_can_pass_its_relevance_but_has_no_positive_contributions_of_its_own() -> None:
    net = seeded(lambda: NormalizedNet("layer"))
    net.head.bias.data.zero_()
    found = explain(net, composite="epsilon_plus", rules={"norm": IdentityRule()})
    assert float(found.relative_gap.max()) < 1e-4
    with pytest.raises(LayerError, match=r"'norm' subtracts a mean"):
        explain(net, rules={"norm": ZPlus()})


class AttentiveNet(nn.Module):
    """Self-attention over patches, written in three ways; `freeze` cuts its weights out of the gradient."""

    def __init__(self, way: str, freeze: bool = False) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 8, 4, stride=4, bias=False), nn.Linear(8, 5, bias=False)
        self.attention = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
        self.way, self.freeze = way, freeze

    def attend(self, x: Tensor) -> Tensor:
        if self.way == "module":
            return self.attention(x, x, value=x, need_weights=False)[0]
        projected = F.linear(x, self.attention.in_proj_weight).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        query, key, value = projected.unbind(0)
        if self.way == "function":
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            weights = F.dropout((query @ key.transpose(2, 3) / 2).softmax(-1), training=False)
            mixed = torch.matmul(weights.detach() if self.freeze else weights, value)
        return self.attention.out_proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(F.relu(x + self.attend(x)).mean(1))


@pytest.mark.parametrize("way", ["product", "function", "module"])
def test_attention_is_a_gate_on_the_values(way: str) -> None:
    found = explain(seeded(lambda: AttentiveNet(way)), **TINY)
    assert_same(found.values, input_x_gradient(seeded(lambda: AttentiveNet("product", freeze=True))))


def test_values_that_cross_the_cut_take_their_part_and_a_note_says_how_much() -> None:
    net = seeded(
        lambda: Net(
            lambda self, x: self.head(((y := self.stem(x)) + self.branch(y)).mean((2, 3))),
            stem=conv(3, 6),
            branch=conv(6, 6, bias=True),
            head=nn.Linear(6, 5, bias=False),
        )
    )
    found = explain(net, layer="branch", **TINY)
    stem = net.stem(images(size=SIZE).double()).detach()
    weights = net.head.weight[0, :, None, None].detach() / SIZE**2
    assert_same(found.values, (net.branch(stem) * weights).sum(1, keepdim=True).detach().float())
    side_inputs = (stem * weights).sum((1, 2, 3)).float()
    torch.testing.assert_close(-found.gap, side_inputs, rtol=1e-4, atol=1e-5)
    share = float(side_inputs[0] / found.delta[0, 0])
    assert f"class 0: {share:.0%} of the relevance went to what crosses the cut too (stem)" in found.notes[0]


def test_a_token_network_read_out_at_its_class_token_says_where_the_relevance_went() -> None:
    found = explain(seeded(TokenNet), layer="blocks.1", absorb_bias=False)
    assert not found.values.any()
    assert "100% of the relevance went to what crosses the cut too (1 leading token of blocks.1)" in found.notes[0][0]


def test_an_untraceable_network_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(LayerError, match=r"could not be traced.*IntegratedGradients"):
        explain(seeded(lambda: BranchingNet("module")))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (
            lambda self, x: self.head(self.stem(x).cumsum(2).mean((2, 3))),
            "no rule for the operation cumsum at 'cumsum'",
        ),
        (lambda self, x: self.head(self.stem(x).mean((2, 3))).softmax(1), "no rule for the operation softmax"),
        (lambda self, x: self.head(F.instance_norm(self.stem(x)).amax((2, 3))), "operation instancenorm at"),
        (lambda self, x: self.head(torch.pow(self.stem(x).abs(), self.stem(x)).mean((2, 3))), "operation pow"),
    ],
    ids=["cumsum", "softmax", "instance norm", "power"],
)
def test_an_operation_without_rule_is_named(forward: Callable[[Any, Tensor], Tensor], message: str) -> None:
    net = seeded(lambda: Net(forward, stem=conv(3, 6), head=nn.Linear(6, 5)))
    with pytest.raises(LayerError, match=message):
        explain(net)


def with_filters_of_each_image(self: Any, x: Tensor) -> Tensor:
    x = self.stem(x)
    n, c = x.shape[:2]
    x = F.conv2d(x.flatten(0, 1)[None], x.mean((2, 3)).view(n * c, 1, 1, 1), groups=n * c)
    return self.head(x.view(n, c, -1).mean(2))


def test_weights_computed_from_the_images_are_an_error() -> None:
    net = seeded(lambda: Net(with_filters_of_each_image, stem=conv(3, 6), head=nn.Linear(6, 5)))
    with pytest.raises(LayerError, match="'conv2d': its weights are computed from the images"):
        explain(net)


def test_an_operation_that_relevance_does_not_reach_needs_no_rule() -> None:
    net = seeded(
        lambda: Net(
            lambda self, x: self.head((y := self.stem(x)).mean((2, 3)) * y.cumsum(2).mean((2, 3)).sigmoid()),
            stem=conv(3, 6),
            head=nn.Linear(6, 5, bias=False),
        )
    )
    assert float(explain(net, **TINY).relative_gap.max()) < 1e-5
