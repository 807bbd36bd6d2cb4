"""Published claims on networks small enough for a test: digits on colored noise, pairs with and without BatchNorm.

The weights are real and trained (see `experiments.attribution_evaluation.replica`); directions are asserted, with a
margin, never values.
"""

from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import pytest
import torch
from experiments.attribution_evaluation.replica import SEEDS, load_replica, write_images

from pellucid.attribution import (
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    LayerCAM,
)
from pellucid.evaluation import SweepOptions, evaluate
from pellucid.evaluation.sweep import SummaryLine

PLAIN, NORMED = "replica without BatchNorm", "replica with BatchNorm"
KERNEL = 17
CHANCE = 0.25

Lines = dict[tuple[str, str, str, str, int], SummaryLine]


@pytest.fixture(scope="module", params=SEEDS)
def lines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("replica")
    run = evaluate(
        write_images(folder / "digits", 300),
        [load_replica(batch_norm=batch_norm, seed=request.param) for batch_norm in (False, True)],
        [Gradient(), InputXGradient(), IntegratedGradients(steps=8), GradCAM(), LayerCAM()],
        folder / "run",
        SweepOptions(
            settings=("GridPG", "DiFull"),
            layers=("input", "final"),
            grids=14,
            same_class_grids=14,
            kernel_sizes=(KERNEL,),
            keep_maps="none",
            reuse=True,
        ),
    )
    yield {
        (line.model.rpartition(" ")[0], line.setting, line.layer, line.method, line.kernel_size): line
        for line in run.summary()
    }
    torch.set_num_threads(threads)


def median(lines: Lines, *key: str, kernel: int = 1) -> float:
    model, setting, layer, method = key
    return lines[model, setting, layer, method, kernel].median.estimate


@pytest.mark.parametrize("model", [PLAIN, NORMED])
def test_gradients_at_the_input_are_near_chance_and_grad_cam_at_the_final_layer_is_not(
    lines: Lines, model: str
) -> None:  # Q1
    for method in ("Gradient", "InputXGradient"):
        assert median(lines, model, "GridPG", "input", method) < 0.55
        assert (
            median(lines, model, "GridPG", "input", method) < median(lines, model, "GridPG", "final", "GradCAM") - 0.1
        )


@pytest.mark.parametrize("model", [PLAIN, NORMED])
def test_three_methods_agree_at_the_final_layer(lines: Lines, model: str) -> None:  # Q3
    methods = ("IntegratedGradients", "InputXGradient", "GradCAM")
    scores = [median(lines, model, "GridPG", "final", method) for method in methods]
    assert max(scores) - min(scores) < 0.1
    assert min(scores) > CHANCE + 0.08


@pytest.mark.parametrize("model", [PLAIN, NORMED])
def test_local_methods_are_perfect_on_difull(lines: Lines, model: str) -> None:  # Q4
    for method in ("Gradient", "InputXGradient", "IntegratedGradients", "LayerCAM"):
        assert median(lines, model, "DiFull", "input", method) == pytest.approx(1.0)
        line = lines[model, "DiFull", "final", method, 1]
        assert line.median.estimate > line.attainable - 0.1


@pytest.mark.parametrize("model", [PLAIN, NORMED])
def test_grad_cam_lights_up_the_same_class(lines: Lines, model: str) -> None:  # Q5
    line = lines[model, "DiFull", "final", "GradCAM", 1]
    assert line.median.estimate < median(lines, model, "GridPG", "final", "GradCAM") - 0.05
    assert line.mirror is not None
    assert line.mirror > 0.4  # a third is chance


def test_smoothing_helps_input_x_gradient_without_batch_norm_only(lines: Lines) -> None:  # Q12
    gains = {
        (model, method): median(lines, model, "GridPG", "input", method, kernel=KERNEL)
        - median(lines, model, "GridPG", "input", method)
        for model in (PLAIN, NORMED)
        for method in ("InputXGradient", "IntegratedGradients")
    }
    assert all(isfinite(gain) for gain in gains.values())
    assert gains[PLAIN, "IntegratedGradients"] > 0.04
    assert gains[NORMED, "IntegratedGradients"] > 0.04
    assert gains[PLAIN, "InputXGradient"] > 0.06
    assert gains[NORMED, "InputXGradient"] < 0.02


def test_the_replica_s_images_are_the_same_every_time(tmp_path: Path) -> None:
    first, second = (write_images(tmp_path / name, 3) for name in ("a", "b"))
    assert [label for _, label in first] == [label for _, label in second]
    assert [path.read_bytes() for path, _ in first] == [path.read_bytes() for path, _ in second]
