"""Streamed activations: pooled, masked, projected, and never more of them in memory than allowed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.concepts.support import Function, LinearHead, curved_view, view_of
from torch import Tensor, nn

import pellucid as pl
from pellucid.classifiers import LayerView
from pellucid.concepts import concept_set
from pellucid.concepts import layer_activations as module
from pellucid.concepts.concept_scores import contraharmonic_mean
from pellucid.concepts.layer_activations import Inputs, LayerActivations
from pellucid.data import Preprocess
from pellucid.errors import ModelError, PellucidError

IMAGES = torch.randn(5, 4, 3, 5, generator=torch.Generator().manual_seed(2))


def _of(view: LayerView, images: object, cache_bytes: int = 0, **options: object) -> LayerActivations:
    concept = concept_set(images, **options)  # type: ignore[arg-type]
    return LayerActivations(view, Inputs(concept, view.classifier, 2), cache_bytes)


def test_pooling_is_the_mean_over_the_cells_of_each_image() -> None:
    torch.testing.assert_close(_of(curved_view(), IMAGES).pooled(), IMAGES.double().mean((2, 3)))


def test_flattening_keeps_every_cell() -> None:
    torch.testing.assert_close(_of(curved_view(), IMAGES).flattened(), IMAGES.double().flatten(1))


def test_only_what_lies_inside_a_mask_is_pooled() -> None:
    masks = torch.zeros(5, 3, 5)
    masks[:, 1, 2:4] = 1
    pooled = _of(curved_view(), IMAGES, masks=list(masks)).pooled()
    torch.testing.assert_close(pooled, IMAGES[:, :, 1, 2:4].double().mean(2))


def test_a_mask_counts_for_a_cell_by_the_share_it_covers() -> None:
    view = view_of(nn.Sequential(nn.AvgPool2d(2), LinearHead(torch.ones(2, 1), torch.zeros(2))), (1, 4, 4), "0")
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    mask = torch.zeros(4, 4)
    mask[0, 0:3] = 1  # half of the first cell, a quarter of the second
    cells = nn.functional.avg_pool2d(image, 2)[0, 0]
    expected = (0.5 * cells[0, 0] + 0.25 * cells[0, 1]) / 0.75
    assert float(_of(view, image, masks=[mask]).pooled()) == pytest.approx(float(expected))


def test_levels_are_contraharmonic_means_of_rectified_projections() -> None:
    directions = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    raw = torch.einsum("nchw,dc->ndhw", IMAGES.double(), directions).relu()
    torch.testing.assert_close(_of(curved_view(), IMAGES).projection_levels(directions), contraharmonic_mean(raw))


def test_levels_of_masked_images_ignore_what_lies_outside() -> None:
    directions, masks = torch.randn(2, 4).double(), torch.zeros(5, 3, 5)
    masks[:, :2, :3] = 1
    inside = _of(curved_view(), IMAGES, masks=list(masks)).projection_levels(directions)
    raw = torch.einsum("nchw,dc->ndhw", IMAGES[:, :, :2, :3].double(), directions).relu()
    torch.testing.assert_close(inside, contraharmonic_mean(raw))


class _Counting:
    """A view that counts the images that go through it."""

    def __init__(self, view: LayerView) -> None:
        self.view, self.layer, self.classifier, self.count = view, view.layer, view.classifier, 0

    def activation(self, images: Tensor) -> Tensor:
        self.count += len(images)
        return self.view.activation(images)


@pytest.mark.parametrize(("cache_bytes", "passes"), [(0, 2), (5 * 60 * 4, 1), (5 * 60 * 4 - 1, 2)])
def test_activations_are_kept_only_within_the_bound(cache_bytes: int, passes: int) -> None:
    view = _Counting(curved_view())
    activations = _of(view, IMAGES, cache_bytes)  # type: ignore[arg-type]
    pooled, levels = activations.pooled(), activations.projection_levels(torch.ones(1, 4).double())
    assert view.count == passes * 5
    assert pooled.shape == (5, 4)
    assert levels.shape == (5, 1)


def test_images_are_read_again_where_they_are_too_many_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs(concept_set(IMAGES), curved_view().classifier, 2)
    first = inputs.digests
    monkeypatch.setattr(module, "INPUT_CACHE_BYTES", 100)
    again = Inputs(concept_set(IMAGES), curved_view().classifier, 3)
    assert again.digests == first
    assert again._cached is None
    assert inputs._cached is not None
    batches = [images for images, _ in again.batches()]
    assert torch.equal(torch.cat(batches), IMAGES)


def test_digests_tell_images_and_masks_apart_and_copies_alike() -> None:
    twice = torch.cat([IMAGES[:1], IMAGES[:2]])
    digests = Inputs(concept_set(twice), curved_view().classifier, 2).digests
    assert digests[0] == digests[1] != digests[2]
    masks = [torch.ones(3, 5), torch.eye(3, 5), torch.ones(3, 5)]
    masked = Inputs(concept_set(twice, masks=masks), curved_view().classifier, 2).digests
    assert len({*masked, *digests}) == 5


def _reading_classifier(size: int = 8, **options: object) -> pl.Classifier:
    preprocess = Preprocess((size, size), **options)  # type: ignore[arg-type]
    return pl.Classifier(LinearHead(torch.ones(2, 3), torch.zeros(2)).eval(), preprocess=preprocess)


def test_files_are_read_as_the_classifier_reads_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    classifier = _reading_classifier(resize=8)
    batches = list(Inputs(concept_set(tmp_path), classifier, 4).batches())
    assert torch.equal(batches[0][0], classifier.read(tmp_path / "a.png"))


@pytest.mark.parametrize("options", [{}, {"resize": 8}, {"crop_fraction": 0.8}])
@pytest.mark.parametrize("opaque", [False, True])
def test_a_mask_is_cropped_and_resized_with_its_image(options: dict[str, object], opaque: bool) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 15:45] = 255
    classifier = _reading_classifier(**options)
    if opaque:  # a transform whose geometry has to be measured
        inner = classifier.preprocess
        classifier = pl.Classifier(
            LinearHead(torch.ones(2, 3), torch.zeros(2)).eval(),
            preprocess=lambda p: inner(p),
            input_size=8,  # type: ignore[misc]
        )
    image = np.repeat(mask[..., None], 3, axis=2)
    inputs = Inputs(concept_set([image], masks=[mask > 0]), classifier, 1)
    ((seen, window),) = list(inputs.batches())
    assert window is not None
    # The image is its own mask: where its pixels are surely white or black, the mask must say so.
    assert bool((window[0][seen[0, 0] > 0.9] == 1).all())
    assert bool((window[0][seen[0, 0] < 0.1] == 0).all())
    assert 0 < float(window.mean()) < 1


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((3, 4)), r"mask of shape \(3, 4\).*does not fit an image of shape \(3, 5\)"),
        (2 * np.ones((3, 5)), "values 2 to 2"),
        (np.zeros((3, 5)), "holds nothing of the part that the classifier sees"),
    ],
)
def test_a_mask_that_cannot_be_used_is_an_error_that_names_the_image(mask: object, message: str) -> None:
    with pytest.raises(PellucidError, match=f"image 0: .*{message}"):
        _of(curved_view(), IMAGES[:1], masks=[mask]).pooled()


def test_masks_at_a_layer_without_extent_are_an_error() -> None:
    view = view_of(LinearHead(torch.ones(2, 4), torch.zeros(2)), (4, 3, 5), "pool")
    with pytest.raises(PellucidError, match="no spatial extent: masks and boxes select nothing"):
        _of(view, IMAGES, masks=[np.ones((3, 5))] * 5).pooled()


def test_masks_with_flattened_features_are_an_error() -> None:
    with pytest.raises(PellucidError, match="need pooled features"):
        _of(curved_view(), IMAGES, masks=[np.ones((3, 5))] * 5).flattened()


def test_activations_that_are_not_numbers_are_an_error_that_names_the_images() -> None:
    view = view_of(nn.Sequential(Function(torch.log), LinearHead(torch.ones(2, 4), torch.zeros(2))), (4, 3, 5), "0")
    images = IMAGES.abs() + 0.1
    images[3, 1, 0, 0] = -1
    with pytest.raises(ModelError, match="NaN or infinite for image 3 of 'concept'"):
        _of(view, images).pooled()
