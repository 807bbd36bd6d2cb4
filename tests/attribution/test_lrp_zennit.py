"""Relevance against zennit, on networks that zennit's own canonizers can handle."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.attribution.support import images, relative_error, seeded
from torch import Tensor, nn

import pellucid as pl
from pellucid.attribution import LRP

composites = pytest.importorskip("zennit.composites", reason="zennit is the oracle", exc_type=ImportError)
zennit_rules = pytest.importorskip("zennit.rules", exc_type=ImportError)
zennit_torchvision = pytest.importorskip("zennit.torchvision", exc_type=ImportError)

SIZE = 20
LOW, HIGH = -3.5, 3.5


def batch_norm(channels: int) -> nn.BatchNorm2d:
    # zennit leaves a batch norm that divides by sqrt(1 + eps) behind; a small eps keeps that out of the comparison.
    return nn.BatchNorm2d(channels, eps=1e-12)


def vgg() -> nn.Sequential:
    """Convolutions with and without batch norm, depthwise and strided; max and average pooling; three linear layers."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), batch_norm(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), batch_norm(8), nn.ReLU(inplace=True)),
        *(nn.Conv2d(8, 12, 3, stride=2, bias=False), batch_norm(12), nn.Conv2d(12, 12, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(108, 20), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 5)),
    )


def resnet() -> nn.Module:
    blocks = pytest.importorskip("torchvision.models.resnet", exc_type=ImportError)

    def downsample(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), batch_norm(outputs))

    return nn.Sequential(
        *(nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False), batch_norm(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        blocks.BasicBlock(8, 8, norm_layer=batch_norm),
        blocks.BasicBlock(8, 12, 2, downsample(8, 12), norm_layer=batch_norm),
        blocks.Bottleneck(12, 4, 2, downsample(12, 16), norm_layer=batch_norm),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    )


Build = Callable[[], nn.Module]
NETS: dict[str, tuple[Build, str]] = {"vgg": (vgg, "VGGCanonizer"), "resnet": (resnet, "ResNetCanonizer")}
BOX = {"low": torch.tensor(LOW), "high": torch.tensor(HIGH)}
COMPOSITES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "epsilon_plus": ({}, "EpsilonPlus", {}),
    "epsilon_plus_flat": ({}, "EpsilonPlusFlat", {}),
    "epsilon_alpha2_beta1": ({}, "EpsilonAlpha2Beta1", {}),
    "epsilon_alpha2_beta1_flat": ({}, "EpsilonAlpha2Beta1Flat", {}),
    "epsilon_gamma_box": ({"gamma": 0.4}, "EpsilonGammaBox", BOX | {"gamma": 0.4}),
    "excitation_backprop": ({}, "ExcitationBackprop", {}),
    "epsilon_plus_box": ({}, "EpsilonPlus", {"first": True}),
    "epsilon025_plus_box": ({}, "EpsilonPlus", {"first": True, "epsilon": 0.25}),
}


def zennit_composite(name: str, options: dict[str, Any], canonizer: str) -> Any:
    canonizers = [getattr(zennit_torchvision, canonizer)()]
    if not options.pop("first", False):
        return getattr(composites, name)(**options, canonizers=canonizers)
    # zennit has no EpsilonPlusBox: the special first layer of one composite with the layers of the other.
    base = composites.EpsilonPlus(**options)
    first = [((nn.Conv2d,), zennit_rules.ZBox(**BOX))]
    return composites.SpecialFirstLayerMapComposite(base.layer_map, first, canonizers=canonizers)


def zennit_relevance(net: nn.Module, composite: Any, x: Tensor, target: int) -> Tensor:
    """(N, 1, H, W), starting from the logit."""
    x = x.clone().requires_grad_()
    with composite.context(net) as modified:
        output = modified(x)
        start = torch.zeros_like(output)
        start[:, target] = output[:, target].detach()
        (relevance,) = torch.autograd.grad(output, x, start)
    return relevance.sum(1, keepdim=True)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", COMPOSITES)
def test_relevance_is_zennits(name: str, kind: str) -> None:
    build, canonizer = NETS[kind]
    ours, theirs, their_options = COMPOSITES[name]
    net = seeded(build).double()
    x = images(size=SIZE).double()
    found = LRP(composite=name, low=LOW, high=HIGH, **ours)(pl.Classifier(net, input_size=SIZE).at("input"), x, 1)
    wanted = zennit_relevance(net, zennit_composite(theirs, dict(their_options), canonizer), x, 1)
    assert relative_error(found.values, wanted.float()) < 1e-5
