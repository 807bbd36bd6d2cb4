"""Local and global explanations as results: saved, loaded, as JSON and as tables."""

import json
from pathlib import Path

import pytest
import torch

import pellucid as pl
from pellucid.storage import to_record
from pellucid.surrogate import FlipOptions, LocalExplanation, LocalOptions, digit_surrogate
from pellucid.synthetic import draw_digits


@pytest.fixture(scope="module")
def explanation() -> LocalExplanation:
    digit = draw_digits(torch.tensor([3]), size=32)[:, None] / 127.5 - 1
    options = LocalOptions(permutations=2, levels=2, search=FlipOptions(steps=5))
    return digit_surrogate().explain(digit, options=options)


def test_a_local_explanation_comes_back_from_its_folder(explanation: LocalExplanation, tmp_path: Path) -> None:
    loaded = pl.results.load(explanation.save(tmp_path))
    assert isinstance(loaded, LocalExplanation)
    assert to_record(loaded) == to_record(explanation.recordable())
    assert torch.equal(loaded.minimal_counterfactual.images, explanation.minimal_counterfactual.images)
    assert loaded.maps.keys() == explanation.maps.keys()


def test_a_global_explanation_comes_back_from_its_folder(tmp_path: Path) -> None:
    explanation = digit_surrogate().global_explanation
    assert explanation is not None
    loaded = pl.results.load(explanation.save(tmp_path))
    assert loaded == explanation
    assert loaded.difference == explanation.difference


def test_both_say_what_made_them_and_what_they_cost(explanation: LocalExplanation) -> None:
    assert explanation.provenance.model == pl.load("digit_cnn").name
    assert explanation.provenance.options["levels"] == 2
    assert explanation.receipt.passes.network_forward > 100
    assert explanation.receipt.fidelity.value == pytest.approx(0.99, abs=0.01)
    assert explanation.targets == ("3",)
    assert explanation.scores.tolist() == explanation.importance.margin.tolist()


def test_as_json_and_as_a_table_they_give_their_numbers(explanation: LocalExplanation) -> None:
    assert json.loads(json.dumps(explanation.to_dict(), allow_nan=False))["kind"] == "surrogate_local"
    table = explanation.to_table().to_pydict()
    rows = zip(table["concept"], table["quantity"], table["value"], strict=True)
    shown = {concept: value for concept, quantity, value in rows if quantity == "importance"}
    assert shown == dict(zip(explanation.importance.names, explanation.importance.values[0].tolist(), strict=True))
    graph = digit_surrogate().global_explanation
    assert set(graph.to_table().to_pydict()["quantity"]) >= {"strength", "flip_rate", "confidence", "probe_r2"}


def test_a_local_explanation_is_plotted_with_a_map_for_each_concept(explanation: LocalExplanation) -> None:
    pytest.importorskip("matplotlib")
    figure = explanation.plot()
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == list(explanation.maps)
