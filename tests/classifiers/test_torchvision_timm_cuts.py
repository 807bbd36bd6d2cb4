"""Cuts of torchvision's and timm's networks with random weights, where these packages are installed."""

from functools import cache

import pytest
import torch
from tests.classifiers.oracles import run_with
from torch import Tensor, nn

import pellucid as pl

torchvision = pytest.importorskip("torchvision")

# The layers of the paper on evaluating attribution methods (Rao et al., arXiv 2303.11884), where it has the network.
ALIASES = {
    "vgg11": ("features.12", "features.19"),
    "vgg11_bn": ("features.17", "features.27"),
    "resnet18": ("layer2", "layer4"),
    "resnext50_32x4d": ("layer2", "layer4"),
    "wide_resnet50_2": ("layer2", "layer4"),
    "googlenet": ("inception3b", "inception5b"),
    "densenet121": ("features.denseblock2", "relu"),
    "mobilenet_v2": ("features.6", "features"),
    "convnext_tiny": ("features.3", "features"),
}
# (C, h, w) of one image of SIZE px: strides 8 and 32, for VGG 8 and 16.
SIZE = 96
SHAPES = {
    "vgg11": ((512, 12, 12), (512, 6, 6)),
    "vgg11_bn": ((512, 12, 12), (512, 6, 6)),
    "resnet18": ((128, 12, 12), (512, 3, 3)),
    "resnext50_32x4d": ((512, 12, 12), (2048, 3, 3)),
    "wide_resnet50_2": ((512, 12, 12), (2048, 3, 3)),
    "googlenet": ((480, 12, 12), (1024, 3, 3)),
    "densenet121": ((512, 12, 12), (1024, 3, 3)),
    "mobilenet_v2": ((32, 12, 12), (1280, 3, 3)),
    "convnext_tiny": ((192, 12, 12), (768, 3, 3)),
}
INSIDE = {
    "vgg11": "classifier.1",
    "resnet18": "layer3.0.bn2",
    "resnext50_32x4d": "layer3.1.conv2",
    "wide_resnet50_2": "layer2.0.downsample.0",
    "googlenet": "inception4b.branch3.0",
    "densenet121": "features.denseblock3.denselayer7.conv1",
    "mobilenet_v2": "features.8.conv.1",
    "convnext_tiny": "features.5.2.block.3",
    "vgg11_bn": "features.9",
}


@cache
def loaded(name: str) -> pl.Classifier:
    return pl.load(name, weights="random", input_size=SIZE)


def network(clf: pl.Classifier) -> nn.Module:
    return clf._module.requires_grad_(False)  # torch may choose other kernels for weights that take gradients


def image(clf: pl.Classifier, *size: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *(size or clf.input_shape[1:]), generator=torch.Generator().manual_seed(1))


def change(activation: Tensor) -> Tensor:
    return 0.5 * activation + 0.01


@pytest.mark.parametrize("name", ALIASES)
def test_middle_and_final_are_the_papers(name: str) -> None:
    clf = loaded(f"torchvision:{name}")
    assert (clf.resolve("middle"), clf.resolve("final")) == ALIASES[name]
    shapes = {info.name: info.shape for info in clf.layers()}
    assert tuple(shapes[layer] for layer in ALIASES[name]) == SHAPES[name]


@pytest.mark.parametrize("name", ALIASES)
def test_cuts_are_exact_between_and_inside_blocks_and_at_another_size(name: str) -> None:
    clf = loaded(f"torchvision:{name}")
    x = image(clf, 64, 128, batch=2)
    with torch.no_grad():
        wanted = network(clf)(x)
    for layer in (*ALIASES[name], INSIDE[name]):
        view = clf.at(layer)
        assert view.suffix is not None
        assert torch.equal(view.logits(view.activation(x)), wanted), layer


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "mobilenet_v2", "convnext_tiny"])
def test_a_changed_activation_acts_as_a_hook_that_replaces_it(name: str) -> None:
    clf = loaded(f"torchvision:{name}")
    x = image(clf, 64, 96)
    paths = {path for path, _ in network(clf).named_modules()}
    for layer in (*ALIASES[name], INSIDE[name]):
        if layer not in paths:
            continue
        view = clf.at(layer)
        activation = view.activation(x)
        with torch.no_grad():
            wanted = run_with(network(clf), layer, x, change)
            found = view.logits(change(activation), activation.side_inputs)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()), msg=layer)


def test_gradients_inside_a_residual_block_are_those_of_plain_autograd() -> None:
    clf = loaded("torchvision:resnet18")
    x = image(clf, 64, 64, batch=2)
    for layer in ("layer2", "layer3.0.bn2", "layer4.1.relu:0"):
        view = clf.at(layer)
        activation = view.activation(x)
        leaf = activation.clone().requires_grad_()
        (found,) = torch.autograd.grad(view.logits(leaf, activation.side_inputs)[:, :3].sum(), leaf)
        leaves: list[Tensor] = []

        def as_leaf(native: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
            leaves.append(native.detach().clone().requires_grad_())
            return leaves[0]

        (wanted,) = torch.autograd.grad(run_with(network(clf), layer, x, as_leaf)[:, :3].sum(), leaves[0])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6, msg=layer)


def test_what_crosses_a_cut_inside_a_block_is_named() -> None:
    assert loaded("torchvision:resnet18").at("layer3.0.bn2").side_input_names == ("layer3.0.downsample",)
    assert loaded("torchvision:densenet121").at("features.denseblock2.denselayer2").side_input_names == (
        "features.transition1",
        "features.denseblock2.denselayer1",
    )
    assert loaded("torchvision:googlenet").at("inception5b").side_input_names == ()


def test_googlenets_rescaling_of_its_input_and_densenets_last_relu_are_on_their_sides_of_the_cut() -> None:
    googlenet = loaded("torchvision:googlenet")
    suffix = googlenet.at("input").suffix
    assert suffix is not None
    assert any(node.target is torch.unsqueeze for node in suffix.graph.nodes)
    assert float(loaded("torchvision:densenet121").at("final").activation(image(googlenet, 64, 64)).min()) == 0.0


def test_a_listing_can_be_kept_short() -> None:
    densenet = loaded("torchvision:densenet121")
    assert len(densenet.layers()) > 400
    blocks = [info.name for info in densenet.layers(depth=1)]
    assert len(blocks) < 25
    assert {"features.denseblock1", "features.transition3", "features.norm5", "relu"} <= set(blocks)


def test_a_transformer_with_a_head_of_zeros_has_aliases_too() -> None:
    net = torchvision.models.VisionTransformer(64, 16, num_layers=4, num_heads=2, hidden_dim=32, mlp_dim=64).eval()
    assert not bool(net.heads.head.weight.any())
    clf = pl.Classifier(net, input_size=64)
    assert (clf.resolve("middle"), clf.resolve("final")) == ("encoder.layers.encoder_layer_1", "encoder")
    nn.init.normal_(net.heads.head.weight)
    assert pl.Classifier(net, input_size=64).resolve("final") == "encoder.layers.encoder_layer_2"


def test_swins_blocks_are_maps_with_channels_last() -> None:
    clf = pl.Classifier(torchvision.models.swin_t(weights=None).eval(), input_size=64)
    x = image(clf)
    for layer, shape in (("features.1", (96, 16, 16)), ("features.5", (384, 4, 4)), ("norm", (768, 2, 2))):
        view = clf.at(layer)
        activation = view.activation(x)
        assert activation.shape == (1, *shape)
        torch.testing.assert_close(view.logits(activation), network(clf)(x), rtol=1e-5, atol=1e-6)


# --- timm


@cache
def vit(name: str = "vit_tiny_patch16_224", **options: object) -> pl.Classifier:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(name, pretrained=False, num_classes=7, **options).eval()
        nn.init.normal_(net.head.weight, std=0.1)
    return pl.Classifier(net, input_size=(net.default_cfg["input_size"][0], *net.patch_embed.img_size))


def test_the_final_layer_of_a_vit_is_the_last_whose_patches_reach_the_class_token() -> None:
    clf = vit()
    assert (clf.resolve("middle"), clf.resolve("final")) == ("blocks.5", "blocks.10")


@pytest.mark.parametrize(
    ("name", "options", "tokens", "grid"),
    [
        ("vit_tiny_patch16_224", {}, 1, (14, 14)),
        ("vit_tiny_patch16_224", {"img_size": (96, 160)}, 1, (6, 10)),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False, "img_size": 96}, 0, (6, 6)),
        ("vit_tiny_patch16_224", {"reg_tokens": 4, "img_size": 96}, 5, (6, 6)),
        ("deit_tiny_distilled_patch16_224", {"img_size": 96}, 2, (6, 6)),
    ],
)
def test_block_outputs_of_a_vit_are_grids_of_patches(
    name: str, options: dict[str, object], tokens: int, grid: tuple[int, int]
) -> None:
    clf = vit(name, **options)
    x = image(clf, batch=2)
    for layer in ("blocks.2", "blocks.10"):
        view = clf.at(layer)
        activation = view.activation(x)
        assert activation.shape == (2, 192, *grid)
        assert view.layout.tokens == tokens
        assert torch.equal(view.logits(activation), network(clf)(x))
        index = torch.tensor([1, 1, 0])
        rows = view.logits(activation[index], activation.side_inputs.rows(index))
        torch.testing.assert_close(rows, network(clf)(x)[index], rtol=1e-4, atol=1e-5)


def test_a_convolutional_network_of_timm_is_cut_like_any_other() -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=7).eval().requires_grad_(False)
    clf = pl.Classifier(net, input_size=64)
    x = torch.randn(2, 3, 96, 64)
    for layer in ("middle", "final", "blocks.2.0.se.conv_reduce"):
        view = clf.at(layer)
        assert torch.equal(view.logits(view.activation(x)), net(x)), layer
    assert clf.at("blocks.2.0.se.conv_reduce").side_input_names != ()
