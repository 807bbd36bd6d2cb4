"""Layouts read off shapes, and grids of tokens."""

import pytest
import torch

from pellucid.classifiers.layout import Layout, find_layout, find_token_grid
from pellucid.errors import LayerError


@pytest.mark.parametrize(
    ("shape", "size", "layout"),
    [
        ((2, 64, 56, 56), (224, 224), Layout("NCHW")),
        ((2, 56, 56, 96), (224, 224), Layout("NHWC")),
        ((2, 7, 7, 768), (224, 224), Layout("NHWC")),
        ((2, 16, 16, 16), (64, 64), Layout("NCHW")),
        ((2, 16, 8, 40), (64, 32), Layout("NHWC")),
        ((2, 40, 16, 8), (64, 32), Layout("NCHW")),
        ((2, 1280), (224, 224), Layout("NC")),
        ((2, 196, 192), (224, 224), Layout("NTC", 0)),
        ((2, 197, 192), (224, 224), Layout("NTC", 1)),
        ((2, 198, 192), (224, 224), Layout("NTC", 2)),
        ((2, 201, 192), (224, 224), Layout("NTC", 5)),
        ((2, 1 + 14 * 20, 384), (224, 320), Layout("NTC", 1)),
        ((2, 257, 1024), (224, 224), Layout("NTC", 1)),
        ((2, 384, 196), (224, 224), None),  # channels first: 380 = 19 x 20 is no grid of square patches
        ((2, 32, 32), (32, 32), None),
        ((2, 3), (32, 32), Layout("NC")),
        ((2,), (32, 32), None),
        ((2, 8, 4, 8, 8), (32, 32), None),
    ],
)
def test_layouts_are_read_off_shapes(shape: tuple[int, ...], size: tuple[int, int], layout: Layout | None) -> None:
    assert find_layout(shape, *size) == layout


@pytest.mark.parametrize(
    ("count", "size", "grid"),
    [
        (196, (224, 224), (14, 14)),
        (280, (224, 320), (14, 20)),
        (280, (320, 224), (20, 14)),
        (15 * 21, (230, 330), (15, 21)),  # patches of 16 that stick out
        (14 * 20, (230, 330), (14, 20)),  # or are left out
        (380, (224, 224), None),
        (197, (224, 224), None),
        (1, (224, 224), None),
        (0, (224, 224), None),
    ],
)
def test_tokens_form_grids_of_square_patches(count: int, size: tuple[int, int], grid: tuple[int, int] | None) -> None:
    assert find_token_grid(count, *size) == grid


@pytest.mark.parametrize("layout", [Layout("NCHW"), Layout("NHWC"), Layout("NTC"), Layout("NTC", 3), Layout("NC")])
def test_unfolding_is_the_inverse_of_folding(layout: Layout) -> None:
    shapes = {"NCHW": (2, 5, 4, 6), "NHWC": (2, 4, 6, 5), "NTC": (2, 24 + layout.tokens, 5), "NC": (2, 5)}
    native = torch.randn(shapes[layout.order])
    folded, leading = layout.fold(native, 32, 48)
    assert folded.shape == ((2, 5, 1, 1) if layout.order == "NC" else (2, 5, 4, 6))
    assert torch.equal(layout.unfold(folded, leading), native)


def test_tokens_that_are_no_grid_for_these_images_are_a_clear_error() -> None:
    with pytest.raises(LayerError, match="20 image tokens do not form a grid for 32 x 32 images"):
        Layout("NTC", 1).fold(torch.zeros(2, 21, 3), 32, 32)
