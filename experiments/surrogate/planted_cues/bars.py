"""The bench of bars: analytic classifiers of which the cue is certain, and counterfactuals that are exact."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pellucid as pl
from experiments.surrogate.planted_cues.effects import (
    causal_effects,
    interventions,
    plain_correlation,
    reported,
    score,
    true_effects,
)
from pellucid.surrogate import LOGITS_ONLY, PRESETS, ReferenceSet, measure_decision_effects, train
from pellucid.synthetic import IntensityClassifier, ThicknessClassifier, bars_model, draw_bars

CONTEXTS = ("thickness", "intensity")
OPTIONS = PRESETS["ci-16"].replace(steps=2000)
_SIDE, _TRAINING, _HELD_OUT = 16, 2000, 300
_CUES: Mapping[str, type[nn.Module]] = {"thickness": ThicknessClassifier, "intensity": IntensityClassifier}
BARS = tuple((cue, versions) for cue in _CUES for versions in (False, True))
"""The cases: what decides, and whether the surrogate may learn from bars redrawn."""


def explained_bars(cue: str, versions: bool, out: Path) -> dict[str, Any]:
    """Train the surrogate of a planted classifier in `out`, and compare what it says with the truth."""
    classifier = pl.Classifier(_CUES[cue]().eval(), input_size=(1, _SIDE, _SIDE), name=f"bars by {cue}")
    training, test = (bars_model().sample(count, seed=seed) for seed, count in ((0, _TRAINING), (1, _HELD_OUT)))
    images, shown = draw_bars(training, _SIDE), draw_bars(test, _SIDE)
    explainer = train(
        classifier,
        images,
        training.select(CONTEXTS),
        OPTIONS,
        out,
        layers=LOGITS_ONLY,
        rerender=rerender_bars if versions else None,
    )
    marks = explainer.assess(
        shown, lambda drawn: explainer.standard_context(_measured(drawn)), measured_by="ink and maximum"
    )
    batch = explainer.encode_batch(shown)
    context = {name: test.column(name).float() for name in CONTEXTS}
    redrawn = {
        name: torch.stack([draw_bars(test.with_columns({name: row}), _SIDE) for row in interventions(values)])
        for name, values in context.items()
    }
    truth = true_effects(explainer.logits, shown, shown, redrawn)
    usable = torch.ones(len(CONTEXTS), len(test), dtype=torch.bool)
    result = {
        kind: {
            "effects": causal_effects(seen, batch, explainer.standard_context, context, truth, usable),
            **reported(seen, *measure_decision_effects(seen, batch.codes), ReferenceSet(batch.codes, batch.classes)),
        }
        for kind, seen in (("transferred", batch), ("drawn", batch.reconstructed()))
    }
    return {
        "cue": cue,
        "versions": versions,
        "agreement": marks.agreement,
        "effectiveness": marks.effectiveness,
        "tie": float(torch.corrcoef(test.select(CONTEXTS).values.T)[0, 1]),
        "plain_correlation": plain_correlation(score(batch.logits, batch.classes), context),
        **result,
    }


def rerender_bars(images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bars of any thickness and intensity at the place where the given ones are."""
    values = torch.rand(len(images), 2, generator=random) * torch.tensor([5.0, 0.7]) + torch.tensor([2.0, 0.3])
    ink = images[:, 0].sum(1)
    place = (ink * (torch.arange(_SIDE) + 0.5)).sum(1) / ink.sum(1)
    return draw_bars(torch.cat([values, place[:, None]], dim=1), _SIDE), values


def _measured(images: Tensor) -> Tensor:
    """Thickness and intensity (N, 2) of drawn bars: the ink in units of the brightest column's grey, and that grey."""
    rows = images[:, 0, 3:13].mean(1).clamp(min=0)  # (N, W), rows that the bar fills
    intensity = rows.amax(1)  # a bar fills at least one column
    return torch.stack([rows.sum(1) / intensity.clamp(min=1e-6), intensity], dim=1)
