"""Metrics of single images in a run: the same numbers as without it, in shards that survive a kill."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.sweep_support import SIDE, color_classifier, write_squares

from pellucid.attribution import RISE, GradCAM, InputXGradient
from pellucid.concepts import concept_set, fit_cav, save_cavs
from pellucid.errors import PellucidError
from pellucid.evaluation.metrics import (
    METRICS,
    Deletion,
    ExplainedImages,
    MetricScores,
    Regions,
    WeightRandomization,
    make_metrics,
    map_similarity,
    read_regions,
)
from pellucid.evaluation.sweep import Run, SweepOptions, SweepProgress, evaluate

METHODS = (GradCAM(), InputXGradient(), RISE(masks=20))
OPTIONS = SweepOptions(
    metrics=("deletion", "insertion", "road", "randomization", "random-logit", "target-sensitivity"),
    metric_options=("deletion.steps=4", "insertion.steps=4", "road.steps=2", "randomization.steps=2"),
    layers=("input", "final"),
    images=5,
    shard_size=2,
)
TIMES = ("seconds",)


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


def numbers(run: Run) -> list[dict[str, Any]]:
    """The table of metrics without times, with NaN equal to itself."""
    table = run.metrics().drop_columns(list(TIMES)).to_pylist()
    return [{name: "nan" if value != value else value for name, value in row.items()} for row in table]


def select(run: Run, **wanted: object) -> list[dict[str, Any]]:
    return [row for row in run.metrics().to_pylist() if all(row[name] == value for name, value in wanted.items())]


def test_every_metric_method_and_layer_has_a_number_for_every_image(run: Run) -> None:
    assert run.is_complete
    rows = run.metrics().to_pylist()
    quantities = {(row["metric"], row["quantity"]) for row in rows}
    assert {name for name, _ in quantities} == set(OPTIONS.metrics)
    assert len(quantities) == 7  # randomization has two steps
    methods = {row["method"] for row in rows}
    assert methods == {"GradCAM", "InputXGradient", "RISE", "Uniform", "Random", "SobelEdges", "InputMagnitude"}
    assert len(rows) == len(quantities) * len(methods) * 2 * OPTIONS.images
    assert len({row["image"] for row in rows}) == OPTIONS.images
    assert all(row["higher_is_better"] == METRICS[row["metric"]].higher_is_better for row in rows)
    assert run.table().num_rows == 0
    assert run.progress == (6, 6)


def test_a_run_measures_what_the_metric_measures_by_itself(run: Run, squares: Path) -> None:
    classifier = color_classifier()
    rows = select(run, metric="deletion", method="GradCAM", layer="final")
    images = classifier.read([squares / row["image"] for row in rows])
    targets = torch.tensor([row["label"] for row in rows])
    values = GradCAM()(classifier.at("final"), images, targets).values
    curves = Deletion(steps=4).curves(classifier.logits, images, values, targets)
    torch.testing.assert_close(torch.tensor([row["score"] for row in rows]), curves.area.float())
    torch.testing.assert_close(torch.tensor([row["chance"] for row in rows]), curves.random_area.float())


def test_maps_of_a_randomized_network_are_made_with_the_same_random_numbers(run: Run, squares: Path) -> None:
    """RISE's masks go by the number of the image; with other ones its maps would differ for no other reason."""
    rows = select(run, metric="randomization", method="RISE", layer="final")
    last = [row for row in rows if "3 of 3" in row["quantity"]]
    classifier = color_classifier()
    images = classifier.read([squares / row["image"] for row in last])
    targets = torch.tensor([row["label"] for row in last])
    view = classifier.at("final")
    values = RISE(masks=20)(view, images, targets).values
    explained = ExplainedImages(view=view, method=RISE(masks=20), images=images, targets=targets, values=values[:, 0])
    (found,) = WeightRandomization()(explained)
    assert [row["score"] for row in last] == pytest.approx(found.scores.tolist(), nan_ok=True)


def test_controls_do_not_depend_on_what_was_learnt_or_on_the_class(run: Run) -> None:
    for metric, method in (("randomization", "SobelEdges"), ("random_logit", "Random")):
        rows = select(run, metric=metric, method=method, layer="input")
        assert [row["score"] for row in rows] == pytest.approx([1.0] * len(rows))


def test_a_summary_line_holds_the_mean_of_its_rows(run: Run) -> None:
    lines = {(line.metric, line.method, line.layer, line.quantity): line for line in run.metric_summary()}
    line = lines["deletion", "InputXGradient", "input", "area under the probability curve"]
    rows = select(run, metric="deletion", method="InputXGradient", layer="input")
    assert line.mean.estimate == pytest.approx(np.mean([row["score"] for row in rows]))
    assert line.mean.low <= line.mean.estimate <= line.mean.high
    assert line.chance == pytest.approx(np.mean([row["chance"] for row in rows]))
    assert not line.higher_is_better
    assert line.status == {"ok": OPTIONS.images}


def test_killed_it_resumes_with_what_is_missing_and_ends_with_the_same_table(
    run: Run, squares: Path, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(progress: SweepProgress) -> None:
        if progress.stage == "measuring" and progress.done == 2:
            raise KilledError

    out = tmp_path / "run"
    with pytest.raises(KilledError):
        evaluate(squares, color_classifier(), METHODS, out, OPTIONS, on_progress=kill)
    half = Run(out)
    assert not half.is_complete
    assert half.progress == (2, 6)
    assert 0 < half.metrics().num_rows < run.metrics().num_rows
    damaged = sorted((out / "metrics").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    steps: list[SweepProgress] = []
    again = evaluate(squares, color_classifier(), METHODS, out, OPTIONS, on_progress=steps.append)
    assert [step.task.number for step in steps if step.stage == "measuring" and step.task] == [0, 2, 3, 4, 5]
    assert numbers(again) == numbers(run)
    with pytest.raises(PellucidError, match=r"options\.metric_options"):
        evaluate(squares, color_classifier(), METHODS, out, replace(OPTIONS, metric_options=()))


def test_the_numbers_do_not_depend_on_the_size_of_a_shard(run: Run, squares: Path, tmp_path: Path) -> None:
    other = evaluate(squares, color_classifier(), METHODS, tmp_path / "run", replace(OPTIONS, shard_size=5))

    def order(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in ("layer", "method", "metric", "quantity", "image"))

    for own, another in zip(sorted(numbers(run), key=order), sorted(numbers(other), key=order), strict=True):
        assert order(own) == order(another)
        assert own["score"] == pytest.approx(another["score"], abs=1e-5) or own["score"] == another["score"]


def test_beside_localization_the_images_of_the_grids_come_first(squares: Path, tmp_path: Path) -> None:
    options = SweepOptions(
        metrics=("localization", "random_logit"), settings=("GridPG",), layers=("final",), grids=2, images=8
    )
    run = evaluate(squares, color_classifier(), [GradCAM()], tmp_path / "run", options)
    cells = [cell.path for row in run.grid_set("GridPG").cells for cell in row]
    assert [row["image"] for row in select(run, method="GradCAM")] == cells
    assert run.table().num_rows == 2 * 4 * (1 + 5)
    assert len(run.metric_summary()) == 5


def boxes_of_squares(squares: Path, file: Path) -> Path:
    """A table of the boxes of the squares, found by their pixels: grey is 112 to 143."""
    with file.open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["path", "left", "top", "right", "bottom"])
        for path in sorted(squares.rglob("*.png")):
            pixels = np.asarray(Image.open(path)).astype(int)
            rows, columns = np.nonzero(((pixels < 112) | (pixels > 143)).all(2))
            edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            writer.writerow([path.relative_to(squares).as_posix(), *edges])
    return file


def test_regions_come_from_boxes_or_masks_alike(squares: Path, tmp_path: Path) -> None:
    boxes = boxes_of_squares(squares, tmp_path / "boxes.csv")
    masks = tmp_path / "masks"
    with boxes.open() as table:
        for row in csv.DictReader(table):
            mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
            mask[int(row["top"]) : int(row["bottom"]), int(row["left"]) : int(row["right"])] = 255
            (masks / row["path"]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(masks / row["path"])
    options = SweepOptions(metrics=("regions",), layers=("input",), images=4)
    one, other = (
        evaluate(
            squares,
            color_classifier(),
            [InputXGradient()],
            tmp_path / f"run-{name}",
            replace(options, regions=str(path)),
        )
        for name, path in (("boxes", boxes), ("masks", masks))
    )
    assert [row["score"] for row in numbers(one)] == [row["score"] for row in numbers(other)]
    mass = select(one, method="InputXGradient", quantity="relevance mass")
    assert min(row["score"] for row in mass) > 0.9  # the network looks at colors, and grey has none
    assert [row["chance"] for row in mass] == pytest.approx([0.25] * 4)  # 8 x 8 of 16 x 16 pixels
    uniform = select(one, method="Uniform", quantity="relevance mass")
    assert [row["score"] for row in uniform] == pytest.approx([0.25] * 4)


def test_an_image_without_a_region_has_no_number_and_says_so(squares: Path, tmp_path: Path) -> None:
    boxes = boxes_of_squares(squares, tmp_path / "boxes.csv")
    first, *lines = boxes.read_text().splitlines()
    boxes.write_text("\n".join([first, *(line for line in lines if not line.startswith("red/"))]))
    options = SweepOptions(metrics=("regions",), layers=("final",), images=48, shard_size=48, regions=str(boxes))
    run = evaluate(squares, color_classifier(), [GradCAM()], tmp_path / "run", options)
    rows = select(run, method="GradCAM", quantity="pointing game")
    assert {row["status"] for row in rows if row["image"].startswith("red/")} == {"undefined"}
    assert {row["status"] for row in rows if not row["image"].startswith("red/")} == {"ok"}


def test_boxes_are_cut_as_the_preprocessing_cuts_the_image(tmp_path: Path) -> None:
    """Of 32 x 16 pixels the classifier sees the middle 16 x 16: x from 8 to 24."""
    (tmp_path / "a.csv").write_text("path,left,top,right,bottom\na.png,4,0,12,8\na.png,20,8,40,20\nb.png,0,0,4,4\n")
    Image.new("RGB", (32, 16)).save(tmp_path / "a.png")
    Image.new("RGB", (32, 16)).save(tmp_path / "b.png")
    masks = read_regions(tmp_path / "a.csv").masks(color_classifier(), tmp_path, ["a.png", "b.png", "b.png"])
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[:8, :4] = True
    expected[8:, 12:] = True
    assert torch.equal(masks[0], expected)
    assert not masks[1:].any()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "path,left,top,right,bottom\n", "has no boxes"),
        ("a.csv", "path,left,top,right\na.png,1,2,3\n", "line 1: expected a header with the columns"),
        ("a.csv", "path,left,top,right,bottom\na.png,1,2,1,3\n", "is empty"),
        ("a.txt", "", "neither a folder of masks nor"),
    ],
)
def test_regions_that_are_none_are_refused(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(PellucidError, match=words):
        read_regions(tmp_path / name)


@pytest.mark.filterwarnings("ignore:.*fewer than 10")
def test_concept_maps_are_measured_against_regions_and_removal(squares: Path, tmp_path: Path) -> None:
    classifier = color_classifier()
    view = classifier.at("final")
    paths = {name: sorted((squares / name).glob("*.png")) for name in ("red", "blue", "white")}
    cavs = [fit_cav(view, concept_set(paths[name], name), paths["white"]) for name in ("red", "blue")]
    save_cavs(cavs, tmp_path / "cavs")
    boxes = boxes_of_squares(squares, tmp_path / "boxes.csv")
    options = SweepOptions(
        metrics=("concepts",), metric_options=(f"concepts.cavs={tmp_path / 'cavs'}",),
        layers=("final",), images=4, regions=str(boxes),
    )  # fmt: skip
    run = evaluate(squares, classifier, [GradCAM()], tmp_path / "run", options)
    rows = run.metrics().to_pylist()
    assert {row["method"] for row in rows} == {"VisualTCAV"}
    assert {row["quantity"] for row in rows} == {
        "soft IoU of red", "soft IoU of blue", "rank correlation of scores with removal"
    }  # fmt: skip
    assert len(rows) == 3 * 4
    save_cavs(cavs[:1], tmp_path / "cavs" / "more")
    with pytest.raises(PellucidError, match=r"metrics\.0\.files"):
        evaluate(squares, classifier, [GradCAM()], tmp_path / "run", options)


def test_a_method_that_fails_is_refused_with_its_reason_and_the_others_are_measured(
    squares: Path, tmp_path: Path
) -> None:
    problems: list[str] = []
    options = SweepOptions(metrics=("regions", "deletion"), layers=("final",), images=2)
    with pytest.raises(PellucidError, match="'regions' needs boxes or masks"):
        evaluate(squares, color_classifier(), [GradCAM()], tmp_path / "run", options)
    options = replace(options, metrics=("concepts", "deletion"), metric_options=("concepts.cavs=nowhere",))
    run = evaluate(
        squares, color_classifier(), [GradCAM()], tmp_path / "run", options,
        on_progress=lambda step: problems.extend(step.problems),
    )  # fmt: skip
    assert {row["status"] for row in select(run, metric="concepts")} == {"refused"}
    assert {row["status"] for row in select(run, metric="deletion", method="GradCAM")} == {"ok"}
    assert "nowhere" in problems[0]
    assert any("nowhere" in line.note for line in run.metric_summary())


def test_too_few_images_are_an_error_that_says_how_many(squares: Path, tmp_path: Path) -> None:
    options = SweepOptions(metrics=("random_logit",), layers=("final",), images=60)
    with pytest.raises(PellucidError, match=r"60 images, of which 12 are missing"):
        evaluate(squares, color_classifier(), [GradCAM()], tmp_path / "run", options)


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["deletion"], ["deletion.stops=3"], "has no option 'stops'; it has baseline, score, steps"),
        (["deletion"], ["insertion.steps=3"], "with a metric of deletion"),
        (["deletion"], ["steps"], "not metric.option=value"),
        (["deletion"], ["deletion.steps=0"], "steps=0"),
        (["deletion"], ["deletion.steps=many"], "the metric deletion refuses its options {'steps': 'many'}"),
        (["concepts"], [], "needs fitted CAVs"),
    ],
)
def test_wrong_options_of_metrics_are_named(names: list[str], options: list[str], words: str) -> None:
    with pytest.raises(PellucidError, match=words):
        make_metrics(names, options)


def test_unknown_metrics_suggest_the_nearest() -> None:
    with pytest.raises(PellucidError, match="no metric 'deletions'; did you mean deletion"):
        SweepOptions(metrics=("deletions",))


def test_scores_of_regions_worked_out_by_hand() -> None:
    """A map of 4 x 4 pixels: 3 of its positive mass of 4 in the region, its largest value outside."""
    values = torch.zeros(1, 4, 4)
    values[0, 0, 0], values[0, 0, 1], values[0, 3, 3], values[0, 2, 2] = 1.5, 1.5, 1.0, -9.0
    values[0, 3, 3] = 1.0
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 0, :2] = True
    classifier = color_classifier()
    explained = ExplainedImages(
        view=classifier.at("input"), method=GradCAM(), images=torch.zeros(1, 3, 4, 4), targets=torch.tensor([0]),
        values=values, masks=masks,
    )  # fmt: skip
    game, mass, rank = Regions(tolerance=0)(explained)
    assert (float(game.scores), float(mass.scores), float(rank.scores)) == (1.0, 0.75, 1.0)
    assert [float(scores.chance) for scores in (game, mass, rank)] == [0.125] * 3


def test_scores_without_a_chance_level_say_so() -> None:
    scores = MetricScores.without_chance("similarity", map_similarity(torch.rand(2, 4, 4), torch.rand(2, 4, 4)).ssim)
    assert scores.chance.isnan().all()
