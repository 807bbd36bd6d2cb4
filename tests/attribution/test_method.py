"""What all methods share: batches, targets, notes, the receipt, and what is refused."""

from functools import cache
from pathlib import Path

import pytest
import torch
from tests.attribution.support import (
    CountingView,
    classifier,
    gap_net,
    images,
    plain_net,
    quick,
    relative_error,
)
from torch import Tensor, nn

import pellucid as pl
from pellucid.attribution import (
    METHODS,
    Attribution,
    Case,
    Explanation,
    GradCAM,
    Gradient,
    Method,
    Occlusion,
    Smoothed,
)
from pellucid.errors import ModelError, PellucidError, TargetError
from pellucid.results import Provenance, Receipt


@cache
def made() -> pl.Classifier:
    return classifier(plain_net().double())


@cache
def reference(name: str, layer: str) -> Explanation:
    return quick(name)(made().at(layer), images(5), [1, 4, 0])


LAYERS = ("input", "4")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("layer", LAYERS)
def test_maps_have_the_layers_size_and_the_scores_of_the_network(name: str, layer: str) -> None:
    found, size = reference(name, layer), {"input": 12, "4": 6}[layer]
    assert found.values.shape == (5, 3, size, size)
    assert found.values.dtype == torch.float32
    assert found.method == name
    assert found.layer == layer
    assert found.targets == (("class 1", "class 4", "class 0"),) * 5
    assert found.signed or bool((found.values >= 0).all())
    logits = plain_net()(images(5))[:, [1, 4, 0]].detach()
    assert torch.allclose(found.scores, logits, atol=1e-6)
    empty = (found.values == 0).flatten(2).all(2)
    noted = [[any(f"{label} is zero" in note for note in notes) for label in ("1", "4", "0")] for notes in found.notes]
    assert noted == empty.tolist()
    assert int(empty.sum()) < 5


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("max_batch", [1, 7, 100])
def test_the_batch_size_changes_no_map(name: str, layer: str, max_batch: int) -> None:
    found = quick(name, max_batch=max_batch)(made().at(layer), images(5), [1, 4, 0])
    assert relative_error(found.values, reference(name, layer).values) < 1e-6
    assert (found.delta is None) == (reference(name, layer).delta is None)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("layer", LAYERS)
def test_images_explained_one_by_one_or_in_another_order_have_the_same_maps(name: str, layer: str) -> None:
    view, x = made().at(layer), images(5)
    singly = torch.cat([quick(name)(view, one[None], [1, 4, 0]).values for one in x])
    assert relative_error(singly, reference(name, layer).values) < 1e-6
    backwards = quick(name)(view, x.flip(0), [1, 4, 0]).values.flip(0)
    assert relative_error(backwards, reference(name, layer).values) < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_several_targets_in_one_pass_are_those_asked_for_singly(name: str) -> None:
    view, x = made().at("4"), images(5)
    for index, target in enumerate([1, 4, 0]):
        found = quick(name)(view, x, target)
        one = reference(name, "4").target(index)
        assert relative_error(found.values, one.values) < 1e-6
        assert torch.allclose(found.scores, one.scores, atol=1e-6)
        assert found.targets == one.targets
    twice = quick(name)(view, x, [4, 4]).values
    assert torch.equal(twice[:, 0], twice[:, 1])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("max_batch", [2, 16])
def test_a_tensor_gives_each_image_its_own_targets(name: str, max_batch: int) -> None:
    view, x = made().at("4"), images(5)
    columns = torch.tensor([0, 2, 1, 1, 0])
    found = quick(name, max_batch=max_batch)(view, x, torch.tensor([1, 4, 0])[columns])
    assert relative_error(found.values, reference(name, "4").values[torch.arange(5), columns, None]) < 1e-6


def test_no_target_explains_the_predicted_class() -> None:
    x = images(5)
    found = GradCAM()(made().at("4"), x)
    assert torch.equal(found.values, GradCAM()(made().at("4"), x, made().logits(x).argmax(1)).values)


@pytest.mark.parametrize("name", METHODS)
def test_the_passes_reported_are_those_made(name: str) -> None:
    for view in (made().at("input"), made().at("4"), classifier(gap_net()).at("final")):
        for max_batch in (3, 16):
            counting = CountingView(view)
            found = quick(name, max_batch=max_batch)(counting, images(3), [1, 2])  # type: ignore[arg-type]
            if name == "LRP":  # runs the operations of the suffix itself
                assert counting.counts["prefix_forward"] == found.passes.prefix_forward == 3
            else:
                assert counting.counts == vars(found.passes)
                assert counting.largest <= max_batch


class TwoHeads:
    """A view with two heads, the second of which sees everything doubled."""

    def __init__(self, view: object) -> None:
        self._view = view

    def __getattr__(self, name: str) -> object:
        return getattr(self._view, name)

    def logits(self, activation: Tensor, side_inputs: object = None) -> Tensor:
        logits = self._view.logits(activation, side_inputs)  # type: ignore[attr-defined]
        return torch.stack([logits, 2 * logits], dim=1)


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in ("ScoreCAM", "LRP", "GradCAMPlusPlus", "RISE")]
)
def test_each_target_is_explained_at_its_own_head(name: str) -> None:
    x, wanted = images(5), reference(name, "4")
    found = quick(name)(TwoHeads(made().at("4")), x, [(1, 1), (0, 4), (1, 0)])  # type: ignore[arg-type]
    factor = 1.0 if name == "AblationCAM" else 2.0  # drops relative to the score
    scales = torch.tensor([factor, 1.0, factor])[:, None, None]
    assert relative_error(found.values, scales * wanted.values) < 1e-6
    assert found.targets[0] == ("class 1 at head 1", "class 4 at head 0", "class 0 at head 1")


class Half(Method):
    """A method that explains one half of what it is asked."""

    def attribute(self, case: Case) -> Attribution:
        values = torch.zeros(len(case), case.target_count, 2, 2)
        values[0, 0, 0, 0] = torch.nan
        values[0, 1, 1, 1] = 1.0
        values[1, 0, 1, 1] = -1.0
        return Attribution(values, notes={1: ("a remark",)})


def test_notes_say_which_maps_are_empty_or_broken() -> None:
    found = Half()(made().at("4"), images(2), [1, 4])
    nothing = "is zero everywhere: at this layer the method finds no evidence for the target"
    assert found.notes == (
        ("the map of class 1 holds NaN or infinite values",),
        ("a remark", f"the map of class 4 {nothing}"),
    )
    assert found.target(1).notes == found.notes


def test_a_dead_layer_is_noted() -> None:
    net = plain_net()
    with torch.no_grad():
        net[3].bias[:] = -100.0
    for name in ("InputXGradient", "AblationCAM", "ScoreCAM", "IntegratedGradients"):
        found = quick(name)(classifier(net).at("4"), images(1), 1)
        assert not found.values.any()
        assert found.notes[0][0].startswith("the map is zero everywhere")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_give_no_finite_logits_are_refused(value: float) -> None:
    x = images(2)
    x[1, 0, 3, 3] = value
    with pytest.raises(ModelError, match="NaN or infinite logits"):
        Gradient()(made().at("4"), x, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch is 0"),
        ({"max_batch": -1}, "max_batch is -1"),
        ({"max_bytes": 0}, "max_bytes is 0"),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_impossible_batches_are_refused_when_a_method_is_made(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        METHODS[name](**options)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(0, 3, 12, 12), "the batch is empty"),
        (torch.zeros(3, 12, 12), r"shape \(N, 3, H, W\), not \(3, 12, 12\)"),
        (torch.zeros(2, 1, 12, 12), "not"),
        (torch.zeros(2, 3, 12, 12, dtype=torch.uint8), "torch.uint8"),
    ],
)
def test_what_is_no_batch_of_images_is_refused_with_its_shape(x: Tensor, message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        Gradient()(made().at("4"), x, 1)


def test_targets_for_another_number_of_images_are_refused_whatever_the_batch_size() -> None:
    with pytest.raises(TargetError, match="2 were given for 4 images"):
        Gradient(max_batch=2)(made().at("4"), images(4), torch.tensor([0, 1]))


@pytest.mark.parametrize("name", METHODS)
def test_images_in_any_memory_order_or_precision_have_the_same_maps(name: str) -> None:
    view, x = made().at("1"), images(2)
    wanted = quick(name)(view, x, 1).values
    strided = torch.empty(2, 3, 12, 24)[..., ::2].copy_(x)
    for same in (x.to(memory_format=torch.channels_last), strided, x.double(), x.clone().requires_grad_()):
        assert relative_error(quick(name)(view, same, 1).values, wanted) < 1e-6
    repeated = quick(name)(view, x[:1].expand(3, -1, -1, -1), 1).values
    assert relative_error(repeated, wanted[:1].expand(3, -1, -1, -1)) < 1e-6


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_methods_work_where_gradients_are_switched_off(name: str, mode: type) -> None:
    view, x = made().at("1"), images(2)
    wanted = quick(name)(view, x, 1).values
    with mode():
        inside = quick(name)(view, x + 0.0, 1).values
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert relative_error(inside, wanted) < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_channels_last_changes_nothing_and_bfloat16_little(name: str) -> None:
    net, x = plain_net(), images(2)
    wanted = quick(name)(classifier(net).at("1"), x, 1).values
    for options, error in (({"channels_last": True}, 1e-4), ({"autocast": torch.bfloat16}, 0.3)):
        found = quick(name)(pl.Classifier(net, input_size=12, **options).at("1"), x, 1)  # type: ignore[arg-type]
        assert found.values.dtype == torch.float32
        assert relative_error(found.values, wanted) < error


@pytest.mark.parametrize("name", METHODS)
def test_a_layer_without_extent_gets_maps_of_one_cell(name: str) -> None:
    found = quick(name)(made().at("8"), images(2), [0, 1])
    assert found.values.shape == (2, 2, 1, 1)
    # A channel of one cell is constant, which Score-CAM gives no weight.
    assert bool(found.values.any()) == (name != "ScoreCAM")


@pytest.mark.parametrize("name", METHODS)
def test_images_of_another_size_than_the_classifiers_are_explained(name: str) -> None:
    found = quick(name)(made().at("4"), images(2, 20), 1)
    assert found.values.shape == (2, 1, 10, 10)
    assert bool(found.values.isfinite().all())


class Sharp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x.relu()


@pytest.mark.parametrize("name", METHODS)
def test_negative_zeros_are_no_different_from_zeros(name: str) -> None:
    tail = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 6), nn.ReLU(), nn.Linear(6, 5))
    net = nn.Sequential(nn.Conv2d(3, 6, 3), Sharp(), tail).eval()
    view, x = classifier(net).at("1"), images(2)
    activation = view.activation(x)
    assert bool(((activation == 0) & activation.signbit()).any())
    found = quick(name)(view, x, 1)
    assert bool(found.values.isfinite().all())


def test_options_and_versions_are_on_the_receipt() -> None:
    found = Occlusion(window=3, stride=1, max_batch=5)(made().at("4"), images(1), 1)
    assert found.options == {"max_batch": 5, "max_bytes": None, "window": 3, "stride": 1, "fill": 0.0}
    assert found.versions == {"pellucid": pl.__version__, "torch": torch.__version__}


def test_gaps_are_measured_against_delta() -> None:
    values = torch.tensor([[[[1.0, 2.0]], [[0.0, 0.0]]], [[[3.0, 1.0]], [[1.0, 1.0]]]])
    delta = torch.tensor([[2.0, 0.0], [8.0, -2.0]])
    made = Explanation(
        values=values,
        scores=delta,
        delta=delta,
        targets=(("a", "b"),) * 2,
        notes=((), ()),
        provenance=Provenance(model="net", layers=("input",), method="M"),
        receipt=Receipt(),
    )
    assert made.gap is not None
    assert made.gap.tolist() == [[1.0, 0.0], [-4.0, 4.0]]
    assert made.relative_gap is not None
    assert made.relative_gap.tolist() == [[0.5, 0.0], [0.5, 2.0]]
    first = made.target(0)
    assert first.gap is not None
    assert first.gap.tolist() == [1.0, -4.0]
    assert first.targets == (("a",), ("a",))
    assert first.receipt.gap == 0.5


@pytest.mark.parametrize("name", pl.attribution.METHODS)
def test_an_explanation_is_saved_and_loaded_whole(name: str, tmp_path: Path) -> None:
    saved = Smoothed(method=quick(name), kernel_size=3)(made().at("4"), images(2), [1, 2])
    loaded = pl.results.load(saved.save(tmp_path))
    assert isinstance(loaded, Explanation)
    assert torch.equal(loaded.values, saved.values)
    assert torch.equal(loaded.scores, saved.scores)
    assert (loaded.delta is None) == (saved.delta is None)
    assert (loaded.targets, loaded.notes, loaded.signed) == (saved.targets, saved.notes, saved.signed)
    assert (loaded.receipt, loaded.layer, loaded.method) == (saved.receipt, saved.layer, saved.method)
    assert loaded.options.keys() == saved.options.keys()
    table = loaded.to_table().to_pylist()
    assert {row["target"] for row in table} == {label for labels in saved.targets for label in labels}
    assert [row["value"] for row in table if row["quantity"] == "score"] == saved.scores.flatten().tolist()


def test_the_receipt_holds_the_largest_gap_of_all_images() -> None:
    pytest.importorskip("matplotlib")
    found = pl.attribution.IntegratedGradients(steps=3, max_batch=1)(made().at("4"), images(3), [1, 2])
    assert found.relative_gap is not None
    assert found.receipt.gap == pytest.approx(float(found.relative_gap.max()))
    assert len(found.plot(torch.rand(3, 3, 8, 8)).axes) == 3 * 2 + 1
