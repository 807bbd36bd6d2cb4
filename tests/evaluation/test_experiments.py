"""The parts of the committed experiments that could be wrong in silence."""

from pathlib import Path

import pytest
import torch
from experiments.attribution_evaluation.claims import judge_claims
from experiments.attribution_evaluation.commands import RESULTS
from experiments.attribution_evaluation.connected_heads import HEADS, connected_classifier, toy_shares
from experiments.attribution_evaluation.images import imagenet_images
from experiments.attribution_evaluation.models import load_model
from experiments.attribution_evaluation.networks import CifarResNet, MobileNetV2
from experiments.attribution_evaluation.results import read_results
from experiments.attribution_evaluation.smoothing import smoothing_of

from pellucid import Classifier
from pellucid.data import Preprocess
from pellucid.evaluation import DiFull, attainable_score


def resnet() -> Classifier:
    network = CifarResNet(8).eval()
    return Classifier(network, preprocess=Preprocess((32, 32)), input_size=32)


@pytest.mark.parametrize("head", HEADS)
def test_heads_connected_to_all_cells_compute_what_difull_does(head: str) -> None:
    classifier, grid = resnet(), torch.rand(2, 3, 64, 64)
    wanted = DiFull(classifier).logits(grid)
    for cell in (0, 3):
        found = connected_classifier(classifier, cell, head).logits(grid)
        torch.testing.assert_close(found, wanted[:, cell], rtol=1e-3, atol=1e-4)


def test_cancelling_units_draw_relevance_away_under_z_plus_and_not_under_epsilon() -> None:
    shares = toy_shares(10)
    assert shares["epsilon"] == pytest.approx([1.0] * 10)
    assert max(shares["z+"]) < 0.95


@pytest.mark.parametrize("kernel", [9, 33, 129])
def test_the_closed_form_of_the_leak_is_that_of_a_smoothed_uniform_cell(kernel: int) -> None:
    closed = (1 - 0.3614 * kernel / 4 / 224) ** 2
    assert attainable_score((448, 448), 2, 0, (448, 448), kernel) == pytest.approx(closed, abs=2e-3)


def test_mobilenet_s_channels_follow_the_images_size() -> None:
    network = MobileNetV2(7).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 96)).shape == (1, 7)
        assert network.features(torch.rand(1, 3, 64, 96)).shape == (1, 1280, 2, 3)


def test_mobilenet_s_dequantized_weights_recognize_real_images(shared_data: Path) -> None:
    pytest.importorskip("tflite", reason="reads the quantized weights: pip install tflite")
    classifier = load_model("mobilenet_v2", shared_data)
    images = imagenet_images(shared_data)[:240:10]
    predictions = classifier.predict(classifier.read([path for path, _ in images]), top=5)
    right = [label in [each.index for each in found] for (_, label), found in zip(images, predictions, strict=True)]
    assert sum(right) > 0.6 * len(right)


@pytest.mark.parametrize("name", ["imagenet", "cifar-2x2"])
def test_the_committed_results_are_tables_that_claims_can_be_judged_on(name: str) -> None:
    table = read_results(RESULTS, name)
    assert table is not None
    claims = judge_claims(table)
    assert [claim.number for claim in claims] == list(range(1, 14))
    assert sum(claim.verdict != "not measured" for claim in claims) >= 8
    rows = smoothing_of(table, 32)
    assert {row["method"] for row in rows} == {"InputXGradient", "IntegratedGradients"}


def test_the_committed_results_stay_small() -> None:
    files = [path for path in RESULTS.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 4_000_000
