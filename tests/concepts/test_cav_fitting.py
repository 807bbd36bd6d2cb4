"""Fitting CAVs: the published algorithm step by step, quality measures that mean what they say, shared passes."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.concepts.support import LinearHead, curved_view, view_of
from torch import Tensor, nn

from pellucid.classifiers import LayerView
from pellucid.concepts import (
    ConceptWarning,
    FitOptions,
    fit_cav,
    fit_cavs,
)
from pellucid.concepts import cav_fitting as module
from pellucid.concepts.concept_scores import contraharmonic_mean, sample_median
from pellucid.concepts.estimators import ESTIMATORS, Ridge
from pellucid.errors import PellucidError

VIEW = curved_view()


def _images(count: int, shift: float = 0.0, seed: int = 0) -> Tensor:
    """Images (count, 4, 3, 5); channel 0 is raised by `shift`, channel 1 lowered."""
    images = torch.randn(count, 4, 3, 5, generator=torch.Generator().manual_seed(seed))
    images[:, 0] += shift
    images[:, 1] -= shift / 2
    return images


CONCEPT, NEGATIVES = _images(12, 0.8, seed=1), _images(16, seed=2)


def _slow_levels(images: Tensor, direction: Tensor) -> list[float]:
    levels = []
    for image in images:
        r = [max(0.0, float(direction @ image[:, i, j])) for i in range(3) for j in range(5)]
        levels.append(sum(v * v for v in r) / (sum(r) + 1e-7))
    return levels


def _slow_median(values: list[float]) -> float:
    return sorted(values)[round((len(values) - 1) / 2)]


def test_direction_and_emblems_are_those_of_the_published_algorithm() -> None:
    cav = fit_cav(VIEW, CONCEPT, NEGATIVES)
    means = [torch.stack([image.mean((1, 2)) for image in images]).mean(0) for images in (CONCEPT, NEGATIVES)]
    direction = means[0] - means[1]
    torch.testing.assert_close(cav.direction, direction, atol=1e-6, rtol=1e-5)
    assert cav.emblems.high == pytest.approx(_slow_median(_slow_levels(CONCEPT, direction)), rel=1e-5)
    assert cav.emblems.low == pytest.approx(_slow_median(_slow_levels(NEGATIVES, direction)), rel=1e-5)
    assert cav.negative_emblems.high == pytest.approx(_slow_median(_slow_levels(NEGATIVES, -direction)), rel=1e-5)
    assert cav.negative_emblems.low == pytest.approx(_slow_median(_slow_levels(CONCEPT, -direction)), rel=1e-5)
    assert cav.is_separable
    assert not cav.is_weak


def test_swapping_concept_and_negatives_turns_the_cav_round() -> None:
    cav, swapped = fit_cav(VIEW, CONCEPT, NEGATIVES), fit_cav(VIEW, NEGATIVES, CONCEPT)
    torch.testing.assert_close(swapped.direction, -cav.direction)
    assert swapped.emblems == pytest.approx(cav.negative_emblems)
    assert swapped.negative_emblems == pytest.approx(cav.emblems)


def test_the_order_of_the_images_does_not_matter() -> None:
    cav, turned = fit_cav(VIEW, CONCEPT, NEGATIVES), fit_cav(VIEW, CONCEPT.flip(0), NEGATIVES.flip(0))
    torch.testing.assert_close(turned.direction, cav.direction)
    assert turned.emblems == pytest.approx(cav.emblems)


def test_resamples_have_the_emblems_of_their_own_images() -> None:
    cav = fit_cav(VIEW, CONCEPT, NEGATIVES, options=FitOptions(resamples=3))
    generator = torch.Generator().manual_seed(0)
    for _ in range(FitOptions().splits):
        torch.randperm(12, generator=generator), torch.randperm(16, generator=generator)
    for b in range(3):
        shown = CONCEPT[torch.randint(12, (12,), generator=generator)]
        absent = NEGATIVES[torch.randint(16, (16,), generator=generator)]
        direction = shown.mean((0, 2, 3)) - absent.mean((0, 2, 3))
        torch.testing.assert_close(cav.resamples[b], direction, atol=1e-6, rtol=1e-5)
        levels = [contraharmonic_mean(torch.einsum("nchw,c->nhw", side, direction).relu()) for side in (absent, shown)]
        torch.testing.assert_close(cav.resample_emblems[b], torch.stack([sample_median(one) for one in levels]))


def test_a_clear_concept_has_a_high_auc_and_a_stable_direction() -> None:
    cav = fit_cav(VIEW, _images(30, 2.0, seed=1), _images(30, seed=2))
    assert cav.auc > 0.95
    assert cav.stability > 0.9


def test_the_auc_is_held_out_so_that_chance_scores_a_half() -> None:
    """With many channels, images that were fitted to would be told apart perfectly."""
    generator = torch.Generator().manual_seed(0)
    view = view_of(LinearHead(torch.ones(2, 300), torch.zeros(2)), (300, 1, 1))
    concept, negatives = torch.randn(2, 40, 300, 1, 1, generator=generator)
    with pytest.warns(ConceptWarning, match=r"held-out AUC 0\.\d\d, below 0\.7"):
        cav = fit_cav(view, concept, negatives)
    fitted_to = (concept.mean((2, 3)) @ cav.direction)[:, None] > (negatives.mean((2, 3)) @ cav.direction)[None]
    assert float(fitted_to.double().mean()) > 0.99
    assert 0.3 < cav.auc < 0.65
    assert cav.is_weak
    assert cav.stability < 0.7


def test_the_same_seed_gives_the_same_quality_and_another_seed_another() -> None:
    one, again, other = (fit_cav(VIEW, CONCEPT, NEGATIVES, options=FitOptions(seed=seed)) for seed in (1, 1, 2))
    assert (one.auc, one.stability) == (again.auc, again.stability)
    assert (one.auc, one.stability) != (other.auc, other.stability)
    assert torch.equal(one.direction, other.direction)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_makes_a_separable_cav(estimator: str) -> None:
    cav = fit_cav(VIEW, CONCEPT, NEGATIVES, estimator, options=FitOptions(resamples=2, splits=2))
    assert cav.estimator == estimator
    assert cav.is_separable
    assert cav.auc > 0.7


def test_options_of_an_estimator_are_recorded_and_used() -> None:
    weak, strong = (fit_cav(VIEW, CONCEPT, NEGATIVES, Ridge(penalty=penalty)) for penalty in (1e-3, 100.0))
    assert weak.estimator_options == {"penalty": 1e-3}
    cosine = torch.nn.functional.cosine_similarity(weak.direction, strong.direction, dim=0)
    assert float(cosine) < 0.999


def test_what_was_used_is_recorded(tmp_path: Path) -> None:
    view = view_of(LinearHead(torch.ones(2, 3), torch.zeros(2)), (3, 4, 4))
    view.classifier.preprocess = lambda image: torch.from_numpy(np.array(image.resize((4, 4)))).permute(2, 0, 1) / 255.0
    generator = np.random.default_rng(0)
    for name in ("striped", "plain"):
        (tmp_path / name).mkdir()
        for index in range(11):
            pixels = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8) // (1 + (name == "plain"))
            Image.fromarray(pixels).save(tmp_path / name / f"{index:02}.png")
    cav = fit_cav(view, tmp_path / "striped", tmp_path / "plain")
    assert cav.name == "striped"
    assert cav.sources == tuple(str(tmp_path / "striped" / f"{index:02}.png") for index in range(11))
    assert (cav.layer, cav.classifier) == ("input", "LinearHead")
    assert cav.fingerprint == view.classifier.fingerprint()
    assert cav.summary()["images"] == 11
    assert fit_cav(view, tmp_path / "striped", tmp_path / "plain", name="lines").name == "lines"


class _Counting:
    """A view that counts the images that go through it."""

    def __init__(self, view: LayerView) -> None:
        self.view, self.layer, self.layout, self.classifier, self.count = (
            view,
            view.layer,
            view.layout,
            view.classifier,
            0,
        )

    def activation(self, images: Tensor) -> Tensor:
        self.count += len(images)
        return self.view.activation(images)


def test_negatives_and_concepts_go_through_the_network_once_for_all_concepts() -> None:
    view = _Counting(VIEW)
    sets = {"one": CONCEPT, "two": _images(11, -1.0, seed=5), "three": _images(13, 2.0, seed=6)}
    cavs = fit_cavs(view, sets, NEGATIVES)  # type: ignore[arg-type]
    assert view.count == 12 + 11 + 13 + 16
    for cav, images in zip(cavs, sets.values(), strict=True):
        alone = fit_cav(VIEW, images, NEGATIVES)
        assert torch.equal(cav.direction, alone.direction)
        assert cav.emblems == pytest.approx(alone.emblems)


def test_many_images_are_streamed_twice_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fit_cav(VIEW, CONCEPT, NEGATIVES)
    monkeypatch.setattr(module, "CONCEPT_CACHE_BYTES", 0)
    monkeypatch.setattr(module, "NEGATIVE_CACHE_BYTES", 0)
    view = _Counting(VIEW)
    streamed = fit_cav(view, CONCEPT, NEGATIVES)  # type: ignore[arg-type]
    assert view.count == 2 * (12 + 16)
    assert streamed.emblems == kept.emblems
    assert torch.equal(streamed.direction, kept.direction)


def test_only_the_inside_of_masks_makes_the_cav() -> None:
    masks = torch.zeros(12, 3, 5)
    masks[:, :, :2] = 1
    cav = fit_cav(VIEW, module.concept_set(CONCEPT, masks=list(masks)), NEGATIVES)
    torch.testing.assert_close(cav.direction, CONCEPT[..., :2].mean((0, 2, 3)) - NEGATIVES.mean((0, 2, 3)))
    levels = _slow_levels_of_cells(CONCEPT[..., :2], cav.direction)
    assert cav.emblems.high == pytest.approx(_slow_median(levels), rel=1e-5)


def _slow_levels_of_cells(images: Tensor, direction: Tensor) -> list[float]:
    raw = torch.einsum("nchw,c->nhw", images, direction).relu().flatten(1)
    return (raw.square().sum(1) / raw.sum(1)).tolist()


def test_activations_that_never_differ_make_a_weak_cav_that_is_not_separable() -> None:
    view = view_of(nn.Sequential(_Constant(), LinearHead(torch.ones(2, 3), torch.zeros(2))), (4, 3, 5), "0")
    with pytest.warns(ConceptWarning, match=r"no direction, .* activate it alike: AUC 0\.50"):
        cav = fit_cav(view, CONCEPT, NEGATIVES)
    assert not bool(cav.direction.any())
    assert not cav.is_separable
    assert cav.is_weak
    assert cav.stability == 0.0


class _Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3] * 0 + torch.tensor([0.1, 0.7, 1 / 3])[:, None, None]


def test_flattened_features_have_a_direction_per_cell_and_no_emblems() -> None:
    cav = fit_cav(VIEW, CONCEPT, NEGATIVES, options=FitOptions(features="flattened"))
    torch.testing.assert_close(cav.direction, (CONCEPT.mean(0) - NEGATIVES.mean(0)).flatten(), atol=1e-6, rtol=1e-5)
    assert not cav.is_separable
    assert not cav.is_pooled
    assert np.isnan(cav.emblems).all()


def test_few_and_shared_images_are_warned_of_and_recorded() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cav = fit_cav(VIEW, torch.cat([CONCEPT[:5], NEGATIVES[:1]]), NEGATIVES)
    assert all(issubclass(warning.category, ConceptWarning) for warning in caught)
    assert [str(warning.message) for warning in caught] == list(cav.remarks)
    assert any("6 images only" in remark for remark in cav.remarks)
    assert any("1 images of concept 'concept' are among its negatives" in remark for remark in cav.remarks)


def test_a_concept_equal_to_its_negatives_is_an_error() -> None:
    with pytest.raises(PellucidError, match="are the same images"):
        fit_cav(VIEW, NEGATIVES, NEGATIVES)


@pytest.mark.parametrize(
    "options", [{"features": "raw"}, {"splits": 0}, {"holdout": 1.0}, {"resamples": 1}, {"max_batch": 0}]
)
def test_options_that_make_no_sense_are_errors(options: dict[str, object]) -> None:
    with pytest.raises(PellucidError, match=r"unknown features|expected splits"):
        FitOptions(**options)  # type: ignore[arg-type]
