import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.errors import PellucidError
from pellucid.evaluation import (
    Candidate,
    GridSet,
    GridSetError,
    candidate_pool,
    common_pool,
    distinct_grids,
    same_class_grids,
)
from pellucid.storage import read_json


def pool(*counts: int) -> list[Candidate]:
    """`counts[label]` images of each class."""
    return [Candidate(label, f"{label}/{i}.png") for label, count in enumerate(counts) for i in range(count)]


def uses(grids: GridSet) -> Counter[str]:
    return Counter(cell.path for row in grids.cells for cell in row)


def test_cells_of_a_grid_differ_in_class_and_no_image_comes_twice() -> None:
    found = distinct_grids(pool(*[20] * 30), grids=100, seed=3)
    assert found.labels.shape == (100, 4)
    assert all(len(set(row)) == 4 for row in found.labels.tolist())
    assert max(uses(found).values()) == 1
    assert found.evaluated_cells == (0, 1, 2, 3)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(1, 3), st.integers(1, 6), st.integers(0, 99))
def test_the_grids_are_found_whenever_the_pool_suffices(counts: list[int], cells: int, grids: int, seed: int) -> None:
    suffices = sum(min(count, grids) for count in counts) >= grids * cells
    if suffices:
        found = distinct_grids(pool(*counts), (1, cells), grids, seed=seed)
        assert len(found) == grids
        assert max(uses(found).values()) == 1
    else:
        with pytest.raises(GridSetError, match="missing"):
            distinct_grids(pool(*counts), (1, cells), grids, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_that_every_grid_needs_is_in_every_grid_at_any_place(seed: int) -> None:
    found = distinct_grids(pool(12, *[1] * 12), (1, 2), 12, seed=seed)
    assert (found.labels == 0).any(1).all()
    assert (found.labels == 0).any(0).all()


def test_classes_are_drawn_uniformly_whatever_their_number_of_images() -> None:
    found = distinct_grids(pool(*[400] * 5, *[4000] * 5), (1, 2), 400, seed=0)
    small = float((found.labels < 5).double().mean())
    assert small == pytest.approx(0.5, abs=0.06)  # drawn over images it would be 1/11


def test_every_place_in_the_grid_sees_every_class() -> None:
    found = distinct_grids(pool(*[100] * 8), grids=150, seed=0)
    assert all(len(set(column)) == 8 for column in found.labels.T.tolist())


def test_the_seed_decides_and_the_order_of_the_pool_does_not() -> None:
    candidates = pool(*[30] * 12)
    first = distinct_grids(candidates, grids=20, seed=1)
    assert first == distinct_grids(candidates[::-1], grids=20, seed=1)
    assert first.cells != distinct_grids(candidates, grids=20, seed=2).cells
    assert same_class_grids(candidates, grids=20, seed=1) == same_class_grids(candidates[::-1], grids=20, seed=1)


def test_same_class_pairs_share_the_class_of_the_corners_and_nothing_else() -> None:
    found = same_class_grids(pool(*[40] * 20), grids=150, seed=2)
    for row in found.labels.tolist():
        assert row[0] == row[-1]
        assert len(set(row)) == 3
    assert max(uses(found).values()) == 1
    assert found.evaluated_cells == (0, 3)


def test_same_class_pairs_come_from_the_classes_that_have_two_images() -> None:
    found = same_class_grids(pool(30, 30, *[1] * 60), grids=20, seed=0)
    assert set(found.labels[:, 0].tolist()) == {0, 1}


def test_images_between_the_corners_may_recur_if_allowed() -> None:
    candidates = pool(*[10] * 10)
    with pytest.raises(GridSetError, match="missing"):
        same_class_grids(candidates, 3, 40)
    found = same_class_grids(candidates, 3, 40, reuse=True)
    corners = Counter(cell.path for row in found.cells for cell in (row[0], row[-1]))
    assert max(corners.values()) == 1
    assert max(uses(found).values()) > 1
    for row in found.cells:
        assert len({cell.path for cell in row}) == 9
        assert len({cell.label for cell in row}) == 8


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 8), st.booleans(), st.integers(0, 99))
def test_the_same_class_sampler_ends_with_a_valid_set_or_an_error(
    counts: list[int], grids: int, reuse: bool, seed: int
) -> None:
    try:
        found = same_class_grids(pool(*counts), 2, grids, reuse=reuse, seed=seed)
    except GridSetError as error:
        found, message = None, str(error)
    if found is None:
        assert "missing" in message
    else:
        assert len(found) == grids
        assert reuse or max(uses(found).values()) == 1


@given(st.lists(st.integers(4, 9), min_size=6, max_size=8), st.integers(1, 5), st.integers(0, 99))
def test_same_class_pairs_are_found_where_there_is_plenty(counts: list[int], grids: int, seed: int) -> None:
    assert len(same_class_grids(pool(*counts), 2, grids, seed=seed)) == grids


@pytest.mark.parametrize("seed", range(5))
def test_same_class_pairs_can_use_up_the_whole_pool(seed: int) -> None:
    found = same_class_grids(pool(*[20] * 10), 2, 50, seed=seed)
    assert len(uses(found)) == 200


def test_errors_say_how_many_of_what_are_missing() -> None:
    with pytest.raises(GridSetError, match=r"needs images of 9 classes; the pool has 7: 2 classes are missing"):
        distinct_grids(pool(*[99] * 7), 3)
    with pytest.raises(GridSetError, match=r"need 40 unused images.*the pool has 35: 5 are missing.*for 8 grids"):
        distinct_grids(pool(*[7] * 5), 2, 10)
    with pytest.raises(GridSetError, match=r"need 4 pairs.*the pool has 3: 1 pairs are missing"):
        same_class_grids(pool(3, 3, 3), 2, 4)
    with pytest.raises(GridSetError, match=r"need 8 unused images.*the pool has 6: 2 are missing"):
        same_class_grids(pool(8, 3, 3), (2, 2), 4, seed=1)
    with pytest.raises(GridSetError, match="0 grids"):
        distinct_grids(pool(*[9] * 9), grids=0)
    with pytest.raises(GridSetError, match="two cells"):
        same_class_grids(pool(9), 1)
    with pytest.raises(GridSetError, match=r"more than once, such as 0/0\.png"):
        distinct_grids(pool(2, 2) * 2, (1, 2), 1)


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    for made in (
        distinct_grids(pool(*[9] * 9), (1, 3), 7, seed=4, options={"model": "née", "threshold": 0.99}),
        same_class_grids(pool(*[30] * 9), 2, 7, seed=5),
    ):
        made.save(tmp_path / "deep" / "grids.json")
        assert GridSet.load(tmp_path / "deep" / "grids.json") == made
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["grids.json"]


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "grids.json"
    made = distinct_grids(pool(*[9] * 9), grids=3)
    made.save(path)
    with pytest.raises(PellucidError, match=r"options\.model is a object"):
        distinct_grids(pool(*[9] * 9), grids=3, options={"model": object()}).save(path)
    assert GridSet.load(path) == made


def test_manifests_that_are_none_or_break_the_rules_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "grids.json"
    distinct_grids(pool(*[9] * 9), grids=3).save(path)
    good = read_json(path)
    twice, same_class = read_json(path), read_json(path)
    twice["cells"][1][1] = twice["cells"][1][0]
    same_class["cells"][2][1]["label"] = same_class["cells"][2][0]["label"]
    for record, message in (
        (good | {"version": 2}, "version 2; this pellucid reads version 1"),
        (good | {"format": "zip"}, "its format is 'zip'"),
        (good | {"grid": [2]}, "not a manifest"),
        (good | {"same_class": True}, "only the last"),
        (good | {"grid": [2, 3]}, "expected 6"),
        (twice, "grid 1 .*4 different images"),
        (same_class, "grid 2 has classes"),
        ([], "not a manifest"),
    ):
        path.write_text(json.dumps(record))
        with pytest.raises(GridSetError, match=message):
            GridSet.load(path)
    path.write_bytes(b"\xff{")
    with pytest.raises(GridSetError, match="not a manifest"):
        GridSet.load(path)


def test_the_pool_holds_what_is_right_and_sure() -> None:
    logits = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [3.0, 0, 0], [0, 0, 5.3]])
    found = candidate_pool(["right", "wrong", "unsure", "just"], [0, 1, 0, 2], logits)
    assert [(c.path, c.label) for c in found] == [("right", 0), ("just", 2)]
    assert found[1].confidence == pytest.approx(float(logits[3].double().softmax(0)[2]))
    assert len(candidate_pool(["right", "wrong", "unsure", "just"], [0, 1, 0, 2], logits, threshold=0.9)) == 3


def test_the_common_pool_is_what_every_model_gets_right() -> None:
    first = [Candidate(0, "a", 0.999), Candidate(1, "b", 0.995), Candidate(2, "c", 1.0)]
    second = [Candidate(2, "c", 0.991), Candidate(0, "a", 1.0)]
    assert common_pool([first, second]) == (Candidate(0, "a", 0.999), Candidate(2, "c", 0.991))


def test_predictions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GridSetError, match="2 files, 1 labels"):
        candidate_pool(["a", "b"], [0], torch.zeros(2, 3))
    with pytest.raises(GridSetError, match="NaN"):
        candidate_pool(["a"], [0], torch.tensor([[torch.nan, 1.0]]))
    with pytest.raises(GridSetError, match=r"a has classes \[0, 1\]"):
        common_pool([[Candidate(0, "a")], [Candidate(1, "a")]])
    with pytest.raises(PellucidError, match="one per model"):
        common_pool([])
