"""Concept sets: what counts as images, their order and sample, and what is warned of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.concepts import ConceptSet, concept_folders, concept_set
from pellucid.concepts.concept_sets import check_sets
from pellucid.errors import ImageError, PellucidError


def _write(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for level, name in enumerate(names):
        Image.new("RGB", (6, 4), (level, 0, 0)).save(folder / name)
    return folder


def test_a_folder_is_read_in_sorted_order_and_the_files_are_recorded(tmp_path: Path) -> None:
    folder = _write(tmp_path / "striped", ["c.png", "a.png", "b.png"])
    result = concept_set(folder, "striped")
    assert [Path(source).name for source in result.sources] == ["a.png", "b.png", "c.png"]
    assert result.images == tuple(folder / name for name in ("a.png", "b.png", "c.png"))


def test_a_list_of_files_is_sorted_too(tmp_path: Path) -> None:
    folder = _write(tmp_path, ["a.png", "b.png"])
    assert concept_set([folder / "b.png", str(folder / "a.png")]).images == (folder / "a.png", folder / "b.png")


def test_a_sample_is_the_same_for_the_same_seed_and_keeps_the_order(tmp_path: Path) -> None:
    folder = _write(tmp_path, [f"{index:02}.png" for index in range(20)])
    first, again, other = (concept_set(folder, count=8, seed=seed) for seed in (1, 1, 2))
    assert first.sources == again.sources
    assert first.sources != other.sources
    assert list(first.sources) == sorted(first.sources)
    assert len(set(first.sources)) == 8


def test_a_sample_larger_than_the_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PellucidError, match="'few' has 2 images; a sample of 3"):
        concept_set(_write(tmp_path, ["a.png", "b.png"]), "few", count=3)


def test_arrays_and_pillow_images_become_upright_rgb() -> None:
    gray, color = np.zeros((4, 6), np.uint8), np.full((4, 6, 3), 7, np.uint8)
    result = concept_set([gray, color, Image.new("L", (3, 3))])
    assert [image.mode for image in result.images] == ["RGB"] * 3  # type: ignore[union-attr]
    assert result.sources == ("image 0", "image 1", "image 2")
    assert len(concept_set(np.zeros((5, 4, 6, 3), np.uint8))) == 5


def test_a_tensor_is_already_in_the_input_space() -> None:
    images = torch.randn(3, 3, 4, 5)
    result = concept_set(images)
    assert all(torch.equal(one, other) for one, other in zip(result.images, images, strict=True))  # type: ignore[arg-type]


def test_a_concept_set_is_taken_as_it_is() -> None:
    passed = ConceptSet("mine", (torch.zeros(3, 2, 2),), ("here",))
    assert concept_set(passed, "other") is passed


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "'concept' has no images"),
        (torch.zeros(0, 3, 4, 4), "'concept' has no images"),
        (torch.zeros(3, 4, 4), r"not \(3, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "torch.uint8; give 8-bit images as arrays"),
        ([np.zeros((4, 4), np.float32)], "float32 is not an image"),
        ([Image.new("L", (2, 2)), "a.png"], "a str among the images"),
    ],
)
def test_what_is_no_set_of_images_is_an_error(images: object, message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        concept_set(images)  # type: ignore[arg-type]


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no images in this folder"):
        concept_set(tmp_path)


def test_a_box_is_the_mask_of_the_pixels_whose_centre_it_holds() -> None:
    result = concept_set([np.zeros((4, 6), np.uint8)], boxes=[(1, 0.5, 3.4, 2)])
    assert result.masks is not None
    expected = torch.zeros(4, 6)
    expected[0:2, 1:3] = 1
    assert torch.equal(result.masks[0], expected)


def test_masks_follow_their_images_into_the_sample() -> None:
    images = torch.arange(10.0)[:, None, None, None].expand(10, 3, 2, 2)
    masks = [torch.full((2, 2), index / 10) for index in range(10)]
    result = concept_set(images, masks=masks, count=4, seed=5)
    assert result.masks is not None
    for image, mask in zip(result.images, result.masks, strict=True):
        assert float(image[0, 0, 0]) / 10 == pytest.approx(float(mask[0, 0]))  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": [np.ones((2, 2))]}, "1 masks or boxes for 2 images"),
        ({"boxes": [(0, 0, 1, 1), (5, 5, 9, 9)]}, "holds no pixel of an image of 2 x 2"),
        ({"boxes": [(0, 0, 1, 1)] * 2, "masks": [np.ones((2, 2))] * 2}, "not both"),
    ],
)
def test_masks_and_boxes_that_do_not_fit_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        concept_set(torch.zeros(2, 3, 2, 2), **options)  # type: ignore[arg-type]


def test_a_folder_of_folders_gives_concepts_and_negatives(tmp_path: Path) -> None:
    for name in ("striped", "dotted", "negatives", ".hidden"):
        _write(tmp_path / name, [f"{index}.png" for index in range(5)])
    concepts, negatives = concept_folders(tmp_path, count=3)
    assert [concept.name for concept in concepts] == ["dotted", "striped"]
    assert negatives.name == "negatives"
    assert len(concepts[0]) == len(negatives) == 3


def test_a_folder_without_negatives_is_an_error_that_says_what_was_found(tmp_path: Path) -> None:
    _write(tmp_path / "striped", ["a.png"])
    with pytest.raises(ImageError, match="holds striped; expected a folder per concept and one named 'random'"):
        concept_folders(tmp_path, "random")
    with pytest.raises(ImageError, match="no such folder"):
        concept_folders(tmp_path / "nowhere")


def test_too_few_copied_and_shared_images_are_remarked_on() -> None:
    many = [f"n{index}" for index in range(12)]
    assert check_sets("c", [f"c{index}" for index in range(10)], many) == []
    few = check_sets("c", ["x", "x", "n3"], many)
    assert any("3 images only, fewer than 10" in remark for remark in few)
    assert any("1 of 3 images are copies" in remark for remark in few)
    assert any("1 images of concept 'c' are among its negatives" in remark for remark in few)


def test_one_image_or_the_same_images_on_both_sides_are_errors() -> None:
    with pytest.raises(PellucidError, match="concept 'c': 1 image; a CAV needs at least 2"):
        check_sets("c", ["x"], ["y", "z"])
    with pytest.raises(PellucidError, match="the negatives of 'c'"):
        check_sets("c", ["x", "y"], ["z"])
    with pytest.raises(PellucidError, match="the same images"):
        check_sets("c", ["x", "y"], ["y", "x"])
