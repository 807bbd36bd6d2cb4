"""One image on a surrogate's page: what counts, what would change the answer, and the images that show it."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pellucid.reports.shared.html import data_uri, distinct, percent
from pellucid.reports.shared.scales import Scale, format_number
from pellucid.surrogate import (
    ConceptEffect,
    Counterfactual,
    DisplaySpace,
    LatentTraversal,
    LocalExplanation,
    probabilities,
)
from pellucid.workflows import ExplainedImage, SurrogateFacts

_CLASSES = 5
_CURVES = 3


def image_view(surrogate: SurrogateFacts, image: ExplainedImage) -> dict[str, Any]:
    """What the template prints of one image."""
    explanation, names, space = image.explanation, image.explanation.class_names, surrogate.space
    traversals = [
        (traversal.concept, _traversal(surrogate, explanation, traversal)) for traversal in explanation.traversals
    ]
    counterfactual = image.counterfactual
    return {
        "name": image.name,
        "target": names[explanation.target],
        "decided": names[explanation.decided_class],
        "image": image_uri(space, explanation.images[0]),
        "reconstructed": image_uri(space, explanation.reconstructions[0]),
        "missed": difference_uri(space, explanation.images[0], explanation.reconstructions[0]),
        "warning": explanation.fidelity.warning(0),
        "transferred": explanation.residual_transfer,
        "kl": f"{float(explanation.fidelity.kl[0]):.3f}",
        "classes": _classes(explanation),
        "sentences": [line for line in explanation.sentences if not line.startswith("Do not rely")],
        "importance": _importance(explanation),
        "traversals": [view for concept, view in traversals if concept in surrogate.context_names],
        "latents": [view for concept, view in traversals if concept in surrogate.latent_names],
        "refused": dict(explanation.refused),
        "flip": _flip(surrogate, image),
        "effects": _effects(explanation.effects),
        "interactions": _interactions(explanation),
        "requested": None if counterfactual is None else _requested(surrogate, explanation, counterfactual),
    }


def _classes(explanation: LocalExplanation) -> list[dict[str, Any]]:
    seen, reconstructed = (
        probabilities(logits)[0] for logits in (explanation.logits, explanation.reconstruction_logits)
    )
    order = torch.maximum(seen, reconstructed).argsort(descending=True).tolist()[:_CLASSES]
    return [
        {
            "name": explanation.class_names[index],
            "here": round(100 * float(seen[index]), 2),
            "here_text": percent(float(seen[index])),
            "reconstructed": round(100 * float(reconstructed[index]), 2),
            "reconstructed_text": percent(float(reconstructed[index])),
        }
        for index in order
    ]


def _importance(explanation: LocalExplanation) -> dict[str, Any]:
    shares = explanation.importance
    values, widths = shares.values[0].tolist(), shares.half_widths[0].tolist()
    ranges = [(value - width, value, value + width) for value, width in zip(values, widths, strict=True)]
    scale = Scale.over([end for ends in ranges for end in ends])
    rows = []
    for column in sorted(range(len(values)), key=lambda at: -abs(values[at])):
        value, width, name = values[column], widths[column], shares.names[column]
        doubt = "not controlled by the surrogate" if name in explanation.refused else ""
        if abs(value) <= width:
            doubt = "not significant"
        rows.append(
            {
                "name": name,
                "text": scale.write(value),
                "error": scale.write(width, signed=False) if math.isfinite(width) else None,
                "bar": scale.bar(value, value - width, value + width),
                "doubt": doubt,
                "place": round(100 * float(explanation.percentiles[column])),
            }
        )
    return {
        "rows": rows,
        "ticks": scale.ticks,
        "margin": _number(float(shares.margin[0])),
        "baseline": _number(float(shares.baseline[0])),
    }


def _traversal(surrogate: SurrogateFacts, explanation: LocalExplanation, traversal: LatentTraversal) -> dict[str, Any]:
    concept, levels, names = traversal.concept, traversal.levels, explanation.class_names
    values, unit = surrogate.to_units(concept, levels)
    predicted, _ = surrogate.to_units(concept, traversal.predicted)
    own = float(explanation.codes.concept_coordinates()[0, explanation.importance.names.index(concept)])
    ends = float(levels[0]), float(levels[-1])
    beside = [None] * len(values) if traversal.transferred is None else traversal.transferred
    shots = zip(traversal.images, beside, values, traversal.in_distribution, strict=True)
    return {
        "name": concept,
        "unit": unit,
        "images": [
            {
                "uri": image_uri(surrogate.space, image),
                "transferred": None if transferred is None else image_uri(surrogate.space, transferred),
                "value": _number(value),
                "supported": bool(known),
            }
            for image, transferred, value, known in shots
        ],
        "curves": _curves(traversal.probabilities, explanation.target, names),
        "own": round(100 * ((own - ends[0]) / (ends[1] - ends[0]) * (len(values) - 1) + 0.5) / len(values), 2),
        "own_text": _number(surrogate.to_units(concept, torch.tensor([own]))[0][0]),
        "predicted": f"{_number(predicted[0])} to {_number(predicted[-1])}",
        "requested": f"{_number(values[0])} to {_number(values[-1])}",
        "where": difference_uri(surrogate.space, traversal.images[0], traversal.images[-1]),
        "sentence": _sentence(traversal, explanation.target, names),
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
                f"{100 * (position + 0.5) / count:.2f},{100 - 100 * share:.2f}"
                for position, share in enumerate(shares[:, index].tolist())
            ),
        }
        for index in chosen
    ]


def _sentence(traversal: LatentTraversal, target: int, names: Sequence[str]) -> str:
    shares = traversal.probabilities[:, target]
    answers = distinct(names[index] for index in traversal.probabilities.argmax(1).tolist())
    run = f"{names[target]} goes from {percent(float(shares[0]))} to {percent(float(shares[-1]))}"
    if len(answers) == 1:
        return f"{run}; the answer stays {answers[0]}."
    return f"{run}; the answer runs through {', '.join(answers)}."


def _flip(surrogate: SurrogateFacts, image: ExplainedImage) -> dict[str, Any] | None:
    explanation, flip = image.explanation, image.explanation.minimal_counterfactual
    if flip is None or image.flip_probabilities is None:
        return None
    concepts, names = explanation.importance.names, explanation.class_names
    changes = {name: float(by) for name, by in zip(concepts, flip.change[0], strict=True) if by}
    scale = Scale.over(changes.values())
    before, after = explanation.codes.concept_coordinates()[0], flip.codes.concept_coordinates()[0]
    rows = []
    for name, by in sorted(changes.items(), key=lambda item: -abs(item[1])):
        column = concepts.index(name)
        (old, new), unit = surrogate.to_units(name, torch.stack([before[column], after[column]]))
        rows.append(
            {
                "name": name,
                "by": scale.write(by),
                "bar": scale.bar(by),
                "values": f"{_number(old)} → {_number(new)}{' sd' if unit else ''}",
            }
        )
    goal = int(flip.targets[0])
    return {
        "goal": names[goal],
        "valid": bool(flip.valid[0]),
        "transferred_valid": bool(flip.transferred_valid[0]),
        "share": percent(float(image.flip_probabilities[goal])),
        "after": image_uri(surrogate.space, flip.images[0]),
        "transferred": None if flip.transferred is None else image_uri(surrogate.space, flip.transferred[0]),
        "difference": difference_uri(surrogate.space, explanation.reconstructions[0], flip.images[0]),
        "supported": bool(flip.in_distribution[0]),
        "plausibility": percent(float(flip.plausibility[0])),
        "rows": rows,
    }


def _effects(effects: Sequence[ConceptEffect]) -> dict[str, Any]:
    ends = [end for effect in effects for end in (effect.direct, *effect.total)]
    ends += [path.effect for effect in effects for path in effect.paths]
    scale = Scale.over(ends)
    rows = []
    for effect in sorted(effects, key=lambda effect: -max(map(abs, (effect.direct, *effect.total)))):
        low, high = effect.total
        rows.append(
            {
                "name": effect.concept,
                "direct": {"text": scale.write(effect.direct), "bar": scale.bar(effect.direct)},
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
                    for path in effect.paths
                ],
                "remainder": None
                if math.isnan(effect.remainder) or not effect.paths
                else scale.write(effect.remainder),
                "supported": effect.in_distribution,
            }
        )
    return {"rows": rows, "ticks": scale.ticks}


def _interactions(explanation: LocalExplanation) -> list[dict[str, Any]]:
    scale = Scale.over([pair.effect for pair in explanation.interactions])
    return [
        {"names": " and ".join(pair.concepts), "text": scale.write(pair.effect), "bar": scale.bar(pair.effect)}
        for pair in sorted(explanation.interactions, key=lambda pair: -abs(pair.effect))
    ]


def _requested(
    surrogate: SurrogateFacts, explanation: LocalExplanation, counterfactual: Counterfactual
) -> dict[str, Any]:
    do, names, space = counterfactual.do, explanation.class_names, surrogate.space
    after, before = int(counterfactual.after[0].argmax()), int(counterfactual.before[0].argmax())
    return {
        "do": ", ".join(f"{name} = {_number(value)}" for name, value in do.items()),
        "image": image_uri(space, counterfactual.images[0]),
        "transferred": None if counterfactual.transferred is None else image_uri(space, counterfactual.transferred[0]),
        "transfer_refused": list(counterfactual.transfer_refused.values()),
        "notes": list(counterfactual.notes),
        "difference": difference_uri(space, explanation.reconstructions[0], counterfactual.images[0]),
        "reconstructed": _answer(names, counterfactual.reconstructed[0]),
        "before": f"{names[before]}, {percent(float(counterfactual.before[0, before]))}",
        "after": f"{names[after]}, {percent(float(counterfactual.after[0, after]))}",
        "changes": after != before,
        "supported": bool(counterfactual.in_distribution[0]),
        "rows": [
            {"name": name, "requested": _number(do[name]) if name in do else "", "predicted": _number(float(value))}
            for name, value in zip(surrogate.context_names, counterfactual.predicted[0], strict=True)
        ],
    }


def _answer(names: Sequence[str], shares: Tensor) -> str:
    best = int(shares.argmax())
    return f"{names[best]}, {percent(float(shares[best]))}"


def _number(value: float) -> str:
    return format_number(value if abs(value) >= 5e-4 else 0.0)


_BRIGHTER, _DARKER = (18, 140, 96), (176, 38, 140)  # orange and blue stay evidence for and against
_SMALL = 128
_ENLARGED = 96


def to_display_image(space: DisplaySpace, image: Tensor) -> Image.Image:
    """An image (C, H, W) of the classifier's input space as a person sees it, pixel for pixel: gray or RGB.

    >>> import torch
    >>> to_display_image(DisplaySpace((0.0,), (1.0,), "stated"), torch.ones(1, 4, 6)).size
    (6, 4)
    """
    return Image.fromarray(_bytes(space, image))


def image_uri(space: DisplaySpace, image: Tensor) -> str:
    """The same, inside a page; the page enlarges it."""
    return data_uri(to_display_image(space, image), "PNG", optimize=True)


def difference_uri(space: DisplaySpace, before: Tensor, after: Tensor) -> str:
    """Where an image became brighter (green) and darker (magenta), on the image in pale gray, inside a page.

    Full color is the largest change of brightness; changes of hue alone do not show.

    Args:
        space: how images of the classifier's input space are shown.
        before: (C, H, W) in that input space.
        after: (C, H, W), likewise.

    >>> import torch
    >>> space = DisplaySpace((0.0,), (1.0,), "stated")
    >>> difference_uri(space, torch.zeros(1, 4, 4), torch.ones(1, 4, 4))[:15]
    'data:image/png;'
    """
    old, new = (_bytes(space, image).astype(np.float64) for image in (before, after))
    gray, change = (_brightness(values) for values in (old, new - old))
    largest = np.abs(change).max()
    share = np.abs(change)[..., None] / largest if largest else np.zeros((*change.shape, 1))
    color = np.where(change[..., None] > 0, _BRIGHTER, _DARKER)
    ground = (170 + gray / 255 * 70)[..., None]
    mixed = ground * (1 - share) + color * share
    return data_uri(Image.fromarray(mixed.round().astype(np.uint8)), "PNG", optimize=True)


def traversal_png(space: DisplaySpace, images: Tensor) -> bytes:
    """Images (V, C, H, W) side by side as a PNG file; small ones are enlarged, pixels stay pixels.

    >>> import torch
    >>> traversal_png(DisplaySpace((0.0,), (1.0,), "stated"), torch.zeros(3, 1, 28, 28))[1:4]
    b'PNG'
    """
    row = Image.fromarray(np.concatenate([_bytes(space, image) for image in images], axis=1))
    zoom = -(-_ENLARGED // row.height) if row.height < _SMALL else 1
    buffer = io.BytesIO()
    row.resize((row.width * zoom, row.height * zoom), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _bytes(space: DisplaySpace, image: Tensor) -> NDArray[np.uint8]:
    """(H, W) where there is one channel, else (H, W, 3) of the first three."""
    shown = ((space.to_display(image[None])[0].clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    array: NDArray[np.uint8] = shown.permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] < 3 else np.ascontiguousarray(array[..., :3])


def _brightness(array: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = array if array.ndim == 2 else array.mean(2)
    return mean
