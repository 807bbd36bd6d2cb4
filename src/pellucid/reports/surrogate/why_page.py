"""One picture on a surrogate's page: what counts, along which paths, and what would change the answer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.reports.concepts.parts import Scale
from pellucid.reports.shared.colors import format_number
from pellucid.reports.shared.html import percent
from pellucid.reports.surrogate.image_parts import difference_uri, picture_uri
from pellucid.surrogate.explain.counterfactual import Counterfactual
from pellucid.surrogate.explain.encoded_batch import probabilities
from pellucid.surrogate.explain.local_explanation import ConceptEffect, LocalExplanation
from pellucid.surrogate.explain.traversal import Strip

if TYPE_CHECKING:
    from pellucid.surrogate import TwinSurrogate


_CLASSES = 5
_CURVES = 3


@dataclass(frozen=True)
class ExplainedPicture:
    """A picture with its answers.

    Attributes:
        name: of its file.
        explanation: every local answer.
        counterfactual: of values that the user asked for, or None.
        class_names: what the classes are called.
    """

    name: str
    explanation: LocalExplanation
    counterfactual: Counterfactual | None
    class_names: Sequence[str]


def picture_view(twin: "TwinSurrogate", each: ExplainedPicture) -> dict[str, Any]:
    """What the template prints of one picture."""
    found = each.explanation
    painting, names = found.painting, each.class_names
    return {
        "name": each.name,
        "target": names[found.target],
        "decided": names[int(painting.classes[0])],
        "picture": picture_uri(twin, painting.pictures[0]),
        "redrawn": picture_uri(twin, painting.reconstructions[0]),
        "missed": difference_uri(twin, painting.pictures[0], painting.reconstructions[0]),
        "warning": found.fidelity.reason(0),
        "transferred": found.transferred,
        "kl": f"{float(found.fidelity.kl[0]):.3f}",
        "classes": _classes(found, redrawn_probabilities(found), names),
        "sentences": [line for line in found.sentences if not line.startswith("Do not rely")],
        "importance": _importance(found),
        "strips": [_strip(twin, found, strip, names) for strip in found.strips if strip.concept in twin.context_names],
        "latents": [_strip(twin, found, strip, names) for strip in found.strips if strip.concept in twin.latent_names],
        "refused": dict(found.refused),
        "flip": _flip(twin, found, names),
        "effects": _effects(found.effects),
        "interactions": _interactions(found),
        "asked": None if each.counterfactual is None else _asked(twin, found, each.counterfactual, names),
    }


def redrawn_probabilities(found: LocalExplanation) -> Tensor:
    """What the classifier says of the twin's redrawing, (K,)."""
    with torch.no_grad():
        return probabilities(found.painting.twin.logits(found.painting.reconstructions))[0]


def values_of(twin: "TwinSurrogate", concept: str, levels: Tensor) -> tuple[list[float], str]:
    """Values of a concept's code (V,) in the table's units, with the unit: latents have standard deviations only."""
    if concept not in twin.context_names:
        return levels.tolist(), "sd"
    column = twin.context_names.index(concept)
    standard = torch.zeros(len(levels), len(twin.context_names)).to(levels)
    standard[:, column] = levels
    return twin.context_values(standard)[:, column].tolist(), ""


def _classes(found: LocalExplanation, redrawn: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    seen = probabilities(found.painting.logits)[0]
    order = torch.maximum(seen, redrawn).argsort(descending=True).tolist()[:_CLASSES]
    return [
        {
            "name": names[index],
            "here": round(100 * float(seen[index]), 2),
            "here_text": percent(float(seen[index])),
            "redrawn": round(100 * float(redrawn[index]), 2),
            "redrawn_text": percent(float(redrawn[index])),
        }
        for index in order
    ]


def _importance(found: LocalExplanation) -> dict[str, Any]:
    shares = found.importance
    values, errors = shares.values[0].tolist(), shares.errors[0].tolist()
    ranges = [(value - 2 * error, value + 2 * error) for value, error in zip(values, errors, strict=True)]
    scale = Scale.over([end for ends in ranges for end in ends])
    rows = []
    for column in sorted(range(len(values)), key=lambda at: -abs(values[at])):
        value, error, name = values[column], errors[column], shares.names[column]
        doubt = "not controlled by the twin" if name in found.refused else ""
        if abs(value) <= 2 * error:
            doubt = "cannot be told from nothing"
        rows.append(
            {
                "name": name,
                "text": scale.write(value),
                "error": scale.write(error, signed=False),
                "bar": scale.bar(value, value - 2 * error, value + 2 * error),
                "doubt": doubt,
                "place": round(100 * float(found.percentiles[column])),
            }
        )
    return {
        "rows": rows,
        "ticks": scale.ticks,
        "margin": _number(float(shares.margin[0])),
        "baseline": _number(float(shares.baseline[0])),
    }


def _strip(twin: "TwinSurrogate", found: LocalExplanation, strip: Strip, names: Sequence[str]) -> dict[str, Any]:
    values, unit = values_of(twin, strip.concept, strip.levels)
    judged, _ = values_of(twin, strip.concept, strip.judged)
    own = float(found.painting.codes.concepts()[0, found.importance.names.index(strip.concept)])
    ends = float(strip.levels[0]), float(strip.levels[-1])
    return {
        "name": strip.concept,
        "unit": unit,
        "pictures": [
            {
                "uri": picture_uri(twin, picture),
                "raw": picture_uri(twin, raw),
                "value": _number(value),
                "supported": bool(known),
            }
            for picture, raw, value, known in zip(strip.pictures, strip.raw, values, strip.supported, strict=True)
        ],
        "curves": _curves(strip.probabilities, found.target, names),
        "own": round(100 * ((own - ends[0]) / (ends[1] - ends[0]) * (len(values) - 1) + 0.5) / len(values), 2),
        "own_text": _number(values_of(twin, strip.concept, torch.tensor([own]).to(strip.levels))[0][0]),
        "judged": f"{_number(judged[0])} to {_number(judged[-1])}",
        "asked": f"{_number(values[0])} to {_number(values[-1])}",
        "where": difference_uri(twin, strip.pictures[0], strip.pictures[-1]),
        "said": _said(strip, found.target, names),
    }


def _curves(shares: Tensor, target: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """Probability of the explained class and of the likeliest others at each level, in an SVG of 100 x 100."""
    others = [index for index in shares.amax(0).argsort(descending=True).tolist() if index != target]
    count = len(shares)
    chosen = [target, *(index for index in others[: _CURVES - 1] if float(shares[:, index].max()) > 0.01)]
    return [
        {
            "name": names[index],
            "points": " ".join(
                f"{100 * (place + 0.5) / count:.2f},{100 - 100 * share:.2f}"
                for place, share in enumerate(shares[:, index].tolist())
            ),
        }
        for index in chosen
    ]


def _said(strip: Strip, target: int, names: Sequence[str]) -> str:
    shares = strip.probabilities[:, target]
    decided = [names[index] for index in strip.probabilities.argmax(1).tolist()]
    told = list(dict.fromkeys(decided))
    run = f"{names[target]} goes from {percent(float(shares[0]))} to {percent(float(shares[-1]))}"
    return (
        f"{run}; the answer stays {told[0]}."
        if len(told) == 1
        else f"{run}; the answer runs through {', '.join(told)}."
    )


def _flip(twin: "TwinSurrogate", found: LocalExplanation, names: Sequence[str]) -> dict[str, Any] | None:
    flipped = found.flipped
    if flipped is None:
        return None
    painting = found.painting
    changes = {name: float(by) for name, by in zip(found.importance.names, flipped.change[0], strict=True) if by}
    scale = Scale.over(changes.values())
    before, after = painting.codes.concepts()[0], flipped.codes.concepts()[0]
    rows = []
    for name, by in sorted(changes.items(), key=lambda item: -abs(item[1])):
        column = found.importance.names.index(name)
        (old, new), unit = values_of(twin, name, torch.stack([before[column], after[column]]))
        rows.append(
            {
                "name": name,
                "by": scale.write(by),
                "bar": scale.bar(by),
                "values": f"{_number(old)} → {_number(new)}{' sd' if unit else ''}",
            }
        )
    with torch.no_grad():
        said = probabilities(twin.logits(flipped.pictures))[0]
    goal = int(flipped.targets[0])
    return {
        "goal": names[goal],
        "valid": bool(flipped.valid[0]),
        "raw_valid": bool(flipped.raw_valid[0]),
        "share": percent(float(said[goal])),
        "after": picture_uri(twin, flipped.pictures[0]),
        "raw": picture_uri(twin, flipped.raw[0]),
        "difference": difference_uri(twin, painting.pictures[0], flipped.pictures[0]),
        "rows": rows,
    }


def _effects(effects: Sequence[ConceptEffect]) -> dict[str, Any]:
    ends = [value for each in effects for value in (each.direct, *each.total, *each.paths.values())]
    scale = Scale.over(ends)
    rows = []
    for each in sorted(effects, key=lambda one: -max(map(abs, (one.direct, *one.total)))):
        low, high = each.total
        rows.append(
            {
                "name": each.concept,
                "direct": {"text": scale.write(each.direct), "bar": scale.bar(each.direct)},
                "total": {
                    "text": scale.write(low) if low == high else f"{scale.write(low)} to {scale.write(high)}",
                    "bar": scale.bar(low if abs(low) > abs(high) else high),
                },
                "open": low != high,
                "paths": [
                    {"name": " → ".join((*path, "decision")), "text": scale.write(value), "bar": scale.bar(value)}
                    for path, value in each.paths.items()
                ],
                "remainder": None if math.isnan(each.remainder) or not each.paths else scale.write(each.remainder),
                "supported": each.supported,
            }
        )
    return {"rows": rows, "ticks": scale.ticks}


def _interactions(found: LocalExplanation) -> list[dict[str, Any]]:
    scale = Scale.over(found.interactions.values())
    return [
        {"names": " and ".join(pair), "text": scale.write(value), "bar": scale.bar(value)}
        for pair, value in sorted(found.interactions.items(), key=lambda item: -abs(item[1]))
    ]


def _asked(
    twin: "TwinSurrogate", found: LocalExplanation, asked: Counterfactual, names: Sequence[str]
) -> dict[str, Any]:
    after, before = int(asked.after[0].argmax()), int(asked.before[0].argmax())
    return {
        "do": ", ".join(f"{name} = {_number(value)}" for name, value in asked.do.items()),
        "picture": picture_uri(twin, asked.pictures[0]),
        "raw": picture_uri(twin, asked.raw[0]),
        "difference": difference_uri(twin, found.painting.pictures[0], asked.pictures[0]),
        "before": f"{names[before]}, {percent(float(asked.before[0, before]))}",
        "after": f"{names[after]}, {percent(float(asked.after[0, after]))}",
        "changes": after != before,
        "supported": bool(asked.supported[0]),
        "rows": [
            {"name": name, "asked": _number(asked.do[name]) if name in asked.do else "", "read": _number(float(value))}
            for name, value in zip(twin.context_names, asked.judged[0], strict=True)
        ],
    }


def _number(value: float) -> str:
    return format_number(value if abs(value) >= 5e-4 else 0.0)
