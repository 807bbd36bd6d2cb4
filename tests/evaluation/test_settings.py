"""What the settings compute: their logits at every layer of many networks, against cuts made by hand."""

import gc
import weakref
from functools import cache
from typing import Any

import pytest
import torch
from tests.evaluation.settings_support import (
    CELL,
    PLAIN,
    SETTINGS,
    BatchStatistics,
    Plain,
    activation_of,
    classifier,
    grids,
    score_of,
)
from tests.networks import FIXED_SIZE, NETWORKS, UNTRACEABLE, input_shape

import pellucid as pl
from pellucid.errors import (
    LayerError,
    ModelError,
    PellucidError,
    TargetError,
)
from pellucid.evaluation import (
    DiFull,
    DiPart,
    GridPG,
    join_cells,
    split_cells,
)

TOKENS = {"vit", "vit_mean", "vit_two_tokens", "vit_five_tokens"}
WITH_A_LAST_MAP = sorted(set(NETWORKS) - UNTRACEABLE - TOKENS)
SHAPES = [1, 2, 3, (1, 3), (3, 2)]


@cache
def made(name: str) -> pl.Classifier:
    return pl.Classifier(NETWORKS[name](), input_size=input_shape(name), name=name)


def cells_for(name: str, count: int) -> torch.Tensor:
    """Cells (count, C, h, w), rectangular where the network takes other sizes than its own."""
    channels, *size = input_shape(name)
    size = size if name in FIXED_SIZE else [48, 32]
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(1))


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.detach().abs().max())))


# --- 6.1.1: one cell


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_difull_on_one_cell_is_the_classifier(name: str) -> None:
    network, images = made(name), cells_for(name, 2)
    close(DiFull(network, n=1).logits(images)[:, 0], network.logits(images))


@pytest.mark.parametrize("name", WITH_A_LAST_MAP)
def test_gridpg_and_dipart_on_one_cell_are_the_classifier(name: str) -> None:
    network, images = made(name), cells_for(name, 2)
    close(GridPG(network, n=1).logits(images)[:, 0], network.logits(images))
    close(DiPart(network, n=1).logits(images)[:, 0], network.logits(images))


# --- 6.1.2: DiFull


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layer", ["input", "middle", "final"])
def test_heads_of_difull_classify_their_cells_alone(layer: str, shape: int | tuple[int, int]) -> None:
    network = made("residual")
    setting = DiFull(network, n=shape)
    cells = cells_for("residual", 2 * setting.heads).unflatten(0, (2, -1))
    view = setting.at(layer)
    found = view.logits(view.activation(join_cells(cells, shape)))
    assert found.shape == (2, setting.heads, network.num_classes)
    close(found, torch.stack([network.logits(one) for one in cells]))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_difull_is_defined_for_every_network_at_every_alias(name: str) -> None:
    network = made(name)
    cells = cells_for(name, 8).unflatten(0, (2, 4))
    for layer in ("input", "middle", "final"):
        view = DiFull(network).at(layer)
        close(view.logits(view.activation(join_cells(cells))), torch.stack([network.logits(one) for one in cells]))


@pytest.mark.parametrize("layer", ["input", "middle", "final"])
def test_other_cells_change_neither_logit_nor_gradient_in_difull(layer: str) -> None:
    view = DiFull(made("dense")).at(layer)
    cells = cells_for("dense", 4)[None]
    others = torch.cat([cells[:, :1], cells[:, 1:] * -3 + 1], dim=1)
    found = []
    for images in (join_cells(cells), join_cells(others)):
        activation = view.activation(images)
        leaf = activation.detach().clone().requires_grad_()
        logits = view.logits(leaf, activation.side_inputs)
        (gradient,) = torch.autograd.grad(logits[0, 0, 2], leaf)
        found.append((logits[0, 0].detach(), gradient))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert not split_cells(found[0][1])[:, 1:].any()
    assert split_cells(found[0][1])[:, 0].any()


# --- 6.1.3: DiPart and GridPG


@pytest.mark.parametrize("name", ["gap_linear", "residual", "dense", "inception", "channels_last_blocks"])
@pytest.mark.parametrize("shape", SHAPES)
def test_with_a_linear_head_the_mean_of_diparts_heads_is_gridpg(name: str, shape: int | tuple[int, int]) -> None:
    network = made(name)
    images = join_cells(cells_for(name, 2 * DiPart(network, shape).heads).unflatten(0, (2, -1)), shape)
    close(DiPart(network, shape).logits(images).mean(1), GridPG(network, shape).logits(images)[:, 0])
    close(GridPG(network, shape).logits(images)[:, 0], network.logits(images))


def test_with_fully_connected_layers_the_mean_of_diparts_heads_is_not_gridpg() -> None:
    network, images = classifier(PLAIN["flatten and fully connected"].net), grids()
    difference = DiPart(network).logits(images).mean(1) - GridPG(network).logits(images)[:, 0]
    assert float(difference.abs().max()) > 1e-3


@pytest.mark.parametrize("name", WITH_A_LAST_MAP)
@pytest.mark.parametrize("setting", ["GridPG", "DiPart"])
def test_whole_grid_settings_are_one_function_at_all_layers(setting: str, name: str) -> None:
    network = made(name)
    defined = SETTINGS[setting](network, (1, 2))
    images = join_cells(cells_for(name, 4).unflatten(0, (2, 2)), (1, 2))
    wanted = defined.logits(images)
    for layer in ("middle", "final"):
        view = defined.at(layer)
        close(view.logits(view.activation(images)), wanted)


@pytest.mark.parametrize("grid", [(2, 2), (1, 3)])
@pytest.mark.parametrize("plain", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_the_cut_made_by_hand(name: str, plain: Plain, grid: tuple[int, int]) -> None:
    setting, images = SETTINGS[name](classifier(plain.net), grid), grids(grid)
    for layer in ("input", "1", str(plain.last)):
        view = setting.at(layer)
        activation = view.activation(images)
        for row, image in enumerate(images.split(1)):
            by_hand = activation_of(plain, name, layer, image, grid)
            close(activation[row : row + 1], by_hand)
            for head in range(setting.heads):
                wanted = torch.stack([score_of(plain, name, layer, head, target, grid)(by_hand) for target in range(5)])
                close(view.logits(activation)[row, head], wanted)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - UNTRACEABLE))
def test_the_suffix_of_a_setting_gives_its_logits(name: str) -> None:
    network = made(name)
    images = join_cells(cells_for(name, 8).unflatten(0, (2, 4)))
    for setting in SETTINGS.values() if name in WITH_A_LAST_MAP else [DiFull]:
        for layer in ("input", "middle", "final"):
            view = setting(network).at(layer)
            activation = view.activation(images)
            assert view.suffix is not None
            (found,) = view.suffix(*view.suffix_inputs(activation))
            close(found, view.logits(activation))


def test_the_suffix_serves_images_of_any_size() -> None:
    view = GridPG(classifier(PLAIN["adaptive pooling and fully connected"].net)).at("1")
    for cell in ((CELL, CELL), (16, 20)):
        activation = view.activation(grids(cell=cell))
        close(view.suffix(*view.suffix_inputs(activation))[0], view.logits(activation))


# --- What a setting is


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_a_classifier_of_grids(name: str) -> None:
    network = made("residual")
    setting = SETTINGS[name](network, (2, 3))
    assert setting.input_shape == (3, 64, 96)
    assert setting.heads == (1 if name == "GridPG" else 6)
    assert (setting.class_names, setting.num_classes) == (network.class_names, 5)
    assert setting.class_index("class 3") == 3
    assert setting.resolve("final") == network.resolve("final") == setting.at("final").layer
    assert setting.at("final") is setting.at(setting.resolve("final"))
    assert setting.layers() == network.layers()
    assert setting.name == f"{name} 2x3 of residual"
    assert setting.fingerprint() == network.fingerprint()
    assert setting.device == network.device


@pytest.mark.parametrize("name", SETTINGS)
def test_logits_are_differentiable_to_the_images(name: str) -> None:
    plain = PLAIN["average and linear"]
    images = grids(count=1).requires_grad_()
    setting = SETTINGS[name](classifier(plain.net))
    (found,) = torch.autograd.grad(setting.logits(images)[0, -1, 1], images)
    (wanted,) = torch.autograd.grad(score_of(plain, name, "input", setting.heads - 1, 1)(images), images)
    close(found, wanted)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_keep_the_precision_of_the_classifier(name: str) -> None:
    net, images = NETWORKS["residual"](), join_cells(cells_for("residual", 4)[None])
    wanted = SETTINGS[name](made("residual")).logits(images)
    last = SETTINGS[name](pl.Classifier(net, input_size=32, channels_last=True))
    close(last.logits(images), wanted)
    half = SETTINGS[name](pl.Classifier(net, input_size=32, autocast=torch.bfloat16))
    assert half.logits(images).dtype == torch.float32
    assert float((half.logits(images) - wanted).abs().max()) < 0.1 * float(wanted.abs().max())
    double = SETTINGS[name](pl.Classifier(NETWORKS["residual"]().double(), input_size=32))
    assert double.logits(images).dtype == torch.float64


def test_rows_of_what_crosses_the_cut_follow_their_cells() -> None:
    network = made("dense")
    layer = next(info.name for info in network.layers() if not info.clean and info.is_spatial)
    for setting in (DiFull(network), DiPart(network), GridPG(network)):
        view, images = setting.at(layer), join_cells(cells_for("dense", 8).unflatten(0, (2, 4)))
        activation = view.activation(images)
        index = torch.tensor([1, 0, 0, 1, 1])
        rows = activation.side_inputs.rows(torch.tensor([0, 1, 0])).rows(torch.tensor([1, 0, 2, 1, 1]))
        close(view.logits(activation[index] * 1.0, rows), setting.logits(images)[index])
        assert view.side_input_names == network.at(layer).side_input_names
        with pytest.raises(LayerError, match=r"side_inputs=a\.side_inputs\.rows"):
            view.logits(activation[index] * 1.0)


def test_an_activation_is_freed_as_soon_as_nobody_holds_it() -> None:
    gc.disable()
    try:
        for setting in (DiFull(made("dense")), GridPG(made("dense"))):
            activation = setting.at("middle").activation(join_cells(cells_for("dense", 4)[None]))
            alive = weakref.ref(activation)
            del activation
            assert alive() is None
    finally:
        gc.enable()


def test_heads_can_be_left_out_and_keep_their_numbers() -> None:
    setting = DiPart(made("residual"))
    part, images = setting.select_heads([3, 0, 3]), join_cells(cells_for("residual", 8).unflatten(0, (2, 4)))
    assert part.heads == 2
    assert part.head_numbers == (0, 3)
    close(part.logits(images), setting.logits(images)[:, [0, 3]])
    assert part is setting.select_heads((0, 3))
    assert setting.select_heads(range(4)) is setting
    assert part.at("final").select_heads([3]).head_numbers == (3,)
    with pytest.raises(TargetError, match="has heads 0, 3, not"):
        part.select_heads([1])
    with pytest.raises(TargetError, match="has heads 0, not"):
        GridPG(made("residual")).select_heads([1])


# --- What is refused, and why


@pytest.mark.parametrize("setting", [GridPG, DiPart])
@pytest.mark.parametrize("name", sorted(TOKENS))
def test_tokens_are_refused_where_a_map_is_needed(name: str, setting: type[DiPart]) -> None:
    with pytest.raises(ModelError, match=r"works on tokens .* use DiFull"):
        setting(made(name))


@pytest.mark.parametrize("setting", [GridPG, DiPart])
@pytest.mark.parametrize("name", sorted(UNTRACEABLE))
def test_networks_that_cannot_be_traced_are_refused_where_their_last_map_is_needed(
    name: str, setting: type[DiPart]
) -> None:
    with pytest.raises(ModelError, match=r"could not be traced with torch\.fx.* use DiFull"):
        setting(made(name))


@pytest.mark.parametrize("name", SETTINGS)
def test_networks_whose_logits_depend_on_the_batch_are_refused(name: str) -> None:
    with pytest.raises(LayerError, match="do not give their own images' logits"):
        SETTINGS[name](classifier(BatchStatistics().eval()))


def test_self_tests_are_run_when_a_setting_is_made() -> None:
    class Louder(GridPG):
        def _read(self, *arguments: Any) -> Any:
            return 1.01 * super()._read(*arguments)

    class Swapped(DiFull):
        def _view(self, base: Any) -> Any:
            view = super()._view(base)
            logits = view.logits
            view.logits = lambda *arguments: logits(*arguments).roll(1, 1)
            return view

    network = made("residual")
    with pytest.raises(ModelError, match=r"Louder 2x2 of residual fails its self-test \(on one cell it is the class"):
        Louder(network)
    with pytest.raises(ModelError, match=r"Swapped 2x2 of residual fails its self-test \(each head at 'input'"):
        Swapped(network)


@pytest.mark.parametrize("name", SETTINGS)
def test_images_that_the_grid_does_not_divide_are_refused_with_the_sizes(name: str) -> None:
    setting = SETTINGS[name](made("residual"), (2, 3))
    with pytest.raises(PellucidError, match="64 x 64 are not divided by 2 x 3 cells"):
        setting.logits(torch.zeros(1, 3, 64, 64))
    with pytest.raises(PellucidError, match=r"\(N, 3, H, W\), not \(1, 1, 64, 96\)"):
        setting.at("final").activation(torch.zeros(1, 1, 64, 96))


@pytest.mark.parametrize("size", [(36, 64), (64, 36)])
def test_layers_that_the_grid_does_not_divide_are_refused_with_the_sizes(size: tuple[int, int]) -> None:
    network = made("residual")  # four pixels to a position of the last map
    wanted = rf"map of 'layer3' is {size[0] // 4} x {size[1] // 4}, which 2 x 2 cells do not divide"
    for setting in (GridPG(network), DiPart(network)):
        assert setting.at("input").activation(torch.zeros(1, 3, *size)).shape[2:] == size
        with pytest.raises(LayerError, match=wanted):
            setting.at("final").activation(torch.zeros(1, 3, *size))
    with pytest.raises(LayerError, match=wanted):
        DiPart(network).logits(torch.zeros(1, 3, *size))
    with pytest.raises(LayerError, match="'layer3' is 9 x 9, which 2 x 2 cells do not divide"):
        DiPart(network, cell_size=(18, 18))
    cell_by_cell = DiFull(network).at("final").activation(torch.zeros(1, 3, *size))
    assert cell_by_cell.shape[2:] == tuple(2 * -(-side // 8) for side in size)


def test_layers_after_the_last_map_exist_only_where_cells_are_apart() -> None:
    network = made("residual")
    for setting in (GridPG(network), DiPart(network)):
        with pytest.raises(LayerError, match="layer 'layer3' does not lie after 'avgpool'"):
            setting.at("avgpool")
    view = DiFull(network).at("avgpool")
    assert view.activation(torch.zeros(1, 3, 64, 64)).shape == (1, 16, 2, 2)


def test_cells_that_a_flattening_head_does_not_take_are_refused_with_the_sizes() -> None:
    network = made("flatten_head")
    for setting in (GridPG(network), DiPart(network)):
        with pytest.raises(LayerError, match="10 x 10 in every cell, but what follows takes 8 x 8 only"):
            setting.logits(torch.zeros(1, 3, 80, 80))
    with pytest.raises(ModelError, match=r"cannot be run on images of shape \(1, 3, 80, 80\).* \(3, 64, 64\)"):
        DiFull(network).logits(torch.zeros(1, 3, 80, 80))


@pytest.mark.parametrize("n", [0, (2, 0), (-1, 2)])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_grid_needs_cells(name: str, n: int | tuple[int, int]) -> None:
    with pytest.raises(PellucidError, match="at least one row and column"):
        SETTINGS[name](made("gap_linear"), n)


@pytest.mark.parametrize("setting", [GridPG, DiPart])
def test_the_last_map_can_be_named(setting: type[DiPart]) -> None:
    network, images = made("gap_linear"), join_cells(cells_for("gap_linear", 4)[None])
    close(setting(network, head="3").logits(images), setting(network).logits(images))
    with pytest.raises(LayerError, match="no layer 'fc'"):
        setting(network, head="fc")
    with pytest.raises(ModelError, match="has no map at '5'"):
        setting(network, head="5")
