"""One image on a surrogate's page: what counts, along which paths, and what would change the answer."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.reports.shared.bars import Scale
from pellucid.reports.shared.colors import format_number
from pellucid.reports.shared.html import percent
from pellucid.reports.surrogate.image_parts import difference_uri, image_uri
from pellucid.surrogate import ConceptEffect, Counterfactual, LatentTraversal, LocalExplanation, probabilities
from pellucid.workflows import ExplainedImage

if TYPE_CHECKING:
    from pellucid.surrogate import SurrogateExplainer


_CLASSES = 5
_CURVES = 3


def image_view(explainer: "SurrogateExplainer", each: ExplainedImage) -> dict[str, Any]:
    """What the template prints of one image."""
    found = each.explanation
    names = each.class_names
    return {
        "name": each.name,
        "target": names[found.target],
        "decided": names[found.decided_class],
        "image": image_uri(explainer, found.images[0]),
        "redrawn": image_uri(explainer, found.reconstructions[0]),
        "missed": difference_uri(explainer, found.images[0], found.reconstructions[0]),
        "warning": found.fidelity.warning(0),
        "transferred": found.residual_transfer,
        "kl": f"{float(found.fidelity.kl[0]):.3f}",
        "classes": _classes(found, redrawn_probabilities(found), names),
        "sentences": [line for line in found.sentences if not line.startswith("Do not rely")],
        "importance": _importance(found),
        "strips": [
            _strip(explainer, found, strip, names)
            for strip in found.traversals
            if strip.concept in explainer.context_names
        ],
        "latents": [
            _strip(explainer, found, strip, names)
            for strip in found.traversals
            if strip.concept in explainer.latent_names
        ],
        "refused": dict(found.refused),
        "flip": _flip(explainer, found, names),
        "effects": _effects(found.effects),
        "interactions": _interactions(found),
        "asked": None if each.counterfactual is None else _asked(explainer, found, each.counterfactual, names),
    }


def redrawn_probabilities(found: LocalExplanation) -> Tensor:
    """What the classifier says of the twin's redrawing, (K,)."""
    return probabilities(found.reconstruction_logits)[0]


def values_of(explainer: "SurrogateExplainer", concept: str, levels: Tensor) -> tuple[list[float], str]:
    """Values of a concept's code (V,) in the table's units, with the unit: latents have standard deviations only."""
    if concept not in explainer.context_names:
        return levels.tolist(), "sd"
    column = explainer.context_names.index(concept)
    standard = torch.zeros(len(levels), len(explainer.context_names)).to(levels)
    standard[:, column] = levels
    return explainer.context_values(standard)[:, column].tolist(), ""


def _classes(found: LocalExplanation, redrawn: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    seen = probabilities(found.logits)[0]
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


def _strip(
    explainer: "SurrogateExplainer", found: LocalExplanation, strip: LatentTraversal, names: Sequence[str]
) -> dict[str, Any]:
    values, unit = values_of(explainer, strip.concept, strip.levels)
    predicted, _ = values_of(explainer, strip.concept, strip.predicted)
    own = float(found.codes.concept_coordinates()[0, found.importance.names.index(strip.concept)])
    ends = float(strip.levels[0]), float(strip.levels[-1])
    return {
        "name": strip.concept,
        "unit": unit,
        "images": [
            {
                "uri": image_uri(explainer, image),
                "raw": image_uri(explainer, raw),
                "value": _number(value),
                "supported": bool(known),
            }
            for image, raw, value, known in zip(strip.images, strip.decoded, values, strip.in_distribution, strict=True)
        ],
        "curves": _curves(strip.probabilities, found.target, names),
        "own": round(100 * ((own - ends[0]) / (ends[1] - ends[0]) * (len(values) - 1) + 0.5) / len(values), 2),
        "own_text": _number(values_of(explainer, strip.concept, torch.tensor([own]).to(strip.levels))[0][0]),
        "judged": f"{_number(predicted[0])} to {_number(predicted[-1])}",
        "asked": f"{_number(values[0])} to {_number(values[-1])}",
        "where": difference_uri(explainer, strip.images[0], strip.images[-1]),
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


def _said(strip: LatentTraversal, target: int, names: Sequence[str]) -> str:
    shares = strip.probabilities[:, target]
    decided = [names[index] for index in strip.probabilities.argmax(1).tolist()]
    told = list(dict.fromkeys(decided))
    run = f"{names[target]} goes from {percent(float(shares[0]))} to {percent(float(shares[-1]))}"
    return (
        f"{run}; the answer stays {told[0]}."
        if len(told) == 1
        else f"{run}; the answer runs through {', '.join(told)}."
    )


def _flip(explainer: "SurrogateExplainer", found: LocalExplanation, names: Sequence[str]) -> dict[str, Any] | None:
    flipped = found.minimal_counterfactual
    if flipped is None:
        return None
    changes = {name: float(by) for name, by in zip(found.importance.names, flipped.change[0], strict=True) if by}
    scale = Scale.over(changes.values())
    before, after = found.codes.concept_coordinates()[0], flipped.codes.concept_coordinates()[0]
    rows = []
    for name, by in sorted(changes.items(), key=lambda item: -abs(item[1])):
        column = found.importance.names.index(name)
        (old, new), unit = values_of(explainer, name, torch.stack([before[column], after[column]]))
        rows.append(
            {
                "name": name,
                "by": scale.write(by),
                "bar": scale.bar(by),
                "values": f"{_number(old)} → {_number(new)}{' sd' if unit else ''}",
            }
        )
    with torch.no_grad():
        said = probabilities(explainer.logits(flipped.images))[0]
    goal = int(flipped.targets[0])
    return {
        "goal": names[goal],
        "valid": bool(flipped.valid[0]),
        "raw_valid": bool(flipped.decoded_valid[0]),
        "share": percent(float(said[goal])),
        "after": image_uri(explainer, flipped.images[0]),
        "raw": image_uri(explainer, flipped.decoded[0]),
        "difference": difference_uri(explainer, found.images[0], flipped.images[0]),
        "rows": rows,
    }


def _effects(effects: Sequence[ConceptEffect]) -> dict[str, Any]:
    ends = [value for each in effects for value in (each.direct, *each.total, *(path.effect for path in each.paths))]
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
                    {
                        "name": " → ".join((*path.nodes, "decision")),
                        "text": scale.write(path.effect),
                        "bar": scale.bar(path.effect),
                    }
                    for path in each.paths
                ],
                "remainder": None if math.isnan(each.remainder) or not each.paths else scale.write(each.remainder),
                "supported": each.in_distribution,
            }
        )
    return {"rows": rows, "ticks": scale.ticks}


def _interactions(found: LocalExplanation) -> list[dict[str, Any]]:
    scale = Scale.over([pair.effect for pair in found.interactions])
    return [
        {"names": " and ".join(pair.concepts), "text": scale.write(pair.effect), "bar": scale.bar(pair.effect)}
        for pair in sorted(found.interactions, key=lambda pair: -abs(pair.effect))
    ]


def _asked(
    explainer: "SurrogateExplainer", found: LocalExplanation, asked: Counterfactual, names: Sequence[str]
) -> dict[str, Any]:
    after, before = int(asked.after[0].argmax()), int(asked.before[0].argmax())
    return {
        "do": ", ".join(f"{name} = {_number(value)}" for name, value in asked.do.items()),
        "image": image_uri(explainer, asked.images[0]),
        "raw": image_uri(explainer, asked.decoded[0]),
        "difference": difference_uri(explainer, found.images[0], asked.images[0]),
        "before": f"{names[before]}, {percent(float(asked.before[0, before]))}",
        "after": f"{names[after]}, {percent(float(asked.after[0, after]))}",
        "changes": after != before,
        "supported": bool(asked.in_distribution[0]),
        "rows": [
            {"name": name, "asked": _number(asked.do[name]) if name in asked.do else "", "read": _number(float(value))}
            for name, value in zip(explainer.context_names, asked.predicted[0], strict=True)
        ],
    }


def _number(value: float) -> str:
    return format_number(value if abs(value) >= 5e-4 else 0.0)
