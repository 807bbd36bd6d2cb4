"""Carried values: how they follow the images, and rows of them."""

import pytest
import torch
from tests.classifiers.oracles import classifier
from tests.networks import images

from pellucid.classifiers.side_inputs import (
    BatchPatternError,
    PerImage,
    SideInputs,
    find_batch_pattern,
)


def test_patterns_tell_which_part_of_a_value_belongs_to_which_image() -> None:
    assert find_batch_pattern(torch.zeros(2, 5), torch.zeros(3, 5)) == PerImage(0)
    assert find_batch_pattern(torch.zeros(7, 4, 1), torch.zeros(7, 6, 1)) == PerImage(1)
    assert find_batch_pattern(torch.zeros(2, 3), torch.zeros(2, 3)) is None
    assert find_batch_pattern(torch.Size([2, 8]), torch.Size([3, 8])) == (PerImage(), None)
    assert find_batch_pattern({"a": 14, "b": [1.5]}, {"a": 21, "b": [1.5]}) == {"a": PerImage(), "b": (None,)}


@pytest.mark.parametrize(
    ("two", "three"),
    [
        (torch.zeros(2, 2), torch.zeros(3, 3)),
        (torch.zeros(2), torch.zeros(4)),
        (torch.zeros(2), torch.zeros(3, 1)),
        (0.25, 0.5),
        (3, 4),
        ([1], [1, 1]),
        (object(), object()),
    ],
)
def test_a_value_that_does_not_say_what_belongs_to_which_image_is_refused(two: object, three: object) -> None:
    with pytest.raises(BatchPatternError, match="for two images and"):
        find_batch_pattern(two, three)


def test_rows_of_carried_values_are_picked_along_their_axes() -> None:
    values = (torch.arange(6).view(2, 3), torch.arange(8).view(2, 4), torch.Size([4, 7]), 10, "constant")
    patterns = (PerImage(1), PerImage(1), (PerImage(), None), PerImage(), None)
    side_inputs = SideInputs((values[0][:, :2], *values[1:]), ("a", "b", "c", "d", "e"), 2, patterns)
    rows = side_inputs.rows(torch.tensor([1, 1, 0]))
    assert rows.images == 3
    assert rows.values[0].tolist() == [[1, 1, 0], [4, 4, 3]]
    assert rows.values[1].tolist() == [[2, 3, 2, 3, 0, 1], [6, 7, 6, 7, 4, 5]]
    assert rows.values[2:] == (torch.Size([6, 7]), 15, "constant")
    assert rows.names == side_inputs.names


def test_rows_of_rows_are_rows() -> None:
    view = classifier("residual").at("layer2.0.conv1")
    activation = view.activation(images("residual"))
    first, second = torch.tensor([2, 0, 1, 1]), torch.tensor([3, 0])
    twice = activation.side_inputs.rows(first).rows(second)
    once = activation.side_inputs.rows(first[second])
    assert all(torch.equal(a, b) for a, b in zip(twice.values, once.values, strict=True))
