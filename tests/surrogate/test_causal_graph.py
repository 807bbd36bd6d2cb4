import io
import json
import math

import networkx
import pytest

from pellucid.errors import PellucidError
from pellucid.storage import from_record, to_record
from pellucid.surrogate.causal.compare import compare_graphs, score_graph
from pellucid.surrogate.causal.graph import CausalGraph, Edge


def arrows(*pairs: tuple[str, str], nodes: str = "abcd") -> CausalGraph:
    return CausalGraph(tuple(nodes), tuple(Edge(one, other, "tail", "arrow") for one, other in pairs))


def test_causes_come_before_effects_and_descendants_follow() -> None:
    graph = arrows(("c", "a"), ("a", "d"), ("b", "d"))
    order = graph.topological_order()
    assert order.index("c") < order.index("a") < order.index("d")
    assert graph.descendants("c") == ("a", "d")
    assert graph.parents("d") == ("a", "b")
    assert set(graph.paths("c")) == {("c",), ("c", "a"), ("c", "a", "d")}


def test_a_circle_of_arrows_has_no_order() -> None:
    graph = arrows(("a", "b"), ("b", "c"), ("c", "a"))
    assert not graph.is_acyclic()
    with pytest.raises(PellucidError, match="make a cycle"):
        graph.topological_order()


def test_an_undecided_chain_has_three_extensions_and_none_of_them_is_a_collider() -> None:
    chain = CausalGraph(("a", "b", "c"), (Edge("a", "b"), Edge("b", "c")))
    result = {tuple(sorted((e.source, e.target) for e in graph.edges)) for graph in chain.extensions()}
    assert result == {(("a", "b"), ("b", "c")), (("b", "a"), ("b", "c")), (("b", "a"), ("c", "b"))}


def test_a_square_that_no_orientation_fits_without_a_collider_has_all_acyclic_ones() -> None:
    square = CausalGraph(tuple("abcd"), tuple(Edge(*pair) for pair in ("ab", "bc", "cd", "da")))
    result = square.extensions()
    assert len(result) == 2**4 - 2  # all but the two circles
    assert all(one.is_acyclic() for one in result)


def test_a_decided_direction_cannot_be_turned_round() -> None:
    with pytest.raises(PellucidError, match="cannot be reversed"):
        arrows(("a", "b")).orient({"b": "a"})
    with pytest.raises(PellucidError, match="no edge between 'a' and 'c'"):
        arrows(("a", "b")).orient({"a": "c"})


def test_json_brings_the_same_graph_back_with_nan_where_it_was() -> None:
    graph = CausalGraph(
        ("a", "b"), (Edge("a", "b", "circle", "arrow", 0.8, 0.5, 0.1, -0.4, tentative=True),), {"seed": 3}, ("a note",)
    )
    again = from_record(CausalGraph, json.loads(json.dumps(to_record(graph), allow_nan=False)), source="graph")
    assert again.provenance == {"seed": 3}
    assert again.notes == ("a note",)
    assert math.isnan(again.edges[0].p_value)
    assert to_record(again) == to_record(graph)
    with pytest.raises(PellucidError, match=r"graph\.json: the record lacks field edges"):
        from_record(CausalGraph, {"nodes": []}, source="graph.json")


def test_graphml_is_read_by_networkx_with_marks_and_strengths() -> None:
    graph = CausalGraph(("a", "b", "c"), (Edge("a", "b", "tail", "arrow", strength=-0.5), Edge("b", "c")))
    drawing = networkx.read_graphml(io.BytesIO(graph.to_graphml().encode()))
    assert set(drawing.nodes) == {"a", "b", "c"}
    assert drawing.edges["a", "b"]["strength"] == -0.5
    assert drawing.edges["b", "c"]["target_mark"] == "tail"


def test_two_edges_for_one_pair_and_unknown_nodes_are_refused() -> None:
    with pytest.raises(PellucidError, match="more than one edge"):
        CausalGraph(("a", "b"), (Edge("a", "b"), Edge("b", "a")))
    with pytest.raises(PellucidError, match="no nodes of the graph"):
        CausalGraph(("a",), (Edge("a", "z"),))


def test_a_graph_is_scored_by_what_is_missing_too_much_turned_and_undecided() -> None:
    truth = arrows(("a", "b"), ("b", "c"), ("c", "d"))
    result = CausalGraph(
        tuple("abcd"), (Edge("b", "a", "tail", "arrow"), Edge("b", "c"), Edge("a", "d", "tail", "arrow"))
    )
    score = score_graph(result, truth)
    assert (score.precision, score.recall) == (2 / 3, 2 / 3)
    assert score.hamming == 4  # turned a-b, undecided b-c, missing c-d, too much a-d
    assert score.wrong == 1
    assert score.undecided == 1
    assert score_graph(truth, truth).hamming == 0
    assert score_graph(arrows(), arrows()).f1 == 1


def test_two_graphs_differ_where_one_edge_is_absent_or_turned() -> None:
    reported = compare_graphs(arrows(("a", "b"), ("b", "c")), arrows(("b", "a"), ("c", "d")))
    assert [edge.pair for edge in reported.only_first] == [frozenset("bc")]
    assert [edge.pair for edge in reported.only_second] == [frozenset("cd")]
    assert [first.source for first, _ in reported.reoriented] == ["a"]
    assert reported.common == ()


def test_an_arrowhead_excludes_the_turned_orientation() -> None:
    graph = CausalGraph(("a", "b", "c"), (Edge("a", "b", "circle", "arrow"), Edge("b", "c", "circle", "circle")))
    result = {tuple(sorted(str(edge) for edge in one.edges)) for one in graph.extensions()}
    assert all("a → b" in edges for edges in result)
    with pytest.raises(PellucidError, match="'b' does not cause 'a'"):
        graph.orient({"b": "a"})
    assert graph.drop_nodes(["b"]) == CausalGraph(("a", "c"), ())
