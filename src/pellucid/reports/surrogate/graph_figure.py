"""The causal graphs of a surrogate as drawings, perceived and in the data, and the table of what moves the decision."""

import math
from collections.abc import Sequence
from typing import Any

from pellucid.reports.shared.html import distinct, percent
from pellucid.reports.shared.scales import format_number, format_p_value
from pellucid.reports.surrogate.graph_layout import (
    GraphLayout,
    Route,
    assign_layers,
    lay_out,
)
from pellucid.surrogate import DECISION_NODE, GlobalExplanation, Proportion
from pellucid.surrogate.causal import CLASS_NODE, CausalGraph, Edge, GraphDifference

ORIENTATION_SOURCES = {
    "knowledge": "direction from what you stated beforehand",
    "collider": "direction from the data: a collider, or what follows from one",
    "intervention": "by intervention through the generator",
    "undecided": "direction open: the data do not orient it",
}
_LONGEST = 17
_ARROW, _CIRCLE = 9, 4.5
_AGREED = 0.6
"""Share of images from which the direction of a decision edge is given a color."""

Pair = tuple[str, str]


def graph_views(global_explanation: GlobalExplanation, class_names: Sequence[str]) -> dict[str, Any]:
    """What the template draws: one layout, and a view of it for each graph.

    Args:
        global_explanation: with the perceived graph, and that of the data if there is one.
        class_names: what the classes are called.

    >>> from pellucid.surrogate import digit_surrogate
    >>> explainer = digit_surrogate()
    >>> views = graph_views(explainer.global_explanation, explainer.class_names)
    >>> [view["name"] for view in views["views"]]
    ['What the classifier perceives', 'What the data say', 'Difference']
    """
    graphs = [global_explanation.perceived, *([] if global_explanation.data is None else [global_explanation.data])]
    nodes = [name for name in distinct(name for graph in graphs for name in graph.nodes) if name != CLASS_NODE]
    if DECISION_NODE not in nodes:
        nodes.append(DECISION_NODE)
    edges = [edge for graph in graphs for edge in graph.edges if CLASS_NODE not in edge.pair]
    directed = [(edge.source, edge.target) for edge in edges if edge.directed]
    layers = assign_layers(nodes, directed, DECISION_NODE)
    pairs = list({frozenset(edge.pair): (edge.source, edge.target) for edge in edges}.values())
    layout = lay_out(nodes, pairs, layers)
    views = [_view("What the classifier perceives", global_explanation.perceived, layout, global_explanation)]
    if global_explanation.data is not None:
        views.append(_view("What the data say", global_explanation.data, layout, global_explanation))
        views.append(_difference(global_explanation, layout))
    return {
        "width": layout.width,
        "height": layout.height,
        "views": views,
        "rows": [row for graph, name in zip(graphs, ("perceived", "data"), strict=False) for row in _rows(graph, name)],
        "decisions": decision_table(global_explanation, class_names),
        "notes": [*global_explanation.notes, *global_explanation.perceived.notes],
        "differences": _differences(global_explanation),
    }


def _view(name: str, graph: CausalGraph, layout: GraphLayout, global_explanation: GlobalExplanation) -> dict[str, Any]:
    inner = [edge for edge in graph.edges if CLASS_NODE not in edge.pair]
    most = max((abs(edge.strength) for edge in inner if DECISION_NODE in edge.pair), default=1.0)
    return {
        "name": name,
        "nodes": _nodes(graph, layout, global_explanation),
        "edges": [
            _decided(edge, layout, most, global_explanation)
            if DECISION_NODE in edge.pair
            else _drawn(edge, layout, 1.0)
            for edge in inner
        ],
    }


def _nodes(graph: CausalGraph, layout: GraphLayout, global_explanation: GlobalExplanation) -> list[dict[str, Any]]:
    led = {edge.target for edge in graph.edges if edge.source == CLASS_NODE}
    return [
        {
            "name": name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…",
            "full": name,
            "box": box,
            "kind": "decision" if name == DECISION_NODE else "latent" if name.startswith("latent ") else "context",
            "absent": name not in graph.nodes,
            "class": name in led,
            "below": _below(name, graph, global_explanation),
        }
        for name, box in layout.boxes.items()
    ]


def _below(name: str, graph: CausalGraph, global_explanation: GlobalExplanation) -> str:
    if name == DECISION_NODE:
        return "margin of the class"
    if name not in graph.nodes:
        return "not perceived" if graph is global_explanation.perceived else "not in the table"
    if name in global_explanation.unmodeled_concepts and graph is global_explanation.perceived:
        return "not perceived; decides"
    if name in global_explanation.probe_r2 and graph is global_explanation.perceived:
        return f"perceived, R² {global_explanation.probe_r2[name]:.2f}"
    return (
        "measured"
        if graph is global_explanation.data
        else "unexplained latent"
        if name.startswith("latent ")
        else "context"
    )


def _drawn(edge: Edge, layout: GraphLayout, most: float, story: str = "") -> dict[str, Any]:
    pair = (edge.source, edge.target)
    known = pair if pair in layout.routes else pair[::-1]
    route = layout.routes[known]
    ends = route.ends if known == pair else route.ends[::-1]
    strength = 0.0 if math.isnan(edge.strength) else min(1.0, abs(edge.strength) / most)
    return {
        "label": str(edge),
        "path": route.path,
        "width": round(1.3 + 5.2 * strength, 1),
        "sign": "none" if math.isnan(edge.strength) else "for" if edge.strength >= 0 else "against",
        "tentative": edge.tentative,
        "story": story,
        "marks": [
            _mark(end, mark)
            for end, mark in zip(ends, (edge.source_mark, edge.target_mark), strict=True)
            if mark != "tail"
        ],
        "tips": [*([story] if story else []), *describe_edge(edge)],
        "open": edge.source_mark == edge.target_mark == "tail",
        "middle": _middle(route),
    }


def _decided(edge: Edge, layout: GraphLayout, most: float, global_explanation: GlobalExplanation) -> dict[str, Any]:
    """An edge to the decision: without a sign where images do not agree on one."""
    drawn = _drawn(edge, layout, most)
    agreed = next(
        (effect.sign_agreement for effect in global_explanation.decision_effects if effect.concept == edge.source), 1.0
    )
    fact = f"{percent(agreed)} of the images agree on the direction" if agreed == agreed else "it moves none of them"
    return drawn | {"sign": drawn["sign"] if agreed >= _AGREED else "none", "tips": [*drawn["tips"], fact]}


def _mark(end: tuple[float, float, int], mark: str) -> dict[str, Any]:
    x, y, way = end
    if mark == "circle":
        return {"circle": (round(x - way * _CIRCLE, 1), round(y, 1), _CIRCLE)}
    back = x - way * _ARROW
    return {"points": f"{x:.1f},{y:.1f} {back:.1f},{y - 5:.1f} {back:.1f},{y + 5:.1f}"}


def _middle(route: Route) -> tuple[float, float]:
    """Half way along an edge, near enough for a mark: the middle of a bow, else between the ends."""
    (x1, y1, _), (x2, y2, _) = route.ends
    if abs(x1 - x2) < 1:
        bend = float(route.path.split("C")[1].split(",")[0])
        return x1 + 0.75 * (bend - x1), (y1 + y2) / 2
    return (x1 + x2) / 2, (y1 + y2) / 2


def describe_edge(edge: Edge) -> list[str]:
    """What is known of an edge, in words.

    >>> describe_edge(Edge("thickness", "intensity", "tail", "arrow", confidence=0.96, orientation_source="collider"))
    ['in 96.0 % of the bootstraps', 'direction from the data: a collider, or what follows from one']
    """
    facts = []
    if not math.isnan(edge.confidence):
        ways = ""
        if not math.isnan(edge.forward + edge.backward):
            forward, backward = percent(edge.forward), percent(edge.backward)
            ways = f" ({edge.source} causes {edge.target} in {forward}, the other way in {backward})"
        facts.append(f"in {percent(edge.confidence)} of the bootstraps{ways}")
    if not math.isnan(edge.strength):
        unit = "sd of the margin" if edge.orientation_source == "intervention" else "partial correlation"
        if edge.source == CLASS_NODE:
            unit = "share of variance"
        facts.append(f"strength {'+' if edge.strength > 0 else ''}{format_number(round(edge.strength, 3))}, {unit}")
    facts.append(
        "by a test of the classes" if edge.source == CLASS_NODE else ORIENTATION_SOURCES[edge.orientation_source]
    )
    if not math.isnan(edge.p_value) and edge.orientation_source != "intervention":
        facts.append(format_p_value(edge.p_value))
    if edge.source_mark == edge.target_mark == "arrow":
        facts.append("a hidden common cause")
    if "circle" in (edge.source_mark, edge.target_mark):
        facts.append("circle: that end may be a cause or an effect")
    doubt = (
        "the surrogate does not control this concept"
        if edge.orientation_source == "intervention"
        else "less sure than requested"
    )
    return [*facts, f"tentative: {doubt}"] if edge.tentative else facts


def _difference(global_explanation: GlobalExplanation, layout: GraphLayout) -> dict[str, Any]:
    assert global_explanation.difference is not None
    assert global_explanation.data is not None
    difference = _among_concepts(global_explanation.difference)
    drawn = [_drawn(edge, layout, 1.0, "only in the data") for edge in difference.only_first]
    drawn += [_drawn(edge, layout, 1.0, "only perceived") for edge in difference.only_second]
    drawn += [
        _drawn(perceived, layout, 1.0, f"in the data {in_data}, perceived {perceived}")
        for in_data, perceived in difference.reoriented
    ]
    drawn += [_drawn(edge, layout, 1.0, "in both") for edge, _ in difference.common]
    shared = CausalGraph(
        tuple(name for name in global_explanation.data.nodes if name in _read_nodes(global_explanation)), ()
    )
    nodes = [
        node | {"below": "not compared" if node["absent"] else "in both graphs"}
        for node in _nodes(shared, layout, global_explanation)
    ]
    return {"name": "Difference", "nodes": nodes, "edges": drawn}


def _read_nodes(global_explanation: GlobalExplanation) -> set[str]:
    """The nodes that were discovered, not only drawn because they decide."""
    return set(global_explanation.perceived.nodes) - set(global_explanation.unmodeled_concepts)


def _among_concepts(difference: GraphDifference) -> GraphDifference:
    """The difference without the edges of the class label, which both graphs have as a root."""
    return GraphDifference(
        tuple(edge for edge in difference.only_first if CLASS_NODE not in edge.pair),
        tuple(edge for edge in difference.only_second if CLASS_NODE not in edge.pair),
        tuple(pair for pair in difference.reoriented if CLASS_NODE not in pair[0].pair),
        tuple(pair for pair in difference.common if CLASS_NODE not in pair[0].pair),
    )


def _differences(global_explanation: GlobalExplanation) -> list[str] | None:
    """The difference in sentences; None without a data graph."""
    if global_explanation.difference is None:
        return None
    difference = _among_concepts(global_explanation.difference)
    lines = [
        f"{edge}: in the data, but not in what the classifier perceives. It does not see, or does not use, "
        "that the two go together."
        for edge in difference.only_first
    ]
    lines += [
        f"{edge}: perceived, but not in the data. It may confuse the two, or read one off the other."
        for edge in difference.only_second
    ]
    lines += [
        f"{in_data} in the data, {perceived} as perceived: joined in both, but different."
        for in_data, perceived in difference.reoriented
    ]
    lines += [f"{edge}: the same in both." for edge, _ in difference.common]
    assert global_explanation.data is not None
    lines += [
        f"{name}: in the table, but the classifier perceives it too badly (R² "
        f"{global_explanation.probe_r2[name]:.2f}) to compare."
        for name in global_explanation.data.nodes
        if name not in _read_nodes(global_explanation) and name in global_explanation.probe_r2
    ]
    return lines or ["No two contexts are joined in either graph."]


def _rows(graph: CausalGraph, name: str) -> list[dict[str, Any]]:
    return [
        {"graph": name, "label": str(edge), "facts": describe_edge(edge)}
        for edge in sorted(graph.edges, key=lambda edge: edge.source == CLASS_NODE)
    ]


def decision_table(global_explanation: GlobalExplanation, class_names: Sequence[str]) -> dict[str, Any]:
    """What the template prints of the concepts that move the decision, from the strongest down."""
    most = max((edge.strength for edge in global_explanation.decision_effects), default=1.0)
    most = max(most, global_explanation.null.block, 1e-9)
    tentative = {
        edge.source for edge in global_explanation.perceived.edges if edge.target == DECISION_NODE and edge.tentative
    }
    needed = {result.concept: result for result in global_explanation.necessity}
    rows = [
        {
            "name": edge.concept,
            "strength": f"{edge.strength:.2f}",
            "share": round(100 * edge.strength / most, 1),
            "flips": percent(edge.flip_rate),
            "dose_response": _dose_response(edge.dose_response),
            "agreement": "" if math.isnan(edge.sign_agreement) else percent(edge.sign_agreement),
            "interval": "" if math.isnan(edge.low) else f"{edge.low:.2f} to {edge.high:.2f}",
            "verdict": "matters" if edge.matters else "negligible" if edge.negligible else "open",
            "tentative": edge.concept in tentative,
            "necessity": _share(needed[edge.concept].necessity) if needed else "",
            "sufficiency": _share(needed[edge.concept].sufficiency) if needed else "",
        }
        for edge in sorted(global_explanation.decision_effects, key=lambda effect: -effect.strength)
    ]
    return {
        "rows": rows,
        "target": None if global_explanation.target is None else class_names[global_explanation.target],
        "transferred": global_explanation.residual_transfer,
        "needed": bool(needed),
        "bound": f"{max((e.bound for e in global_explanation.decision_effects), default=math.nan):.2f}",
        "null": f"{global_explanation.null.strongest:.3f}",
        "null_share": round(100 * global_explanation.null.strongest / most, 1),
        "block": f"{global_explanation.null.block:.3f}",
        "block_share": round(100 * global_explanation.null.block / most, 1),
        "block_flips": percent(global_explanation.null.flip_rate),
    }


def _share(share: Proportion) -> str:
    return f"{100 * share.estimate:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def _dose_response(margins: Sequence[float]) -> dict[str, Any]:
    """A little curve: the margin at five values of the concept, on a scale of its own around zero."""
    most = max(0.05, *(abs(value) for value in margins))
    points = [(20 * position + 4, 14 - 12 * value / most) for position, value in enumerate(margins)]
    return {
        "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        "text": f"{margins[0]:+.2f} to {margins[-1]:+.2f}".replace("-", "−"),
        "sign": "for" if margins[-1] >= margins[0] else "against",
    }
