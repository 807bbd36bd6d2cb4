"""The numbers of a row, the maps that are kept, and maps made by somebody else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluation.sweep_support import color_classifier, write_squares
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import PellucidError
from pellucid.evaluation import Candidate, GridSet, localization_score
from pellucid.evaluation.metrics import input_magnitude, oracle_mask
from pellucid.evaluation.sweep import evaluate_maps, grid_targets, summarize
from pellucid.evaluation.sweep.run_tables import encode_table, score_maps
from pellucid.evaluation.sweep.stored_maps import (
    LARGEST_SIDE,
    MapRows,
    StoredMap,
    read_maps,
)


def slow_shares(one: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Share of the positive mass in each of 2 x 2 cells, straight from the paper."""
    large = F.interpolate(one[None, None].double(), size, mode="bilinear", align_corners=False)[0, 0].clamp(min=0)
    half = (size[0] // 2, size[1] // 2)
    cells = [large[r : r + half[0], c : c + half[1]].sum() for r in (0, half[0]) for c in (0, half[1])]
    return np.array([float(cell / large.sum()) for cell in cells])


def test_the_numbers_of_a_map_are_those_of_the_paper() -> None:
    values = torch.randn(3, 2, 6, 6)
    found = score_maps(values, (2, 2), (0, 3), (24, 36), same_class=True)
    assert found.mirror is not None
    for grid in range(3):
        for target, (cell, partner) in enumerate([(0, 3), (3, 0)]):
            shares = slow_shares(values[grid, target], (24, 36))
            assert float(found.score[grid, target]) == pytest.approx(shares[cell])
            assert float(found.mirror[grid, target]) == pytest.approx(shares[partner] / (1 - shares[cell]))
            native = slow_shares(values[grid, target], (6, 6))
            assert float(found.native[grid, target]) == pytest.approx(native[cell])
            assert float(found.cell_mass[grid, target] / found.mass[grid, target]) == pytest.approx(shares[cell])


def test_what_can_be_attained_is_what_the_oracle_scores() -> None:
    cells = (0, 1, 2, 3)
    oracle = torch.cat([oracle_mask(torch.zeros(1, 3, 8, 8), 2, cell) for cell in cells], dim=1)
    found = score_maps(oracle, (2, 2), cells, (32, 32), same_class=False)
    torch.testing.assert_close(found.attainable, found.score[0])
    assert float(found.attainable[0]) == pytest.approx((1 - 1 / 32) ** 2)
    assert found.mirror is None


def test_a_map_without_evidence_and_one_with_nan_have_their_status() -> None:
    values = torch.stack([torch.ones(4, 4), -torch.ones(4, 4), torch.full((4, 4), torch.nan)])[None]
    found = score_maps(values, (2, 2), (0, 0, 0), (8, 8), same_class=False)
    assert [found.status(0, target) for target in range(3)] == ["ok", "zero", "non-finite"]
    assert float(found.score[0, 1]) == 0
    assert bool(found.score[0, 2].isnan())


def kept(values: Tensor, size: tuple[int, int], folder: Path) -> StoredMap:
    rows = MapRows()
    rows.add(values * 0, size, method="other", kernel_size=1, grid=5, cell=2)
    rows.add(values, size, method="own", kernel_size=1, grid=5, cell=2)
    rows.add(values * 0, size, method="own", kernel_size=3, grid=5, cell=2)
    (folder / "maps.parquet").write_bytes(encode_table(rows.table(), {}, rows_per_group=1))
    (found,) = read_maps(folder / "maps.parquet", "own", 1, 2)
    return found


def test_a_small_map_is_kept_signed_as_it_is(tmp_path: Path) -> None:
    values = torch.randn(14, 7) * 1e-9
    found = kept(values, (28, 14), tmp_path)
    assert (found.grid, found.cell, found.positive) == (5, 2, None)
    torch.testing.assert_close(found.values, values, rtol=1e-3, atol=1e-12)


def test_of_a_large_map_area_means_of_both_parts_are_kept(tmp_path: Path) -> None:
    size = (2 * LARGEST_SIDE, 4 * LARGEST_SIDE)
    values = torch.randn(*size) * 1e6
    found = kept(values, size, tmp_path)
    assert found.positive is not None
    wanted = values.clamp(min=0).reshape(size[0] // 4, 4, size[1] // 4, 4).mean((1, 3))
    torch.testing.assert_close(found.positive, wanted, rtol=2e-3, atol=1e3)
    signed = values.reshape(size[0] // 4, 4, size[1] // 4, 4).mean((1, 3))
    torch.testing.assert_close(found.values, signed, rtol=2e-3, atol=2e3)


def test_a_kept_map_with_nan_is_nan(tmp_path: Path) -> None:
    values = torch.ones(4, 4)
    values[1, 2] = torch.nan
    assert bool(kept(values, (8, 8), tmp_path).values.isnan().all())


def grid_set(*, same_class: bool) -> GridSet:
    names = ("red", "blue", "green", "red" if same_class else "white")
    cells = [
        tuple(Candidate({"red": 4, "blue": 1, "green": 2, "white": 7}[n], f"{n}/{g + 3 * (i == 3)}.png") for i, n in
              enumerate(names)) for g in range(3)
    ]  # fmt: skip
    return GridSet((2, 2), same_class, 0, tuple(cells))


def test_targets_are_head_and_class_of_every_evaluated_cell() -> None:
    assert grid_targets(grid_set(same_class=True), range(1, 3), single_head=False).tolist() == [[[0, 4], [3, 4]]] * 2
    assert grid_targets(grid_set(same_class=False), range(1), single_head=True).tolist() == [
        [[0, 4], [0, 1], [0, 2], [0, 7]]
    ]


def test_an_array_of_foreign_maps_is_scored(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).normal(size=(3, 4, 8, 8)).astype(np.float32)
    np.save(tmp_path / "maps.npy", maps)
    for given in (maps, torch.from_numpy(maps), tmp_path / "maps.npy"):
        table = evaluate_maps(given, grid_set(same_class=False), size=(32, 32), method="theirs", setting="GridPG")
        wanted = [
            float(localization_score(torch.from_numpy(maps[grid, cell])[None], 2, cell, (32, 32)))
            for grid in range(3)
            for cell in range(4)
        ]
        assert table["score"].to_pylist() == pytest.approx(wanted)
        assert table["label"].to_pylist() == [4, 1, 2, 7] * 3
    (line,) = summarize(table)
    assert (line.name, line.setting, line.median.grids) == ("theirs", "GridPG", 3)
    assert line.median.estimate == pytest.approx(np.median(wanted))


def test_a_foreign_callable_gets_the_images_and_classes_of_the_cells(tmp_path: Path) -> None:
    write_squares(tmp_path, per_class=6)
    classifier, grids = color_classifier(), grid_set(same_class=True)
    seen = []

    def explain(images: Tensor, classes: Tensor) -> Tensor:
        seen.append((tuple(images.shape), classes.tolist()))
        return input_magnitude(images).expand(-1, 2, -1, -1)

    table = evaluate_maps(explain, grids, classifier=classifier, root=tmp_path)
    assert seen == [((3, 3, 32, 32), [[4, 4]] * 3)]
    first = torch.stack([classifier.read(tmp_path / cell.path)[0].abs().sum() for cell in grids.cells[0]])
    assert table["score"][0].as_py() == pytest.approx(float(first[0] / first.sum()), rel=1e-5)
    assert table["mirror_share"][0].as_py() == pytest.approx(float(first[3] / first[1:].sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (np.zeros((3, 2, 8, 8)), r"expected numbers for \(3 grids, 4 cells, h, w\)"),
        (np.zeros((3, 4, 8)), "expected numbers"),
        (np.array([["a"]]), "expected numbers"),
        (lambda images, classes: images, "a callable needs images"),
    ],
)
def test_foreign_maps_that_do_not_fit_are_refused(maps: object, words: str) -> None:
    with pytest.raises(PellucidError, match=words):
        evaluate_maps(maps, grid_set(same_class=False))  # type: ignore[arg-type]


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(PellucidError, match="cannot be read as an array"):
        evaluate_maps(tmp_path / "maps.npy", grid_set(same_class=False))
