"""`pellucid surrogate graph`: the global explanation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pellucid.cli.common import (
    AsJson,
    Device,
    Weights,
    print_json,
    screen,
)
from pellucid.cli.surrogate_common import (
    RunContext,
    RunFolder,
    RunImages,
    RunModel,
    Seed,
    Transferred,
    assignments,
    class_of,
    load_run,
    sample_of,
    say,
    stages,
)
from pellucid.errors import PellucidError

if TYPE_CHECKING:
    from pellucid.surrogate import SurrogateExplainer
    from pellucid.surrogate.causal import BackgroundKnowledge, CausalGraph, Edge
    from pellucid.surrogate.explain.global_explanation import GlobalExplanation


SUFFIXES = (".json", ".graphml", ".html")

Tiers = Annotated[
    list[str] | None,
    typer.Option("--tier", help="NAME=NUMBER: a concept is never caused by one of a higher tier; repeat."),
]
Required = Annotated[list[str] | None, typer.Option(help="'a->b': a causes b wherever the two are joined; repeat.")]
Forbidden = Annotated[list[str] | None, typer.Option(help="'a->b': a cannot cause b; repeat.")]
Method = Annotated[str, typer.Option(help="pc; fci, which allows for hidden common causes; or ges.")]
Bootstraps = Annotated[int, typer.Option(min=0, help="Resamples behind the confidence of each edge.")]
Intervened = Annotated[int, typer.Option(min=20, help="Images that are intervened on, at most.")]
Target = Annotated[
    str | None,
    typer.Option(
        help="Class that the edges to the decision are for, by name or index. "
        "\\[default: each image's own; the second of two]"
    ),
]
Outputs = Annotated[list[Path] | None, typer.Option("--out", help="x.json, x.graphml or x.html; repeat for several.")]


def graph(
    run: RunFolder,
    tier: Tiers = None,
    required: Required = None,
    forbidden: Forbidden = None,
    method: Method = "pc",
    bootstraps: Bootstraps = 50,
    max_interventions: Intervened = 200,
    target: Target = None,
    transferred: Transferred = False,
    images: RunImages = None,
    context: RunContext = None,
    model: RunModel = None,
    weights: Weights = None,
    out: Outputs = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Find the causal graph of what the classifier perceives, and what of it moves the decision.

    It is kept in the run, for `surrogate explain`.
    """
    from pellucid.surrogate.causal import DiscoveryOptions

    chosen: Any = method  # checked by DiscoveryOptions
    options = DiscoveryOptions(method=chosen, bootstraps=bootstraps, seed=seed)
    knowledge = _knowledge(tier, required, forbidden)
    files = _checked(out or [])
    explainer = load_run(run, model, weights, device)
    followed = class_of(explainer, target)
    sample = sample_of(run, explainer, images, context)
    with stages(as_json) as tell:
        global_explanation = explainer.discover(
            sample.images,
            None if sample.context is None else sample.context.values.float(),
            knowledge=knowledge,
            options=options,
            max_interventions=max_interventions,
            target=followed,
            transferred=transferred,
            seed=seed,
            on_progress=tell,
        )
    explainer.save_state(run)
    for file in files:
        _write(file, explainer, global_explanation)
    if as_json:
        from pellucid.storage import to_record

        print_json({**to_record(global_explanation), "files": [str(file) for file in files]})
        return
    _print(global_explanation, explainer.class_names)
    for file in files:
        screen.print(f"wrote {file}", highlight=False, markup=False, soft_wrap=True)


def _knowledge(
    tiers: Sequence[str] | None, required: Sequence[str] | None, forbidden: Sequence[str] | None
) -> "BackgroundKnowledge":
    from pellucid.surrogate.causal import BackgroundKnowledge

    numbers = {}
    for name, text in assignments(tiers, "--tier").items():
        if not text.isdecimal():
            raise PellucidError(f"--tier {name}={text}: wanted a whole number, 0 or more")
        numbers[name] = int(text)
    return BackgroundKnowledge(numbers, _pairs(required, "--required"), _pairs(forbidden, "--forbidden"))


def _pairs(texts: Sequence[str] | None, option: str) -> tuple[tuple[str, str], ...]:
    found = []
    for text in texts or ():
        cause, arrow, effect = (part.strip() for part in text.partition("->"))
        if not (cause and arrow and effect):
            raise PellucidError(f"{option} {text!r} is not CAUSE->EFFECT (quote it: the shell takes > for itself)")
        found.append((cause, effect))
    return tuple(found)


def _checked(files: Sequence[Path]) -> list[Path]:
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            raise PellucidError(f"--out {file}: the name must end in {', '.join(SUFFIXES)}")
    return list(files)


def _write(file: Path, explainer: "SurrogateExplainer", global_explanation: "GlobalExplanation") -> None:
    from pellucid.storage import to_record, write_atomically, write_json

    if file.suffix.lower() == ".html":
        from pellucid.reports.surrogate.graph_page import write_surrogate_page

        write_surrogate_page(file, explainer)
        return
    if file.suffix.lower() == ".graphml":
        write_atomically(file, global_explanation.perceived.to_graphml().encode())
    else:
        write_json(file, to_record(global_explanation))


def _print(global_explanation: "GlobalExplanation", class_names: Sequence[str]) -> None:
    from pellucid.surrogate.explain.decision_effects import DECISION_NODE

    _print_edges(global_explanation.perceived, "what the classifier perceives", DECISION_NODE)
    if global_explanation.data is not None:
        _print_edges(global_explanation.data, "what the data say", DECISION_NODE)
    _print_difference(global_explanation)
    table = Table(
        *("concept", "moves the decision by, sd", "flips", "low to high value, sd", "p", ""),
        title=f"edges to the decision{_for(global_explanation, class_names)}, by intervention "
        + ("laid on the images" if global_explanation.transferred else "on the twin's own drawings"),
        title_justify="left",
        caption=f"the strongest of the nuisance moves it by {global_explanation.null.strongest:.3f} sd (all at once "
        f"{global_explanation.null.block:.3f}): what does not stand out of that is no edge",
        caption_justify="left",
    )
    tentative = {
        edge.source for edge in global_explanation.perceived.edges if edge.target == DECISION_NODE and edge.tentative
    }
    for edge in sorted(global_explanation.decisions, key=lambda each: -each.strength):
        dose = f"{edge.dose[0]:+.2f} to {edge.dose[-1]:+.2f}"
        verdict = "decides" if edge.significant else "cannot be told from nothing"
        verdict += ", not controlled" if edge.concept in tentative else ""
        table.add_row(
            escape(edge.concept), f"{edge.strength:.3f}", f"{edge.flips:.1%}", dose, _p(edge.p_value), verdict
        )
    screen.print(table)
    _print_necessity(global_explanation, class_names)
    for note in (*global_explanation.notes, *global_explanation.perceived.notes):
        say(note)


def _for(global_explanation: "GlobalExplanation", class_names: Sequence[str]) -> str:
    return "" if global_explanation.target is None else f" for {escape(class_names[global_explanation.target])}"


def _print_necessity(global_explanation: "GlobalExplanation", class_names: Sequence[str]) -> None:
    if not global_explanation.necessity:
        return
    table = Table(
        *("concept", "lost without it", "won with it"),
        title=f"how necessary and how sufficient{_for(global_explanation, class_names)}, with 95 % intervals",
        title_justify="left",
    )
    for each in sorted(global_explanation.necessity, key=lambda one: -one.necessity.estimate):
        shares = (f"{s.estimate:.0%} [{s.low:.0%}, {s.high:.0%}]" for s in (each.necessity, each.sufficiency))
        table.add_row(escape(each.concept), *(escape(share) for share in shares))
    screen.print(table)


def _print_edges(graph: "CausalGraph", title: str, sink: str) -> None:
    from pellucid.surrogate.causal import CLASS_NODE

    shown = [edge for edge in graph.edges if sink not in edge.pair and edge.source != CLASS_NODE]
    led = [edge.target for edge in graph.edges if edge.source == CLASS_NODE]
    caption = f"the class itself goes with {escape(', '.join(led))}" if led else None
    if not shown:
        screen.print(f"{title}: no edges among the concepts", highlight=False, markup=False)
        return
    table = Table(
        *("edge", "confidence", "strength", "orientation", ""),
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    for edge in sorted(shown, key=lambda each: -abs(each.strength)):
        table.add_row(
            escape(str(edge)),
            _share(edge),
            f"{edge.strength:+.2f}",
            edge.orientation_source,
            "tentative" if edge.tentative else "",
        )
    screen.print(table)


def _print_difference(global_explanation: "GlobalExplanation") -> None:
    if global_explanation.difference is None:
        say("no context table: what the classifier perceives cannot be compared with the data")
        return
    told = global_explanation.difference
    lines = [f"only in the data: {edge}" for edge in told.only_first]
    lines += [f"only perceived: {edge}" for edge in told.only_second]
    lines += [f"turned: {one} in the data, {other} perceived" for one, other in told.reoriented]
    for line in lines or ["data and perceived graph agree on all contexts that are perceived"]:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)


def _share(edge: "Edge") -> str:
    return f"{edge.confidence:.0%}" if edge.confidence == edge.confidence else "not resampled"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
