"""The networks: modulated convolution against per-sample weights, shapes, what depends on what."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.surrogate.model.encoders import ConvEncoder
from pellucid.surrogate.model.network_layers import (
    ModulatedConv,
    ScaledConv,
    ScaledLinear,
    call_frozen,
    channels_at,
    modulated_conv,
    resolutions_up_to,
    to_channels_last,
)
from pellucid.surrogate.model.surrogate_networks import Discriminator, Generator
from pellucid.surrogate.training.trainer import average_weights


def by_grouped_weights(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool) -> Tensor:
    """Karras et al. 2020, equations 1 and 3, one weight for each image."""
    images = len(x)
    own = weight[None] * style[:, None, :, None, None]
    if demodulate:
        own = own / (own.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    y = F.conv2d(x.flatten(0, 1)[None], own.flatten(0, 1), padding=weight.shape[-1] // 2, groups=images)
    return y[0].unflatten(0, (images, -1))


@pytest.mark.parametrize(("kernel", "demodulate"), list(itertools.product([1, 3], [True, False])))
def test_modulated_convolution_equals_one_with_a_weight_for_each_image(kernel: int, demodulate: bool) -> None:
    x, weight, style = torch.randn(5, 7, 9, 9), torch.randn(4, 7, kernel, kernel), torch.randn(5, 7)
    result = modulated_conv(x, weight, style, demodulate=demodulate)
    torch.testing.assert_close(result, by_grouped_weights(x, weight, style, demodulate), rtol=1e-5, atol=1e-5)


def test_gradients_of_the_modulated_convolution_are_those_of_per_sample_weights() -> None:
    def gradients(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor | None]:
        torch.manual_seed(1)
        leaves = [t.requires_grad_() for t in (torch.randn(3, 5, 6, 6), torch.randn(4, 5, 3, 3), torch.randn(3, 5))]
        function(*leaves).square().sum().backward()
        return [leaf.grad for leaf in leaves]

    ours = gradients(lambda x, w, s: modulated_conv(x, w, s))
    torch.testing.assert_close(ours, gradients(lambda x, w, s: by_grouped_weights(x, w, s, True)), rtol=1e-4, atol=1e-4)


def test_demodulation_makes_the_output_independent_of_the_styles_size() -> None:
    x, weight, style = torch.randn(2, 6, 8, 8), torch.randn(3, 6, 3, 3), torch.rand(2, 6) + 0.5
    torch.testing.assert_close(modulated_conv(x, weight, style), modulated_conv(x, weight, 7 * style))


def test_equalized_layers_start_as_the_others_do_and_hold_unit_weights() -> None:
    torch.manual_seed(0)
    plain, equalized = ScaledLinear(400, 300), ScaledLinear(400, 300, equalized=True)
    x = torch.randn(200, 400)
    assert float(equalized.weight.detach().std()) == pytest.approx(1, rel=0.02)
    assert float(plain.weight.detach().std()) == pytest.approx(1 / 20, rel=0.02)
    assert float(plain(x).detach().std()) == pytest.approx(1, rel=0.05)
    assert float(equalized(x).detach().std()) == pytest.approx(1, rel=0.05)
    convolved = ScaledConv(30, 20, 3, equalized=True)(torch.randn(2, 30, 16, 16)).detach()
    assert float(convolved.std()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(("side", "channels"), [(16, 1), (32, 3), (64, 1), (128, 3), (256, 3)])
def test_generator_discriminator_and_encoder_fit_each_other_at_every_resolution(side: int, channels: int) -> None:
    generator = Generator(5, side, channels, channel_base=256, max_channels=8)
    images = generator(torch.randn(4, 5))
    assert images.shape == (4, channels, side, side)
    assert float(images.detach().abs().max()) <= 1
    alone, matched = Discriminator(side, channels, 11, channel_base=256, max_channels=8)(images, torch.randn(4, 11))
    assert alone.shape == matched.shape == (4,)
    assert ConvEncoder(side, channels, 6, channel_base=256, max_channels=8)(images).shape == (4, 6)


def test_channels_halve_with_the_resolution_up_to_a_limit() -> None:
    assert resolutions_up_to(32) == [4, 8, 16, 32]
    assert [channels_at(side, 512, 64) for side in (4, 8, 16, 32)] == [64, 64, 32, 16]
    assert channels_at(256, 16384, 512) == 64


def test_every_coordinate_of_the_code_moves_the_image() -> None:
    generator = Generator(4, 16, 1, channel_base=128, max_channels=8)
    code = torch.randn(1, 4)
    for column in range(4):
        moved = code.clone()
        moved[:, column] += 1
        assert float((generator(moved) - generator(code)).detach().abs().max()) > 1e-3


def test_an_image_does_not_depend_on_the_others_in_its_batch() -> None:
    generator = Generator(4, 16, 1, channel_base=128, max_channels=8, noise_inputs=True)
    codes = torch.randn(6, 4)
    torch.testing.assert_close(generator(codes)[2:3], generator(codes[2:3]), rtol=1e-5, atol=1e-5)


def test_noise_is_fixed_unless_random_numbers_are_given_and_silent_at_first() -> None:
    generator = Generator(4, 16, 1, channel_base=128, max_channels=8, noise_inputs=True)
    code, random = torch.randn(1, 4), torch.Generator().manual_seed(0)
    torch.testing.assert_close(generator(code, random), generator(code))
    for block in generator.blocks:
        for noise in block.noises:
            nn.init.constant_(noise.strength, 0.5)
    torch.testing.assert_close(generator(code), generator(code))
    assert not torch.allclose(generator(code, random), generator(code, random))


def test_the_gain_scales_the_height_above_black_and_nothing_else() -> None:
    torch.manual_seed(0)
    generator = Generator(3, 16, 1, channel_base=128, max_channels=8, brightness_column=1)
    for block in generator.blocks:
        for convolution in [*block.convolutions, block.to_rgb]:
            nn.init.zeros_(convolution.style.weight)  # so that the code acts through the gain alone
    dark, bright = generator(torch.tensor([[0.0, -2.0, 0.0], [0.0, 2.0, 0.0]])).detach() + 1
    torch.testing.assert_close(bright / dark, (bright / dark).mean().expand_as(bright))
    assert float((bright / dark).mean()) > 1.1


def test_the_discriminator_knows_whose_features_a_image_should_have() -> None:
    discriminator = Discriminator(16, 1, 6, channel_base=128, max_channels=8)
    images, features = torch.randn(4, 1, 16, 16), torch.randn(4, 6)
    alone, matched = discriminator(images, features)
    other_alone, other_matched = discriminator(images, -features)
    torch.testing.assert_close(alone, other_alone)
    assert not torch.allclose(matched, other_matched)
    torch.testing.assert_close(discriminator(images, 100 * features)[1], matched)  # only the direction counts


def test_a_batch_of_equal_images_scores_otherwise_than_a_varied_one() -> None:
    discriminator = Discriminator(16, 1, 6, channel_base=128, max_channels=8)
    varied, features = torch.randn(4, 1, 16, 16), torch.randn(1, 6).expand(4, -1)
    equal = varied[:1].expand(4, -1, -1, -1)
    with torch.no_grad():
        assert float((discriminator(equal, features)[0][0] - discriminator(varied, features)[0][0]).abs()) > 1e-4


def test_a_frozen_call_has_gradients_for_inputs_and_none_for_weights() -> None:
    encoder = ConvEncoder(16, 1, 3, channel_base=64, max_channels=8)
    x = torch.randn(2, 1, 16, 16, requires_grad=True)
    call_frozen(encoder, x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())
    assert all(weight.grad is None for weight in encoder.parameters())
    torch.testing.assert_close(call_frozen(encoder, x), encoder(x))


def test_the_averaged_weights_follow_by_the_rule_and_leave_the_network_alone() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    average = average_weights(network, decay=0.9)
    nn.init.constant_(network.weight, 1.0)
    expected = 0.0
    for step in range(1, 1000):
        average.update_parameters(network)
        decay = min(0.9, step / (step + 50))
        expected = decay * expected + (1 - decay)
    assert float(average.module.weight) == pytest.approx(expected)
    assert float(network.weight.detach()) == 1.0
    assert not average.module.weight.requires_grad


def test_the_order_in_memory_changes_no_number() -> None:
    torch.manual_seed(0)
    generator = Generator(4, 16, 1, channel_base=128, max_channels=8)
    code = torch.randn(3, 4)
    before = generator(code)
    to_channels_last(generator, torch.device("cpu"))
    assert generator.blocks[1].convolutions[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(generator(code), before, rtol=1e-5, atol=1e-5)


def test_a_code_drives_a_modulated_layer_by_an_affine_style_that_starts_at_one() -> None:
    layer = ModulatedConv(3, 2, 3, 4, demodulate=False)
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(layer(x, torch.zeros(1, 4)), F.conv2d(x, layer.weight, layer.bias, padding=1))


def test_a_block_of_the_discriminator_is_branch_and_shortcut_over_the_root_of_two() -> None:
    """Gains are folded into the weights; written out they are a leaky ReLU times the root of two, and a sum over it."""
    torch.manual_seed(0)
    block = Discriminator(16, 1, 5, channel_base=64, max_channels=8, equalized_lr=True).blocks[0]
    x = torch.randn(3, block.first.weight.shape[1], 16, 16)

    def convolved(layer: ScaledConv, seen: Tensor) -> Tensor:
        padding = layer.weight.shape[-1] // 2
        fan_in = layer.weight[0].numel()
        return F.conv2d(seen, layer.weight / fan_in**0.5, layer.bias, padding=padding)

    def active(seen: Tensor) -> Tensor:
        return F.leaky_relu(seen, 0.2) * 2**0.5

    for layer in (block.first, block.second):
        torch.nn.init.normal_(layer.bias)
    branch = active(convolved(block.second, F.avg_pool2d(active(convolved(block.first, x)), 2)))
    by_hand = (branch + convolved(block.shortcut, F.avg_pool2d(x, 2))) / 2**0.5
    torch.testing.assert_close(block(x), by_hand, rtol=1e-4, atol=1e-5)
