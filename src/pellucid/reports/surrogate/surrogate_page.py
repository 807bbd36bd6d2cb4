"""The page of a surrogate: can it be believed, as a whole and concept by concept; what is perceived, and why?"""

import math
import os
from collections.abc import Sequence
from typing import Any

from pellucid.reports.shared.html import percent, render_html
from pellucid.reports.surrogate.graph_figure import graph_views
from pellucid.reports.surrogate.image_section import image_view
from pellucid.results import library_versions
from pellucid.storage import write_atomically
from pellucid.surrogate import MIN_EFFECTIVENESS, MIN_PROBE_R2, Control, Realism
from pellucid.workflows import ExplainedImage, SurrogateFacts


def write_surrogate_page(
    path: str | os.PathLike[str], surrogate: SurrogateFacts, images: Sequence[ExplainedImage] = ()
) -> None:
    """Write `render_surrogate_page` as a UTF-8 file: all of it or nothing.

    Args:
        path: the file; missing folders are created.
        surrogate: with its assessment and its graphs, as far as there are any.
        images: explained ones, in the order shown.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(path, render_surrogate_page(surrogate, images).encode())


def render_surrogate_page(surrogate: SurrogateFacts, images: Sequence[ExplainedImage] = ()) -> str:
    """One HTML document that needs no other file and no network.

    Args:
        surrogate: with its assessment and its graphs, as far as there are any; the page says what is missing.
        images: explained ones, in the order shown.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.workflows import describe_surrogate
    >>> "Can it be believed?" in render_surrogate_page(describe_surrogate(digit_surrogate()))
    True
    """
    explanation = surrogate.global_explanation
    graph = None if explanation is None else graph_views(explanation, surrogate.class_names)
    name = "surrogate/surrogate_page"
    return render_html(
        f"{name}.html",
        f"{name}.js",
        f"{name}.css",
        {"views": len(graph["views"]) if graph else 0, "photo": "", "targets": 0, "layers": 0},
        name=surrogate.model,
        fidelity=fidelity_view(surrogate),
        trusted=is_trustworthy(surrogate),
        graph=graph,
        images=[image_view(surrogate, image) for image in images],
        crisp=surrogate.options.resolution < 128,
        black_box=not surrogate.layers,
        provenance=_provenance(surrogate),
    )


def _provenance(surrogate: SurrogateFacts) -> dict[str, Any]:
    options, explanation = surrogate.options, surrogate.global_explanation
    provenance: dict[str, Any] = {
        "classifier": {
            "name": surrogate.model,
            "weights": surrogate.weights,
            "read at": ", ".join(surrogate.layers) or "its logits only (black box)",
        },
        "surrogate": {
            "steps": f"{surrogate.steps} of {options.steps}",
            "resolution": options.resolution,
            "contexts": ", ".join(surrogate.context_names) or "none",
            "latents": options.latent_dim,
            "nuisance": options.nuisance_dim,
            "seed": options.seed,
        },
        "versions": library_versions(),
    }
    if explanation is not None:
        provenance["graph"] = {
            name: value for name, value in explanation.perceived.provenance.items() if value not in ([], {})
        }
    return provenance


_LEAK = 0.35
"""Standard deviations from which a change of one concept visibly moves another (GLANCE spec)."""

_SCORES = (
    # attribute, name, best is high, good from, poor from, the question it answers
    (
        "agreement",
        "Agreement",
        True,
        0.98,
        0.90,
        "Does the classifier give an image and its reconstruction the same class?",
    ),
    ("kl", "KL divergence", False, 0.05, 0.5, "How far apart are its two answers, in nats? 0 is the same answer."),
    ("logit_r2", "Logits kept", True, 0.95, 0.7, "How much of the logits survives reconstruction (R²)?"),
    ("head_agreement", "Concepts suffice", True, 0.98, 0.90, "Do contexts and latents alone predict the class?"),
    (
        "nuisance_flip_rate",
        "Nuisance is idle",
        False,
        0.01,
        0.05,
        "How many images change class with another's nuisance?",
    ),
)
_IN_PERCENT = ("agreement", "head_agreement", "nuisance_flip_rate")


def is_trustworthy(surrogate: SurrogateFacts) -> bool:
    """Whether no score of the surrogate as a whole is poor; False where it was never assessed.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.workflows import describe_surrogate
    >>> is_trustworthy(describe_surrogate(digit_surrogate()))
    True
    """
    scores = surrogate.assessment
    return scores is not None and all(
        _grade(getattr(scores, name), high, good, poor) != "poor" for name, _, high, good, poor, _ in _SCORES
    )


def fidelity_view(surrogate: SurrogateFacts) -> dict[str, Any]:
    """What the template prints of the surrogate's scores; `scores` is empty where it was never assessed."""
    scores = surrogate.assessment
    if scores is None:
        return {
            "scores": [],
            "concepts": [],
            "names": [],
            "images": 0,
            "measured_by": "",
            "verdict": _verdict(surrogate),
        }
    cards = []
    for name, title, high, good, poor, question in _SCORES:
        value = getattr(scores, name)
        grade = _grade(value, high, good, poor)
        written = percent(value) if name in _IN_PERCENT else f"{value:.3f}"
        limits = [percent(limit) if name in _IN_PERCENT else f"{limit:g}" for limit in (good, poor)]
        cards.append(
            {
                "title": title,
                "value": written.replace("-", "−"),
                "grade": grade,
                "question": question,
                "limits": ("good from {}, poor below {}" if high else "good up to {}, poor above {}").format(*limits),
            }
        )
    return {
        "scores": cards,
        "concepts": [_concept(surrogate, column, control) for column, control in enumerate(scores.controls)],
        "beside": [_beside(control) for control in scores.transferred_controls],
        "names": [control.concept for control in scores.controls],
        "realism": _realism(scores.realism),
        "images": scores.num_images,
        "measured_by": scores.measured_by,
        "own_predictors": "attribute predictors" in scores.measured_by,
        "verdict": _verdict(surrogate),
        "leak": _LEAK,
        "least": MIN_EFFECTIVENESS,
    }


def _realism(realism: Realism) -> str:
    return (
        "The classifier's features of an image and of its reconstruction have a mean cosine of "
        f"{realism.cosine:.3f}. Over all images their Fréchet distance is {realism.frechet:.3g}; "
        f"two halves of the real images are {realism.floor:.3g} apart."
    )


def _grade(value: float, high: bool, good: float, poor: float) -> str:
    if math.isnan(value):
        return "poor"
    if high:
        return "good" if value >= good else "fair" if value >= poor else "poor"
    return "good" if value <= good else "fair" if value <= poor else "poor"


def _verdict(surrogate: SurrogateFacts) -> dict[str, str]:
    scores = surrogate.assessment
    if scores is None:
        return {
            "kind": "poor",
            "text": "This surrogate was never assessed on images that it was not trained on. Do not rely on "
            "anything on this page until `pellucid surrogate evaluate --keep` has done so.",
        }
    refused = [control.concept for control in scores.controls if control.effectiveness < MIN_EFFECTIVENESS]
    rest = (
        f" Counterfactuals of {' and '.join(refused)} are refused: the surrogate does not control them."
        if refused
        else ""
    )
    if not is_trustworthy(surrogate):
        text = (
            "At least one score is poor: the surrogate does not stand for the classifier. Take this page as a sketch."
        )
        return {"kind": "poor", "text": text + rest}
    agreed = f"{percent(scores.agreement)} of held-out images get the same class when they are reconstructed."
    return {"kind": "fair" if refused else "good", "text": agreed + rest}


def _concept(surrogate: SurrogateFacts, column: int, control: Control) -> dict[str, Any]:
    quality = surrogate.quality
    predicted = [predictor[column] for predictor in quality.predictor_r2]
    perceived = quality.probe_r2[column] if quality.probe_r2 else math.nan
    measured = not math.isnan(control.correlation)
    return {
        "name": control.concept,
        "correlation": f"{control.correlation:.2f}".replace("-", "−") if measured else "not measured",
        "share": round(100 * max(0.0, control.correlation)) if measured else 0,
        "slope": f"{control.slope:.2f}".replace("-", "−") if measured else "",
        "leak": [_leak(control, name) for name in surrogate.context_names],
        "predicted": f"{min(predicted):.2f}" if predicted else "",
        "perceived": "" if math.isnan(perceived) else f"{max(perceived, 0):.2f}",
        "untrained": f"{max(quality.untrained_baseline[column], 0):.2f}" if quality.untrained_baseline else "",
        "seen": perceived >= MIN_PROBE_R2,
        "shown": control.effective,
        "verdict": _shown(control, measured, perceived),
        "kind": "good" if control.effective and max(control.leakage.values(), default=0) <= _LEAK else
        "fair" if control.effective or not measured else "poor",
    }  # fmt: skip


def _beside(control: Control) -> str:
    """Whether a change is also shown with the residual transferred to the input image."""
    if math.isnan(control.correlation):
        return f"{control.concept} not measured, so not shown"
    verdict = "shown" if control.effective else "refused"
    return f"{control.concept} {control.effectiveness:.2f}, {verdict}".replace("-", "−")


def _leak(control: Control, name: str) -> dict[str, Any]:
    if name == control.concept:
        return {"text": "", "share": 0, "own": True}
    value = control.leakage[name]
    if math.isnan(value):
        return {"text": "?", "share": 0, "own": False}
    return {"text": f"{value:.2f}", "share": round(min(100, 70 * value / _LEAK)), "own": False}


def _shown(control: Control, measured: bool, perceived: float) -> str:
    if not measured:
        return "Shown, but what is generated could not be measured: take it with care."
    lost = (
        ""
        if control.measurable_share > 0.995
        else f" {percent(1 - control.measurable_share)} of it cannot be measured."
    )
    if not control.effective:
        followed = f"{control.correlation:.2f}"
        return f"Refused: what is generated follows what was requested with a correlation of {followed} only.{lost}"
    leaks = [name for name, value in control.leakage.items() if value > _LEAK]
    words = f"Shown, but setting it also moves {' and '.join(leaks)}." if leaks else "Shown."
    words += lost
    if not math.isnan(perceived) and perceived < MIN_PROBE_R2:
        words += " The classifier hardly perceives it, so it is not a node of the perceived graph."
    return words
