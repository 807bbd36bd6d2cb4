"""The local concept page: where one image shows concepts, and how much they counted for its classes."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from pellucid.concepts import SEEN, ConceptExplanation, adjust_over_layers
from pellucid.reports.concepts.parts import cosine_table, describe_gap, headline_without_evidence, quality_rows, verdict
from pellucid.reports.shared.html import data_uri, frame, percent, render_html
from pellucid.reports.shared.overlays import display_image, map_uri
from pellucid.reports.shared.scales import Scale
from pellucid.results import library_versions
from pellucid.storage import write_atomically
from pellucid.workflows import ImageConcepts

_MAP_LONG_SIDE = 360


def write_concept_page(path: str | os.PathLike[str], report: ImageConcepts) -> None:
    """Write `render_concept_page(report)` as a UTF-8 file: all of it or nothing; missing folders are created."""
    write_atomically(path, render_concept_page(report).encode())


def render_concept_page(report: ImageConcepts) -> str:
    """The page as one HTML document that needs no other file and no network."""
    photo = display_image(report.image)
    targets = report.explanations[0].targets[0]
    style = {
        "photo": data_uri(photo, "JPEG", quality=86),
        "aspect": f"{photo.width} / {photo.height}",
        "targets": len(targets),
        "layers": len(report.explanations),
    }
    return render_html(
        "concepts/image_page.html",
        "shared/controls.js",
        "shared/bars.css",
        style,
        report=report,
        crop=frame(report.image.size, report.geometry.box),
        predictions=[
            (prediction.name, 100 * prediction.probability, percent(prediction.probability))
            for prediction in report.predictions
        ],
        targets=targets,
        layers=_layer_views(report, photo),
        resamples=len(report.explanations[0].cavs[0].resamples),
        options=report.explanations[0].options,
        provenance=_provenance(report),
    )


def _layer_views(report: ImageConcepts, photo: Image.Image) -> list[dict[str, Any]]:
    """What the template prints of each layer."""
    tested = all(explanation.nulls is not None for explanation in report.explanations)
    adjusted = adjust_over_layers(report.explanations) if tested else [None] * len(report.explanations)
    scales = [_scale(report, t) for t in range(len(report.explanations[0].targets[0]))]
    return [
        {
            "name": report.layers[explanation.layer],
            "charts": [_chart(explanation, t, scale, p_values) for t, scale in enumerate(scales)],
            "maps": _maps(report, explanation, photo),
            "quality": quality_rows(explanation.cavs),
            "cosines": cosine_table(explanation.cavs),
            "flat": tuple(explanation.maps.shape[2:]) == (1, 1),
            "notes": explanation.notes,
        }
        for explanation, p_values in zip(report.explanations, adjusted, strict=True)
    ]


def _scale(report: ImageConcepts, t: int) -> Scale:
    """One range for the bars of a target at all layers."""
    ends = []
    for explanation in report.explanations:
        interval = explanation.interval()
        parts = (explanation.signed, *([] if interval is None else interval))
        ends += [float(value) for part in parts for value in part[0, :, t]]
    return Scale.over(ends)


def _chart(explanation: ConceptExplanation, t: int, scale: Scale, p_values: Tensor | None) -> dict[str, Any]:
    """The bars of one target at one layer, from the one that speaks most for the target to the one most against it."""
    interval = explanation.interval()
    published, raw = explanation.reference[0, :, t], explanation.p_values
    permutations = 0 if explanation.nulls is None else explanation.nulls.signed.shape[2]
    places = {int(d): position for position, d in enumerate(published.argsort(descending=True, stable=True), start=1)}
    rows = []
    for d in explanation.signed[0, :, t].argsort(descending=True, stable=True).tolist():
        value = float(explanation.signed[0, d, t])
        low, high = _ends(interval, d, t)
        p_value = None if p_values is None else float(p_values[0, d, t])
        rows.append(
            {
                "name": explanation.concepts[d],
                "text": scale.write(value),
                "interval": scale.write_range(low, high),
                "bar": scale.bar(value, low, high),
                "verdict": verdict(
                    p_value,
                    explanation.signed_status[0, d, t],
                    None if raw is None else float(raw[0, d, t]),
                    permutations,
                ),
                "weak": explanation.cavs[d].is_weak,
                "published": f"{float(published[d]):.3f}",
                "place": places[d] if float(published[d]) > 0 else None,
                "published_status": str(explanation.status[0, d, t]),
                "published_reason": explanation.status[0, d, t].explanation,
                "positive": scale.write(float(explanation.positive[0, d, t])),
                "negative": scale.write(float(explanation.negative[0, d, t])),
                "joint": scale.write(float(explanation.joint.contributions[0, d, t])),
            }
        )
    return {
        "target": explanation.targets[0][t],
        "rows": rows,
        "ticks": scale.ticks,
        "score": f"{float(explanation.scores[0, t]):.2f}".replace("-", "−"),
        "gap": describe_gap(float(explanation.gap[0, t]), float(explanation.delta[0, t])),
        "trusted": float(explanation.gap[0, t]) <= 0.1,
        "for_mass": scale.write(float(explanation.positive_mass[0, t])),
        "against_mass": scale.write(float(explanation.negative_mass[0, t])),
        "residual": scale.write(float(explanation.joint.residual[0, t])),
        "headline": _headline(rows, explanation.targets[0][t]),
    }


def _ends(interval: Tensor | None, d: int, t: int) -> tuple[float | None, float | None]:
    """The interval (2, 1, D, T) of one score."""
    return (None, None) if interval is None else (float(interval[0, 0, d, t]), float(interval[1, 0, d, t]))


def _headline(rows: Sequence[Mapping[str, Any]], target: str) -> str:
    """The result in one sentence."""
    believed = [row for row in rows if row["verdict"]["kind"] == "yes"]
    speaks = [row for row in believed if row["bar"]["sign"] == "for"]
    against = [row for row in reversed(believed) if row["bar"]["sign"] == "against"]
    if not believed:
        return headline_without_evidence(rows, target)
    parts = []
    if speaks:
        parts.append(f"{speaks[0]['name']} speaks most for {target} ({speaks[0]['text']} logits)")
    if against:
        parts.append(f"{against[0]['name']} most against it ({against[0]['text']})")
    sentence = (
        ", ".join(parts) if speaks else f"{against[0]['name']} speaks against {target} ({against[0]['text']} logits)"
    )
    return f"{sentence[0].upper()}{sentence[1:]}."


def _maps(report: ImageConcepts, explanation: ConceptExplanation, photo: Image.Image) -> list[dict[str, Any]]:
    """The maps of each concept as layers over the photograph, and what they show in words."""
    shrink = min(1.0, _MAP_LONG_SIDE / max(photo.size))
    size = max(1, round(photo.width * shrink)), max(1, round(photo.height * shrink))
    views = []
    for d, cav in enumerate(explanation.cavs):
        seen, opposite = explanation.maps[0, d], explanation.negative_maps[0, d]
        views.append(
            {
                "name": cav.name,
                "seen": map_uri(seen, report.geometry, size),
                "opposite": map_uri(opposite, report.geometry, size, opposite=True),
                "text": _seen_words(float(seen.max()), float((seen >= SEEN).double().mean()), cav.is_separable),
            }
        )
    return views


def _seen_words(strongest: float, share: float, separable: bool) -> str:
    if not separable:
        return "cannot be separated from other images at this layer"
    if strongest == 0:
        return "not seen in this image"
    if strongest < SEEN:
        return f"hardly seen: {strongest:.2f} where it is strongest"
    return f"seen in {percent(share)} of what the network saw, {strongest:.2f} where it is strongest"


def _provenance(report: ImageConcepts) -> dict[str, object]:
    first = report.explanations[0]
    cav = first.cavs[0]
    passes = sum((explanation.passes for explanation in report.explanations[1:]), first.passes)
    return {
        "image": {"file": report.path.name, "sha256": report.sha256},
        "classifier": report.classifier,
        "CAVs": {"estimator": cav.estimator, **cav.options},
        "Visual-TCAV": first.options,
        "passes": {name.replace("_", " "): count for name, count in vars(passes).items() if count},
        "versions": library_versions(),
    }
