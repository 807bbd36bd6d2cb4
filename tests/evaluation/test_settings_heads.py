"""Finding the last map and the kind of head, and the two orders of pooling and classifying in GridPG."""

import copy
from collections.abc import Callable

import pytest
import torch
from tests.attribution.support import gap_net, plain_net, seeded
from tests.evaluation.settings_support import (
    CELL,
    FixedPooling,
    classifier,
    convnext_net,
    grids,
    mobilenet_net,
    vgg_net,
)
from tests.networks import NETWORKS
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from pellucid.attribution.batch_budget import peak_bytes
from pellucid.errors import LayerError, ModelError, PellucidError
from pellucid.evaluation import DiPart, GridPG
from pellucid.evaluation.settings.cell_blocks import slide_windows
from pellucid.evaluation.settings.heads import find_head, mean_over_windows


def relative_difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    ("build", "layer", "size", "kind"),
    [
        (gap_net, "4", 6, {"is_global", "averages", "takes_any_size"}),
        (convnext_net, "1", 3, {"is_global", "averages", "takes_any_size"}),
        (mobilenet_net, "1", 3, {"is_global", "averages", "takes_any_size"}),
        (plain_net, "4", 6, {"takes_any_size"}),
        (vgg_net, "5", 3, {"takes_any_size"}),
        (lambda: seeded(lambda: FixedPooling(F.avg_pool2d)), "relu:1", 6, {"is_global", "averages"}),
        (lambda: seeded(lambda: FixedPooling(F.max_pool2d)), "relu:1", 6, {"is_global"}),
    ],
)
def test_the_kind_of_a_head_is_found_by_trying(
    build: Callable[[], nn.Module], layer: str, size: int, kind: set[str]
) -> None:
    head = find_head(classifier(build()), (CELL, CELL))
    assert (head.view.layer, head.size) == (layer, (size, size))
    assert {name for name in ("is_global", "averages", "takes_any_size") if getattr(head, name)} == kind


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("residual", "layer3", 8),
        ("dense", "relu", 8),  # the functional ReLU after the last norm
        ("inception", "inception2", 8),
        ("flatten_head", "features", 8),
        ("channels_last_blocks", "norm", 8),  # (N, h, w, C)
    ],
)
def test_the_last_map_is_the_one_before_pooling(name: str, layer: str, size: int) -> None:
    head = find_head(pl.Classifier(NETWORKS[name](), input_size=32), (32, 32))
    assert (head.view.layer, head.size) == (layer, (size, size))


# --- Flattening and fully connected layers


def as_convolutions(net: nn.Sequential, size: int) -> nn.Sequential:
    """A flattening head's linear layers as convolutions: the first as large as the map, the others 1 x 1."""
    converted = nn.Sequential()
    for part in net:
        if isinstance(part, nn.Linear):
            convolution = nn.Conv2d(part.in_features // size**2, part.out_features, size)
            convolution.weight.data = part.weight.data.reshape(convolution.weight.shape)
            convolution.bias.data = part.bias.data
            converted.append(convolution)
            size = 1
        elif not isinstance(part, nn.AdaptiveAvgPool2d | nn.Flatten):
            converted.append(copy.deepcopy(part))
    return converted.eval()


@pytest.mark.parametrize("grid", [1, 2, 3, (1, 3)])
def test_windows_of_a_flattening_head_are_its_layers_as_convolutions(grid: int | tuple[int, int]) -> None:
    net = vgg_net()
    shape = (grid, grid) if isinstance(grid, int) else grid
    images = grids(shape)
    with torch.no_grad():
        pointwise = as_convolutions(net[6:], 3)(net[:6](images))  # (N, K, windows down, windows across)
    assert pointwise.shape[2:] == tuple((n - 1) * 3 + 1 for n in shape)
    setting = GridPG(classifier(net), grid)
    assert setting.order == "classify_first"
    torch.testing.assert_close(setting.logits(images)[:, 0], pointwise.mean((2, 3)))


def test_windows_of_other_cells_keep_the_adaptive_pooling() -> None:
    net, images = vgg_net(), grids(cell=(16, 20))  # maps of 4 x 5 in every cell, pooled to 3 x 3
    with torch.no_grad():
        maps = net[:6](images)
        logits = [net[6:](maps[:, :, i : i + 4, j : j + 5]) for i in range(5) for j in range(6)]
    torch.testing.assert_close(GridPG(classifier(net)).logits(images)[:, 0], torch.stack(logits).mean(0))


def test_a_flattening_head_cannot_be_pooled_first() -> None:
    with pytest.raises(ModelError, match=r"does not pool its last map '5' to one vector.* order='classify_first'"):
        GridPG(classifier(vgg_net()), order="pool_first")


def test_windows_are_not_kept_together() -> None:
    maps = torch.randn(2, 8, 20, 20)
    weight = torch.randn(5, 8 * 100)

    def head(blocks: Tensor) -> Tensor:
        return blocks.flatten(1) @ weight.T

    together = peak_bytes(lambda: head(slide_windows(maps, 10, 10)))
    assert peak_bytes(lambda: mean_over_windows(head, maps, 10, 10)) < together / 5
    wanted = head(slide_windows(maps, 10, 10)).unflatten(0, (2, -1)).mean(1)
    torch.testing.assert_close(mean_over_windows(head, maps, 10, 10), wanted)


# --- Non-linear heads after pooling


@pytest.mark.parametrize("build", [convnext_net, mobilenet_net])
def test_non_linear_heads_after_pooling_ask_for_the_order(build: Callable[[], nn.Sequential]) -> None:
    with pytest.raises(ModelError, match=r"non-linear head after pooling '1'.* order='pool_first' .*'classify_first'"):
        GridPG(classifier(build()))


@pytest.mark.parametrize("build", [convnext_net, mobilenet_net])
def test_pool_first_is_the_network_and_classify_first_the_mean_of_positions(build: Callable[[], nn.Sequential]) -> None:
    net, images = build(), grids((2, 3))
    network = classifier(net)
    pool_first = GridPG(network, (2, 3), order="pool_first").logits(images)[:, 0]
    torch.testing.assert_close(pool_first, network.logits(images))
    with torch.no_grad():
        maps = net[:2](images)
        logits = [net[2:](maps[:, :, i : i + 1, j : j + 1]) for i in range(6) for j in range(9)]
    classify_first = GridPG(network, (2, 3), order="classify_first").logits(images)[:, 0]
    torch.testing.assert_close(classify_first, torch.stack(logits).mean(0))
    assert relative_difference(classify_first, pool_first) > 0.01


@pytest.mark.parametrize("order", ["auto", "pool_first", "classify_first"])
def test_both_orders_are_one_with_a_linear_head(order: str) -> None:
    network, images = classifier(gap_net()), grids()
    setting = GridPG(network, order=order)
    assert setting.order == ("pool_first" if order == "auto" else order)
    torch.testing.assert_close(setting.logits(images)[:, 0], network.logits(images))


@pytest.mark.parametrize("build", [convnext_net, mobilenet_net])
def test_dipart_takes_a_non_linear_head(build: Callable[[], nn.Sequential]) -> None:
    net, images = build(), grids()
    with torch.no_grad():
        maps = net[:2](images)
        wanted = torch.stack([net[2:](maps[:, :, i : i + 3, j : j + 3]) for i in (0, 3) for j in (0, 3)], 1)
    torch.testing.assert_close(DiPart(classifier(net)).logits(images), wanted)


# --- Pooling with the kernel of one cell's map


@pytest.mark.parametrize("hidden", [False, True])
def test_average_pooling_of_a_fixed_size_is_the_mean_of_whatever_map_there_is(hidden: bool) -> None:
    fixed, images = seeded(lambda: FixedPooling(F.avg_pool2d, hidden=hidden)), grids((1, 3))
    network = classifier(fixed)
    with pytest.raises(ModelError, match="cannot be run on images"):
        network.logits(images)
    setting = GridPG(network, (1, 3), order="pool_first" if hidden else "auto")
    fixed.pool = lambda x, _: F.adaptive_avg_pool2d(x, 1)
    view = setting.at("final")
    with torch.no_grad():
        torch.testing.assert_close(setting.logits(images)[:, 0], fixed(images))
        torch.testing.assert_close(view.logits(view.activation(images))[:, 0], fixed(images))
    with pytest.raises(LayerError, match="8 x 8 in every cell, but what follows takes 6 x 6 only"):
        DiPart(network).logits(torch.zeros(1, 3, 32, 32))


def test_max_pooling_of_a_fixed_size_can_only_be_classified_first() -> None:
    net, images = seeded(lambda: FixedPooling(F.max_pool2d)), grids()
    network = classifier(net)
    with pytest.raises(ModelError, match="choose order="):
        GridPG(network)
    with pytest.raises(ModelError, match=r"pools maps of 6 x 6 at 'relu:1' only, .* use order='classify_first'"):
        GridPG(network, order="pool_first")
    with torch.no_grad():
        maps = F.relu(net.conv2(F.relu(net.conv1(images))))
        wanted = net.fc(maps.permute(0, 2, 3, 1)).mean((1, 2))
    torch.testing.assert_close(GridPG(network, order="classify_first").logits(images)[:, 0], wanted)


def test_networks_without_a_map_are_refused() -> None:
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * CELL**2, 8), nn.ReLU(), nn.Linear(8, 5)))
    with pytest.raises(ModelError, match="has no spatial map after the input; use DiFull"):
        DiPart(classifier(net))
    assert pl.evaluation.DiFull(classifier(net)).logits(grids()).shape == (2, 4, 5)


def test_a_last_map_of_one_position_can_be_named() -> None:
    network = pl.Classifier(NETWORKS["residual"](), input_size=4)
    images = grids((2, 3), cell=(4, 4))
    setting = GridPG(network, (2, 3), head="layer3")
    assert (setting.head.size, setting.order) == ((1, 1), "pool_first")
    torch.testing.assert_close(setting.logits(images)[:, 0], network.logits(images))
    torch.testing.assert_close(DiPart(network, (2, 3), head="layer3").logits(images).mean(1), network.logits(images))
    assert GridPG(network, (2, 3)).head.view.layer == "layer2"


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(PellucidError, match="unknown order 'first': auto, pool_first or classify_first"):
        GridPG(classifier(gap_net()), order="first")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "layer", "size", "order"),
    [
        ("vgg11", "features", 2, "classify_first"),
        ("resnet18", "layer4", 2, "pool_first"),
        ("googlenet", "inception5b", 2, "pool_first"),
        ("densenet121", "relu", 2, "pool_first"),
        ("mobilenet_v3_small", "features", 2, None),
        ("convnext_tiny", "features", 2, None),
        ("efficientnet_b0", "features", 2, "pool_first"),
        ("swin_t", "norm", 2, "pool_first"),
    ],
)
@pytest.mark.slow
def test_heads_of_torchvision(name: str, layer: str, size: int, order: str | None) -> None:
    models = pytest.importorskip("torchvision.models")
    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    network = classifier(models.get_model(name, weights=None, **options).eval(), 64)
    assert DiPart(network).head.view.layer == layer
    assert DiPart(network).head.size == (size, size)
    if order is None:
        with pytest.raises(ModelError, match="non-linear head after pooling"):
            GridPG(network)
    else:
        assert GridPG(network).order == order
