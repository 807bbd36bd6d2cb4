"""Everything about one explained image in a folder."""

from pathlib import Path

import pytest
import torch
from tests.workflows.support import bright_left_classifier, write_wide_image
from torch import nn

import pellucid as pl
from pellucid.reports import write_image_report
from pellucid.workflows import explain_image


@pytest.fixture
def classifier() -> pl.Classifier:
    return bright_left_classifier()


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    return write_wide_image(tmp_path)


def test_the_folder_holds_a_page_every_overlay_and_the_maps(
    classifier: pl.Classifier, wide: Path, tmp_path: Path
) -> None:
    methods = [pl.attribution.InputXGradient(), pl.attribution.Gradient()]
    report = explain_image(classifier, wide, methods, ["input"], ["left", "right"])
    page, *overlays, maps = write_image_report(report, tmp_path / "out")
    assert page.name == "index.html"
    assert sorted(path.name for path in overlays) == [
        "input-Gradient-left.png",
        "input-Gradient-right.png",
        "input-InputXGradient-left.png",
        "input-InputXGradient-right.png",
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {p.name for p in (page, *overlays, maps)}
    from safetensors import safe_open

    with safe_open(maps, "pt") as saved:
        assert torch.equal(saved.get_tensor("input/Gradient"), report.explanations[1].values)
        assert saved.metadata()["targets"] == "left\nright"
        assert saved.metadata()["classifier.weights"] == classifier.fingerprint()


def test_an_alias_is_named_beside_the_layer(wide: Path, tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    classifier = pl.Classifier(net.eval(), preprocess=pl.data.Preprocess((8, 8)))
    report = explain_image(classifier, wide, [pl.attribution.GradCAM()], ["final", "0"])
    assert dict(report.layers) == {"1": "final: 1", "0": "0"}
    page = write_image_report(report, tmp_path / "out")[0].read_text()
    assert "final: 1" in page
