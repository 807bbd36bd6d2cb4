"""The numbers of the known causal models as Markdown: means over seeds, and the worst."""

from collections.abc import Iterator, Sequence
from typing import Any

from experiments.surrogate.causal_models.cases import LEVELS

KNOWLEDGE = ("with tiers", "without tiers")
GIVEN = "effects, true graph given"


def tables(result: dict[str, Any]) -> str:
    """All tables."""
    cases = result["cases"]
    heads = ["model", "variables", "knowledge", "seeds", "skeleton F1", "worst", "SHD", "errors", "false orientations"]
    effects = ["model", "variables", "edge", "seeds", "range error", "worst", "curve RMSE", "worst", "per image"]
    sections = {
        "Graphs (means over seeds; errors: SHD less undecided edges; false orientations: sum over seeds)": _table(
            [*heads, "undecided", "least true", "most spurious"], _graph_rows(cases)
        ),
        "Effects by the graph found with tiers (% of the true curve's range)": _table(
            effects, _effect_rows(cases, "effects")
        ),
        "Effects with the true graph given": _table(effects, _effect_rows(cases, GIVEN)),
        "How well variables are read off classifiers (R2, means over seeds)": _table(
            ["model", "variable", "trained", "weights drawn again"], _reading_rows(cases)
        ),
        "What still ties thickness and width once the intensity is given": _table(
            ["model", "partial correlation"], ([name, f"{value:+.3f}"] for name, value in result["ties"].items())
        ),
        "The real digits (thickness -> intensity)": _table(
            ["variables", "knowledge", "edge", "bootstraps with it", "pointing so", "the other way", "ground"],
            _real_rows(result["real"]),
        ),
    }
    return "\n\n".join(f"### {title}\n\n{table}" for title, table in sections.items()) + "\n"


def _levels(cases: dict[str, Any]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Model, level, and what was found at the seeds that have graphs there."""
    for model, seeds in cases.items():
        for level in LEVELS:
            known = [levels[level] for levels in seeds.values() if level in levels and "effects" in levels[level]]
            if known:
                yield model, level, known


def _graph_rows(cases: dict[str, Any]) -> Iterator[list[str]]:
    for model, level, known in _levels(cases):
        for knowledge in KNOWLEDGE:
            graphs = [result[knowledge] for result in known]
            f1 = [graph["f1"] for graph in graphs]
            distances = [graph["hamming"] for graph in graphs]
            left = [graph["undecided"] for graph in graphs]
            confidence = {
                kind: [edge["confidence"] for graph in graphs for edge in graph["edges"] if edge["true"] is kind]
                for kind in (True, False)
            }
            yield [
                *(model, level, knowledge, str(len(graphs)), f"{_mean(f1):.2f}", f"{min(f1):.2f}"),
                *(f"{_mean(distances):.1f}", f"{_mean(distances) - _mean(left):.1f}"),
                *(str(sum(graph["wrong"] for graph in graphs)), f"{_mean(left):.1f}"),
                *(f"{min(confidence[True], default=0):.2f}", f"{max(confidence[False], default=0):.2f}"),
            ]


def _effect_rows(cases: dict[str, Any], kind: str) -> Iterator[list[str]]:
    for model, level, known in _levels(cases):
        edges = dict.fromkeys(row["edge"] for result in known for row in result[kind])
        for edge in edges:
            rows = [row for result in known for row in result[kind] if row["edge"] == edge]
            reach = [row["range_error"] for row in rows]
            curve = [row["curve_rmse"] for row in rows]
            each = [row["counterfactual_error"] for row in rows]
            yield [
                *(model, level, edge, str(len(rows)), f"{_mean(reach):+.1f}", f"{max(reach, key=abs):+.1f}"),
                *(f"{_mean(curve):.1f}", f"{max(curve):.1f}", f"{_mean(each):.1f}"),
            ]


def _reading_rows(cases: dict[str, Any]) -> Iterator[list[str]]:
    for model, seeds in cases.items():
        read = {level: [levels[level]["r2"] for levels in seeds.values() if level in levels] for level in LEVELS[2:]}
        for name in read["perceived"][0] if read["perceived"] else ():
            yield [model, name, *(f"{_mean([r2[name] for r2 in read[level]]):.3f}" for level in read)]


def _real_rows(real: dict[str, Any]) -> Iterator[list[str]]:
    for variables, result in real.items():
        for knowledge in KNOWLEDGE:
            for edge in result[knowledge]["edges"]:
                shares = (f"{edge[key]:.3f}" for key in ("confidence", "forward", "backward"))
                yield [variables, knowledge, edge["edge"], *shares, edge["orientation_source"]]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _table(heads: Sequence[str], rows: Iterator[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *rows])
