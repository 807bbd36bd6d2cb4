"""A small version of the tag experiment: who leans on the tag, and do the explanations say so?"""

import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from experiments.concepts.tags.measures import Exhibits, measure
from experiments.concepts.tags.networks import Recipe, classifier_for, random_tags
from experiments.concepts.tags.statistics import MEASURES, by_network, compare

from pellucid.concepts import ConceptWarning
from pellucid.synthetic import SHAPES

SMALL = Recipe(1.0, scenes=1200, epochs=8, width=12, batch=20, rate=6e-3)
NEUTRAL, ALWAYS = replace(SMALL, agreement=1 / len(SHAPES)), SMALL
TINY = Recipe(0.5, scenes=40, epochs=1, width=2)


@cache
def measured(recipe: Recipe) -> dict[tuple[str, str, str], float]:
    """Means over the classes by layer, part and measure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConceptWarning)
        rows = measure(classifier_for(recipe), Exhibits(per_class=5, per_concept=20), layers=("final",))
    table = by_network([{"network": "", **row} for row in rows], [""])
    return {key: float(values[0]) for key, values in table.items()}


@pytest.mark.slow
def test_explanations_say_which_network_leans_on_the_tag() -> None:
    never, always = measured(NEUTRAL), measured(ALWAYS)
    truth = always["truth", "tag", "logit removed"]
    assert always["truth", "tag", "accuracy right"] > always["truth", "tag", "accuracy swapped"] + 0.5
    assert truth > 1.5
    assert abs(never["truth", "tag", "logit removed"]) < 0.3
    # The signed attribution is in logits, as the truth is, and near it.
    signed = ("final", "tag", "Visual-TCAV signed")
    assert abs(always[signed] - truth) < 0.6 * truth
    assert abs(never[signed]) < 0.3
    assert always["final", "tag", "Visual-TCAV reference"] > never["final", "tag", "Visual-TCAV reference"] + 0.1
    # Taking the tag out of the layer costs what taking it out of the image does.
    deletion = ("final", "tag", "concept deletion")
    assert always[deletion] == pytest.approx(truth, rel=0.5)
    assert abs(never[deletion]) < 0.5


def test_training_is_repeatable() -> None:
    first, second, other = (
        classifier_for(recipe).fingerprint() for recipe in (TINY, TINY, replace(TINY, agreement=0.4))
    )
    assert first == second != other


def test_kept_weights_are_found_again_and_not_trained_anew(tmp_path: Path) -> None:
    trained, other = classifier_for(TINY, tmp_path), classifier_for(replace(TINY, seed=1), tmp_path)
    assert trained.fingerprint() != other.fingerprint()
    assert classifier_for(TINY, tmp_path).fingerprint() == trained.fingerprint()
    (tmp_path / TINY.file_name).write_bytes((tmp_path / replace(TINY, seed=1).file_name).read_bytes())
    assert classifier_for(TINY, tmp_path).fingerprint() == other.fingerprint()
    longer = replace(TINY, epochs=2)
    assert longer.name == TINY.name
    assert classifier_for(longer, tmp_path).fingerprint() != other.fingerprint()


@pytest.mark.parametrize("agreement", [0.0, 0.4, 1.0])
def test_tags_agree_as_often_as_asked_and_name_all_others_alike(agreement: float) -> None:
    classes = np.arange(6000) % len(SHAPES)
    tags = np.array(random_tags(classes.tolist(), agreement, np.random.default_rng(0)))
    assert np.mean(tags == classes) == pytest.approx(agreement, abs=0.02)
    shifts = (tags - classes)[tags != classes] % len(SHAPES)
    counts = np.bincount(shifts, minlength=len(SHAPES))[1:]
    assert counts.max() - counts.min() <= 0.15 * max(counts.mean(), 1)


def table_of(said: dict[str, list[float]], true: list[float]) -> dict[tuple[str, str, str], np.ndarray]:
    blank = {("final" if own else "input", "tag", name): np.ones(len(true)) for name, own in MEASURES}
    passed = {("final", "tag", name): np.array(values) for name, values in said.items()}
    return {**blank, **passed, ("truth", "tag", "logit removed"): np.array(true)}


def test_correlations_are_scipys_and_saturation_costs_them() -> None:
    from scipy.stats import pearsonr, spearmanr

    true = [-1.0, 0.1, 0.4, 1.0, 2.0, 5.0, 6.0, 7.0]
    signed = [-0.8, 0.0, 0.3, 1.2, 2.2, 4.0, 6.5, 6.0]
    saturated = [0.0, 0.4, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    rows = compare(table_of({"Visual-TCAV signed": signed, "TCAV": saturated}, true), "tag", "final")
    result = {row["measure"]: row for row in rows}
    for name, values in (("Visual-TCAV signed", signed), ("TCAV", saturated)):
        assert result[name]["pearson"]["value"] == pytest.approx(pearsonr(true, values).statistic)
        assert result[name]["spearman"]["value"] == pytest.approx(spearmanr(true, values).statistic)
    lead = result["Visual-TCAV signed"]["pearson_lead"]
    assert lead["value"] == pytest.approx(pearsonr(true, signed).statistic - pearsonr(true, saturated).statistic)
    assert 0 < lead["low"] < lead["value"] < lead["high"]
    assert result["TCAV"]["pearson_lead"]["value"] == 0
    assert np.isnan(result["Grad-CAM mass"]["pearson"]["value"])
    assert result["Grad-CAM mass"]["pearson"]["resamples"] == 0
