"""What a run is: options, methods, the order of its shards, and what makes two runs different."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from pellucid.attribution import GradCAM, IntegratedGradients, Occlusion
from pellucid.errors import PellucidError
from pellucid.evaluation.sweep import SweepOptions
from pellucid.evaluation.sweep.plan import Plan, PlannedData, PlannedModel, plan_methods
from pellucid.storage import find_differences, from_record, to_record


def plan(**options: Any) -> Plan:
    chosen = SweepOptions(**options)
    model = PlannedModel("net", "f00", "cpu", (3, 8, 8), "crop", chosen.layers, cascade=("fc", "conv"), steps=(0, 1, 2))
    methods = plan_methods([GradCAM()])
    return Plan(chosen, methods, (model,), PlannedData("d00", 600), {"pellucid": "1", "torch": "2"})


def test_shards_hold_every_grid_of_every_setting_and_layer_once() -> None:
    shards = list(plan(grids=10, same_class_grids=7, shard_size=4).shards())
    assert [shard.number for shard in shards] == list(range(len(shards)))
    held = Counter(
        (shard.variant, shard.setting, shard.layer, grid) for shard in shards for grid in range(shard.start, shard.stop)
    )
    wanted = {
        (variant, setting, layer, grid)
        for variant in range(3)
        for setting, count in (("GridPG", 10), ("DiFull", 7), ("DiPart", 7))
        for layer in range(3)
        for grid in range(count)
    }
    assert set(held) == wanted
    assert set(held.values()) == {1}


def test_a_run_that_is_stopped_early_has_as_many_grids_everywhere() -> None:
    first = list(plan(grids=40, shard_size=4).shards())[:9]
    assert {(shard.setting, shard.layer) for shard in first} == {
        (setting, layer) for setting in ("GridPG", "DiFull", "DiPart") for layer in range(3)
    }
    assert {(shard.start, shard.stop) for shard in first} == {(0, 4)}


def test_predictions_hold_every_image_once() -> None:
    chunks = list(plan().predictions())
    assert [image for chunk in chunks for image in range(chunk.start, chunk.stop)] == list(range(600))
    assert len({chunk.file for chunk in chunks}) == len(chunks)


def test_a_plan_survives_json() -> None:
    one = plan(n=(2, 3), kernel_sizes=(9, 5), randomize=("fc", "conv"), same_class_grids=3)
    again = from_record(Plan, json.loads(json.dumps(to_record(one))), source="plan.json")
    assert again == one
    assert again.digest == one.digest
    assert again.options.grid == (2, 3)


def differences(stored: Plan, current: Plan) -> list[str]:
    return [str(difference) for difference in find_differences(to_record(stored), to_record(current))]


def test_differences_name_what_differs_and_nothing_else() -> None:
    one = plan(grids=10, seed=1)
    other = plan(grids=12, seed=1)
    assert differences(one, one) == []
    assert differences(one, other) == ["options.grids: 10 there, 12 now"]
    weights = replace(one, models=(replace(one.models[0], fingerprint="beef"),))
    assert differences(one, weights) == ['models.0.fingerprint: "f00" there, "beef" now']
    methods = replace(one, methods=plan_methods([GradCAM(), Occlusion()]))
    assert any("Occlusion" in text for text in differences(one, methods))


def test_predictions_do_not_depend_on_how_grids_are_explained() -> None:
    one, more_grids, other_images = plan(), plan(grids=7, layers=("final",)), plan()
    other_images = replace(other_images, data=PlannedData("d01", 600))
    chunk, shard = next(one.predictions()), next(one.shards())
    assert one.tag(chunk) == more_grids.tag(chunk) != other_images.tag(chunk)
    assert one.tag(shard) != more_grids.tag(shard)


def test_the_same_class_with_other_options_has_a_label_of_its_own() -> None:
    methods = plan_methods([IntegratedGradients(steps=20), GradCAM(), IntegratedGradients(steps=50)])
    labels = [method.label for method in methods]
    assert labels == ["IntegratedGradients (steps=20)", "GradCAM", "IntegratedGradients (steps=50)"]
    assert json.loads(methods[2].options)["steps"] == 50


def test_two_equal_methods_are_refused() -> None:
    with pytest.raises(PellucidError, match="given twice"):
        plan_methods([GradCAM(), GradCAM()])


def test_a_tensor_among_the_options_is_told_by_its_content() -> None:
    first, second = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    one, same, other = (
        plan_methods([IntegratedGradients(baseline=baseline)]) for baseline in (first, first.clone(), second)
    )
    assert one == same != other


def test_an_option_that_cannot_be_written_down_is_refused() -> None:
    with pytest.raises(PellucidError, match="Odd cannot be written into the plan"):
        plan_methods([Odd()])


@dataclass(frozen=True, kw_only=True)
class Odd(GradCAM):
    rule: object = print


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"settings": ("GridPC",)}, "no setting 'GridPC'; did you mean GridPG"),
        ({"settings": ()}, "no settings given"),
        ({"layers": ()}, "no layers given"),
        ({"layers": ("final", "final")}, "named twice"),
        ({"grids": 0}, "grids is 0"),
        ({"same_class_grids": 0}, "same_class_grids is 0"),
        ({"n": 0}, "0 x 0"),
        ({"kernel_sizes": (4,)}, "kernel of 4 cells"),
        ({"pool": "mine"}, "choose from common, own"),
        ({"keep_maps": "some"}, "choose from none, first, all"),
        ({"randomize": -1}, "randomize is -1"),
        ({"shard_size": 0}, "shard_size is 0"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_right(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PellucidError, match=words):
        SweepOptions(**options)


def test_settings_are_found_in_any_case() -> None:
    assert SweepOptions(settings=("gridpg", "DIFULL")).settings == ("GridPG", "DiFull")
