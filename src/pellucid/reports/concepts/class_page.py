"""The global concept page: how much concepts count for a class over many images of it, layer by layer."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.concepts import ClassExplanation, Status
from pellucid.data import Geometry
from pellucid.reports.concepts.parts import (
    SIGNIFICANT,
    cosine_table,
    headline_without_evidence,
    quality_rows,
    verdict,
)
from pellucid.reports.shared.html import data_uri, render_html
from pellucid.reports.shared.overlays import map_uri
from pellucid.reports.shared.scales import Scale, format_p_value
from pellucid.results import library_versions
from pellucid.storage import write_atomically
from pellucid.workflows import ClassConcepts, ClassExamples, extreme_images


def write_class_page(path: str | os.PathLike[str], report: ClassConcepts) -> None:
    """Write `render_class_page(report)` as a UTF-8 file: all of it or nothing; missing folders are created."""
    write_atomically(path, render_class_page(report).encode())


def render_class_page(report: ClassConcepts) -> str:
    """The page as one HTML document that needs no other file and no network."""
    results, examples = report.results, report.examples
    targets = results[0].targets
    scales = [_scale(results, t) for t in range(len(targets))]
    return render_html(
        "concepts/class_page.html",
        "shared/controls.js",
        "shared/bars.css",
        {"photo": None, "targets": len(targets), "layers": len(results)},
        classifier=report.about["classifier"]["name"],
        targets=targets,
        count=len(results[0].sources),
        confidence=f"{100 * results[0].bootstrap.confidence:g} %",
        hierarchical=results[0].bootstrap.hierarchical,
        thumbs={n: data_uri(image, "JPEG", quality=80) for n, image in examples.thumbnails.items()},
        aspect=f"{examples.size[0]} / {examples.size[1]}",
        first=examples.first,
        overview=[_overview(results, t, scale, report.layers) for t, scale in enumerate(scales)],
        layers=[_layer_view(report, result, scales) for result in results],
        provenance=_provenance(report),
    )


def _scale(results: Sequence[ClassExplanation], t: int) -> Scale:
    """One range for the bars of a target at all layers."""
    parts = (
        end[:, t].tolist() for result in results for end in (result.signed.low, result.signed.high, result.signed.mean)
    )
    return Scale.over(value for part in parts for value in part)


def _overview(results: Sequence[ClassExplanation], t: int, scale: Scale, labels: Any) -> dict[str, Any]:
    """Concepts by layers: mean evidence, dim where chance does as well."""
    strongest = max(abs(scale.low), scale.high)
    names = dict.fromkeys(name for result in results for name in result.concepts)
    order = sorted(
        names, key=lambda name: -max(_mean(result, name, t) for result in results if name in result.concepts)
    )
    return {
        "layers": [labels[result.layer] for result in results],
        "rows": [(name, [_overview_cell(result, name, t, scale, strongest) for result in results]) for name in order],
    }


def _mean(result: ClassExplanation, name: str, t: int) -> float:
    return float(result.signed.mean[result.concepts.index(name), t])


def _overview_cell(
    result: ClassExplanation, name: str, t: int, scale: Scale, strongest: float
) -> dict[str, Any] | None:
    if name not in result.concepts:
        return None
    value = _mean(result, name, t)
    believed = _verdict(result, result.concepts.index(name), t)["kind"] in ("yes", "open")
    return {
        "text": scale.write(value),
        "kind": ("for" if value >= 0 else "against") if believed else "dim",
        "share": round(100 * min(abs(value) / strongest, 1.0)) if strongest else 0,
    }


def _layer_view(report: ClassConcepts, result: ClassExplanation, scales: Sequence[Scale]) -> dict[str, Any]:
    return {
        "name": report.layers[result.layer],
        "charts": [_chart(result, t, scale) for t, scale in enumerate(scales)],
        "examples": [example_views(report.examples, result, t, scale) for t, scale in enumerate(scales)],
        "quality": quality_rows(result.cavs),
        "cosines": cosine_table(result.cavs),
        "notes": result.notes,
    }


def example_views(examples: ClassExamples, result: ClassExplanation, t: int, scale: Scale) -> list[dict[str, Any]]:
    """What the template prints of each concept's examples at a layer, concepts in the order of their means.

    Args:
        examples: the images with their concept maps.
        result: the layer's result.
        t: index of the target.
        scale: on which evidence is written.
    """
    views = []
    for d in result.signed.mean[:, t].argsort(descending=True, stable=True).tolist():
        highest, lowest = extreme_images(result, d, t)
        shots = {
            name: [_shot(examples, result, (n, d, t), scale) for n in chosen]
            for name, chosen in (("highest", highest), ("lowest", lowest))
        }
        views.append({"name": result.concepts[d], **shots})
    return views


def _shot(examples: ClassExamples, result: ClassExplanation, at: tuple[int, int, int], scale: Scale) -> dict[str, Any]:
    """One image; `at` is its index, the concept's and the target's."""
    n, d, _ = at
    whole = Geometry(*examples.size, box=(0, 0, *examples.size))
    return {
        "image": n,
        "name": Path(result.sources[n]).name,
        "map": map_uri(examples.maps[result.layer, n][d], whole, examples.size),
        "text": scale.write(float(result.signed.values[at])),
        "seen": f"{float(result.strongest[n, d]):.2f}",
    }


def _chart(result: ClassExplanation, t: int, scale: Scale) -> dict[str, Any]:
    """The ranking of one target at one layer."""
    published = {ranked.concept: rank for rank, ranked in enumerate(result.ranking(t, "reference"), start=1)}
    low, high = result.published_interval[:, :, t]
    rows = []
    for ranked in result.ranking(t, "signed"):
        d = result.concepts.index(ranked.concept)
        rows.append(
            {
                "name": ranked.concept,
                "bar": scale.bar(ranked.mean, ranked.low, ranked.high),
                "text": scale.write(ranked.mean),
                "interval": scale.write_range(ranked.low, ranked.high),
                "verdict": _verdict(result, d, t),
                "weak": result.cavs[d].is_weak,
                "seen": f"{100 * ranked.share_seen:.0f} %",
                "published": f"{float(result.reference.mean[d, t]):.4f}",
                "published_interval": f"{float(low[d]):.4f} to {float(high[d]):.4f}",
                "published_place": published[ranked.concept],
                "lead": _lead_words(ranked, scale),
            }
        )
    return {
        "target": result.targets[t],
        "rows": rows,
        "ticks": scale.ticks,
        "headline": _headline(rows, result.targets[t]),
        "missed": int((result.gap[:, t] > 0.1).sum()),
    }


def _verdict(result: ClassExplanation, d: int, t: int) -> dict[str, str]:
    """Whether to believe a mean, with the commonest reason for zeros in single images."""
    counts = Counter(result.signed_status[:, d, t])
    total = len(result.sources)
    if result.cavs[d].is_weak and counts.get(Status.CAV_WEAK):
        status = Status.CAV_WEAK
    else:
        status = next((known for known, count in counts.items() if count == total), Status.OK)
    raw, adjusted = (
        None if values is None else float(values[d, t])
        for values in (result.signed.p_values, result.signed.adjusted_p_values)
    )
    words = verdict(adjusted, status, raw, result.permutations)
    unseen = counts[Status.EMPTY_MAP] + counts[Status.NO_POSITIVE_DIRECTION]
    if words["kind"] != "zero" and unseen:
        words["text"] += f"; nowhere seen in {unseen} of {total} images"
    return words


def _lead_words(ranked: Any, scale: Scale) -> str | None:
    """How far a concept is ahead of the next, in words."""
    if ranked.lead is None:
        return None
    clear = ranked.lead_p_value < SIGNIFICANT and ranked.lead_low is not None and ranked.lead_low > 0
    interval = scale.write_range(ranked.lead_low, ranked.lead_high)
    amounts = scale.write(ranked.lead) + (f" ({interval})" if interval else "")
    return (
        f"{'clearly' if clear else 'not clearly'} ahead of the next: {amounts}, {format_p_value(ranked.lead_p_value)}"
    )


def _headline(rows: Sequence[dict[str, Any]], target: str) -> str:
    """The result in one sentence."""
    believed = [row for row in rows if row["verdict"]["kind"] == "yes" and row["bar"]["sign"] == "for"]
    if not believed:
        return headline_without_evidence(rows, target)
    first = believed[0]
    lead = first["lead"] or ""
    ahead = " and is clearly ahead of the next" if lead.startswith("clearly") and rows[0] is first else ""
    ahead = ahead or (", but not clearly more than the next" if lead and rows[0] is first else "")
    name = f"{first['name'][0].upper()}{first['name'][1:]}"
    return f"{name} speaks most for {target}, {first['text']} logits in the mean image{ahead}."


def _provenance(report: ClassConcepts) -> dict[str, object]:
    first, cav = report.results[0], report.results[0].cavs[0]
    passes = sum((result.passes for result in report.results[1:]), first.passes)
    return {
        "classifier": report.about["classifier"],
        "CAVs": {"estimator": cav.estimator, **cav.options},
        "Visual-TCAV": report.options,
        "intervals": {"over CAVs too": first.bootstrap.hierarchical},
        "tests of leads": {"sign patterns": first.bootstrap.repeats, "seed": first.bootstrap.seed},
        "passes": {name.replace("_", " "): count for name, count in vars(passes).items() if count},
        "versions": library_versions(),
    }
