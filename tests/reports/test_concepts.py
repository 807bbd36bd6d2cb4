"""The concept pages: what they say is what was computed, they need nothing else, and nothing in them is markup."""

import math
import re
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import pellucid as pl
from pellucid.concepts import (
    ConceptWarning,
    Status,
    VisualTCAV,
    collect_sets,
    fit_cavs,
)
from pellucid.reports import render_class_page, render_concept_page, write_class_page, write_concept_page
from pellucid.reports.concepts.class_page import example_views
from pellucid.reports.concepts.parts import describe_gap, verdict
from pellucid.reports.shared.overlays import resize_geometry
from pellucid.reports.shared.scales import Scale
from pellucid.synthetic import draw_images
from pellucid.workflows import (
    ClassConcepts,
    ExplainClassOptions,
    ImageConcepts,
    explain_class,
    explain_image_by_concepts,
)

NAMES = ["<b>bee</b>", "zebra", "tiger"]


@pytest.fixture(scope="module")
def classifier() -> pl.Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )
    preprocess = pl.data.Preprocess((24, 24), resize=24)
    return pl.Classifier(net.eval(), preprocess=preprocess, class_names=NAMES, name="tiny")


@pytest.fixture(scope="module")
def explainers(classifier: pl.Classifier) -> list[VisualTCAV]:
    sets, negatives = collect_sets(None, ["striped", "red"], count=12, size=24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConceptWarning)  # a network that was not trained hardly knows its concepts
        return [
            VisualTCAV(view, fit_cavs(view, sets, negatives), permutations=19)
            for view in (classifier.at("1"), classifier.at("3"))
        ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("class")
    for index, image in enumerate(draw_images("striped", 8, 24, seed=3)):
        wide = Image.new("RGB", (48, 24), "white")  # the network sees its middle
        wide.paste(image, (12, 0))
        wide.save(folder / f"<i>{index}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def report(classifier: pl.Classifier, explainers: list[VisualTCAV], files: list[Path]) -> ImageConcepts:
    return explain_image_by_concepts(classifier, files[0], explainers)


def class_report(
    classifier: pl.Classifier, explainers: list[VisualTCAV], files: list[Path], *targets: str
) -> ClassConcepts:
    options = ExplainClassOptions(target=targets, permutations=19)
    return explain_class(classifier, files, options, cavs={each.view.layer: each.cavs for each in explainers})


def _is_self_contained(page: str) -> None:
    assert page.lstrip().startswith("<!doctype html>")
    assert "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert not re.search(r"url\((?!\"data:)", page)
    for name in ("<b>bee</b>", "<i>0.png"):
        assert name not in page


def test_the_local_page_shows_every_layer_class_and_concept_with_its_numbers(report: ImageConcepts) -> None:
    page = render_concept_page(report)
    _is_self_contained(page)
    assert page == render_concept_page(report)
    assert len(re.findall(r'class="map opposite"', page)) == 2 * 2
    assert page.count('class="bars"') == 2 * 3
    ends = [
        float(x) for found in report.explanations for x in (*found.signed[0, :, 1], *found.interval()[..., 1].flatten())
    ]  # type: ignore[index]
    scale = Scale.over(ends)
    for found in report.explanations:
        for d in range(2):
            assert f">{scale.write(float(found.signed[0, d, 1]))}<" in page.replace("<small>", "<")
            assert f"{float(found.reference[0, d, 1]):.3f}<small>" in page
    assert "seen" in page
    assert str(report.classifier["weights"]) in page


def test_the_local_page_is_written_whole(report: ImageConcepts, tmp_path: Path) -> None:
    write_concept_page(tmp_path / "deep" / "x.html", report)
    assert (tmp_path / "deep" / "x.html").read_text() == render_concept_page(report)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.html"]


def test_without_permutations_the_page_says_that_nothing_was_tested(
    classifier: pl.Classifier, explainers: list[VisualTCAV], files: list[Path]
) -> None:
    plain = [VisualTCAV(each.view, each.cavs, permutations=0) for each in explainers]
    page = render_concept_page(explain_image_by_concepts(classifier, files[0], plain, ["zebra"]))
    assert "not tested" in page
    assert "nothing was tested" in page or "can be shown to have counted" in page
    assert "significant," not in page


def test_the_global_page_ranks_per_class_and_layer_with_examples(
    classifier: pl.Classifier, explainers: list[VisualTCAV], files: list[Path], tmp_path: Path
) -> None:
    report = class_report(classifier, explainers, files, "1", "0")
    page = render_class_page(report)
    _is_self_contained(page)
    assert page.count('class="bars wide"') == 2 * 2
    for found in report.results:
        for t in range(2):
            assert f"{float(found.reference.mean[0, t]):.4f}<small>" in page
    assert len(re.findall(r'class="shot"', page)) == 2 * 2 * 2 * (3 + 3)
    write_class_page(tmp_path / "x.html", report)
    assert (tmp_path / "x.html").read_text() == page


def test_examples_are_the_images_with_the_most_and_the_least_evidence(
    classifier: pl.Classifier, explainers: list[VisualTCAV], files: list[Path]
) -> None:
    report = class_report(classifier, explainers, files, "1")
    results, examples = report.results, report.examples
    (scale,) = [Scale.over(results[0].signed.values.flatten().tolist())]
    for view in example_views(examples, results[0], 0, scale):
        d = results[0].concepts.index(view["name"])
        order = results[0].signed.values[:, d, 0].argsort(descending=True, stable=True).tolist()
        assert [shot["image"] for shot in view["highest"]] == order[:3]
        assert [shot["image"] for shot in view["lowest"]] == order[:-4:-1]
    found = explainers[0](classifier.read(files[2]), [1])
    if ("1", 2) in examples.maps:
        torch.testing.assert_close(examples.maps["1", 2], found.maps[0])
    assert ("1", 0) in examples.maps  # the first images stand for the class


def test_one_image_of_a_class_has_no_lowest(
    classifier: pl.Classifier, explainers: list[VisualTCAV], files: list[Path]
) -> None:
    page = render_class_page(class_report(classifier, explainers, files[:1], "1"))
    assert "1 image, each" in page
    assert ">least<" not in page


@pytest.mark.parametrize(
    ("adjusted", "status", "raw", "kind", "says"),
    [
        (0.01, Status.OK, 0.005, "yes", "significant, p = 0.01"),
        (0.2, Status.OK, 0.1, "no", "not significant, p = 0.2"),
        (0.2, Status.OK, 0.01, "open", "none of 99 relabelings does as well"),
        (None, Status.OK, None, "open", "not tested"),
        (0.01, Status.EMPTY_MAP, 0.01, "zero", Status.EMPTY_MAP.explanation),
        (0.01, Status.CAV_WEAK, 0.01, "no", Status.CAV_WEAK.explanation),
        (0.0001, Status.NOT_CONVERGED, 0.0001, "no", "p < 0.001"),
    ],
)
def test_a_bar_is_believed_only_if_nothing_speaks_against_it(
    adjusted: float | None, status: Status, raw: float | None, kind: str, says: str
) -> None:
    found = verdict(adjusted, status, raw, 99)
    assert found["kind"] == kind
    assert says in found["text"]


def test_bars_and_intervals_lie_on_one_scale() -> None:
    scale = Scale.over([-1.0, 0.5, 3.0, math.nan])
    assert (scale.low, scale.high) == pytest.approx((-1.12, 3.12))
    bar = scale.bar(-1.0, -1.0, 1.0)
    zero = 100 * 1.12 / 4.24
    assert bar["zero"] == pytest.approx(zero, abs=0.01)
    assert bar["left"] == bar["low"] == pytest.approx(100 * 0.12 / 4.24, abs=0.01)
    assert bar["width"] == pytest.approx(100 / 4.24, abs=0.02)
    assert bar["span"] == pytest.approx(200 / 4.24, abs=0.02)
    assert (bar["sign"], scale.bar(1.0)["sign"], scale.bar(1.0)["low"]) == ("against", "for", None)
    assert [text for _, text in scale.ticks] == ["0", "2"]
    assert (scale.write(-0.426), scale.write(0.001), scale.write(2.0), scale.write(math.inf)) == (
        *("−0.43", "0.00", "+2.00", "no number"),
    )
    assert Scale.over([]).place(0.0) == Scale.over([0.0, 0.0]).place(0.0) == 0.0
    assert Scale.over([-1.0, -2.0]).place(0.0) == 100.0


def test_a_gap_is_put_into_words() -> None:
    assert "can be trusted" in describe_gap(0.01, 5.0)
    assert "rough" in describe_gap(0.05, 5.0)
    assert "do not take the bars for amounts" in describe_gap(0.5, 5.0)
    assert "does not" in describe_gap(math.inf, 0.0)


def test_a_geometry_keeps_its_place_on_a_resized_image() -> None:
    geometry = pl.data.Geometry(width=100, height=50, box=(25, 0, 75, 50))
    small = resize_geometry(geometry, (20, 10))
    placed = small.place(torch.ones(2, 2))
    assert placed.shape == (10, 20)
    assert placed.isfinite().nonzero()[:, 1].unique().tolist() == list(range(5, 15))
