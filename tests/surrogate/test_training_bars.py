"""Twins of classifiers with a planted cue: the cue must be found, its tied companion must not."""

import pytest
import torch
from tests.surrogate.support import SIDE, agreement, bars, classifier_of, effect_of

from pellucid.data.bars import IntensityClassifier, ThicknessClassifier, draw_bars
from pellucid.surrogate import LOGITS_ONLY, PRESETS, train


def versions(pictures, random):
    """Bars of any thickness and intensity at the place where the given ones are."""
    ink = pictures[:, 0].sum(1)
    place = (ink * (torch.arange(SIDE) + 0.5)).sum(1) / ink.sum(1)
    drawn_from = torch.rand(len(pictures), 2, generator=random) * torch.tensor([5.0, 0.7]) + torch.tensor([2.0, 0.3])
    return draw_bars(torch.cat([drawn_from, place[:, None]], dim=1), SIDE), drawn_from


def twin_of(network, correlation, out, rerender=None, **options):
    data = bars(2000, 0, correlation)
    preset = PRESETS["ci-16"].but(**options)
    arguments = {"layers": LOGITS_ONLY, "report": None, "rerender": rerender}
    return train(classifier_of(network), data.pictures, data.context, preset, out, **arguments), bars(
        300, 1, correlation
    )


@pytest.mark.slow
def test_a_twin_finds_out_that_only_the_intensity_decides(tmp_path):
    twin, test = twin_of(IntensityClassifier(), 0.5, tmp_path / "run")
    cue, other = effect_of(twin, test, "intensity"), effect_of(twin, test, "thickness")
    assert agreement(twin, test) >= 0.95
    assert cue.reach >= 4 * other.reach
    assert cue.reach == pytest.approx(cue.true_reach, rel=0.35)
    assert min(min(judge) for judge in twin.quality.judged) > 0.95


@pytest.mark.slow
def test_with_versions_of_known_context_tied_concepts_come_apart(tmp_path):
    twin, test = twin_of(ThicknessClassifier(), 0.91, tmp_path / "run", versions)
    cue, other = effect_of(twin, test, "thickness"), effect_of(twin, test, "intensity")
    assert agreement(twin, test) >= 0.95
    assert cue.reach >= 4 * other.reach
    assert cue.correlation >= 0.8
    assert cue.distance <= 0.03
