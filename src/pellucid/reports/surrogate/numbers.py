"""The numbers of an image's explanation, plainly typed, for JSON."""

import math
from typing import TYPE_CHECKING, Any

from pellucid.reports.surrogate.why_page import redrawn_probabilities, values_of
from pellucid.surrogate import probabilities
from pellucid.workflows import ExplainedImage

if TYPE_CHECKING:
    from pellucid.surrogate import SurrogateExplainer


def explanation_numbers(explainer: "SurrogateExplainer", each: ExplainedImage) -> dict[str, Any]:
    """All that is said of one image but the images; what is no number is null."""
    found, names = each.explanation, list(each.class_names)
    seen = probabilities(found.logits)[0]
    shares = found.importance
    return {
        "file": each.name,
        "target": names[found.target],
        "probabilities": _named(names, seen.tolist()),
        "redrawn_probabilities": _named(names, redrawn_probabilities(found).tolist()),
        "fidelity": {
            "reliable": bool(found.fidelity.reliable[0]),
            "kl": float(found.fidelity.kl[0]),
            "agrees": bool(found.fidelity.same_class[0]),
            "reason": found.fidelity.warning(0),
        },
        "importance": [
            {"concept": name, "value": value, "error": error, "percentile": place, "refused": name in found.refused}
            for name, value, error, place in zip(
                shares.names, shares.values[0].tolist(), shares.errors[0].tolist(), found.percentiles.tolist(),
                strict=True,
            )
        ],
        "transferred": found.residual_transfer,
        "margin": float(shares.margin[0]),
        "baseline": float(shares.baseline[0]),
        "effects": [
            {
                "concept": effect.concept,
                "direct": effect.direct,
                "total": list(effect.total),
                "paths": [{"path": list(path.nodes), "effect": path.effect} for path in effect.paths],
                "remainder": None if math.isnan(effect.remainder) else effect.remainder,
                "supported": effect.in_distribution,
            }
            for effect in found.effects
        ],
        "interactions": [{"pair": list(pair.concepts), "value": pair.effect} for pair in found.interactions],
        "strips": [
            {
                "concept": strip.concept,
                "values": values_of(explainer, strip.concept, strip.levels)[0],
                "read_back": values_of(explainer, strip.concept, strip.predicted)[0],
                "probabilities": strip.probabilities.tolist(),
                "supported": strip.in_distribution.tolist(),
            }
            for strip in found.traversals
        ],
        "flip": _flip(each),
        "counterfactual": _counterfactual(explainer, each),
        "refused": dict(found.refused),
        "sentences": list(found.sentences),
    }  # fmt: skip


def _flip(each: ExplainedImage) -> dict[str, Any] | None:
    flipped = each.explanation.minimal_counterfactual
    if flipped is None:
        return None
    change = _named(each.explanation.importance.names, flipped.change[0].tolist())
    return {
        "target": each.class_names[int(flipped.targets[0])],
        "valid": bool(flipped.valid[0]),
        "raw_valid": bool(flipped.decoded_valid[0]),
        "change_sd": {name: by for name, by in change.items() if by},
        "pixels": float(flipped.pixel_change[0]),
    }


def _counterfactual(explainer: "SurrogateExplainer", each: ExplainedImage) -> dict[str, Any] | None:
    asked = each.counterfactual
    if asked is None:
        return None
    return {
        "do": dict(asked.do),
        "before": _named(each.class_names, asked.before[0].tolist()),
        "after": _named(each.class_names, asked.after[0].tolist()),
        "read_back": _named(explainer.context_names, asked.predicted[0].tolist()),
        "supported": bool(asked.in_distribution[0]),
    }


def _named(names: "list[str] | tuple[str, ...] | Any", values: list[float]) -> dict[str, float]:
    return dict(zip(names, values, strict=True))
