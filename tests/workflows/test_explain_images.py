"""Explaining image files: where evidence lies, what it costs, and what is passed over."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.cli.command import pellucid
from tests.workflows.support import BrightLeft, bright_left_classifier, write_wide_image
from torch import Tensor

import pellucid as pl
from pellucid.workflows import ExplainOptions, explain_image, explain_images


@pytest.fixture
def classifier() -> pl.Classifier:
    return bright_left_classifier()


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    return write_wide_image(tmp_path)


def test_evidence_lands_where_it_is_on_the_original_image(classifier: pl.Classifier, wide: Path) -> None:
    report = explain_image(classifier, wide, [pl.attribution.InputXGradient()], ["input"], "left")
    (explanation,) = report.explanations
    placed = report.geometry.place(explanation.values[0, 0])
    assert placed.shape == (40, 80)
    assert placed[:, :20].isnan().all()
    assert placed[:, 60:].isnan().all()
    assert (placed[:, 21:38] > 0).all()
    assert (placed[:, 43:60].abs() < 1e-6).all()
    assert [p.name for p in report.predictions] == ["left", "right"]


def test_methods_at_one_layer_share_the_part_before_it(classifier: pl.Classifier, wide: Path) -> None:
    methods = [pl.attribution.InputXGradient(), pl.attribution.Gradient(), pl.attribution.GradCAM()]
    report = explain_image(classifier, wide, methods, ["input"], "left")
    backward = [explanation.passes.suffix_backward for explanation in report.explanations]
    assert backward == [1, 0, 0]


def test_a_foreign_preprocessing_is_measured(wide: Path) -> None:
    def squash(image: Image.Image) -> Tensor:
        import numpy as np

        return torch.from_numpy(np.array(image.resize((8, 8)))).permute(2, 0, 1).float() / 255

    classifier = pl.Classifier(BrightLeft().eval(), preprocess=squash, input_size=8)
    report = explain_image(classifier, wide, [pl.attribution.Gradient()], ["input"])
    assert report.geometry.box == pytest.approx((0, 0, 80, 40), abs=1.0)


def test_the_page_and_the_command_report_the_passes_that_python_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40), "gray").save("gray.png")
    digits = pl.load("digit_cnn")
    images = digits.read("gray.png")
    for names in (["GradCAM"], ["Occlusion"], ["LRP"], ["GradCAM", "InputXGradient", "IntegratedGradients"]):
        methods = [pl.attribution.METHODS[name]() for name in names]
        report = explain_image(digits, "gray.png", methods, ["final", "input"])
        in_python = [
            explanation.passes
            for layer in ("input", "final")
            for explanation in pl.attribution.explain(digits.at(layer), images, None, methods)
        ]
        assert [explanation.passes for explanation in report.explanations] == in_python
        assert in_python[0].prefix_forward == 1
        if len(methods) == 1:
            assert in_python == [methods[0](digits.at(layer), images).passes for layer in ("input", "final")]
        arguments = ["explain", "gray.png", "--model", "digit_cnn", "--layers", "final,input", "--json"]
        (output,) = json.loads(pellucid(*arguments, "--methods", ",".join(names))[1])["images"]
        assert [vars(passes) for passes in in_python] == [each["passes"] for each in output["explanations"]]


def test_the_methods_passes_add_up_to_those_of_the_same_calls_in_python(classifier: pl.Classifier, wide: Path) -> None:
    methods = [pl.attribution.IntegratedGradients(steps=3), pl.attribution.Occlusion(window=2, stride=2)]
    report = explain_image(classifier, wide, methods, ["input"], ["left", "right"])
    alone = pl.attribution.explain(classifier.at("input"), classifier.read(wide), ["left", "right"], methods)
    assert [each.passes for each in report.explanations] == [each.passes for each in alone]
    assert all(each.receipt.seconds is not None for each in report.explanations)
    numbers = report.to_dict()["explanations"]
    assert [each["passes"] for each in numbers] == [vars(each.passes) for each in alone]


def test_a_file_that_is_not_an_image_is_passed_over_if_that_is_noted(
    classifier: pl.Classifier, wide: Path, tmp_path: Path
) -> None:
    (tmp_path / "note.png").write_text("no image")
    options = ExplainOptions(methods=("Gradient",), layers=("input",), target=("right",))
    failures = []
    files = [tmp_path / "note.png", wide]
    reports = list(explain_images(classifier, files, options, on_failure=lambda file, error: failures.append(file)))
    assert [report.path for report in reports] == [wide]
    assert failures == [tmp_path / "note.png"]
    assert reports[0].explanations[0].targets == (("right",),)
    with pytest.raises(pl.PellucidError, match="note"):
        list(explain_images(classifier, files, options))
