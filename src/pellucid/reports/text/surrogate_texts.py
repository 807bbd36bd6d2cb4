"""How far a surrogate may be believed, and what it explains."""

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from pellucid.reports.text.blocks import Block, Line, make_table
from pellucid.surrogate import DECISION_NODE, Assessment, GlobalExplanation, Proportion
from pellucid.surrogate.causal import CLASS_NODE, CausalGraph
from pellucid.workflows import ExplainedImage


def assessment_texts(
    assessment: Assessment, context_r2: Mapping[str, Mapping[str, float]] | None = None
) -> Iterator[Table]:
    """Fidelity, then a line for each context: how it is controlled, what leaks, whether it is shown.

    Args:
        assessment: of the surrogate.
        context_r2: R2 of each context by who predicts it.
    """
    realism, swaps = assessment.realism, assessment.nuisance_flip_rate
    rows = (
        ("agreement", f"{assessment.agreement:.1%}", "images that get the same class when they are reconstructed"),
        ("KL", f"{assessment.kl:.3f}", "nats between the answers to image and reconstruction; 0 is perfect"),
        ("logit R2", f"{assessment.logit_r2:.3f}", "share of the variance of the logits that survives reconstruction"),
        ("head", f"{assessment.head_agreement:.1%}", "images whose class follows from the concepts alone"),
        ("swaps", f"{swaps:.1%}", "images that change class with another's nuisance; 0 is perfect"),
        ("feature cosine", f"{realism.cosine:.3f}", "of the classifier's features of image and reconstruction"),
        (
            "Fréchet",
            f"{realism.frechet:.3g}",
            f"of those features over all images; between two halves of the real ones {realism.floor:.3g}",
        ),
    )
    yield make_table(("fidelity", "", "what it is"), rows, f"{assessment.num_images} images")
    if not assessment.controls:
        return
    yield make_table(
        ("concept", "requested ~ measured", "slope", "leak into others, sd", "shown", "with residual transferred"),
        _control_rows(assessment),
        f"control of each concept, measured by {assessment.measured_by}",
    )
    if context_r2:
        yield make_table(
            ("concept", *context_r2),
            [
                (name, *(f"{r2[name]:.2f}" if name in r2 else "" for r2 in context_r2.values()))
                for name in context_r2["predictors"]
            ],
            "R2 of the context as predicted by the surrogate's predictors, by a probe of the classifier's features, "
            "and by the same probe on an untrained classifier",
        )


def _control_rows(assessment: Assessment) -> Iterator[tuple[str, ...]]:
    for row, transferred in zip(assessment.controls, assessment.transferred_controls, strict=True):
        leak = ", ".join(f"{name} {value:.2f}" for name, value in row.leakage.items()) or "none"
        shown = "yes" if row.effective else "refused" if row.correlation == row.correlation else "not measured"
        beside = f"{transferred.correlation:.2f}, {'shown' if transferred.effective else 'refused'}"
        correlation = f"{row.correlation:.2f}"
        if row.measurable_share < 0.995:
            correlation += f" ({1 - row.measurable_share:.1%} not measurable)"
        yield row.concept, correlation, f"{row.slope:.2f}", leak, shown, beside


def explained_image_texts(image: ExplainedImage) -> Iterator[Line]:
    """The sentences of an explanation, and what the counterfactual that was requested came to."""
    yield Line(image.name, "bold")
    for sentence in image.explanation.sentences:
        refusal = sentence.startswith("Do not rely")
        yield Line(f"  {sentence}", "yellow" if refusal else "", remark=refusal)
    if image.counterfactual is None:
        return
    result, names = image.counterfactual, image.explanation.class_names
    values = ", ".join(f"{name} = {value:g}" for name, value in result.do.items())
    before, after = int(result.before[0].argmax()), int(result.after[0].argmax())
    doubt = (
        "" if bool(result.in_distribution[0]) else " (no real images of this class are like that: do not rely on it)"
    )
    yield Line(
        f"  With {values} it is {names[after]} ({float(result.after[0, after]):.1%}); it was {names[before]} "
        f"({float(result.before[0, before]):.1%}){doubt}."
    )


def global_explanation_texts(explanation: GlobalExplanation, class_names: Sequence[str]) -> Iterator[Block]:
    """The perceived graph, how it differs from that of the data, and what moves the decision.

    Args:
        explanation: of the classifier.
        class_names: what its classes are called.
    """
    target = "" if explanation.target is None else f" for {class_names[explanation.target]}"
    yield _edges(explanation.perceived, "what the classifier perceives")
    if explanation.data is not None:
        yield _edges(explanation.data, "what the data show")
    yield from _difference(explanation)
    yield _effects(explanation, target)
    if explanation.necessity:
        yield make_table(
            ("concept", "lost without it", "won with it"),
            [
                (row.concept, *map(_share, (row.necessity, row.sufficiency)))
                for row in sorted(explanation.necessity, key=lambda row: -row.necessity.estimate)
            ],
            f"how necessary and how sufficient{target}, with 95 % intervals",
        )
    for text in (*explanation.notes, *explanation.perceived.notes):
        yield _note(text)


def _share(share: Proportion) -> str:
    return f"{share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}]"


def _note(text: str) -> Line:
    return Line(" ".join(f"note: {text}".split()), "yellow", remark=True)


def _edges(graph: CausalGraph, title: str) -> Block:
    """The edges among the concepts, the strongest first."""
    shown = [edge for edge in graph.edges if DECISION_NODE not in edge.pair and edge.source != CLASS_NODE]
    linked = [edge.target for edge in graph.edges if edge.source == CLASS_NODE]
    if not shown:
        return Line(f"{title}: no edges among the concepts")
    rows = [
        (
            str(edge),
            f"{edge.confidence:.0%}" if edge.confidence == edge.confidence else "not resampled",
            f"{edge.strength:+.2f}",
            edge.orientation_source,
            "tentative" if edge.tentative else "",
        )
        for edge in sorted(shown, key=lambda edge: -abs(edge.strength))
    ]
    columns = ("edge", "confidence", "strength", "orientation source", "")
    caption = f"the class itself is linked with {', '.join(linked)}" if linked else ""
    return make_table(columns, rows, title, caption=caption)


def _difference(explanation: GlobalExplanation) -> Iterator[Line]:
    if explanation.difference is None:
        yield _note("no context table: what the classifier perceives cannot be compared with the data")
        return
    difference = explanation.difference
    lines = [f"only in the data: {edge}" for edge in difference.only_first]
    lines += [f"only perceived: {edge}" for edge in difference.only_second]
    lines += [f"reoriented: {first} in the data, {second} perceived" for first, second in difference.reoriented]
    yield from map(Line, lines or ["data and perceived graph agree on all contexts that are perceived"])


def _effects(explanation: GlobalExplanation, target: str) -> Table:
    """What moves the decision, the strongest first."""
    null = explanation.null
    bound = max((effect.bound for effect in explanation.decision_effects), default=math.nan)
    where = "transferred to the input images" if explanation.residual_transfer else "on the reconstructions"
    edges = explanation.perceived.edges
    tentative = {edge.source for edge in edges if edge.target == DECISION_NODE and edge.tentative}
    rows = [
        (
            effect.concept,
            f"{effect.strength:.3f}",
            f"{effect.flip_rate:.1%}",
            f"{effect.dose_response[0]:+.2f} to {effect.dose_response[-1]:+.2f}",
            "" if math.isnan(effect.low) else f"{effect.low:.3f} to {effect.high:.3f}",
            ("matters" if effect.matters else "negligible" if effect.negligible else "open")
            + (", not controlled" if effect.concept in tentative else ""),
        )
        for effect in sorted(explanation.decision_effects, key=lambda effect: -effect.strength)
    ]
    return make_table(
        (
            "concept",
            "moves the decision by, sd",
            "flips",
            "dose response, low to high value, sd",
            "95 % of the strength",
            "",
        ),
        rows,
        f"edges to the decision{target}, by intervention {where}",
        caption=f"an effect is negligible up to {bound:.3f} sd and matters where all of its interval lies above; the "
        f"whole nuisance, which must not count, moves the decision by {null.block:.3f}",
    )
