"""Class activation maps against slow versions written from their definitions, Captum, and closed forms."""

import math

import pytest
import torch
from tests.attribution.support import (
    CountingView,
    GeneralView,
    classifier,
    gap_net,
    halves,
    hand_gradient,
    images,
    lite0,
    lite0_module,
    plain_net,
    relative_error,
)
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.attribution import (
    AblationCAM,
    GradCAM,
    GradCAMPlusPlus,
    InputXGradient,
    LayerCAM,
    Method,
    ScoreCAM,
    Target,
)

LAYERS = ("input", "1", "4")


def weighed(activation: Tensor, weights: list[float], *, relu: bool = True) -> Tensor:
    """sum_c w_c a_c of one image's activation (C, h, w), channel by channel."""
    total = torch.zeros(activation.shape[1:])
    for channel, weight in zip(activation, weights, strict=True):
        total = total + weight * channel
    return total.clamp(min=0.0) if relu else total


def slow_grad_cam(net: nn.Sequential, layer: str, x: Tensor, target: int) -> Tensor:
    activation, gradient, _ = hand_gradient(net, layer, x, target)
    return weighed(activation[0], [float(one.mean()) for one in gradient[0]])


def slow_grad_cam_plus_plus(net: nn.Sequential, layer: str, x: Tensor, target: int) -> Tensor:
    activation, gradient, logits = (one.double() for one in hand_gradient(net, layer, x, target))
    weights = []
    for channel, slopes in zip(activation[0], gradient[0], strict=True):
        weight, mass = 0.0, float(channel.sum())
        for g in slopes.flatten().tolist():
            denominator = 2 * g**2 + g**3 * mass
            alpha = g**2 / (denominator if denominator != 0 else 1.0)
            weight += alpha * max(math.exp(float(logits[0, target])) * g, 0.0)
        weights.append(weight)
    return weighed(activation[0], weights).float()


def slow_layer_cam(net: nn.Sequential, layer: str, x: Tensor, target: int) -> Tensor:
    activation, gradient, _ = hand_gradient(net, layer, x, target)
    return (activation[0] * gradient[0].clamp(min=0.0)).sum(0).clamp(min=0.0)


@torch.no_grad()
def slow_ablation_cam(net: nn.Sequential, layer: str, x: Tensor, target: int) -> Tensor:
    before, after = halves(net, layer)
    activation = before(x)
    y, weights = float(after(activation)[0, target]), []
    for channel in range(activation.shape[1]):
        ablated = activation.clone()
        ablated[0, channel] = 0.0
        weights.append((y - float(after(ablated)[0, target])) / y)
    return weighed(activation[0], weights)


@torch.no_grad()
def slow_score_cam(net: nn.Sequential, layer: str, x: Tensor, target: int) -> Tensor:
    before, _ = halves(net, layer)
    activation, weights = before(x), []
    for channel in activation[0]:
        mask = F.interpolate(channel[None, None], x.shape[2:], mode="bilinear", align_corners=False)
        # Equation 6 scales the enlarged channel, whose range may be narrower than the channel's.
        low, high = mask.min(), mask.max()
        shown = x * (mask - low) / (high - low) if high > low else None
        weights.append(0.0 if shown is None else float(net(shown).softmax(1)[0, target]))
    return weighed(activation[0], weights)


SLOW = {
    GradCAM: slow_grad_cam,
    GradCAMPlusPlus: slow_grad_cam_plus_plus,
    LayerCAM: slow_layer_cam,
    AblationCAM: slow_ablation_cam,
    ScoreCAM: slow_score_cam,
}


@pytest.mark.parametrize("method", SLOW)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("make", [plain_net, gap_net])
def test_maps_are_those_of_the_definition(method: type[Method], layer: str, make: object) -> None:
    net, x = make(), images(2)  # type: ignore[operator]
    with torch.no_grad():
        target = int(net(x)[0].argmax())
    found = method()(classifier(net).at(layer), x, target).values[:, 0]
    wanted = torch.stack([SLOW[method](net, layer, one[None], target) for one in x])
    assert relative_error(found, wanted) < 1e-5


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layer", ["1", "4"])
def test_grad_cam_is_captums(layer: str, relu: bool) -> None:
    captum = pytest.importorskip("captum.attr")
    net, x = plain_net(), images(3)
    wanted = captum.LayerGradCam(net, net[int(layer)]).attribute(x, target=2, relu_attributions=relu)
    found = GradCAM(relu=relu)(classifier(net).at(layer), x, 2)
    assert relative_error(found.values, wanted) < 1e-6
    assert found.signed == (not relu)


@pytest.mark.parametrize("layer", ["middle", "final"])
def test_grad_cam_of_a_real_network_is_captums(layer: str) -> None:
    captum = pytest.importorskip("captum.attr")
    made, x = lite0()
    view = made.at(layer)
    module = made._module.get_submodule(view.layer)
    wanted = captum.LayerGradCam(made._module, module).attribute(x, target=282)
    assert relative_error(GradCAM(relu=False)(view, x, 282).values, wanted) < 1e-5


def map_of_captums_ablation(captum: object, run: object, activation: Tensor, target: int, **options: object) -> Tensor:
    """Ablation-CAM's map (1, 1, h, w), from Captum's fall of the score for every channel."""
    channels = torch.arange(activation.shape[1])[None, :, None, None]
    drops = captum.FeatureAblation(run).attribute(activation, target=target, feature_mask=channels, **options)  # type: ignore[attr-defined]
    with torch.no_grad():
        score = run(activation)[:, target, None, None, None]  # type: ignore[operator]
    return (drops[:, :, :1, :1] / score * activation).sum(1, keepdim=True)


@pytest.mark.parametrize("layer", LAYERS)
def test_ablation_cams_drops_are_captums_feature_ablation(layer: str) -> None:
    captum = pytest.importorskip("captum.attr")
    net, x = plain_net(), images(1)
    before, after = halves(net, layer)
    wanted = map_of_captums_ablation(captum, after, before(x).detach(), 1)
    assert relative_error(AblationCAM(relu=False)(classifier(net).at(layer), x, 1).values, wanted) < 1e-5


@pytest.mark.parametrize("layer", ["middle", "final"])
def test_ablation_cams_drops_on_a_real_network_are_captums(layer: str) -> None:
    captum = pytest.importorskip("captum.attr")
    made, x = lite0()
    # One of 1280 channels moves the score so little that single precision would leave Captum three digits.
    precision = torch.float64 if layer == "final" else torch.float32
    view, module = made.at(layer), lite0_module().to(precision)
    tail = nn.Sequential(module.pool, module.flatten, module.classifier)
    after = tail if layer == "final" else nn.Sequential(module.blocks[5:], module.head, tail)
    activation = view.activation(x).to(precision)
    wanted = map_of_captums_ablation(captum, after, activation, 282, perturbations_per_eval=8)
    assert relative_error(AblationCAM(relu=False)(view, x, 282).values, wanted.float()) < 1e-5


def test_channels_that_are_zero_everywhere_are_not_run() -> None:
    net, x = plain_net(), images(1)
    with torch.no_grad():
        net[3].bias[3] = -100.0  # dead after the ReLU
    counting = CountingView(classifier(net).at("4"))
    found = AblationCAM()(counting, x, 1)
    alive = int(counting.activation(x)[0].flatten(1).any(1).sum())
    assert 0 < alive < 8
    assert found.passes.suffix_forward == 1 + alive


def test_a_constant_channel_gives_score_cam_no_nan() -> None:
    net, x = plain_net(), images(1)
    with torch.no_grad():
        net[3].weight[2], net[3].bias[2] = 0.0, 5.0
    found = ScoreCAM()(classifier(net).at("4"), x, 1)
    assert bool(found.values.isfinite().all())
    assert found.passes.network_forward <= 7
    assert relative_error(found.values[0, 0], slow_score_cam(net, "4", x, 1)) < 1e-5


def test_a_score_of_zero_gives_ablation_cam_a_map_of_zeros_and_a_note() -> None:
    net = gap_net()
    with torch.no_grad():
        net[7].weight[1], net[7].bias[1] = 0.0, 0.0
    found = AblationCAM()(classifier(net).at("final"), images(1), 1)
    assert not found.values.any()
    assert "zero everywhere" in found.notes[0][0]


@pytest.mark.parametrize("shift", [-300.0, -90.0, 90.0, 300.0])
def test_grad_cam_plus_plus_neither_overflows_nor_vanishes(shift: float) -> None:
    net, x = plain_net(), images(1)
    view = classifier(net).at("1")
    wanted = GradCAMPlusPlus()(view, x, 1).values
    with torch.no_grad():
        net[9].bias[1] += shift
    found = GradCAMPlusPlus()(view, x, 1).values
    assert bool(found.isfinite().all())
    assert relative_error(found / found.max(), wanted / wanted.max()) < 1e-5


def test_grad_cam_plus_plus_survives_the_tiny_gradients_of_a_probability() -> None:
    net, x = plain_net(), images(1)
    with torch.no_grad():
        net[9].bias[1] -= 40.0
    found = GradCAMPlusPlus(relu=False)(classifier(net).at("1"), x, Target(1, "probability")).values
    activation, _, _ = hand_gradient(net, "1", x, 1)
    leaf = activation.double().requires_grad_()
    score = halves(net.double(), "1")[1](leaf).softmax(1)[0, 1]
    g = torch.autograd.grad(score, leaf)[0]
    assert 0 < float(g.abs().max()) < 1e-15
    alpha = g**2 / (2 * g**2 + g**3 * leaf.sum((2, 3), keepdim=True)).where(g != 0, 1.0)
    wanted = ((alpha * (score.exp() * g).relu()).sum((2, 3), keepdim=True) * leaf).sum(1, keepdim=True)
    assert relative_error(found / found.abs().max(), (wanted / wanted.abs().max()).float()) < 1e-4


def test_closed_forms_hold_where_pooling_and_a_linear_head_follow() -> None:
    net, x = gap_net(), images(3)
    view = classifier(net).at("final")
    activation, cells = view.activation(x), 6 * 6
    weights = net[7].weight.detach()[1][:, None, None]
    evidence = (weights * activation).sum(1, keepdim=True) / cells
    score = view.logits(activation)[:, 1].detach()[:, None, None, None]
    assert relative_error(InputXGradient()(view, x, 1).values, evidence) < 1e-6
    assert relative_error(GradCAM(relu=False)(view, x, 1).values, evidence) < 1e-6
    assert (
        relative_error(LayerCAM()(view, x, 1).values, (weights.relu() * activation).sum(1, keepdim=True) / cells) < 1e-6
    )
    ablation = (weights * activation.mean((2, 3), keepdim=True) / score * activation).sum(1, keepdim=True)
    assert relative_error(AblationCAM(relu=False)(view, x, 1).values, ablation) < 1e-5


@pytest.mark.parametrize("target", [Target([0, 3]), Target(1, minus=2), Target(1, "margin"), Target(1, "probability")])
def test_ablation_cams_affine_path_equals_the_general_one(target: Target) -> None:
    view, x = classifier(gap_net()).at("final"), images(3)
    fast = AblationCAM(relu=False)(view, x, target)
    general = AblationCAM(relu=False)(GeneralView(view), x, target)
    assert relative_error(fast.values, general.values) < 1e-4
    if fast.passes.suffix_forward == 3:
        assert fast.passes.suffix_backward == 3 * fast.values.shape[1]
    else:
        assert target.output == "probability"


def test_the_relu_is_applied_at_the_layers_own_resolution() -> None:
    view, x = classifier(plain_net()).at("4"), images(2)
    for method in SLOW:
        kept = method(relu=False)(view, x, [0, 1, 2])  # type: ignore[call-arg]
        clipped = method()(view, x, [0, 1, 2])
        assert torch.equal(clipped.values, kept.values.relu())
        assert kept.signed
        assert not clipped.signed
