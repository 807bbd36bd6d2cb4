"""Attribution methods on the settings: against slow versions of both, and the exact claims about localization."""

from typing import Any

import pytest
import torch
from tests.attribution.support import GeneralView, TokenNet, gap_net, lite0, relative_error, seeded
from tests.evaluation.settings_support import (
    CELL,
    OPTIONS,
    PLAIN,
    SETTINGS,
    SLOW,
    Plain,
    activation_of,
    classifier,
    convnext_net,
    crop,
    grids,
    score_of,
    vgg_net,
)
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from pellucid.attribution import (
    METHODS,
    Explanation,
    Method,
    Target,
)
from pellucid.errors import TargetError
from pellucid.evaluation import DiFull, DiPart, GridPG, localization_score, split_cells
from pellucid.evaluation.settings import GridSetting

QUICK: dict[str, dict[str, Any]] = {
    "IntegratedGradients": {"steps": 3},
    "SmoothGrad": {"samples": 2},
    "RISE": {"masks": 6},
    "Occlusion": {"window": 6, "stride": 6},
    "GradCAM": {"relu": False},
    "LRP": {"low": -5.0, "high": 5.0},
}
GRADIENTS = ["Gradient", "InputXGradient", "GuidedBackprop", "IntegratedGradients", "SmoothGrad", "LayerCAM"]


def targets(name: str) -> list[Any]:
    """Two classes for GridPG; two heads with a class each elsewhere."""
    return [1, 3] if name == "GridPG" else [(0, 1), (3, 3)]


def explain(setting: GridSetting, layer: str, images: Tensor, name: str, **options: Any) -> Explanation:
    return METHODS[name](**options)(setting.at(layer), images, targets(type(setting).__name__))


# --- Every method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["input", "middle", "final"])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_explains_every_setting_at_every_layer(name: str, layer: str, method: str) -> None:
    setting = SETTINGS[name](classifier(gap_net()))
    found = explain(setting, layer, grids(), method, **QUICK.get(method, {}))
    side = 12 if layer == "final" else 24
    assert found.values.shape == (2, 2, side, side)
    assert bool(found.values.isfinite().all())
    assert bool(found.values.flatten(2).any(2).all())
    wanted = ("class 1", "class 3") if name == "GridPG" else ("class 1 at head 0", "class 3 at head 3")
    assert found.targets == (wanted, wanted)
    logits = setting.logits(grids())
    scores = [logits[:, head, index] for head, index in [(0, 1), (-1, 3)]]
    torch.testing.assert_close(found.scores, torch.stack(scores, 1))


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"LRP"}))
@pytest.mark.parametrize("layer", ["input", "middle", "final"])
def test_every_method_explains_a_transformer_in_difull(layer: str, method: str) -> None:
    setting = DiFull(classifier(seeded(TokenNet)))
    found = explain(setting, layer, grids(), method, **QUICK.get(method, {}))
    assert found.values.shape[2:] == ((24, 24) if layer == "input" else (6, 6))
    assert bool(found.values.isfinite().all())


@pytest.mark.parametrize("method", SLOW)
@pytest.mark.parametrize("plain", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("name", SETTINGS)
def test_maps_are_those_of_the_slow_way(name: str, plain: Plain, method: str) -> None:
    setting, images = SETTINGS[name](classifier(plain.net)), grids()
    for layer in ("input", "1", str(plain.last)):
        found = explain(setting, layer, images, method, **OPTIONS.get(method, {}))
        for row, image in enumerate(images.split(1)):
            activation = activation_of(plain, name, layer, image)
            for index, target in enumerate(targets(name)):
                head, chosen = (0, target) if name == "GridPG" else target
                wanted = SLOW[method](score_of(plain, name, layer, head, chosen), activation)
                assert relative_error(found.values[row, index], wanted) < 2e-4, (layer, row, target)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("layer", ["input", "1", "5"])
def test_score_cam_asks_the_head_that_is_explained(name: str, layer: str) -> None:
    plain, images = PLAIN["flatten and fully connected"], grids(count=1)
    found = explain(SETTINGS[name](classifier(plain.net)), layer, images, "ScoreCAM").values[0]
    activation = activation_of(plain, name, layer, images)[0]
    for index, target in enumerate(targets(name)):
        head, chosen = (0, target) if name == "GridPG" else target
        wanted = torch.zeros(activation.shape[1:])
        for channel in range(len(activation)):
            mask = F.interpolate(
                activation[None, None, channel], images.shape[2:], mode="bilinear", align_corners=False
            )
            if mask.max() > mask.min():
                mask = (mask - mask.min()) / (mask.max() - mask.min())
                logits = [score_of(plain, name, "input", head, one)(images * mask).detach() for one in range(5)]
                wanted += torch.stack(logits).softmax(0)[chosen] * activation[channel]
        assert relative_error(found[index], wanted.relu()) < 1e-4


def test_targets_may_differ_from_image_to_image() -> None:
    setting, images = DiFull(classifier(vgg_net())), grids(count=2)
    mixed = torch.tensor([[[0, 1], [3, 2]], [[1, 4], [1, 0]]])  # (image, target, (head, class))
    found = METHODS["InputXGradient"]()(setting.at("1"), images, mixed)
    for row, pairs in enumerate(mixed.tolist()):
        for index, pair in enumerate(pairs):
            alone = METHODS["InputXGradient"]()(setting.at("1"), images[row : row + 1], tuple(pair))
            torch.testing.assert_close(found.values[row, index], alone.values[0, 0])
    assert found.targets == (("class 1 at head 0", "class 2 at head 3"), ("class 4 at head 1", "class 0 at head 1"))


@pytest.mark.parametrize("output", ["probability", "log_probability", "margin", "centered"])
def test_other_outputs_are_taken_of_the_head_that_is_named(output: str) -> None:
    setting, images = DiPart(classifier(gap_net())), grids()
    found = METHODS["Gradient"]()(setting.at("final"), images, Target([(2, 1)], output=output))
    logits = setting.logits(images)[:, 2]
    wanted = {
        "probability": logits.softmax(1)[:, 1],
        "log_probability": logits.log_softmax(1)[:, 1],
        "margin": logits[:, 1] - logits[:, [0, 2, 3, 4]].amax(1),
        "centered": logits[:, 1] - logits.mean(1),
    }
    torch.testing.assert_close(found.scores[:, 0], wanted[output])


def test_heads_that_do_not_exist_or_are_not_named_are_refused() -> None:
    view, images = DiFull(classifier(gap_net())).at("final"), grids()
    for target, message in [
        ((4, 1), "has heads 0, 1, 2, 3, not"),
        (1, "give the target 1 as"),
        (None, "has 4 heads"),
        ([(0, 1), 2], "give the target 2 as"),
        ((0, 9), "class 9 does not exist"),
        (
            torch.tensor([[[0, 7]], [[3, 0]]]),
            "class 7 of head 0 does not exist: there are classes 0 to 4 of heads 0, 3",
        ),
    ]:
        with pytest.raises(TargetError, match=message):
            METHODS["Gradient"]()(view, images, target)
    with pytest.raises(TargetError, match=r"give the target 1 as \(head, class\)"):
        METHODS["Gradient"]()(view.select_heads([3]), images, 1)
    assert METHODS["Gradient"]()(view.select_heads([3]), images, (3, 1)).targets[0] == ("class 1 at head 3",)


# --- 6.1.5 to 6.1.7: where positive evidence must lie


@pytest.mark.parametrize("method", GRADIENTS)
@pytest.mark.parametrize("build", [gap_net, vgg_net, convnext_net, lambda: seeded(TokenNet)])
def test_gradients_at_the_input_never_leave_the_cell_in_difull(build: Any, method: str) -> None:
    found = explain(DiFull(classifier(build())), "input", grids(), method, **QUICK.get(method, {}))
    for index, cell in enumerate([0, 3]):
        assert not split_cells(found.values[:, index : index + 1])[:, [k for k in range(4) if k != cell]].any()
        score = localization_score(found.values[:, index], 2, cell)
        assert torch.equal(score, torch.ones_like(score))


def wide_net() -> nn.Sequential:
    """Maps of 7 x 7 for cells of 14 pixels."""
    return nn.Sequential(*gap_net()).eval()


@pytest.mark.parametrize("method", ["Gradient", "GuidedBackprop"])
@pytest.mark.parametrize(
    ("grid", "cell", "leak"), [((2, 2), 0, 0.9646), ((2, 2), 3, 0.9646), ((3, 3), 4, 0.9298), ((1, 2), 1, 1 - 1 / 56)]
)
def test_gradients_before_average_pooling_are_boxes(grid: tuple[int, int], cell: int, leak: float, method: str) -> None:
    network, images = classifier(wide_net(), 14), grids(grid, cell=(14, 14))
    size = (grid[0] * 224, grid[1] * 224)
    cells = grid[0] * grid[1]
    whole = METHODS[method]()(GridPG(network, grid).at("final"), images, 1).values
    torch.testing.assert_close(localization_score(whole, grid, cell, size), torch.full((2,), 1 / cells).double())
    for setting in (DiFull(network, grid), DiPart(network, grid)):
        found = METHODS[method]()(setting.at("final"), images, (cell, 1)).values
        box = crop(found, cell, grid)
        torch.testing.assert_close(box, box[..., :1, :1].expand_as(box))
        score = localization_score(found, grid, cell, size)
        torch.testing.assert_close(score, torch.full((2,), leak).double(), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", SETTINGS)
def test_before_a_linear_head_integrated_gradients_are_input_x_gradient_and_grad_cam_their_positive_part(
    name: str,
) -> None:
    setting = SETTINGS[name](classifier(gap_net()))
    methods = ["IntegratedGradients", "InputXGradient", "GradCAM"]
    maps = {method: explain(setting, "final", grids(), method, **QUICK.get(method, {})).values for method in methods}
    torch.testing.assert_close(maps["IntegratedGradients"], maps["InputXGradient"])
    if name == "GridPG":
        torch.testing.assert_close(maps["GradCAM"], maps["InputXGradient"])
        positive = explain(setting, "final", grids(), "GradCAM").values
        torch.testing.assert_close(positive, maps["InputXGradient"].relu())
        scores = [localization_score(values.flatten(0, 1)) for values in (positive, maps["InputXGradient"])]
        torch.testing.assert_close(*scores)


# --- 6.1.9: closed forms before a linear head


@pytest.mark.parametrize("method", ["AblationCAM", "LayerCAM", "Occlusion", "RISE", "IntegratedGradients"])
@pytest.mark.parametrize("name", SETTINGS)
def test_closed_forms_before_a_linear_head_are_the_general_way(name: str, method: str) -> None:
    view = SETTINGS[name](classifier(gap_net())).at("final")
    assert view.is_affine
    assert not view.classifier.at("1").is_affine
    options = {"RISE": {"masks": 200}}.get(method, {})
    fast = METHODS[method](**options)(view, grids(), targets(name))
    slow = METHODS[method](**options)(GeneralView(view), grids(), targets(name))
    torch.testing.assert_close(fast.values, slow.values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_closed_forms_before_a_linear_head_from_its_weights(name: str) -> None:
    """LayerCAM = sum_c ReLU(w_c) a_c / HW; Ablation-CAM's w_c = w_c mean(a_c) / y (6.1.9), in the part that is read."""
    net, images = gap_net(), grids(count=1)
    setting = SETTINGS[name](classifier(net))
    activation = setting.at("final").activation(images)[0]
    weight = net[7].weight.detach()
    ablation, layer = (explain(setting, "final", images, method).values[0] for method in ("AblationCAM", "LayerCAM"))
    for index, target in enumerate(targets(name)):
        head, chosen = (0, target) if name == "GridPG" else target
        read = torch.ones_like(activation[0])
        if name != "GridPG":
            read.zero_()
            crop(read[None, None], head).fill_(1.0)
        a, w, area = activation * read, weight[chosen][:, None, None], read.sum()
        torch.testing.assert_close(layer[index], (w.relu() * a).sum(0) / area)
        y = setting.logits(images)[0, head, chosen]
        drop = w[:, 0, 0] * a.sum((1, 2)) / area / y
        torch.testing.assert_close(ablation[index], (drop[:, None, None] * activation).sum(0).relu())


# --- LRP reads the suffix


def bias_free(net: nn.Module) -> nn.Module:
    for part in net.modules():
        if getattr(part, "bias", None) is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.zeros_(part.running_mean)
    return net


@pytest.mark.parametrize("build", [gap_net, vgg_net])
@pytest.mark.parametrize("layer", ["input", "1", "final"])
@pytest.mark.parametrize("name", SETTINGS)
def test_lrp_epsilon_without_biases_is_input_x_gradient(name: str, layer: str, build: Any) -> None:
    setting = SETTINGS[name](classifier(bias_free(build())))
    relevance = explain(setting, layer, grids(), "LRP", composite="epsilon", epsilon=1e-9)
    wanted = explain(setting, layer, grids(), "InputXGradient").values
    assert relative_error(relevance.values, wanted) < 1e-3
    torch.testing.assert_close(relevance.gap, torch.zeros(2, 2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("composite", ["epsilon_plus_box", "epsilon_gamma_box", "excitation_backprop"])
def test_lrp_never_leaves_the_cell_in_difull(composite: str) -> None:
    setting = DiFull(classifier(vgg_net()))
    found = explain(setting, "input", grids(), "LRP", composite=composite, low=-4.0, high=4.0).values
    assert not split_cells(found[:, :1])[:, 1:].any()
    assert not split_cells(found[:, 1:])[:, :3].any()


# --- A real network


@pytest.mark.parametrize("name", SETTINGS)
def test_a_real_network_at_its_final_layer(name: str) -> None:
    network, image = lite0()
    cell = F.interpolate(image, (96, 96), mode="bilinear")
    images = pl.evaluation.join_cells(torch.stack([cell, cell.flip(3), -cell, cell.flip(2)], 1))
    setting = SETTINGS[name](network, cell_size=(96, 96))
    wanted = network.logits(images)[:, None] if name == "GridPG" else None
    if name == "DiFull":
        wanted = network.logits(split_cells(images)[0])[None]
    if wanted is not None:
        assert relative_error(setting.logits(images), wanted) < 1e-4
    methods: list[Method] = [METHODS[each]() for each in ("Gradient", "InputXGradient", "GradCAM", "Occlusion")]
    boxes, evidence, cam, blur = pl.attribution.explain(setting.at("final"), images, targets(name), methods)
    score = localization_score(boxes.values[:, 0], 2, 0, (192, 192))
    assert float(score) == pytest.approx(0.25 if name == "GridPG" else (1 - 1 / 24) ** 2, abs=2e-3)
    delta = evidence.scores - head_bias(network, [1, 3])
    torch.testing.assert_close(evidence.values.sum((2, 3)), delta, rtol=1e-3, atol=1e-3)
    assert bool((cam.values >= 0).all())
    assert blur.values.shape == cam.values.shape == (1, 2, 6, 6)


def head_bias(network: pl.Classifier, classes: list[int]) -> Tensor:
    """What the linear head says of nothing."""
    view = network.at("final")
    nothing = view.activation(torch.zeros(1, 3, 96, 96)) * 0.0
    return view.logits(nothing)[0, classes].detach()


def test_cells_of_one_pixel_still_have_a_score() -> None:
    """A layer after pooling is a map of one position for each cell in DiFull."""
    view = DiFull(classifier(gap_net())).at("5")
    found = METHODS["InputXGradient"]()(view, grids(), [(0, 1), (3, 1)]).values
    assert found.shape == (2, 2, 2, 2)
    assert not found[:, 0].flatten(1)[:, 1:].any()
    assert CELL == 12
