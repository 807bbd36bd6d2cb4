"""What `pellucid surrogate` prints for people."""

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from pellucid.cli.printing import messages, note, print_line, screen
from pellucid.surrogate import DECISION_NODE, Assessment, GlobalExplanation
from pellucid.surrogate.causal import CLASS_NODE, CausalGraph, Edge
from pellucid.workflows import ExplainedImage


def print_assessment(assessment: Assessment, context_r2: Mapping[str, Mapping[str, float]] | None = None) -> None:
    """Fidelity, then a line for each context: how it is controlled, what leaks, whether it is shown.

    Args:
        assessment: of the surrogate.
        context_r2: R2 of each context by who predicts it.
    """
    table = Table("fidelity", "", "what it is", title=f"{assessment.num_images} images", title_justify="left")
    for name, value, meaning in (
        ("agreement", f"{assessment.agreement:.1%}", "images that get the same class when they are reconstructed"),
        (
            "KL",
            f"{assessment.kl:.3f}",
            "nats between the answers to image and reconstruction; 0 is perfect",
        ),
        ("logit R2", f"{assessment.logit_r2:.3f}", "share of the variance of the logits that survives reconstruction"),
        ("head", f"{assessment.head_agreement:.1%}", "images whose class follows from the concepts alone"),
        (
            "swaps",
            f"{assessment.nuisance_flip_rate:.1%}",
            "images that change class with another's nuisance; 0 is perfect",
        ),
        (
            "feature cosine",
            f"{assessment.realism.cosine:.3f}",
            "of the classifier's features of image and reconstruction",
        ),
        (
            "Fréchet",
            f"{assessment.realism.frechet:.3g}",
            f"of those features over all images; between two halves of the real ones {assessment.realism.floor:.3g}",
        ),
    ):
        table.add_row(name, value, meaning)
    screen.print(table)
    if not assessment.controls:
        return
    where = ", residual transferred to the input image" if assessment.residual_transfer else ""
    control = Table(
        *("concept", "requested ~ measured", "slope", "leak into others, sd", "shown"),
        title=f"control of each concept, measured by {assessment.measured_by}{where}",
        title_justify="left",
    )
    for row in assessment.controls:
        leak = ", ".join(f"{escape(name)} {value:.2f}" for name, value in row.leakage.items()) or "none"
        shown = "yes" if row.effective else "refused" if row.correlation == row.correlation else "not measured"
        correlation = f"{row.correlation:.2f}"
        if row.measurable_share < 0.995:
            correlation += f" ({1 - row.measurable_share:.1%} not measurable)"
        control.add_row(escape(row.concept), correlation, f"{row.slope:.2f}", leak, shown)
    screen.print(control)
    if context_r2:
        _print_context_r2(context_r2)


def _print_context_r2(context_r2: Mapping[str, Mapping[str, float]]) -> None:
    table = Table(
        *("concept", *context_r2),
        title="R2 of the context as predicted by the surrogate's predictors, by a probe of the classifier's features, "
        "and by the same probe on an untrained classifier",
        title_justify="left",
    )
    for name in context_r2["predictors"]:
        table.add_row(
            escape(name), *(f"{values[name]:.2f}" if name in values else "" for values in context_r2.values())
        )
    screen.print(table)


def print_explained_image(image: ExplainedImage) -> None:
    """The sentences of an explanation, and what the counterfactual that was requested came to."""
    print_line(image.name, style="bold")
    for sentence in image.explanation.sentences:
        if sentence.startswith("Do not rely"):
            print_line(f"  {sentence}", messages, style="yellow")
        else:
            print_line(f"  {sentence}")
    if image.counterfactual is None:
        return
    result, names = image.counterfactual, image.explanation.class_names
    values = ", ".join(f"{name} = {value:g}" for name, value in result.do.items())
    before, after = int(result.before[0].argmax()), int(result.after[0].argmax())
    doubt = "" if bool(result.in_distribution[0]) else " (no real images are like that: do not rely on it)"
    print_line(
        f"  With {values} it is {names[after]} ({float(result.after[0, after]):.1%}); it was {names[before]} "
        f"({float(result.before[0, before]):.1%}){doubt}."
    )


def print_global_explanation(explanation: GlobalExplanation, class_names: Sequence[str]) -> None:
    """The perceived graph, how it differs from that of the data, and what moves the decision.

    Args:
        explanation: of the classifier.
        class_names: what its classes are called.
    """
    target = "" if explanation.target is None else f" for {escape(class_names[explanation.target])}"
    _print_edges(explanation.perceived, "what the classifier perceives")
    if explanation.data is not None:
        _print_edges(explanation.data, "what the data show")
    _print_difference(explanation)
    _print_effects(explanation, target)
    _print_necessity(explanation, target)
    for text in (*explanation.notes, *explanation.perceived.notes):
        note(text)


def _print_edges(graph: CausalGraph, title: str) -> None:

    shown = [edge for edge in graph.edges if DECISION_NODE not in edge.pair and edge.source != CLASS_NODE]
    linked = [edge.target for edge in graph.edges if edge.source == CLASS_NODE]
    if not shown:
        print_line(f"{title}: no edges among the concepts")
        return
    table = Table(
        *("edge", "confidence", "strength", "orientation source", ""),
        title=title,
        title_justify="left",
        caption=f"the class itself is linked with {escape(', '.join(linked))}" if linked else None,
        caption_justify="left",
    )
    for edge in sorted(shown, key=lambda edge: -abs(edge.strength)):
        tentative = "tentative" if edge.tentative else ""
        table.add_row(escape(str(edge)), _confidence(edge), f"{edge.strength:+.2f}", edge.orientation_source, tentative)
    screen.print(table)


def _confidence(edge: Edge) -> str:
    return f"{edge.confidence:.0%}" if edge.confidence == edge.confidence else "not resampled"


def _print_difference(explanation: GlobalExplanation) -> None:
    if explanation.difference is None:
        note("no context table: what the classifier perceives cannot be compared with the data")
        return
    difference = explanation.difference
    lines = [f"only in the data: {edge}" for edge in difference.only_first]
    lines += [f"only perceived: {edge}" for edge in difference.only_second]
    lines += [f"reoriented: {first} in the data, {second} perceived" for first, second in difference.reoriented]
    for line in lines or ["data and perceived graph agree on all contexts that are perceived"]:
        print_line(line)


def _print_effects(explanation: GlobalExplanation, target: str) -> None:

    null = explanation.null
    where = "transferred to the input images" if explanation.residual_transfer else "on the reconstructions"
    table = Table(
        *("concept", "moves the decision by, sd", "flips", "dose response, low to high value, sd", "p", ""),
        title=f"edges to the decision{target}, by intervention {where}",
        title_justify="left",
        caption=f"the strongest of the nuisance moves it by {null.strongest:.3f} sd (all at once {null.block:.3f}): "
        "what is not stronger than that is not an edge",
        caption_justify="left",
    )
    edges = explanation.perceived.edges
    tentative = {edge.source for edge in edges if edge.target == DECISION_NODE and edge.tentative}
    for effect in sorted(explanation.decision_effects, key=lambda effect: -effect.strength):
        verdict = "decides" if effect.significant else "not significant"
        verdict += ", not controlled" if effect.concept in tentative else ""
        p_value = "<0.001" if effect.p_value < 0.001 else f"{effect.p_value:.3f}"
        dose = f"{effect.dose_response[0]:+.2f} to {effect.dose_response[-1]:+.2f}"
        table.add_row(
            escape(effect.concept), f"{effect.strength:.3f}", f"{effect.flip_rate:.1%}", dose, p_value, verdict
        )
    screen.print(table)


def _print_necessity(explanation: GlobalExplanation, target: str) -> None:
    if not explanation.necessity:
        return
    table = Table(
        *("concept", "lost without it", "won with it"),
        title=f"how necessary and how sufficient{target}, with 95 % intervals",
        title_justify="left",
    )
    for row in sorted(explanation.necessity, key=lambda row: -row.necessity.estimate):
        shares = (f"{s.estimate:.0%} [{s.low:.0%}, {s.high:.0%}]" for s in (row.necessity, row.sufficiency))
        table.add_row(escape(row.concept), *(escape(share) for share in shares))
    screen.print(table)
