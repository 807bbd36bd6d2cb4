"""What a view gives and takes: maps of every layout, types, side inputs, errors."""

import pytest
import torch
from tests.classifiers.oracles import classifier, reference
from tests.networks import NETWORKS, images, input_shape
from torch import Tensor, nn

import pellucid as pl
from pellucid.classifiers.layout import Layout
from pellucid.errors import LayerError, ModelError

TOKENS = {"vit_mean": 0, "vit": 1, "vit_two_tokens": 2, "vit_five_tokens": 5}


# --- Layouts


@pytest.mark.parametrize(("name", "tokens"), TOKENS.items())
def test_leading_tokens_are_told_apart_from_the_images_own_and_carried(name: str, tokens: int) -> None:
    view = classifier(name).at("blocks.0")
    assert view.layout == Layout("NTC", tokens)
    net, x = reference(name), images(name)
    native: list[Tensor] = []
    handle = net.blocks[0].register_forward_hook(lambda module, inputs, output: native.append(output))
    with torch.no_grad():
        net(x)
    handle.remove()
    activation = view.activation(x)
    assert activation.shape == (3, 12, 4, 4)
    for image, row, column in ((0, 0, 3), (2, 3, 1)):
        token = native[0][image, tokens + 4 * row + column]
        assert torch.equal(activation[image, :, row, column], token)
    if tokens:
        assert view.side_input_names == (f"{tokens} leading token{'s' * (tokens > 1)} of blocks.0",)
        assert torch.equal(activation.side_inputs.values[-1], native[0][:, :tokens])
    else:
        assert view.side_input_names == ()


@pytest.mark.parametrize(("name", "tokens"), TOKENS.items())
def test_tokens_of_rectangular_images_form_a_rectangular_grid(name: str, tokens: int) -> None:
    net = NETWORKS[name]().requires_grad_(False)
    net.position = nn.Parameter(torch.randn(1, tokens + 2 * 5, 12), requires_grad=False)
    clf = pl.Classifier(net, input_size=(16, 40))
    x = torch.randn(2, 3, 16, 40)
    activation = clf.at("blocks.1").activation(x)
    assert activation.shape == (2, 12, 2, 5)
    assert torch.equal(clf.at("blocks.1").logits(activation), net(x))


def test_the_class_token_is_carried_to_the_rows_of_its_images() -> None:
    view, net = classifier("vit").at("blocks.1"), reference("vit")
    x = images("vit")
    activation = view.activation(x)
    index = torch.tensor([2, 2, 0])
    zeros = torch.zeros(3, *activation.shape[1:])
    found = view.logits(zeros, activation.side_inputs.rows(index))
    with torch.no_grad():
        tokens = net.patch_embed(x).flatten(2).mT
        tokens = torch.cat([net.leading.expand(3, -1, -1), tokens], 1) + net.position
        tokens = net.blocks[1](net.blocks[0](tokens))[index].clone()
        tokens[:, 1:] = 0.0
        wanted = net.head(net.norm(net.blocks[2](tokens))[:, 0])
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found[0], found[2])


def test_channels_last_maps_are_turned_round() -> None:
    view = classifier("channels_last_blocks").at("blocks.0")
    assert view.layout == Layout("NHWC")
    assert view.activation(images("channels_last_blocks")).shape == (3, 20, 10, 6)


def test_vectors_are_maps_of_one_cell() -> None:
    view = classifier("flatten_head").at("classifier.1")
    assert view.layout == Layout("NC")
    assert view.activation(images("flatten_head")).shape == (3, 16, 1, 1)


def test_a_given_layout_is_used() -> None:
    clf, x = classifier("residual"), images("residual")
    taken_for_last = clf.at("layer3", layout="NHWC")
    assert taken_for_last.activation(x).shape == (3, 6, 16, 10)  # (N, 16, 10, 6) read as (N, h, w, C)
    assert torch.equal(taken_for_last.logits(taken_for_last.activation(x)), reference("residual")(x))
    assert clf.at("layer3").activation(x).shape == (3, 16, 10, 6)


def test_a_layout_that_does_not_fit_is_a_clear_error() -> None:
    clf = classifier("residual")
    with pytest.raises(LayerError, match="unknown layout 'CHWN'; choose one of NCHW, NHWC, NTC, NC"):
        clf.at("layer3", layout="CHWN")
    with pytest.raises(LayerError, match=r"'layer3' has shape \(2, 16, 8, 8\), which is not a map, tokens or a vector"):
        clf.at("layer3", layout="NTC")


# --- Types, devices and precision


def test_activations_and_logits_are_detached_float32() -> None:
    view = classifier("residual").at("layer2")
    activation = view.activation(images("residual").requires_grad_())
    assert activation.dtype == view.logits(activation).dtype == torch.float32
    assert not activation.requires_grad
    assert not view.logits(activation).requires_grad


@pytest.mark.parametrize("name", ["residual", "vit", "control_flow", "channels_last_blocks"])
def test_a_network_in_double_precision_stays_in_it(name: str) -> None:
    net = NETWORKS[name]().double().requires_grad_(False)
    clf = pl.Classifier(net, input_size=input_shape(name))
    x = images(name)
    for layer in ("input", "middle", "final"):
        view = clf.at(layer)
        activation = view.activation(x)
        assert activation.dtype == torch.float64
        assert torch.equal(view.logits(activation), net(x.double()))
    assert clf.logits(x).dtype == torch.float64


@pytest.mark.parametrize("name", ["residual", "vit"])
def test_a_network_in_bfloat16_gives_float32_results(name: str) -> None:
    net = NETWORKS[name]().bfloat16().requires_grad_(False)
    clf = pl.Classifier(net, input_size=input_shape(name))
    view = clf.at("final")
    activation = view.activation(images(name))
    assert activation.dtype == view.logits(activation).dtype == torch.float32
    torch.testing.assert_close(view.logits(activation), net(images(name).bfloat16()).float())


@pytest.mark.parametrize("name", ["residual", "inception", "vit", "control_flow", "channels_last_blocks", "dense"])
def test_autocast_stays_close_at_every_layer(name: str) -> None:
    clf = pl.Classifier(reference(name), input_size=input_shape(name), autocast=torch.bfloat16)
    x = images(name)
    with torch.no_grad():
        exact = reference(name)(x.clone())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            wanted = reference(name)(x.clone()).float()
    scale = float(exact.abs().max())
    assert float((wanted - exact).abs().max()) > 0
    torch.testing.assert_close(clf.logits(x), wanted)
    for info in clf.layers():
        view = clf.at(info.name)
        activation = view.activation(x)
        logits = view.logits(activation)
        assert activation.dtype == logits.dtype == torch.float32
        assert float((logits - exact).abs().max()) < 0.03 * scale, info.name


@pytest.mark.parametrize("name", ["residual", "squeeze_excite", "vit", "control_flow"])
def test_channels_last_order_changes_nothing_but_rounding(name: str) -> None:
    clf = pl.Classifier(reference(name), input_size=input_shape(name), channels_last=True)
    x = images(name)
    for layer in ("input", "middle", "final"):
        view = clf.at(layer)
        activation = view.activation(x)
        torch.testing.assert_close(view.logits(activation), reference(name)(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(view.logits(activation.clone(), activation.side_inputs), view.logits(activation))


def test_channels_last_order_reaches_the_convolutions() -> None:
    net = NETWORKS["gap_linear"]()
    seen: list[bool] = []
    net[2].register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    clf = pl.Classifier(net, input_size=32, channels_last=True)
    seen.clear()
    clf.logits(torch.randn(2, 3, 32, 32))
    assert seen == [True]
    assert not net[2].weight.is_contiguous(memory_format=torch.channels_last)  # the user's own stays


def test_images_of_other_float_types_are_converted() -> None:
    x = images("residual").double()
    view = classifier("residual").at("layer2")
    torch.testing.assert_close(view.activation(x), view.activation(x.float()), rtol=0, atol=0)
    torch.testing.assert_close(view.logits(view.activation(x).double()), reference("residual")(x.float()))


# --- Activations and their side inputs


def test_what_is_computed_from_an_activation_is_a_plain_tensor() -> None:
    activation = classifier("residual").at("layer2").activation(images("residual"))
    for computed in (activation[:1], activation * 2, activation.clone(), activation.detach(), torch.relu(activation)):
        assert type(computed) is Tensor
    assert type(activation) is pl.classifiers.Activation
    assert repr(activation).startswith("Activation([[[[")


@pytest.mark.parametrize("activation", [torch.zeros(12, 8, 8), torch.zeros(1, 2, 3, 4, 5), torch.zeros(3, 12)])
def test_an_activation_that_is_no_map_is_a_clear_error(activation: Tensor) -> None:
    with pytest.raises(LayerError, match=r"an activation at 'layer2' is a map \(R, C, h, w\), not \("):
        classifier("residual").at("layer2").logits(activation)


def test_side_inputs_of_another_number_of_rows_are_a_clear_error() -> None:
    view = classifier("residual").at("layer1.0.conv1")
    activation = view.activation(images("residual"))
    with pytest.raises(LayerError, match="2 rows of activation were given with side inputs of 3"):
        view.logits(activation[:2], activation.side_inputs)


def test_side_inputs_of_another_layer_are_a_clear_error() -> None:
    clf, x = classifier("residual"), images("residual")
    one, other = clf.at("layer1.0.conv1"), clf.at("layer1.1.conv1")
    with pytest.raises(LayerError, match=r"side inputs \(relu\) are not those .* belong to another layer"):
        other.logits(one.activation(x))
    with pytest.raises(LayerError, match=r"cross the cut at 'layer1' \(none\)"):
        clf.at("layer1").logits(one.activation(x))


def test_views_are_made_once() -> None:
    clf = classifier("residual")
    assert clf.at("final") is clf.at("layer3")
    assert clf.at("layer3") is not clf.at("layer3", layout="NCHW")
    assert repr(clf.at("layer3")) == "LayerView('residual' at 'layer3')"


def test_the_suffix_is_called_with_what_the_view_says() -> None:
    for name, layer in (("residual", "layer1.0.conv1"), ("vit", "blocks.0"), ("vit", "blocks.0.norm2")):
        view = classifier(name).at(layer)
        activation = view.activation(images(name))
        assert view.suffix is not None
        (logits,) = view.suffix(*view.suffix_inputs(activation))
        assert torch.equal(logits, view.logits(activation))


def test_images_too_small_for_the_network_are_a_clear_error() -> None:
    clf = classifier("flatten_head")
    with pytest.raises(ModelError, match=r"cannot be run on images of shape \(2, 3, 48, 48\): RuntimeError: mat1"):
        clf.logits(torch.randn(2, 3, 48, 48))
    with pytest.raises(ModelError, match=r"cannot be run on images of shape \(2, 3, 1, 1\)"):
        clf.at("features.4").activation(torch.randn(2, 3, 1, 1))
