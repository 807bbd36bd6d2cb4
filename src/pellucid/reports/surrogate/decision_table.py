"""What moves the decision: the effect of each concept, beside those of the nuisance."""

import math
from collections.abc import Sequence
from typing import Any

from pellucid.reports.shared.bar_scale import format_p_value
from pellucid.reports.shared.html import percent
from pellucid.surrogate import DECISION_NODE, GlobalExplanation, Proportion


def decision_table(global_explanation: GlobalExplanation, class_names: Sequence[str]) -> dict[str, Any]:
    """What the template prints of the concepts that move the decision, from the strongest down."""
    most = max((edge.strength for edge in global_explanation.decision_effects), default=1.0)
    most = max(most, global_explanation.null.block, 1e-9)
    tentative = {
        edge.source for edge in global_explanation.perceived.edges if edge.target == DECISION_NODE and edge.tentative
    }
    needed = {result.concept: result for result in global_explanation.necessity}
    rows = [
        {
            "name": edge.concept,
            "strength": f"{edge.strength:.2f}",
            "share": round(100 * edge.strength / most, 1),
            "flips": percent(edge.flip_rate),
            "dose_response": _dose_response(edge.dose_response),
            "agreement": "" if math.isnan(edge.sign_agreement) else percent(edge.sign_agreement),
            "p": format_p_value(edge.p_value),
            "significant": edge.significant,
            "tentative": edge.concept in tentative,
            "necessity": _share(needed[edge.concept].necessity) if needed else "",
            "sufficiency": _share(needed[edge.concept].sufficiency) if needed else "",
        }
        for edge in sorted(global_explanation.decision_effects, key=lambda effect: -effect.strength)
    ]
    return {
        "rows": rows,
        "target": None if global_explanation.target is None else class_names[global_explanation.target],
        "transferred": global_explanation.residual_transfer,
        "needed": bool(needed),
        "null": f"{global_explanation.null.strongest:.3f}",
        "null_share": round(100 * global_explanation.null.strongest / most, 1),
        "block": f"{global_explanation.null.block:.3f}",
        "block_share": round(100 * global_explanation.null.block / most, 1),
        "block_flips": percent(global_explanation.null.flip_rate),
    }


def _share(share: Proportion) -> str:
    return f"{100 * share.estimate:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def _dose_response(margins: Sequence[float]) -> dict[str, Any]:
    """A little curve: the margin at five values of the concept, on a scale of its own around zero."""
    most = max(0.05, *(abs(value) for value in margins))
    points = [(20 * position + 4, 14 - 12 * value / most) for position, value in enumerate(margins)]
    return {
        "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        "text": f"{margins[0]:+.2f} to {margins[-1]:+.2f}".replace("-", "−"),
        "sign": "for" if margins[-1] >= margins[0] else "against",
    }
