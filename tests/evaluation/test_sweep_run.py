"""A whole run on colored squares: its table, what it refuses, and what it does with what cannot be scored."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.evaluation.sweep_support import COLORS, color_classifier, color_network, columns, rows, write_squares

from pellucid import Classifier
from pellucid.attribution import (
    GradCAM,
    InputXGradient,
    Occlusion,
    smooth,
)
from pellucid.errors import PellucidError
from pellucid.evaluation import agg_att, localization_score
from pellucid.evaluation.metrics import CONTROLS
from pellucid.evaluation.settings import DiFull, GridPG
from pellucid.evaluation.sweep import (
    Run,
    SweepOptions,
    SweepProgress,
    evaluate,
    grid_images,
)

OPTIONS = SweepOptions(
    settings=("GridPG", "DiFull"), layers=("input", "final"), grids=5, kernel_sizes=(5,), shard_size=2, keep_maps="all"
)
METHODS = (GradCAM(), InputXGradient())
SMALL = SweepOptions(settings=("GridPG",), layers=("final",), grids=2)
TIMES = ("seconds", "shared_seconds")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return evaluate(squares, color_classifier(), METHODS, tmp_path_factory.mktemp("run") / "run", OPTIONS)


def test_every_attribution_has_one_row(run: Run) -> None:
    keys = ("model", "variant", "setting", "layer", "method", "kernel_size", "grid", "cell")
    found = Counter(tuple(row[key] for key in keys) for row in run.table().to_pylist())
    named = [(name, kernel) for name in ("GradCAM", "InputXGradient") for kernel in (1, 5)]
    named += [(name, 1) for name in CONTROLS]
    wanted = {
        ("colors", "trained", setting, layer, method, kernel, grid, cell)
        for setting, cells in (("GridPG", (0, 1, 2, 3)), ("DiFull", (0, 3)))
        for layer in ("input", "final")
        for method, kernel in named
        for grid in range(5)
        for cell in cells
    }
    assert set(found) == wanted
    assert set(found.values()) == {1}


@pytest.mark.parametrize("setting", ["GridPG", "DiFull"])
@pytest.mark.parametrize("kernel", [1, 5])
def test_scores_are_those_of_the_method_called_by_hand(run: Run, setting: str, kernel: int) -> None:
    classifier = color_classifier()
    grids = run.grid_set(setting)
    images = grid_images(classifier, grids, range(5), run.root)
    for cell in grids.evaluated_cells:
        view = (GridPG if setting == "GridPG" else DiFull)(classifier, 2).at("final")
        labels = grids.labels[:, cell]
        pairs = torch.stack([torch.full_like(labels, 0 if setting == "GridPG" else cell), labels], dim=1)
        values = InputXGradient()(view, images, pairs[:, None]).values
        values = smooth(values, kernel) if kernel > 1 else values
        wanted = localization_score(values, 2, cell, (32, 32))
        native = localization_score(values, 2, cell)
        own = rows(run, setting=setting, layer="final", method="InputXGradient", cell=cell, kernel_size=kernel)
        assert [row["grid"] for row in own] == list(range(5))
        assert [row["score"] for row in own] == pytest.approx(wanted.tolist(), abs=1e-5)
        assert [row["score_native"] for row in own] == pytest.approx(native.tolist(), abs=1e-5)


def test_the_network_that_is_right_by_construction_scores_as_it_must(run: Run) -> None:
    for row in rows(run, method="InputXGradient", kernel_size=1, setting="DiFull", layer="input"):
        assert row["score"] == 1
    for row in rows(run, method="OracleMask"):
        assert row["score"] == pytest.approx(row["attainable"])
        assert row["score_native"] == 1
    for row in rows(run, method="Uniform"):
        assert row["score"] == pytest.approx(0.25)
    shares = [
        row["mirror_share"] for row in rows(run, method="GradCAM", kernel_size=1, setting="DiFull", layer="final")
    ]
    assert min(shares) > 0.9  # Grad-CAM's weights are one per channel: the other cell of the color lights up too


def test_smoothed_maps_cost_no_pass_and_shared_passes_are_counted_once_for_all(run: Run) -> None:
    assert all(row["suffix_forward"] == row["suffix_backward"] == 0 for row in rows(run, kernel_size=5))
    for row in rows(run, setting="GridPG"):
        # One pass of the grid, as large as four cells, for its four attributions; and a gradient for each of them.
        assert (row["shared_prefix_forward"], row["shared_suffix_forward"], row["shared_suffix_backward"]) == (1, 1, 4)
    assert sum(row["network_forward"] for row in run.table().to_pylist()) == 0


def test_passes_are_those_that_the_network_made(squares: Path, tmp_path: Path) -> None:
    methods = [Occlusion(window=8, stride=8)]
    options = replace(SMALL, layers=("input",))
    found = rows(evaluate(squares, color_classifier(), methods, tmp_path / "run", options), method="Occlusion")
    assert sum(row["suffix_forward"] for row in found) == 2 * 16 * 4  # 4 x 4 windows of two grids of four cells


def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(run: Run, squares: Path, tmp_path: Path) -> None:
    again = evaluate(squares, color_classifier(), METHODS, tmp_path / "again", OPTIONS)
    assert columns(again) == columns(run)
    assert (again.folder / "grids" / "0-same_class.json").read_bytes() == (
        run.folder / "grids" / "0-same_class.json"
    ).read_bytes()
    other = evaluate(squares, color_classifier(), METHODS, tmp_path / "other", replace(OPTIONS, seed=1))
    assert columns(other)["label"] != columns(run)["label"]


def test_shards_of_another_size_give_the_same_scores(run: Run, squares: Path, tmp_path: Path) -> None:
    other = evaluate(squares, color_classifier(), METHODS, tmp_path / "other", replace(OPTIONS, shard_size=3))
    key = ("setting", "layer", "method", "kernel_size", "grid", "cell")
    first, second = (
        {tuple(row[name] for name in key): row["score"] for row in each.table().to_pylist()} for each in (run, other)
    )
    assert first.keys() == second.keys()
    assert [first[name] for name in first] == pytest.approx([second[name] for name in first], abs=1e-5)


def test_a_finished_run_is_only_read(run: Run, squares: Path) -> None:
    steps: list[SweepProgress] = []
    before = (run.folder / "table.parquet").read_bytes()
    evaluate(squares, color_classifier(), METHODS, run.folder, OPTIONS, on_progress=steps.append)
    assert steps == []
    assert (run.folder / "table.parquet").read_bytes() == before


@pytest.mark.parametrize("layer", ["input", "final"])
@pytest.mark.parametrize("cell", [0, 2])
def test_agg_att_of_a_run_is_that_of_its_maps(run: Run, layer: str, cell: int) -> None:
    classifier, grids = color_classifier(), run.grid_set("GridPG")
    images = grid_images(classifier, grids, range(5), run.root)
    values = GradCAM()(GridPG(classifier, 2).at(layer), images, grids.labels[:, cell]).values
    found = rows(run, setting="GridPG", layer=layer, method="GradCAM", kernel_size=1, cell=cell)
    scores = torch.tensor([row["score"] for row in found])
    wanted = agg_att(values, scores, torch.tensor([row["cell_mass"] for row in found]), size=(32, 32))
    aggregate = run.agg_att("gridpg", layer, "GradCAM", cell=cell)
    assert aggregate.bins.sizes == wanted.bins.sizes
    torch.testing.assert_close(aggregate.means, wanted.means, rtol=2e-3, atol=1e-6, equal_nan=True)


def test_maps_that_were_not_kept_are_asked_for_in_vain(squares: Path, tmp_path: Path, run: Run) -> None:
    bare = evaluate(squares, color_classifier(), METHODS, tmp_path / "run", replace(SMALL, keep_maps="none"))
    assert not (bare.folder / "maps").exists()
    with pytest.raises(PellucidError, match="were not kept"):
        bare.agg_att("GridPG", "final", "GradCAM")
    with pytest.raises(PellucidError, match="no maps of 'RISE'"):
        run.agg_att("GridPG", "final", "RISE")
    with pytest.raises(PellucidError, match="the run has no layer 'middle'"):
        run.agg_att("GridPG", "middle", "GradCAM")


def test_a_centred_target_does_not_see_a_shift_of_all_logits_and_the_logit_does(squares: Path, tmp_path: Path) -> None:
    shifted = color_classifier()
    head = shifted.module.get_submodule("fc")
    with torch.no_grad():  # one vector for all classes: the same probabilities
        head.weight += torch.randn(1, head.in_features, generator=torch.Generator().manual_seed(0)) * head.weight.std()
    shifted = Classifier(shifted.module, preprocess=shifted.preprocess, class_names=shifted.class_names, name="shifted")
    scores = {}
    for output in ("logit", "centered"):
        options = replace(SMALL, layers=("input",), output=output)
        for name, model in (("plain", color_classifier()), ("shifted", shifted)):
            run = evaluate(squares, model, [InputXGradient()], tmp_path / f"{output}-{name}", options)
            scores[output, name] = [row["score"] for row in rows(run, method="InputXGradient")]
    assert scores["centered", "plain"] == pytest.approx(scores["centered", "shifted"], abs=1e-4)
    assert scores["logit", "plain"] != pytest.approx(scores["logit", "shifted"], abs=1e-2)


def test_random_weights_bring_the_score_down(squares: Path, tmp_path: Path) -> None:
    options = replace(SMALL, layers=("input",), grids=6, randomize=("fc", "conv2", "conv1"))
    run = evaluate(squares, color_classifier(), [InputXGradient()], tmp_path / "run", options)
    medians = {line.variant: line.median.estimate for line in run.summary() if line.method == "InputXGradient"}
    assert list(medians) == [
        "trained",
        "random down to fc (1 of 3)",
        "random down to conv2 (2 of 3)",
        "random down to conv1 (3 of 3)",
    ]
    assert medians["trained"] > 0.95
    assert abs(medians["random down to conv1 (3 of 3)"] - 0.25) < 0.2
    grids = {row["variant"]: row["label"] for row in rows(run, method="InputXGradient", grid=0, cell=0)}
    assert len(set(grids.values())) == 1  # the same grids and targets


def test_a_number_of_steps_randomizes_evenly_down_to_the_last_layer(squares: Path, tmp_path: Path) -> None:
    options = replace(SMALL, randomize=2)
    run = evaluate(squares, color_classifier(), [GradCAM()], tmp_path / "run", options)
    assert [model.steps for model in run.plan.models] == [(0, 2, 3)]
    assert run.plan.models[0].cascade == ("fc", "conv2", "conv1")


def second() -> Classifier:
    """Another network for the same colors, less sure of itself."""
    network = color_network()
    with torch.no_grad():
        network.fc.weight *= 0.5  # type: ignore[operator]
    return Classifier(network, preprocess=color_classifier().preprocess, class_names=COLORS, name="unsure")


def test_several_models_see_the_same_grids_or_their_own(squares: Path, tmp_path: Path) -> None:
    models = [color_classifier(), second()]
    options = replace(SMALL, threshold=0.5)
    common = evaluate(squares, models, [GradCAM()], tmp_path / "common", options)
    assert common.grid_set("GridPG", model="colors").cells == common.grid_set("GridPG", model="unsure").cells
    own = evaluate(squares, models, [GradCAM()], tmp_path / "own", replace(options, pool="own"))
    sure = own.grid_set("GridPG", model="colors").cells[0][0].confidence
    assert sure > own.grid_set("GridPG", model="unsure").cells[0][0].confidence
    assert {line.model for line in common.summary()} == {"colors", "unsure"}
    with pytest.raises(PellucidError, match="the run has colors, unsure; name one"):
        common.agg_att("GridPG", "final", "GradCAM")


def test_comparisons_and_correlations_are_over_the_same_attributions(run: Run) -> None:
    pairs = {(pair.first, pair.second): pair for pair in run.compare("GridPG", "input")}
    pair = pairs["GradCAM", "InputXGradient"]
    assert pair.grids == 5
    assert pair.mean < 0
    assert pair.cliffs_delta == -1
    found = run.correlate("DiFull")
    assert ("GradCAM smoothed over 5", "final") in found.names
    assert found.matrix.shape == (8, 8)
    with pytest.raises(PellucidError, match="no rows with setting 'DiPart'"):
        run.correlate("DiPart")
