"""Concept workflows: which CAVs they gather, and what they return."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import pellucid as pl
from pellucid.concepts import ConceptWarning
from pellucid.synthetic import draw_images
from pellucid.workflows import (
    ConceptOptions,
    ExplainClassOptions,
    ExplainConceptsOptions,
    TCAVOptions,
    explain_class,
    explain_images_by_concepts,
    gather_cavs,
    layer_labels,
    readable_images,
    score_tcav,
    select_methods,
)


@pytest.fixture(scope="module")
def classifier() -> pl.Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )
    return pl.Classifier(net.eval(), preprocess=pl.data.Preprocess((24, 24), resize=24), name="tiny")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("striped")
    for index, image in enumerate(draw_images("striped", 4, 24, seed=3)):
        image.save(folder / f"{index}.png")
    return sorted(folder.iterdir())


CONCEPTS = {"builtin": ("striped", "red"), "count": 12, "cache": "none"}


@pytest.fixture(scope="module")
def cavs(classifier: pl.Classifier) -> dict[str, list[pl.concepts.CAV]]:
    stages: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConceptWarning)
        gathered = gather_cavs(classifier, ConceptOptions(**CONCEPTS), on_stage=stages.append)  # type: ignore[arg-type]
    assert any("striped" in stage for stage in stages)
    return gathered


def test_cavs_are_fitted_at_the_middle_and_final_layer_by_default(
    classifier: pl.Classifier, cavs: dict[str, list[pl.concepts.CAV]]
) -> None:
    assert list(cavs) == [classifier.resolve("middle"), classifier.resolve("final")]
    assert [cav.name for cav in cavs[classifier.resolve("final")]] == ["striped", "red"]
    assert list(layer_labels(classifier, cavs).values())[-1].startswith("final: ")


def test_no_concepts_is_an_error_that_says_what_to_give(classifier: pl.Classifier) -> None:
    with pytest.raises(pl.PellucidError, match="no concepts given"):
        gather_cavs(classifier, ConceptOptions())


def test_images_explained_by_concepts_are_plain_json_with_a_row_per_number(
    classifier: pl.Classifier, cavs: dict[str, list[pl.concepts.CAV]], files: list[Path]
) -> None:
    options = ExplainConceptsOptions(target=("1",), permutations=9)
    report = explain_images_by_concepts(classifier, files[:2], options, cavs=cavs)
    assert [image.path for image in report.images] == files[:2]
    whole = json.loads(json.dumps(report.to_dict(skipped=[])))
    assert whole["about"]["classifier"]["name"] == "tiny"
    assert [image["file"] for image in whole["about"]["images"]] == [str(file) for file in files[:2]]
    assert {row["concept"] for row in whole["rows"]} >= {"striped", "red"}


def test_a_class_is_ranked_over_its_images_with_examples(
    classifier: pl.Classifier, cavs: dict[str, list[pl.concepts.CAV]], files: list[Path]
) -> None:
    done: list[int] = []
    options = ExplainClassOptions(target=("2",), permutations=9)
    report = explain_class(classifier, files, options, cavs=cavs, on_images=done.append)
    assert sum(done) == len(files)
    assert [result.layer for result in report.results] == list(cavs)
    assert set(report.examples.first) <= set(report.examples.thumbnails)
    rankings = report.to_dict()["about"]["rankings"]
    assert len(rankings) == len(cavs) * 2


def test_tcav_scores_name_their_files(
    classifier: pl.Classifier, cavs: dict[str, list[pl.concepts.CAV]], files: list[Path]
) -> None:
    options = TCAVOptions(target="0", random_sets=2, permutations=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConceptWarning)
        scores = score_tcav(classifier, files, options, cavs=cavs)
    assert len(scores.results) == len(cavs)
    assert json.loads(json.dumps(scores.to_dict()))["about"]["random_sets"] == 2


def test_unreadable_images_are_named_before_anything_is_computed(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no image")
    failures: list[Path] = []
    readable, skipped = readable_images([*map(str, files), str(tmp_path)], lambda file, reason: failures.append(file))
    assert readable == files
    assert failures == [tmp_path / "note.png"]
    assert [each["file"] for each in skipped] == [str(tmp_path / "note.png")]
    with pytest.raises(pl.PellucidError):
        readable_images([tmp_path])


def test_methods_are_selected_by_name_with_options() -> None:
    (method,) = select_methods(["IntegratedGradients"], ["IntegratedGradients.steps=7"], smooth=3, max_batch=2)
    assert method.options()["kernel_size"] == 3
    assert "steps=7" in repr(method)
    assert len(select_methods(["all"])) == len(pl.attribution.METHODS)
