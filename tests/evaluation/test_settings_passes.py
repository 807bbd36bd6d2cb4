"""What the settings do not compute twice: cells that are run are counted, and are as few as they can be."""

from typing import Any

import pytest
import torch
from tests.attribution.support import gap_net
from tests.evaluation.settings_support import PLAIN, SETTINGS, classifier, grids, vgg_net
from torch import Tensor

import pellucid as pl
from pellucid.attribution import METHODS, Case, Passes
from pellucid.attribution.batch_budget import BatchBudget
from pellucid.attribution.perturbation import occlusion_windows
from pellucid.classifiers import LayerView
from pellucid.evaluation import DiFull, DiPart, GridPG

TARGETS = {"GridPG": [1, 3], "DiFull": [(0, 1), (3, 3)], "DiPart": [(0, 1), (3, 3)]}


class Counts:
    """Rows and positions of maps that the classifier of the cells really runs, forth and back."""

    def __init__(self) -> None:
        self.forward: list[int] = []
        self.backward: list[int] = []


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Counts what goes through the part after a layer, for views of cells."""
    found, logits = Counts(), LayerView.logits

    def counting(view: LayerView, activation: Tensor, side_inputs: Any = None) -> Tensor:
        result = logits(view, activation, side_inputs)
        found.forward.append(len(activation))
        if result.requires_grad:
            result.register_hook(lambda gradient: found.backward.append(len(gradient)))
        return result

    monkeypatch.setattr(LayerView, "logits", counting)
    return found


def explained(setting: Any, layer: str, method: str, counts: Counts, **options: Any) -> Passes:
    view = setting.at(layer)
    counts.forward.clear()
    counts.backward.clear()
    return METHODS[method](**options)(view, grids(count=1), TARGETS[type(setting).__name__]).passes


# --- Heads that are not named are not run


@pytest.mark.parametrize("layer", ["input", "1", "5"])
@pytest.mark.parametrize("method", ["Gradient", "InputXGradient", "GuidedBackprop", "GradCAM", "LayerCAM"])
def test_difull_takes_one_pass_forth_and_back_of_the_two_cells_that_are_explained(
    method: str, layer: str, counts: Counts
) -> None:
    found = explained(DiFull(classifier(vgg_net())), layer, method, counts)
    again = 2 if method == "GuidedBackprop" else 0  # with other ReLUs the first forward cannot be shared
    assert found == Passes(prefix_forward=4, suffix_forward=2 + again, suffix_backward=2)
    assert (sum(counts.forward), sum(counts.backward)) == (found.suffix_forward, found.suffix_backward)


@pytest.mark.parametrize("layer", ["input", "1"])
def test_integrated_gradients_in_difull_take_the_steps_of_the_two_cells(layer: str, counts: Counts) -> None:
    found = explained(DiFull(classifier(vgg_net())), layer, "IntegratedGradients", counts, steps=7)
    assert found == Passes(prefix_forward=4, suffix_forward=2 + 2 + 14, suffix_backward=14)
    assert (sum(counts.forward), sum(counts.backward)) == (found.suffix_forward, found.suffix_backward)


def test_dipart_reads_all_heads_gradients_from_one_pass_at_the_last_map() -> None:
    setting = DiPart(classifier(vgg_net()))
    at_the_last_map, before = (
        METHODS["Gradient"]()(setting.at(layer), grids(count=1), [(k, k) for k in range(4)]).passes for layer in "51"
    )
    assert at_the_last_map == Passes(prefix_forward=4, suffix_forward=4, suffix_backward=4)
    assert before == Passes(prefix_forward=4, suffix_forward=4, suffix_backward=16)


def test_gridpg_takes_one_forward_for_all_classes_and_one_backward_for_each(counts: Counts) -> None:
    view = GridPG(classifier(gap_net())).at("1")
    counts.forward.clear()
    found = METHODS["Gradient"]()(view, grids(count=1), [0, 1, 2, 3])
    assert found.passes == Passes(prefix_forward=4, suffix_forward=4, suffix_backward=16)
    assert counts.forward == [1]


@pytest.mark.parametrize("target", [(1, 2), [(1, 2), (1, 3)], torch.tensor([[[1, 2]]])])
def test_a_target_of_one_head_costs_one_cell(target: Any, counts: Counts) -> None:
    view = DiFull(classifier(vgg_net())).at("1")
    counts.forward.clear()
    found = METHODS["RISE"](masks=5)(view, grids(count=1), target)
    assert found.passes == Passes(prefix_forward=4, suffix_forward=1 + 5)
    assert sum(counts.forward) == 6


def test_a_case_has_logits_of_named_heads_alone() -> None:
    setting, images = DiPart(classifier(gap_net())), grids()
    case = Case(setting.at("final"), images, [(3, 1), (1, 2)])
    assert case.view.head_numbers == (1, 3)
    torch.testing.assert_close(case.all_logits, setting.logits(images)[:, [1, 3]])
    torch.testing.assert_close(case.scores, setting.logits(images)[:, [3, 1], [1, 2]])


@pytest.mark.parametrize("name", SETTINGS)
def test_score_cam_counts_the_cells_of_whole_networks(name: str) -> None:
    setting = SETTINGS[name](classifier(gap_net()))
    found = METHODS["ScoreCAM"]()(setting.at("input"), grids(count=1), TARGETS[name]).passes
    assert found.network_forward == 3 * (2 if name == "DiFull" else 4)


# --- Targets of different heads share a backward pass


@pytest.mark.parametrize("layer", ["input", "1", "5"])
@pytest.mark.parametrize("setting", [DiFull, DiPart])
def test_gradients_of_targets_together_are_those_of_targets_alone(setting: type[DiFull], layer: str) -> None:
    view, images = setting(classifier(vgg_net())).at(layer), grids(count=3)
    several = [(0, 1), (3, 3), (3, 2), (1, 1), (0, 4), (2, 0)]
    together = Case(view, images, several).gradients
    for index, target in enumerate(several):
        torch.testing.assert_close(together[:, index], Case(view, images, target).gradients[:, 0])


def test_targets_share_a_pass_only_if_their_heads_differ_in_every_image() -> None:
    view, images = DiFull(classifier(vgg_net())).at("1"), grids(count=2)
    mixed = torch.tensor([[[0, 1], [1, 1], [2, 1]], [[0, 1], [0, 2], [3, 1]]])
    case = Case(view, images, mixed)
    found = case.gradients
    assert case.passes.suffix_backward == 2 * (2 * 4)  # (0 | 1 2), two images, four heads are named
    for image, pairs in enumerate(mixed.tolist()):
        for index, pair in enumerate(pairs):
            alone = Case(view, images[image : image + 1], tuple(pair)).gradients
            torch.testing.assert_close(found[image, index], alone[0, 0])


# --- Cells that have not changed are not run again


@pytest.mark.parametrize(("window", "stride"), [(4, 4), (6, 3), (5, 2)])
def test_occlusion_in_difull_runs_the_cells_that_a_window_touches(window: int, stride: int, counts: Counts) -> None:
    found = explained(DiFull(classifier(vgg_net())), "1", "Occlusion", counts, window=window, stride=stride)
    spans = occlusion_windows(24, window, stride)
    in_first, in_last = (sum(start < 12 for start, _ in spans), sum(end > 12 for _, end in spans))
    assert found == Passes(prefix_forward=4, suffix_forward=2 + in_first**2 + in_last**2)
    assert sum(counts.forward) == found.suffix_forward


@pytest.mark.parametrize("grid", [(2, 2), (3, 3), (1, 4)])
@pytest.mark.parametrize("layer", ["input", "1", "5"])
def test_a_cell_runs_again_exactly_if_it_has_changed(layer: str, grid: tuple[int, int], counts: Counts) -> None:
    setting, images = DiFull(classifier(vgg_net()), grid), grids(grid)
    view = setting.at(layer)
    activation = view.activation(images)
    with torch.no_grad():
        view.logits(activation)
        rows = torch.tensor([1, 0, 1, 1])
        changed = activation[rows]
        height, width = changed.shape[2] // grid[0], changed.shape[3] // grid[1]
        changed[0, :, -1, -1] += 1.0  # the last cell
        changed[1, :, :, width] = 0.5  # the second column
        changed[2, 0, height - 1, 0] = -7.0  # the first cell
        counts.forward.clear()
        side_inputs = activation.side_inputs.rows(rows)
        found, run = view.logits_with_cost(changed, side_inputs)
    second_column = sum(k % grid[1] == 1 for k in range(setting.heads))
    assert run == sum(counts.forward) == 1 + second_column + 1
    torch.testing.assert_close(
        found, view.logits(changed.clone().requires_grad_(), activation.side_inputs.rows(rows)).detach()
    )


def test_nothing_is_taken_as_known_that_was_not_run(counts: Counts) -> None:
    view = DiFull(classifier(vgg_net())).at("1")
    activation = view.activation(grids())
    counts.forward.clear()
    with torch.no_grad():
        for run in ([(0, 1)], [(0, 1), (3, 1)], [(2, 1)], [(0, 1), (3, 1)]):
            view.select_heads([head for head, _ in run]).logits(activation)
    assert counts.forward == [2, 2, 2]  # heads 0, then 3, then 2, of two images; at last both are known
    whole = view.logits(activation)
    assert counts.forward == [2, 2, 2, 2]
    torch.testing.assert_close(whole, view.classifier.logits(grids()))


def test_an_activation_that_is_changed_in_place_is_run_again() -> None:
    view = DiFull(classifier(vgg_net())).at("1")
    activation = view.activation(grids())
    with torch.no_grad():
        view.logits(activation)
        activation[0, :, :5] = 0.0
        found = view.logits(activation)
    torch.testing.assert_close(found, view.logits(activation * 1.0, activation.side_inputs))
    torch.testing.assert_close(found, view.logits(activation.clone().requires_grad_(), activation.side_inputs).detach())


def test_nan_is_not_taken_for_unchanged() -> None:
    view = DiFull(classifier(gap_net())).at("final")
    activation = view.activation(grids())
    with torch.no_grad():
        view.logits(activation)
        spoilt = activation * 1.0
        spoilt[0, 0, 0, 0] = torch.nan
        found = view.logits(spoilt, activation.side_inputs)
    assert bool(found[0, 0].isnan().all())
    assert bool(found[0, 1:].isfinite().all())


def test_differentiated_logits_are_never_taken_from_memory(counts: Counts) -> None:
    view = DiFull(classifier(vgg_net())).at("1")
    activation = view.activation(grids())
    with torch.no_grad():
        view.logits(activation)
    leaf = activation.detach().clone().requires_grad_()
    counts.forward.clear()
    logits = view.logits(leaf, activation.side_inputs)
    assert counts.forward == [8]
    assert bool(torch.autograd.grad(logits.sum(), leaf)[0].any())


# --- Memory is bounded in cells


@pytest.mark.parametrize(("name", "rows"), [("GridPG", 4), ("DiPart", 4), ("DiFull", 8)])
def test_a_batch_holds_so_many_cells(name: str, rows: int) -> None:
    view = SETTINGS[name](classifier(gap_net())).at("1")
    case = Case(view, grids(), TARGETS[name])
    assert case.budget.rows("gradient") == rows
    assert BatchBudget(case.view, grids(count=1), max_batch=1).rows("forward") == 1


@pytest.mark.parametrize("max_batch", [1, 5, 64])
@pytest.mark.parametrize("method", ["Occlusion", "RISE", "IntegratedGradients"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_size_of_a_batch_changes_nothing(name: str, method: str, max_batch: int) -> None:
    setting = SETTINGS[name](classifier(PLAIN["flatten and fully connected"].net))
    quick = {"Occlusion": {"window": 8, "stride": 8}, "RISE": {"masks": 9}, "IntegratedGradients": {"steps": 4}}
    wanted, found = (
        METHODS[method](max_batch=batch, **quick[method])(setting.at("1"), grids(), TARGETS[name])
        for batch in (16, max_batch)
    )
    torch.testing.assert_close(found.values, wanted.values, rtol=1e-4, atol=1e-5)
    assert found.passes.suffix_forward == wanted.passes.suffix_forward


def test_the_receipt_counts_what_measuring_memory_costs() -> None:
    setting = DiFull(classifier(vgg_net()))
    found = pl.attribution.Gradient(max_bytes=2**30)(setting.at("1"), grids(count=1), (0, 1))
    assert found.passes == Passes(prefix_forward=4 + 4, suffix_forward=1 + 1 + 1, suffix_backward=1 + 1)
