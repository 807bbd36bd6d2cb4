"""Drawn scenes: only what is asked for changes, masks are where things are, and every shape and glyph can be told."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pellucid.errors import PellucidError
from pellucid.synthetic import BLANK, SHAPES, Scene, draw_scenes


def changed(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (one != other).any(2)


def test_scenes_are_repeatable_and_do_not_depend_on_how_many_are_drawn() -> None:
    three, two, others = draw_scenes(3, 40), draw_scenes(2, 40), draw_scenes(3, 40, seed=1)
    images = [[scene.image("star", "ring") for scene in scenes] for scenes in (three, two, others)]
    assert np.array_equal(images[0][:2], images[1])
    assert not np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0][0], images[0][1])


def test_a_scene_with_nothing_in_it_is_its_background() -> None:
    (scene,) = draw_scenes(1)
    assert np.array_equal(scene.image(None, None), scene.background)
    assert scene.image(None, None).dtype == np.uint8


@pytest.mark.parametrize("size", [32, 48, 96])
def test_interventions_change_nothing_but_the_part_that_they_are_done_to(size: int) -> None:
    for scene in draw_scenes(12, size):
        right = scene.image("heart", "heart")
        assert not changed(right, scene.image("heart", None))[~scene.tag_mask].any()
        assert not changed(right, scene.image("heart", "cross"))[~scene.tag_mask].any()
        removed = changed(right, scene.image(None, "heart"))
        assert not removed[scene.tag_mask].any()
        # Pixels that the object covers by less than half change too, at its edge.
        assert removed.sum() >= 0.95 * scene.shape_mask("heart").sum()
        assert not changed(right, scene.image("ring", "heart"))[scene.tag_mask].any()


def test_masks_lie_inside_the_image_apart_from_each_other() -> None:
    for scene in draw_scenes(30):
        left, top, right, bottom = scene.box
        assert scene.tag_mask.sum() == (right - left) * (bottom - top)
        for shape in SHAPES:
            mask = scene.shape_mask(shape)
            assert not (mask & scene.tag_mask).any()
            assert 0.2 < mask.sum() / (np.pi * scene.radius**2) <= 1.05


def test_the_area_of_a_ring_and_a_triangle_is_that_of_geometry() -> None:
    for scene in draw_scenes(5, 96):
        circle = np.pi * scene.radius**2
        assert scene.shape_mask("ring").sum() == pytest.approx(circle * (1 - 0.55**2), rel=0.03)
        assert scene.shape_mask("triangle").sum() == pytest.approx(circle * 3 * 3**0.5 / (4 * np.pi), rel=0.03)


def test_a_blank_tag_is_a_rectangle_of_one_color_and_a_glyph_is_written_on_it() -> None:
    for scene in draw_scenes(10):
        blank = scene.image(None, BLANK)
        assert np.array_equal(np.unique(blank[scene.tag_mask], axis=0), [scene.paper])
        glyphs = [scene.image(None, name)[scene.tag_mask] for name in SHAPES]
        for index, glyph in enumerate(glyphs):
            written = (glyph != blank[scene.tag_mask]).any(1).mean()
            assert 0.1 < written < 0.5
            assert all(not np.array_equal(glyph, other) for other in glyphs[:index])


def test_glyphs_stand_out_from_their_paper() -> None:
    contrasts = [abs(np.mean(scene.paper) - np.mean(scene.ink)) for scene in draw_scenes(100)]
    assert min(contrasts) > 40


def _spread(values: list[float]) -> float:
    return float(np.ptp(values))


def test_tags_and_objects_vary_in_size_and_place() -> None:
    scenes = draw_scenes(60)
    assert _spread([scene.radius for scene in scenes]) > 3
    assert _spread([scene.box[2] - scene.box[0] for scene in scenes]) >= 5
    for axis in range(2):
        assert _spread([scene.center[axis] for scene in scenes]) > 20
        assert _spread([scene.box[axis] for scene in scenes]) > 25


def test_what_cannot_be_drawn_is_refused() -> None:
    scene: Scene = draw_scenes(1)[0]
    for pair in (("square", None), (None, "square")):
        with pytest.raises(PellucidError, match="arrow, cross"):
            scene.image(*pair)
    with pytest.raises(PellucidError, match="at least 32"):
        draw_scenes(1, 16)
    with pytest.raises(PellucidError, match="at least 1"):
        draw_scenes(0)
