"""Global explanations: means and intervals of what local ones say, over images streamed in any form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.concepts.support import LinearHead, cav_for, curved_view, view_of
from torch import Tensor

import pellucid as pl
from pellucid.attribution import Target
from pellucid.concepts import Bootstrap, Estimate, VisualTCAV, explain_class
from pellucid.concepts.concept_explanation import score_p_values
from pellucid.data import Preprocess
from pellucid.errors import PellucidError, TargetError
from pellucid.statistics import holm, mean_interval, sign_flip_p_value

VIEW = curved_view()
IMAGES = torch.randn(20, 4, 3, 5, generator=torch.Generator().manual_seed(3))
CAVS = [
    cav_for(VIEW, torch.tensor([1.0, -0.5, 0.2, 0.1]), 0.1, 1.0, name="one"),
    cav_for(VIEW, torch.tensor([-0.3, 0.8, 0.4, -0.2]), 0.0, 0.9, name="other"),
    cav_for(VIEW, torch.tensor([0.3, 0.1, -0.4, 0.9]), 0.0, 2.9, name="third"),
]
EXPLAINER = VisualTCAV(VIEW, CAVS, permutations=29, tolerance=None, max_batch=7)


def test_the_published_interval_has_its_hand_checked_value() -> None:
    spread = torch.cat([torch.full((25,), -0.0177), torch.full((25,), 0.0177)])
    values = (0.0641 + spread).double()[:, None, None]
    estimate = Estimate(values, torch.zeros(1, 1), torch.zeros(1, 1), None, None)
    assert float(estimate.deviation) == pytest.approx(0.0177)
    assert estimate.standard_errors.flatten().tolist() == pytest.approx([0.0591, 0.0691], abs=5e-5)


def test_the_published_interval_is_never_negative() -> None:
    view = view_of(LinearHead(torch.eye(4)[:2], torch.zeros(2)), (4, 3, 5))
    once = torch.zeros(3, 4, 3, 5)
    once[0, 0] = 1.0  # evidence in one image of three: two standard errors reach below zero
    result = explain_class(VisualTCAV(view, [cav_for(view, torch.eye(4)[0])], permutations=0), once, 0)
    assert result.reference.standard_errors[0].item() < 0
    torch.testing.assert_close(result.published_interval[:, 0, 0], torch.tensor([0.0, 1 / 3 + 2 * (2 / 27) ** 0.5]))


def test_means_deviations_and_tests_are_those_of_the_local_explanations() -> None:
    result, local = explain_class(EXPLAINER, IMAGES, [0, 2]), EXPLAINER(IMAGES, [0, 2])
    assert local.nulls is not None
    for estimate, values, nulls, two_sided in (
        (result.reference, local.reference, local.nulls.reference, False),
        (result.signed, local.signed, local.nulls.signed, True),
    ):
        torch.testing.assert_close(estimate.mean, values.mean(0), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(estimate.deviation, values.std(0, correction=0), atol=1e-6, rtol=1e-4)
        low, high = mean_interval(values)
        torch.testing.assert_close(estimate.low, low, atol=1e-6, rtol=1e-4, equal_nan=True)
        torch.testing.assert_close(estimate.high, high, atol=1e-6, rtol=1e-4, equal_nan=True)
        p_values = score_p_values(values.mean(0), nulls.mean(0), two_sided=two_sided)
        torch.testing.assert_close(estimate.p_values, p_values)
    torch.testing.assert_close(result.share_seen, (local.maps.amax((2, 3)) >= 0.5).double().mean(0))
    assert result.status.tolist() == local.status.tolist()
    assert result.targets == ("class 0", "class 2")
    assert result.passes.prefix_forward == 20


def test_the_ranking_goes_down_and_compares_neighbors_image_by_image() -> None:
    result = explain_class(EXPLAINER, IMAGES, 0)
    ranking = result.ranking(score="signed")
    means = {cav.name: float(result.signed.mean[d, 0]) for d, cav in enumerate(CAVS)}
    assert [place.concept for place in ranking] == sorted(means, key=lambda name: -means[name])
    index = [result.concepts.index(place.concept) for place in ranking]
    leads = result.signed.values[:, index[:-1], 0] - result.signed.values[:, index[1:], 0]
    adjusted = holm(sign_flip_p_value(leads))
    for place, lead, p_value in zip(ranking[:-1], leads.T, adjusted, strict=True):
        assert place.lead == pytest.approx(float(lead.mean()), rel=1e-4)
        assert place.lead_low < place.lead < place.lead_high  # type: ignore[operator]
        assert place.lead_p_value == pytest.approx(float(p_value))
    assert ranking[-1].lead is None
    with pytest.raises(PellucidError, match="unknown score 'both'"):
        result.ranking(score="both")


@pytest.mark.parametrize("count", [1, 4])
def test_few_images_have_means_and_no_intervals_and_a_note_says_so(count: int) -> None:
    result = explain_class(EXPLAINER, IMAGES[:count], 0)
    assert torch.isnan(torch.stack([result.signed.low, result.signed.high, result.reference.low])).all()
    assert any("too few for intervals of means, which need 5" in note for note in result.notes)
    first = result.ranking(score="signed")[0]
    assert (first.low, first.high, first.lead_low, first.lead_high) == (None, None, None, None)
    assert {row["low"] for row in result.rows() if row["number"] == "signed_mean"} == {None}
    assert not any("too few" in note for note in explain_class(EXPLAINER, IMAGES[:5], 0).notes)


def test_one_concept_can_be_ranked() -> None:
    (only,) = explain_class(VisualTCAV(VIEW, CAVS[:1], permutations=0), IMAGES, 0).ranking()
    assert (only.concept, only.lead) == ("one", None)


def test_hierarchical_intervals_are_wider() -> None:
    plain = explain_class(EXPLAINER, IMAGES, 0)
    wide = explain_class(EXPLAINER, IMAGES, 0, bootstrap=Bootstrap(hierarchical=True))
    assert wide.bootstrap.hierarchical
    assert float((wide.signed.high - wide.signed.low).mean()) > float((plain.signed.high - plain.signed.low).mean())
    torch.testing.assert_close(wide.signed.mean, plain.signed.mean)


def _streams() -> list[object]:
    return [IMAGES, list(IMAGES.split(3)), iter(IMAGES.split(8))]


@pytest.mark.parametrize("index", range(3))
def test_images_may_come_in_batches_of_any_size(index: int) -> None:
    result = explain_class(EXPLAINER, _streams()[index], 1)  # type: ignore[arg-type]
    expected = explain_class(EXPLAINER, IMAGES, 1)
    torch.testing.assert_close(result.signed.values, expected.signed.values, atol=1e-6, rtol=1e-4)
    assert result.sources == tuple(f"image {n}" for n in range(20))


def test_files_are_read_batch_by_batch_and_named(tmp_path: Path) -> None:
    classifier = pl.Classifier(
        LinearHead(torch.randn(3, 3), torch.zeros(3)).eval(), preprocess=Preprocess((6, 6)), input_size=6
    )
    view = classifier.at("input")
    files = []
    for n in range(5):
        files.append(tmp_path / f"{n}.png")
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(files[-1])
    explainer = VisualTCAV(view, [cav_for(view, torch.ones(3))], permutations=0, max_batch=2)
    result = explain_class(explainer, files, "class 1")
    assert result.sources == tuple(map(str, files))
    expected = explain_class(explainer, classifier.read(files), 1)
    torch.testing.assert_close(result.signed.values, expected.signed.values)


def test_the_table_has_a_row_for_each_score_concept_and_target() -> None:
    rows = [row for row in explain_class(EXPLAINER, IMAGES, [0, 1]).rows() if str(row["number"]).endswith("_mean")]
    assert len(rows) == 2 * 3 * 2
    assert {row["number"] for row in rows} == {"reference_mean", "signed_mean"}
    known = [row for row in rows if row["low"] is not None]
    assert {row["number"] for row in known} == {"reference_mean", "signed_mean"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in known)


@pytest.mark.parametrize("target", [None, torch.zeros(20, dtype=torch.long), Target()])
def test_targets_that_go_image_by_image_are_errors(target: object) -> None:
    with pytest.raises(TargetError, match="one class, or a list of them, for all images"):
        explain_class(EXPLAINER, IMAGES, target)


@pytest.mark.parametrize("images", [IMAGES[:0], [], iter(())])
def test_no_images_are_an_error(images: Tensor) -> None:
    with pytest.raises(PellucidError, match="no images to explain"):
        explain_class(EXPLAINER, images, 0)
