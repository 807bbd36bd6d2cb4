"""What DiFull says about a cell is what the network says about the cell alone, whatever else is in the grid."""

from typing import Any

import pytest
import torch
from tests.attribution.support import gap_net
from tests.evaluation.settings_support import classifier, grids, vgg_net
from torch import Tensor

from pellucid.attribution import (
    LRP,
    METHODS,
    RISE,
    Passes,
)
from pellucid.attribution.lrp.composites import COMPOSITES
from pellucid.attribution.perturbation import rise_masks
from pellucid.classifiers import Classifier
from pellucid.evaluation import DiFull, split_cells

BOX = {"low": -6.0, "high": 6.0}
NETWORKS = {"average pooling, batch norm": gap_net, "flatten, fully connected": vgg_net}
TARGETS = [(0, 1), (3, 3), (1, 4)]
GRADIENTS: dict[str, dict[str, Any]] = {
    "Gradient": {},
    "InputXGradient": {},
    "GuidedBackprop": {},
    "IntegratedGradients": {"steps": 5},
    "SmoothGrad": {"samples": 3},
    "LayerCAM": {},
}


def make_composites() -> tuple[str, ...]:
    return (*COMPOSITES, "gradient")


def explained_alone(made: Classifier, method: Any, images: Tensor, layer: str) -> list[Tensor]:
    """The map of every target's cell, explained by itself: (N, h, w) for each target."""
    cells = split_cells(images)
    return [method(made.at(layer), cells[:, head].contiguous(), index).values[:, 0] for head, index in TARGETS]


@pytest.mark.parametrize("layer", ["input", "middle", "final"])
@pytest.mark.parametrize("composite", make_composites())
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_lrp_in_difull_is_lrp_of_the_cell_alone(build: Any, composite: str, layer: str) -> None:
    made, images, method = classifier(build()), grids(), LRP(composite=composite, **BOX)
    found = method(DiFull(made).at(layer), images, TARGETS).values
    alone = explained_alone(made, method, images, layer)
    for index, (head, _) in enumerate(TARGETS):
        cells = split_cells(found[:, index, None])[:, :, 0]
        assert bool(alone[index].any())
        torch.testing.assert_close(cells[:, head], alone[index], rtol=1e-4, atol=1e-6)
        cells[:, head] = 0
        assert not bool(cells.any())


@pytest.mark.parametrize("options", [{"fold_batch_norm": False}, {"num_conv_epsilon": 1}, {"absorb_bias": False}])
def test_lrp_s_options_hold_in_difull_too(options: dict[str, Any]) -> None:
    made, images, method = classifier(gap_net()), grids(), LRP(**options, **BOX)
    found = method(DiFull(made).at("input"), images, TARGETS).values
    plain = LRP(**BOX)(DiFull(made).at("input"), images, TARGETS).values
    assert not torch.allclose(found, plain)
    for index, alone in enumerate(explained_alone(made, method, images, "input")):
        cells = split_cells(found[:, index, None])[:, :, 0]
        torch.testing.assert_close(cells[:, TARGETS[index][0]], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", ["input", "middle", "final"])
@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_gradients_in_difull_are_exactly_zero_outside_the_cell(build: Any, name: str, layer: str) -> None:
    found = METHODS[name](**GRADIENTS[name])(DiFull(classifier(build())).at(layer), grids(), TARGETS).values
    for index, (head, _) in enumerate(TARGETS):
        cells = split_cells(found[:, index, None])
        assert bool(cells[:, head].any())
        cells[:, head] = 0
        assert not bool(cells.any())


@pytest.mark.parametrize("name", [name for name in GRADIENTS if name != "SmoothGrad"])  # noise is drawn per grid
def test_gradients_in_difull_are_those_of_the_cell_alone(name: str) -> None:
    made, images, method = classifier(vgg_net()), grids(), METHODS[name](**GRADIENTS[name])
    found = method(DiFull(made).at("input"), images, TARGETS).values
    for index, alone in enumerate(explained_alone(made, method, images, "input")):
        cells = split_cells(found[:, index, None])[:, :, 0]
        torch.testing.assert_close(cells[:, TARGETS[index][0]], alone, rtol=1e-4, atol=1e-6)


# --- Empty cells


@pytest.mark.parametrize("max_batch", [1, 16, 64])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_rise_runs_a_cell_that_a_mask_hides_once(build: Any, max_batch: int) -> None:
    made, images, method = classifier(build()), grids(count=1), RISE(masks=60, keep=0.2, cells=3, max_batch=max_batch)
    found = method(DiFull(made).at("1"), images, TARGETS[:2])
    masks = rise_masks(60, 24, 24, cells=3, keep=0.2, seed=0)[torch.arange(60)]
    seen = split_cells(masks[:, None])[:, [0, 3]].flatten(2).any(2)
    assert 0 < int(seen.sum()) < 120
    rows = 2 + int(seen.sum()) + 2  # as they are, masked, and empty
    assert found.passes == Passes(prefix_forward=4, suffix_forward=rows)
    for index, (head, label) in enumerate(TARGETS[:2]):
        view, wanted = made.at("1"), torch.zeros(24, 24)
        activation = view.activation(split_cells(images)[:, head].contiguous())
        for mask in masks:
            own = split_cells(mask[None, None])[:, head]
            wanted += float(view.logits(activation * own).softmax(1)[0, label]) * mask
        torch.testing.assert_close(found.values[0, index], wanted / (60 * 0.2), rtol=1e-4, atol=1e-6)


def test_a_cell_counts_as_empty_only_if_all_of_it_is_zero() -> None:
    view = DiFull(classifier(vgg_net())).at("1")
    activation = view.activation(grids())
    rows, alone = torch.tensor([0, 1, 1, 0]), classifier(vgg_net()).at("1")
    changed = torch.zeros_like(activation[rows])
    changed[1, 0, 0, 0] = 1e-3
    changed[2, 0, 0, 0] = torch.nan
    with torch.no_grad():
        found, run = view.logits_with_cost(changed, activation.side_inputs.rows(rows))
        wanted = torch.stack([alone.logits(split_cells(row[None])[0].contiguous()) for row in changed])
    torch.testing.assert_close(found, wanted, equal_nan=True, rtol=1e-4, atol=1e-5)
    # Of both images all four cells once, empty, but the first of the second, which is never empty and differs twice.
    assert run == 4 + 3 + 2
