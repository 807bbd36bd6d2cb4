"""CAVs, and images and classes explained by concepts."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from pellucid.concepts import (
    CAV,
    ClassExplanation,
    ConceptExplanation,
    RankedConcept,
    Status,
    TCAVResult,
    adjust_over_layers,
)
from pellucid.reports.text.blocks import format_range, make_table
from pellucid.workflows import CavsByLayer, ClassConcepts, ImageConcepts, TCAVScores, compare_cavs


def cav_texts(cavs: CavsByLayer) -> Iterator[Table]:
    """A table per layer: quality, emblems, and the concept that each is most like."""
    cosines = compare_cavs(cavs)
    for layer, at_layer in cavs.items():
        yield make_table(
            ("concept", "held-out AUC", "stability", "emblems", "images", "most like"),
            [_cav_row(cav, cosines[layer][cav.name]) for cav in at_layer],
            f"{layer} of {at_layer[0].classifier}, {at_layer[0].estimator}",
            caption="AUC 0.5 is chance, stability 1 is best; a map is 0 at the low emblem and 1 at the high one",
            centered=True,
        )


def _cav_row(cav: CAV, cosines: Mapping[str, float]) -> tuple[str, ...]:
    emblems = "none (flattened)"
    if cav.is_pooled:
        emblems = f"{cav.emblems.low:.3g} to {cav.emblems.high:.3g}" + ("" if cav.is_separable else ": not separable")
    nearest = max(cosines, key=lambda other: abs(cosines[other]), default="")
    return (
        cav.name,
        f"{cav.auc:.2f} ± {cav.auc_deviation:.2f}" + (" weak" if cav.is_weak else ""),
        f"{cav.stability:.2f}",
        emblems,
        f"{len(cav.sources)} / {len(cav.negative_sources)}",
        f"{nearest} {cosines[nearest]:+.2f}" if cosines else "",
    )


def image_concept_texts(image: ImageConcepts) -> Iterator[Table]:
    """A table per class: concepts by layers."""
    explanations = image.explanations
    tested = all(explanation.nulls is not None for explanation in explanations)
    adjusted = adjust_over_layers(explanations) if tested else [None] * len(explanations)
    tests = list(zip(explanations, adjusted, strict=True))
    names = dict.fromkeys(name for explanation in explanations for name in explanation.concepts)
    for t, target in enumerate(explanations[0].targets[0]):
        yield make_table(
            ("concept", *(image.layers[explanation.layer] for explanation in explanations)),
            [(name, *(_evidence(explanation, name, t, p_values) for explanation, p_values in tests)) for name in names],
            f"{image.path.name}: evidence for {target}, in logits",
            caption="[95 %] over resampled concept images; * significant; (reference score)",
        )


def _evidence(explanation: ConceptExplanation, name: str, t: int, p_values: Any) -> str:
    """The evidence of a concept for a target, or why there is none."""
    if name not in explanation.concepts:
        return ""
    d = explanation.concepts.index(name)
    status, interval = explanation.signed_status[0, d, t], explanation.interval()
    if status not in (Status.OK, Status.CAV_WEAK, Status.NOT_CONVERGED):
        return str(status)
    star = "*" if p_values is not None and float(p_values[0, d, t]) < 0.05 else ""
    doubt = "" if status is Status.OK else f" {status}"
    ends = "" if interval is None else format_range(*interval[:, 0, d, t].tolist(), sign="+")
    score = float(explanation.reference[0, d, t])
    return f"{float(explanation.signed[0, d, t]):+.3f}{star}{ends} ({score:.3f}){doubt}"


def ranking_texts(ranked: ClassConcepts) -> Iterator[Table]:
    """A table per class and layer: the concepts in the order of their evidence for the class."""
    for t in range(len(ranked.results[0].targets)):
        for result in ranked.results:
            yield make_table(
                ("concept", "evidence, logits [95 %]", "ahead of the next by", "seen in", "reference"),
                [_ranked_row(result, concept, t) for concept in result.ranking(t, "signed")],
                f"{result.targets[t]} at {result.layer}: {len(result.sources)} images",
                caption="* significant against relabeled images; leads are paired by image, with sign-flip tests",
            )


def _ranked_row(result: ClassExplanation, ranked: RankedConcept, t: int) -> tuple[str, ...]:
    d, adjusted, lead = result.concepts.index(ranked.concept), result.signed.adjusted_p_values, ""
    star = "*" if adjusted is not None and float(adjusted[d, t]) < 0.05 else ""
    if ranked.lead is not None:
        lead = f"{ranked.lead:.3f}{format_range(ranked.lead_low, ranked.lead_high)} p = {ranked.lead_p_value:.2g}"
    return (
        ranked.concept,
        f"{ranked.mean:+.3f}{star}{format_range(ranked.low, ranked.high, sign='+')}",
        lead,
        f"{ranked.share_seen:.0%}",
        f"{float(result.reference.mean[d, t]):.4f}",
    )


def tcav_texts(scores: TCAVScores) -> Iterator[Table]:
    """A table per layer: the scores, with the test of the mean sensitivity."""
    for result in scores.results:
        yield make_table(
            ("concept", "TCAV", "over random sets", "by chance", "mean sensitivity", "p, mean sensitivity"),
            [_tcav_row(result, d, concept) for d, concept in enumerate(result.concepts)],
            f"{result.target} at {result.layer}: {len(result.sensitivities)} images",
            caption="p: permutation test of the concept's images against the negatives along the class's mean "
            "gradient, Holm-adjusted over the concepts; a score near 0 or 1 over all random sets is no evidence by "
            "itself",
        )


def _tcav_row(result: TCAVResult, d: int, concept: str) -> tuple[str, ...]:
    spreads = (
        f"{float(scores.mean()):.2f} ({float(scores.min()):.2f} to {float(scores.max()):.2f})"
        for scores in (result.random_scores[d], result.baseline_scores[d])
    )
    return (
        concept,
        f"{float(result.scores[d]):.2f}",
        *spreads,
        f"{float(result.mean_sensitivities[d]):+.3g}",
        f"{float(result.adjusted['p_values'][d]):.3g}",
    )
