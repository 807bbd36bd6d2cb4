"""Gradient, Input x Gradient and SmoothGrad against Captum, finite differences and explicit loops."""

from collections.abc import Callable

import pytest
import torch
from tests.attribution.support import (
    classifier,
    gap_net,
    halves,
    hand_gradient,
    images,
    lite0,
    plain_net,
    relative_error,
)
from torch import Tensor, nn

from pellucid.attribution import (
    Gradient,
    InputXGradient,
    SmoothGrad,
    Target,
)
from pellucid.attribution.gradient import draw_noise
from pellucid.errors import ModelError, PellucidError

LAYERS = ("input", "1", "4")


@pytest.mark.parametrize("net", [plain_net, gap_net])
def test_gradient_and_input_x_gradient_at_the_input_are_captums(net: Callable[[], nn.Module]) -> None:
    captum = pytest.importorskip("captum.attr")
    module, x = net(), images(3)
    view = classifier(module).at("input")
    saliency = captum.Saliency(module).attribute(x.clone().requires_grad_(), target=2).sum(1, keepdim=True)
    signed = captum.Saliency(module).attribute(x.clone().requires_grad_(), target=2, abs=False).sum(1, keepdim=True)
    product = captum.InputXGradient(module).attribute(x.clone().requires_grad_(), target=2).sum(1, keepdim=True)
    assert relative_error(Gradient()(view, x, 2).values, saliency) < 1e-6
    assert relative_error(Gradient(absolute=False)(view, x, 2).values, signed) < 1e-6
    assert relative_error(InputXGradient()(view, x, 2).values, product) < 1e-6


@pytest.mark.parametrize("layer", LAYERS)
def test_gradient_and_input_x_gradient_at_a_layer_are_those_of_a_cut_by_hand(layer: str) -> None:
    module, x = plain_net(), images(3)
    view = classifier(module).at(layer)
    activation, gradient, logits = hand_gradient(module, layer, x, 1)
    found = InputXGradient()(view, x, 1)
    assert relative_error(Gradient()(view, x, 1).values, gradient.abs().sum(1, keepdim=True)) < 1e-6
    assert relative_error(found.values, (activation * gradient).sum(1, keepdim=True)) < 1e-6
    assert torch.allclose(found.scores[:, 0], logits[:, 1], atol=1e-6)


@pytest.mark.parametrize("layer", ["middle", "final"])
def test_layer_gradients_of_a_real_network_are_captums(layer: str) -> None:
    captum = pytest.importorskip("captum.attr")
    made, x = lite0()
    view = made.at(layer)
    module = made._module.get_submodule(view.layer)
    product = captum.LayerGradientXActivation(made._module, module).attribute(x, target=282).sum(1, keepdim=True)
    assert relative_error(InputXGradient()(view, x, 282).values, product) < 1e-5


def test_input_gradients_of_a_real_network_are_captums() -> None:
    captum = pytest.importorskip("captum.attr")
    made, x = lite0()
    saliency = captum.Saliency(made._module).attribute(x.clone().requires_grad_(), target=282).sum(1, keepdim=True)
    assert relative_error(Gradient()(made.at("input"), x, 282).values, saliency) < 1e-5


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("target", [Target(1), Target(1, "log_probability"), Target(1, "centered"), Target(1, minus=3)])
def test_gradients_agree_with_finite_differences(layer: str, target: Target) -> None:
    module, x = plain_net(), images(1)
    view = classifier(module).at(layer)
    before, after = halves(module.double(), layer)
    activation = before(x.double()).detach()

    @torch.no_grad()
    def score(at: Tensor) -> Tensor:
        logits = after(at)[0]
        if target.output == "log_probability":
            return logits.log_softmax(0)[1]
        if target.output == "centered":
            return logits[1] - logits.mean()
        return logits[1] - (0.0 if target.minus is None else logits[3])

    step, (height, width) = 1e-6, (2, 3)
    found = Gradient(absolute=False)(view, x, target).values[0, 0, height, width]
    wanted = 0.0
    for channel in range(activation.shape[1]):
        moved = torch.zeros_like(activation)
        moved[0, channel, height, width] = step
        wanted += float(score(activation + moved) - score(activation - moved)) / (2 * step)
    assert wanted != 0.0
    assert float(found) == pytest.approx(wanted, rel=2e-4, abs=1e-6)


def explicit_smoothgrad(module: nn.Sequential, layer: str, x: Tensor, samples: int, noise: float, seed: int) -> Tensor:
    """Gradients (samples, N, C, h, w) at the noisy activations, and these, one by one."""
    before, after = halves(module, layer)
    activation = before(x).detach()
    spread = activation.flatten(1).amax(1) - activation.flatten(1).amin(1)
    gradients, points = [], []
    for index in range(samples):
        noisy = activation + noise * spread[:, None, None, None] * draw_noise(seed, index, activation.shape[1:])
        noisy = noisy.requires_grad_()
        gradients.append(torch.autograd.grad(after(noisy)[:, 2].sum(), noisy)[0])
        points.append(noisy.detach())
    return torch.stack([torch.stack(gradients), torch.stack(points)])


@pytest.mark.parametrize("layer", ["input", "1"])
def test_smoothgrad_is_an_explicit_loop_over_noisy_activations(layer: str) -> None:
    module, x = plain_net(), images(2)
    view = classifier(module).at(layer)
    gradients, points = explicit_smoothgrad(module, layer, x, samples=7, noise=0.2, seed=3)

    def smoothgrad(**options: object) -> Tensor:
        return SmoothGrad(samples=7, noise=0.2, seed=3, max_batch=4, **options)(view, x, 2).values  # type: ignore[arg-type]

    assert relative_error(smoothgrad(), gradients.mean(0).abs().sum(1, keepdim=True)) < 1e-5
    assert relative_error(smoothgrad(absolute=False), gradients.mean(0).sum(1, keepdim=True)) < 1e-5
    assert relative_error(smoothgrad(statistic="square"), gradients.square().mean(0).sum(1, keepdim=True)) < 1e-5
    variance = gradients.var(0, unbiased=False).sum(1, keepdim=True)
    assert relative_error(smoothgrad(statistic="variance"), variance) < 1e-5
    product = (gradients * points).mean(0).sum(1, keepdim=True)
    assert relative_error(smoothgrad(times_activation=True), product) < 1e-5


def test_without_noise_smoothgrad_is_the_gradient() -> None:
    view, x = classifier(plain_net()).at("input"), images(2)
    assert relative_error(SmoothGrad(noise=0.0, samples=3)(view, x, 1).values, Gradient()(view, x, 1).values) < 1e-6


def test_the_variance_of_a_constant_gradient_is_nothing_beside_its_square() -> None:
    view, x = classifier(gap_net()).at("final"), images(2)
    variance = SmoothGrad(statistic="variance")(view, x, 1).values
    square = SmoothGrad(statistic="square")(view, x, 1).values
    assert bool((variance <= 1e-12 * square).all())
    assert bool((square > 0).all())


def test_the_noise_is_standard_normal_and_belongs_to_seed_and_sample() -> None:
    shape = torch.Size([3, 40, 40])
    noise = torch.stack([draw_noise(seed, sample, shape) for seed in (0, 1) for sample in range(10)])
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    correlation = torch.corrcoef(noise.flatten(1)) - torch.eye(20)
    assert float(correlation.abs().max()) < 0.1
    assert torch.equal(noise[3], draw_noise(0, 3, shape))


def test_more_samples_bring_smoothgrad_nearer_to_its_mean() -> None:
    view, x = classifier(plain_net()).at("input"), images(1)

    def spread(samples: int) -> float:
        maps = [SmoothGrad(samples=samples, seed=seed)(view, x, 1).values for seed in range(6)]
        return float(torch.stack(maps).std(0).mean())

    assert spread(64) < 0.5 * spread(4)


def test_the_seed_decides_smoothgrad_and_leaves_the_users_random_state_alone() -> None:
    view, x = classifier(plain_net()).at("input"), images(1)
    state = torch.random.get_rng_state()
    first = SmoothGrad(seed=4)(view, x, 1).values
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(SmoothGrad(seed=4)(view, x, 1).values, first)
    assert not torch.equal(SmoothGrad(seed=5)(view, x, 1).values, first)


class Rounding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_a_network_that_no_gradient_flows_through_is_an_error_that_says_so() -> None:
    module = gap_net()
    module[6] = nn.Sequential(nn.Flatten(), Rounding()).eval()
    view = classifier(module).at("4")
    with pytest.raises(ModelError, match=r"no gradient flows .* layer '4'.*Occlusion"):
        Gradient()(view, images(1), 1)


@pytest.mark.parametrize(
    "options", [{"samples": 0}, {"noise": -0.1}, {"noise": float("nan")}, {"statistic": "median"}, {"seed": -1}]
)
def test_impossible_options_of_smoothgrad_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(PellucidError, match="SmoothGrad needs"):
        SmoothGrad(**options)  # type: ignore[arg-type]


def test_signs_are_declared() -> None:
    assert not Gradient().signed
    assert Gradient(absolute=False).signed
    assert InputXGradient().signed
    assert not SmoothGrad().signed
    assert SmoothGrad(times_activation=True).signed
    assert not SmoothGrad(statistic="variance", absolute=False).signed
