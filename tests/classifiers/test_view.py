"""What a view gives and takes: layouts, types, carried values, errors; and whether a suffix is affine."""

from collections.abc import Callable

import pytest
import torch
from tests.classifiers.oracles import classifier, reference
from tests.networks import CLASSES, NETWORKS, input_shape, pictures
from tests.networks.tokens import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from pellucid.classifiers.layout import Layout, find_layout, token_grid
from pellucid.errors import LayerError, ModelError

TOKENS = {"vit_mean": 0, "vit": 1, "vit_two_tokens": 2, "vit_five_tokens": 5}


# --- Layouts


@pytest.mark.parametrize(("name", "tokens"), TOKENS.items())
def test_leading_tokens_are_told_apart_from_the_pictures_own_and_carried(name: str, tokens: int) -> None:
    view = classifier(name).at("blocks.0")
    assert view.layout == Layout("NTC", tokens)
    net, x = reference(name), pictures(name)
    native: list[Tensor] = []
    handle = net.blocks[0].register_forward_hook(lambda module, inputs, output: native.append(output))
    with torch.no_grad():
        net(x)
    handle.remove()
    activation = view.activation(x)
    assert activation.shape == (3, 12, 4, 4)
    for picture, row, column in ((0, 0, 3), (2, 3, 1)):
        token = native[0][picture, tokens + 4 * row + column]
        assert torch.equal(activation[picture, :, row, column], token)
    if tokens:
        assert view.carried_names == (f"{tokens} leading token{'s' * (tokens > 1)} of blocks.0",)
        assert torch.equal(activation.carried.values[-1], native[0][:, :tokens])
    else:
        assert view.carried_names == ()


@pytest.mark.parametrize(("name", "tokens"), TOKENS.items())
def test_tokens_of_rectangular_pictures_form_a_rectangular_grid(name: str, tokens: int) -> None:
    net = NETWORKS[name]().requires_grad_(False)
    net.position = nn.Parameter(torch.randn(1, tokens + 2 * 5, 12), requires_grad=False)
    clf = pl.Classifier(net, input_size=(16, 40))
    x = torch.randn(2, 3, 16, 40)
    activation = clf.at("blocks.1").activation(x)
    assert activation.shape == (2, 12, 2, 5)
    assert torch.equal(clf.at("blocks.1").logits(activation), net(x))


def test_the_class_token_is_carried_to_the_rows_of_its_pictures() -> None:
    view, net = classifier("vit").at("blocks.1"), reference("vit")
    x = pictures("vit")
    activation = view.activation(x)
    index = torch.tensor([2, 2, 0])
    zeros = torch.zeros(3, *activation.shape[1:])
    found = view.logits(zeros, activation.carried.rows(index))
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
    assert view.activation(pictures("channels_last_blocks")).shape == (3, 20, 10, 6)


def test_vectors_are_maps_of_one_cell() -> None:
    view = classifier("flatten_head").at("classifier.1")
    assert view.layout == Layout("NC")
    assert view.activation(pictures("flatten_head")).shape == (3, 16, 1, 1)


def test_a_given_layout_is_used() -> None:
    clf, x = classifier("residual"), pictures("residual")
    taken_for_last = clf.at("layer3", layout="NHWC")
    assert taken_for_last.activation(x).shape == (3, 6, 16, 10)  # (N, 16, 10, 6) read as (N, h, w, C)
    assert torch.equal(taken_for_last.logits(taken_for_last.activation(x)), reference("residual")(x))
    assert clf.at("layer3").activation(x).shape == (3, 16, 10, 6)


def test_a_layout_that_does_not_fit_is_a_clear_error() -> None:
    clf = classifier("residual")
    with pytest.raises(LayerError, match="unknown layout 'CHWN'; choose one of NCHW, NHWC, NTC, NC"):
        clf.at("layer3", layout="CHWN")
    with pytest.raises(LayerError, match=r"'layer3' has shape \(2, 16, 8, 8\), which is no map, tokens or vector"):
        clf.at("layer3", layout="NTC")


@pytest.mark.parametrize(
    ("shape", "size", "layout"),
    [
        ((2, 64, 56, 56), (224, 224), Layout("NCHW")),
        ((2, 56, 56, 96), (224, 224), Layout("NHWC")),
        ((2, 7, 7, 768), (224, 224), Layout("NHWC")),
        ((2, 16, 16, 16), (64, 64), Layout("NCHW")),
        ((2, 16, 8, 40), (64, 32), Layout("NHWC")),
        ((2, 40, 16, 8), (64, 32), Layout("NCHW")),
        ((2, 1280), (224, 224), Layout("NC")),
        ((2, 196, 192), (224, 224), Layout("NTC", 0)),
        ((2, 197, 192), (224, 224), Layout("NTC", 1)),
        ((2, 198, 192), (224, 224), Layout("NTC", 2)),
        ((2, 201, 192), (224, 224), Layout("NTC", 5)),
        ((2, 1 + 14 * 20, 384), (224, 320), Layout("NTC", 1)),
        ((2, 257, 1024), (224, 224), Layout("NTC", 1)),
        ((2, 384, 196), (224, 224), None),  # channels first: 380 = 19 x 20 is no grid of square patches
        ((2, 32, 32), (32, 32), None),
        ((2, 3), (32, 32), Layout("NC")),
        ((2,), (32, 32), None),
        ((2, 8, 4, 8, 8), (32, 32), None),
    ],
)
def test_layouts_are_read_off_shapes(shape: tuple[int, ...], size: tuple[int, int], layout: Layout | None) -> None:
    assert find_layout(shape, *size) == layout


@pytest.mark.parametrize(
    ("count", "size", "grid"),
    [
        (196, (224, 224), (14, 14)),
        (280, (224, 320), (14, 20)),
        (280, (320, 224), (20, 14)),
        (15 * 21, (230, 330), (15, 21)),  # patches of 16 that stick out
        (14 * 20, (230, 330), (14, 20)),  # or are left out
        (380, (224, 224), None),
        (197, (224, 224), None),
        (1, (224, 224), None),
        (0, (224, 224), None),
    ],
)
def test_tokens_form_grids_of_square_patches(count: int, size: tuple[int, int], grid: tuple[int, int] | None) -> None:
    assert token_grid(count, *size) == grid


@pytest.mark.parametrize("layout", [Layout("NCHW"), Layout("NHWC"), Layout("NTC"), Layout("NTC", 3), Layout("NC")])
def test_unfolding_is_the_inverse_of_folding(layout: Layout) -> None:
    shapes = {"NCHW": (2, 5, 4, 6), "NHWC": (2, 4, 6, 5), "NTC": (2, 24 + layout.tokens, 5), "NC": (2, 5)}
    native = torch.randn(shapes[layout.order])
    folded, leading = layout.fold(native, 32, 48)
    assert folded.shape == ((2, 5, 1, 1) if layout.order == "NC" else (2, 5, 4, 6))
    assert torch.equal(layout.unfold(folded, leading), native)


def test_tokens_that_are_no_grid_for_these_pictures_are_a_clear_error() -> None:
    with pytest.raises(LayerError, match="20 picture tokens do not form a grid for 32 x 32 pictures"):
        Layout("NTC", 1).fold(torch.zeros(2, 21, 3), 32, 32)


# --- Types, devices and precision


def test_activations_and_logits_are_detached_float32() -> None:
    view = classifier("residual").at("layer2")
    activation = view.activation(pictures("residual").requires_grad_())
    assert activation.dtype == view.logits(activation).dtype == torch.float32
    assert not activation.requires_grad
    assert not view.logits(activation).requires_grad


@pytest.mark.parametrize("name", ["residual", "vit", "control_flow", "channels_last_blocks"])
def test_a_network_in_double_precision_stays_in_it(name: str) -> None:
    net = NETWORKS[name]().double().requires_grad_(False)
    clf = pl.Classifier(net, input_size=input_shape(name))
    x = pictures(name)
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
    activation = view.activation(pictures(name))
    assert activation.dtype == view.logits(activation).dtype == torch.float32
    torch.testing.assert_close(view.logits(activation), net(pictures(name).bfloat16()).float())


@pytest.mark.parametrize("name", ["residual", "inception", "vit", "control_flow", "channels_last_blocks", "dense"])
def test_autocast_stays_close_at_every_layer(name: str) -> None:
    clf = pl.Classifier(reference(name), input_size=input_shape(name), autocast=torch.bfloat16)
    x = pictures(name)
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
    x = pictures(name)
    for layer in ("input", "middle", "final"):
        view = clf.at(layer)
        activation = view.activation(x)
        torch.testing.assert_close(view.logits(activation), reference(name)(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(view.logits(activation.clone(), activation.carried), view.logits(activation))


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


def test_pictures_of_other_float_types_are_converted() -> None:
    x = pictures("residual").double()
    view = classifier("residual").at("layer2")
    torch.testing.assert_close(view.activation(x), view.activation(x.float()), rtol=0, atol=0)
    torch.testing.assert_close(view.logits(view.activation(x).double()), reference("residual")(x.float()))


# --- Activations and what is carried


def test_what_is_computed_from_an_activation_is_a_plain_tensor() -> None:
    activation = classifier("residual").at("layer2").activation(pictures("residual"))
    for computed in (activation[:1], activation * 2, activation.clone(), activation.detach(), torch.relu(activation)):
        assert type(computed) is Tensor
    assert type(activation) is pl.classifiers.Activation
    assert repr(activation).startswith("Activation([[[[")


@pytest.mark.parametrize("activation", [torch.zeros(12, 8, 8), torch.zeros(1, 2, 3, 4, 5), torch.zeros(3, 12)])
def test_an_activation_that_is_no_map_is_a_clear_error(activation: Tensor) -> None:
    with pytest.raises(LayerError, match=r"an activation at 'layer2' is a map \(R, C, h, w\), not \("):
        classifier("residual").at("layer2").logits(activation)


def test_carried_values_of_another_number_of_rows_are_a_clear_error() -> None:
    view = classifier("residual").at("layer1.0.conv1")
    activation = view.activation(pictures("residual"))
    with pytest.raises(LayerError, match="2 rows of activation were given with carried values of 3"):
        view.logits(activation[:2], activation.carried)


def test_carried_values_of_another_layer_are_a_clear_error() -> None:
    clf, x = classifier("residual"), pictures("residual")
    one, other = clf.at("layer1.0.conv1"), clf.at("layer1.1.conv1")
    with pytest.raises(LayerError, match=r"carried values \(relu\) are not those .* belong to another layer"):
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
        activation = view.activation(pictures(name))
        assert view.suffix is not None
        (logits,) = view.suffix(*view.suffix_inputs(activation))
        assert torch.equal(logits, view.logits(activation))


def test_pictures_too_small_for_the_network_are_a_clear_error() -> None:
    clf = classifier("flatten_head")
    with pytest.raises(ModelError, match=r"cannot be run on pictures of shape \(2, 3, 48, 48\): RuntimeError: mat1"):
        clf.logits(torch.randn(2, 3, 48, 48))
    with pytest.raises(ModelError, match=r"cannot be run on pictures of shape \(2, 3, 1, 1\)"):
        clf.at("features.4").activation(torch.randn(2, 3, 1, 1))


# --- Is the suffix affine?


def is_affine(name: str, layer: str) -> bool:
    return classifier(name).at(layer).is_affine


def seems_affine(name: str, layer: str) -> bool:
    """f(a + 2 b) - f(a) = 2 (f(a + b) - f(a)) for random b, which no network here gives by chance."""
    view = classifier(name).at(layer)
    activation = view.activation(pictures(name))
    step = torch.randn(activation.shape)
    at = [view.logits(activation + factor * step, activation.carried) for factor in (0.0, 1.0, 2.0)]
    return torch.allclose(at[2] - at[0], 2 * (at[1] - at[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_suffix_said_to_be_affine_is(name: str) -> None:
    for info in classifier(name).layers():
        assert seems_affine(name, info.name) or not is_affine(name, info.name), info.name


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("gap_linear", "3"),
        ("functional_relu", "relu:1"),
        ("residual", "layer3"),
        ("dense", "relu"),
        ("inception", "inception2"),
        ("squeeze_excite", "6"),
        ("preactivation", "add:1"),
        ("nested_sequential", "features.1.2"),
        ("batch_size_across", "relu:1"),
        ("channels_last_blocks", "head"),
    ],
)
def test_a_pooled_linear_head_is_known_to_be_affine(name: str, layer: str) -> None:
    assert is_affine(name, layer)


@pytest.mark.parametrize(("name", "layer"), [("gap_linear", "2"), ("vit", "blocks.1"), ("flatten_head", "features.4")])
def test_what_passes_a_nonlinearity_is_not_affine(name: str, layer: str) -> None:
    assert not is_affine(name, layer)
    assert not seems_affine(name, layer)


class Head(nn.Module):
    """A convolution, then a head to be asked about."""

    def __init__(self, head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.norm = nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES), nn.BatchNorm2d(4)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("head", "affine"),
    [
        (nn.BatchNorm2d(4), True),
        (nn.Conv2d(4, 4, 3, padding_mode="reflect", padding=1), True),
        (nn.AvgPool2d(2), True),
        (nn.Dropout2d(), True),
        (lambda x: 2 * x - 1, True),
        (lambda x: x / 3, True),
        (lambda x: 3 * (x + 1), True),
        (lambda x: F.dropout(x, training=False), True),
        (lambda x: torch.cat([x, x], 2), True),
        (lambda x: x * x, False),
        (lambda x: 1 / x, False),
        (lambda x: x / x, False),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), False),
        (lambda x: torch.matmul(x, x), False),
        (lambda x: x / x.sum(1, keepdim=True), False),
        (lambda x: x.abs(), False),
        (nn.MaxPool2d(2), False),
        (nn.GroupNorm(2, 4), False),
        (nn.Softmax(1), False),
    ],
)
def test_affine_operations_are_told_from_others(head: Callable[[Tensor], Tensor], affine: bool) -> None:
    net = Head(head).eval()
    assert pl.Classifier(net, input_size=8).at("conv").is_affine == affine


def test_a_hook_on_a_linear_layer_can_make_anything_of_it() -> None:
    net = NETWORKS["gap_linear"]()
    assert pl.Classifier(net, input_size=32).at("3").is_affine
    net[6].register_forward_hook(lambda module, inputs, output: output.tanh())
    assert not pl.Classifier(net, input_size=32).at("3").is_affine


def test_an_untraceable_network_is_never_known_to_be_affine() -> None:
    assert not is_affine("control_flow", "head.2")


def test_a_transformer_can_be_made_of_any_number_of_leading_tokens() -> None:
    assert VisionTransformer(tokens=3).eval()(pictures("vit")).shape == (3, CLASSES)
