"""The fidelity panel: may this twin be believed, as a whole and for each concept?"""

import math
from typing import TYPE_CHECKING, Any

from pellucid.reports.shared.html import percent
from pellucid.surrogate import MIN_EFFECTIVENESS, MIN_PROBE_R2, Control, Realism

if TYPE_CHECKING:
    from pellucid.surrogate import SurrogateExplainer


_LEAK = 0.35
"""Standard deviations from which a change of one concept visibly moves another (GLANCE spec)."""

_MARKS = (
    # attribute, name, best is high, good from, poor from, what it asks
    (
        "agreement",
        "Agreement",
        True,
        0.98,
        0.90,
        "Does the classifier give an image and its redrawing the same class?",
    ),
    ("kl", "KL divergence", False, 0.05, 0.5, "How far apart are its two answers, in nats? 0 is the same answer."),
    ("logit_r2", "Logits kept", True, 0.95, 0.7, "How much of what its logits tell survives redrawing (R²)?"),
    ("head_agreement", "Concepts suffice", True, 0.98, 0.90, "Do contexts and latents alone tell the class?"),
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


def is_trustworthy(explainer: "SurrogateExplainer") -> bool:
    """Whether no mark of the twin as a whole is poor; False where it was never measured."""
    marks = explainer.assessment
    return marks is not None and all(
        _grade(getattr(marks, name), high, good, poor) != "poor" for name, _, high, good, poor, _ in _MARKS
    )


def fidelity_view(explainer: "SurrogateExplainer") -> dict[str, Any]:
    """What the template prints of the twin's marks; `marks` is empty where it was never measured."""
    marks = explainer.assessment
    if marks is None:
        return {
            "marks": [],
            "concepts": [],
            "names": [],
            "images": 0,
            "measured_by": "",
            "transferred": False,
            "verdict": _verdict(explainer),
        }
    cards = []
    for name, title, high, good, poor, asks in _MARKS:
        value = getattr(marks, name)
        grade = _grade(value, high, good, poor)
        written = percent(value) if name in _IN_PERCENT else f"{value:.3f}"
        limits = [percent(each) if name in _IN_PERCENT else f"{each:g}" for each in (good, poor)]
        cards.append(
            {
                "title": title,
                "value": written.replace("-", "−"),
                "grade": grade,
                "asks": asks,
                "limits": ("good from {}, poor below {}" if high else "good up to {}, poor above {}").format(*limits),
            }
        )
    return {
        "marks": cards,
        "concepts": [_concept(explainer, column, control) for column, control in enumerate(marks.controls)],
        "names": [control.concept for control in marks.controls],
        "realism": _realism(marks.realism),
        "images": marks.num_images,
        "measured_by": marks.measured_by,
        "transferred": marks.residual_transfer,
        "own_judges": "attribute predictors" in marks.measured_by,
        "verdict": _verdict(explainer),
        "leak": _LEAK,
        "least": MIN_EFFECTIVENESS,
    }


def _realism(found: Realism) -> str:
    return (
        f"The classifier's features of an image and of its redrawing have a mean cosine of {found.cosine:.3f}. Over "
        f"all images their Fréchet distance is {found.frechet:.3g}; "
        f"two halves of the real images are {found.floor:.3g} apart."
    )


def _grade(value: float, high: bool, good: float, poor: float) -> str:
    if math.isnan(value):
        return "poor"
    if high:
        return "good" if value >= good else "fair" if value >= poor else "poor"
    return "good" if value <= good else "fair" if value <= poor else "poor"


def _verdict(explainer: "SurrogateExplainer") -> dict[str, str]:
    marks = explainer.assessment
    if marks is None:
        return {
            "kind": "poor",
            "text": "This twin was never measured on images that it was not trained on. Nothing on this page may be "
            "relied on until `pellucid surrogate evaluate --keep` has done so.",
        }
    refused = [control.concept for control in marks.controls if control.effectiveness < MIN_EFFECTIVENESS]
    rest = f" Counterfactuals of {' and '.join(refused)} are refused: the twin does not obey there." if refused else ""
    if not is_trustworthy(explainer):
        text = (
            "At least one mark is poor: the twin is not a fair stand-in for the classifier. Take this page as a sketch."
        )
        return {"kind": "poor", "text": text + rest}
    agreed = f"Redrawn by the twin, {percent(marks.agreement)} of held-out images get the same class as before."
    return {"kind": "fair" if refused else "good", "text": agreed + rest}


def _concept(explainer: "SurrogateExplainer", column: int, control: Control) -> dict[str, Any]:
    quality = explainer.surrogate.quality
    judged = [judge[column] for judge in quality.predictor_r2]
    perceived = quality.probe_r2[column] if quality.probe_r2 else math.nan
    measured = not math.isnan(control.correlation)
    return {
        "name": control.concept,
        "correlation": f"{control.correlation:.2f}".replace("-", "−") if measured else "not measured",
        "share": round(100 * max(0.0, control.correlation)) if measured else 0,
        "slope": f"{control.slope:.2f}".replace("-", "−") if measured else "",
        "leak": [_leak(control, name) for name in explainer.context_names],
        "judged": f"{min(judged):.2f}" if judged else "",
        "perceived": "" if math.isnan(perceived) else f"{max(perceived, 0):.2f}",
        "blind": f"{max(quality.untrained_baseline[column], 0):.2f}" if quality.untrained_baseline else "",
        "seen": perceived >= MIN_PROBE_R2,
        "shown": control.effective,
        "verdict": _shown(control, measured, perceived),
        "kind": "good" if control.effective and max(control.leakage.values(), default=0) <= _LEAK else
        "fair" if control.effective or not measured else "poor",
    }  # fmt: skip


def _leak(control: Control, name: str) -> dict[str, Any]:
    if name == control.concept:
        return {"text": "", "share": 0, "own": True}
    value = control.leakage[name]
    if math.isnan(value):
        return {"text": "?", "share": 0, "own": False}
    return {"text": f"{value:.2f}", "share": round(min(100, 70 * value / _LEAK)), "own": False}


def _shown(control: Control, measured: bool, perceived: float) -> str:
    if not measured:
        return "Shown, but what is drawn could not be measured: take it with care."
    lost = (
        ""
        if control.measurable_share > 0.995
        else f" {percent(1 - control.measurable_share)} of it cannot be measured."
    )
    if not control.effective:
        return f"Refused: what is drawn follows what was asked with {control.correlation:.2f} only.{lost}"
    leaks = [name for name, value in control.leakage.items() if value > _LEAK]
    said = f"Shown, but setting it also moves {' and '.join(leaks)}." if leaks else "Shown."
    said += lost
    if not math.isnan(perceived) and perceived < MIN_PROBE_R2:
        said += " The classifier hardly perceives it, so it is no node of the perceived graph."
    return said
