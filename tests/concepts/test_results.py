"""Results of concepts are kept, loaded and tabulated like all others."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.concepts.support import cav_for, curved_view
from torch import Tensor

import pellucid as pl
from pellucid.concepts import COLUMNS, Bootstrap, VisualTCAV, explain_class, tcav
from pellucid.results import Result

VIEW = curved_view()
IMAGES = torch.randn(6, 4, 3, 5, generator=torch.Generator().manual_seed(3))
CAVS = [
    cav_for(VIEW, torch.tensor([1.0, -0.5, 0.2, 0.1]), 0.1, 1.0, name="one"),
    cav_for(VIEW, torch.tensor([-0.3, 0.8, 0.4, -0.2]), 0.0, 0.9, name="other", negative_emblems=(0.2, 0.3)),
]
EXPLAINER = VisualTCAV(VIEW, CAVS, permutations=9, baseline=torch.zeros(4, 1, 1), tolerance=None)


def explain_images() -> Result:
    return EXPLAINER.explain(IMAGES, [0, 2], resample=True)


def explain_a_class() -> Result:
    return explain_class(EXPLAINER, IMAGES, [0, 2], bootstrap=Bootstrap(repeats=20, hierarchical=True))


def score_tcav() -> Result:
    return tcav(VIEW, CAVS, IMAGES, 1, random_sets=2, permutations=9)


def differences(first: object, second: object, name: str = "") -> list[str]:
    """Names of what is not equal in two values, field by field."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        same = first.shape == second.shape and torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)
        return [] if same else [name]
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return [] if first.tolist() == second.tolist() else [name]
    if is_dataclass(first):
        pairs = [(item.name, getattr(first, item.name), getattr(second, item.name)) for item in fields(first)]
    elif isinstance(first, dict) and isinstance(second, dict):
        pairs = [(key, first[key], second[key]) for key in {*first, *second}]
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple):
        pairs = [(str(index), *pair) for index, pair in enumerate(zip(first, second, strict=True))]
    else:
        return [] if first == second or first != first else [name]
    return [result for key, *pair in pairs for result in differences(*pair, f"{name}.{key}")]


@pytest.mark.parametrize("make", [explain_images, explain_a_class, score_tcav])
def test_a_result_is_loaded_as_it_was_saved(make: Callable[[], Result], tmp_path: Path) -> None:
    result = make()
    loaded = pl.results.load(result.save(tmp_path / "kept"))
    assert type(loaded) is type(result)
    assert differences(result.recordable(), loaded) == []
    assert list(map(str, loaded.rows())) == list(map(str, result.rows()))


@pytest.mark.parametrize("make", [explain_images, explain_a_class, score_tcav])
def test_a_result_says_how_it_was_computed_and_what_it_cost(make: Callable[[], Result]) -> None:
    result = make()
    assert result.provenance.layers == ("input",)
    assert result.provenance.model == VIEW.classifier.name
    assert set(result.provenance.versions) == {"pellucid", "torch"}
    assert result.receipt.passes.prefix_forward == len(IMAGES)
    assert result.to_dict()["kind"] == result.kind


@pytest.mark.parametrize("make", [explain_images, explain_a_class, score_tcav])
def test_the_table_has_a_row_per_number_with_what_it_is_of(make: Callable[[], Result]) -> None:
    result = make()
    table = result.to_table()
    assert tuple(table.column_names) == ("kind", "model", "method", "options", *COLUMNS)
    assert table.num_rows == len(list(result.rows()))
    assert set(table["kind"].to_pylist()) == {result.kind}


def test_the_largest_gap_is_on_the_receipt() -> None:
    result = EXPLAINER(IMAGES, [0, 2])
    assert result.receipt.gap == float(result.gap.max())


def test_concept_maps_are_plotted_with_a_row_for_each_image() -> None:
    pytest.importorskip("matplotlib")
    figure = EXPLAINER(IMAGES[:2], 0).plot()
    assert [axis.get_ylabel() for axis in figure.axes[:4]] == ["image 0", "", "image 1", ""]
