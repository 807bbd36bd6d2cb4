"""What `pellucid concepts` prints for people."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from pellucid.cli.printing import screen
from pellucid.concepts import CAV, ClassExplanation, ConceptExplanation, Status, TCAVResult, adjust_over_layers
from pellucid.workflows import ImageConcepts, compare_cavs


def print_cavs(cavs: Mapping[str, Sequence[CAV]]) -> None:
    """One table per layer: quality, emblems, and the concept that each is most like."""
    for layer, at_layer in cavs.items():
        table = Table(
            *("concept", "held-out AUC", "stability", "emblems", "images", "most like"),
            title=escape(f"{layer} of {at_layer[0].classifier}, {at_layer[0].estimator}"),
            title_justify="left",
            caption="AUC 0.5 is chance, stability 1 is best; a map is 0 at the low emblem and 1 at the high one",
        )
        cosines = compare_cavs({layer: at_layer})[layer]
        for cav in at_layer:
            table.add_row(
                escape(cav.name),
                f"{cav.auc:.2f} ± {cav.auc_deviation:.2f}" + (" weak" if cav.is_weak else ""),
                f"{cav.stability:.2f}",
                _emblems(cav),
                f"{len(cav.sources)} / {len(cav.negative_sources)}",
                _nearest(cosines[cav.name]),
            )
        screen.print(table)


def _emblems(cav: CAV) -> str:
    if not cav.is_pooled:
        return "none (flattened)"
    return f"{cav.emblems.low:.3g} to {cav.emblems.high:.3g}" + ("" if cav.is_separable else ": not separable")


def _nearest(cosines: Mapping[str, float]) -> str:
    if not cosines:
        return ""
    name = max(cosines, key=lambda other: abs(cosines[other]))
    return escape(f"{name} {cosines[name]:+.2f}")


def print_image_concepts(image: ImageConcepts) -> None:
    """A table per class: concepts by layers."""
    explanations = image.explanations
    tested = all(explanation.nulls is not None for explanation in explanations)
    adjusted = adjust_over_layers(explanations) if tested else [None] * len(explanations)
    for t, target in enumerate(explanations[0].targets[0]):
        table = Table(
            "concept",
            *(escape(image.layers[explanation.layer]) for explanation in explanations),
            title=escape(f"{image.path.name}: evidence for {target}, in logits"),
            title_justify="left",
            caption="[95 %] over resampled concept images; * significant; (reference score)",
            caption_justify="left",
        )
        for name in dict.fromkeys(name for explanation in explanations for name in explanation.concepts):
            cells = [
                _evidence(explanation, name, t, p_values)
                for explanation, p_values in zip(explanations, adjusted, strict=True)
            ]
            table.add_row(escape(name), *cells)
        screen.print(table)


def _evidence(explanation: ConceptExplanation, name: str, t: int, p_values: Any) -> str:

    if name not in explanation.concepts:
        return ""
    d = explanation.concepts.index(name)
    status, interval = explanation.signed_status[0, d, t], explanation.interval()
    if status not in (Status.OK, Status.CAV_WEAK, Status.NOT_CONVERGED):
        return str(status)
    star = "*" if p_values is not None and float(p_values[0, d, t]) < 0.05 else ""
    doubt = "" if status is Status.OK else f" {status}"
    ends = _range(*(None, None) if interval is None else interval[:, 0, d, t].tolist(), signed=True)
    score = float(explanation.reference[0, d, t])
    return escape(f"{float(explanation.signed[0, d, t]):+.3f}{star}{ends} ({score:.3f}){doubt}")


def _range(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """An interval after its number; nothing where there is none."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    sign = "+" if signed else ""
    return f" [{low:{sign}.3f}, {high:{sign}.3f}]"


def print_ranking(result: ClassExplanation, t: int) -> None:
    """The concepts at a layer in the order of their evidence for a class.

    Args:
        result: of the layer.
        t: index of the class among its targets.
    """
    table = Table(
        *("concept", "evidence, logits [95 %]", "ahead of the next by", "seen in", "reference"),
        title=escape(f"{result.targets[t]} at {result.layer}: {len(result.sources)} images"),
        title_justify="left",
        caption="* significant against relabeled images; leads are paired by image, with sign-flip tests",
        caption_justify="left",
    )
    for ranked in result.ranking(t, "signed"):
        d = result.concepts.index(ranked.concept)
        adjusted = result.signed.adjusted_p_values
        star = "*" if adjusted is not None and float(adjusted[d, t]) < 0.05 else ""
        lead = ""
        if ranked.lead is not None:
            lead = f"{ranked.lead:.3f}{_range(ranked.lead_low, ranked.lead_high)} p = {ranked.lead_p_value:.2g}"
        table.add_row(
            escape(ranked.concept),
            escape(f"{ranked.mean:+.3f}{star}{_range(ranked.low, ranked.high, signed=True)}"),
            escape(lead),
            f"{ranked.share_seen:.0%}",
            f"{float(result.reference.mean[d, t]):.4f}",
        )
    screen.print(table)


def print_tcav(result: TCAVResult) -> None:
    """The scores at a layer, with the test of the mean sensitivity."""
    table = Table(
        *("concept", "TCAV", "over random sets", "by chance", "mean sensitivity", "p, mean sensitivity"),
        title=escape(f"{result.target} at {result.layer}: {len(result.sensitivities)} images"),
        title_justify="left",
        caption="p: permutation test of the concept's images against the negatives along the class's mean gradient, "
        "Holm-adjusted over the concepts; a score near 0 or 1 over all random sets is no evidence by itself",
        caption_justify="left",
    )
    for d, concept in enumerate(result.concepts):
        scores, chance = result.random_scores[d], result.baseline_scores[d]
        table.add_row(
            escape(concept),
            f"{float(result.scores[d]):.2f}",
            f"{float(scores.mean()):.2f} ({float(scores.min()):.2f} to {float(scores.max()):.2f})",
            f"{float(chance.mean()):.2f} ({float(chance.min()):.2f} to {float(chance.max()):.2f})",
            f"{float(result.mean_sensitivities[d]):+.3g}",
            f"{float(result.adjusted['p_values'][d]):.3g}",
        )
    screen.print(table)
