from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.errors import PellucidError
from pellucid.surrogate.causal.compare import score_graph
from pellucid.surrogate.causal.discovery import CLASS_NODE, discover
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.causal.orientation import _apply_meek_rules
from pellucid.surrogate.causal.rank_normalize import Marginal, rank_gaussianize, subtract_class_means
from pellucid.surrogate.causal.search import BackgroundKnowledge, DiscoveryOptions


def thickness_and_intensity(rows: int, random: np.random.Generator) -> np.ndarray:
    thickness = 0.5 + random.gamma(10, 1 / 5, rows)
    intensity = 64 + 191 / (1 + np.exp(-(0.5 * random.standard_normal(rows) + 2 * (thickness - 2.5))))
    return np.c_[thickness, intensity]


def collider(rows: int, random: np.random.Generator) -> np.ndarray:
    cause, other = random.standard_normal((2, rows))
    middle = 0.7 * cause + 0.6 * other + 0.5 * random.standard_normal(rows)
    return np.c_[cause, other, middle, middle + random.standard_normal(rows)]


TRUE_COLLIDER = CausalGraph(tuple("tslo"), tuple(Edge(*pair, "tail", "arrow") for pair in ("tl", "sl", "lo")))


@pytest.fixture(autouse=True)
def _needs_causal_learn() -> None:
    pytest.importorskip("causallearn")


def test_thickness_and_intensity_are_joined_and_their_direction_is_left_open() -> None:
    (edge,) = discover(thickness_and_intensity(2000, np.random.default_rng(0)), ["t", "i"]).edges
    assert edge.confidence == 1
    assert edge.undecided
    assert edge.orientation_source == "undecided"
    assert edge.strength > 0.85


def test_a_tier_orients_the_edge_and_is_named_as_the_ground() -> None:
    data = thickness_and_intensity(2000, np.random.default_rng(0))
    (edge,) = discover(data[:, ::-1], ["i", "t"], knowledge=BackgroundKnowledge({"t": 0, "i": 1})).edges
    assert (edge.source, edge.target, edge.directed, edge.orientation_source) == ("t", "i", True, "knowledge")


@pytest.mark.parametrize("seed", range(3))
def test_a_collider_and_what_follows_from_it_is_oriented_by_the_data(seed: int) -> None:
    graph = discover(collider(3000, np.random.default_rng(seed)), list("tslo"))
    assert score_graph(graph, TRUE_COLLIDER).hamming == 0
    assert {edge.orientation_source for edge in graph.edges} == {"collider"}
    assert min(edge.confidence for edge in graph.edges) >= 0.9


def test_ges_finds_the_same_graph_and_fci_leaves_circles_where_a_common_cause_may_hide() -> None:
    data = collider(2000, np.random.default_rng(0))
    few = {"bootstraps": 10}
    assert score_graph(discover(data, list("tslo"), options=DiscoveryOptions("ges", **few)), TRUE_COLLIDER).hamming == 0
    fci = discover(data, list("tslo"), options=DiscoveryOptions("fci", **few))
    assert fci.edge("t", "l").source_mark == "circle"
    assert fci.edge("t", "l").target_mark == "arrow"
    assert fci.edge("l", "o").directed


def test_the_kernel_test_sees_a_dependence_without_correlation() -> None:
    random = np.random.default_rng(0)
    cause = random.standard_normal(200)
    data = np.c_[cause, cause**2 + 0.2 * random.standard_normal(200)]
    linear = discover(data, ["a", "b"], options=DiscoveryOptions(bootstraps=0))
    kernel = discover(data, ["a", "b"], options=DiscoveryOptions(test="kci", bootstraps=0))
    assert linear.edges == ()
    assert len(kernel.edges) == 1
    assert np.isnan(kernel.edges[0].confidence)


def test_independent_columns_seldom_get_a_firm_edge() -> None:
    random = np.random.default_rng(0)
    names = list("abcdef")
    result = [
        discover(random.standard_normal((500, 6)), names, options=DiscoveryOptions(bootstraps=10)) for _ in range(8)
    ]
    firm = sum(not edge.tentative for graph in result for edge in graph.edges)
    assert firm <= 0.05 * 8 * 15


def test_a_common_class_explains_an_edge_away_and_is_its_own_root() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 1500)
    data = labels[:, None] + random.standard_normal((1500, 3)) * [0.7, 0.7, 0]
    data[:, 2] = random.standard_normal(1500)
    names = ["a", "b", "alone"]
    assert discover(data, names).edge("a", "b") is not None
    graph = discover(data, names, labels=labels)
    assert graph.edge("a", "b") is None
    assert {edge.target for edge in graph.edges if edge.source == CLASS_NODE} == {"a", "b"}
    assert all(edge.p_value < 0.01 and edge.strength > 0.3 for edge in graph.edges)


def test_one_seed_gives_one_graph() -> None:
    data = collider(500, np.random.default_rng(0))
    options = DiscoveryOptions(bootstraps=5, seed=4)
    assert discover(data, list("tslo"), options=options) == discover(data, list("tslo"), options=options)


def test_an_increasing_rescaling_of_a_node_changes_nothing() -> None:
    data = collider(800, np.random.default_rng(1))
    squashed = data.copy()
    squashed[:, 0] = np.tanh(squashed[:, 0])
    options = DiscoveryOptions(bootstraps=5)
    assert (
        discover(data, list("tslo"), options=options).edges == discover(squashed, list("tslo"), options=options).edges
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.__setitem__((3, 1), np.nan), "node 's' has 1 values that are not finite"),
        (lambda data: data.__setitem__((slice(None), 2), 5.0), "node 'l' is constant"),
        (lambda data: data.__setitem__((slice(None), 3), np.exp(data[:, 0])), "'t' and 'o' are copies"),
    ],
)
def test_bad_columns_are_named(spoil: Callable[[np.ndarray], None], message: str) -> None:
    data = collider(100, np.random.default_rng(0))
    spoil(data)
    with pytest.raises(PellucidError, match=message):
        discover(data, list("tslo"))


def test_bad_requests_are_refused() -> None:
    data = collider(100, np.random.default_rng(0))
    with pytest.raises(PellucidError, match=r"\['z'\], which are no nodes"):
        discover(data, list("tslo"), knowledge=BackgroundKnowledge({"z": 0}))
    with pytest.raises(PellucidError, match="GES takes no background knowledge"):
        discover(data, list("tslo"), knowledge=BackgroundKnowledge({"t": 0}), options=DiscoveryOptions("ges"))
    with pytest.raises(PellucidError, match="20 rows are too few"):
        discover(data[:20], list("tslo"))
    with pytest.raises(PellucidError, match="'lingam' is unknown"):
        DiscoveryOptions("lingam")


@settings(max_examples=30)
@given(st.lists(st.floats(-1e3, 1e3, width=16), min_size=30, max_size=60, unique=True))
def test_a_marginal_maps_to_normal_and_back(sample: list[float]) -> None:
    marginal = Marginal.fit(sample)
    inside = np.linspace(min(sample) - 1, max(sample) + 1, 50)
    np.testing.assert_allclose(marginal.from_normal(marginal.to_normal(inside)), inside, rtol=1e-6, atol=1e-6)


def test_ranks_become_standard_normal_and_class_means_vanish() -> None:
    values = np.random.default_rng(0).exponential(size=(1001, 2))
    normal = rank_gaussianize(values)
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(normal.std(0), 1, atol=0.01)
    assert (np.argsort(normal[:, 0]) == np.argsort(values[:, 0])).all()
    labels = np.arange(1001) % 3
    left = subtract_class_means(values, labels)
    assert all(np.allclose(left[labels == one].mean(0), 0) for one in range(3))


def _cancelling_paths(rows: int) -> np.ndarray:
    """v1 -> v2 -> v3 and v1 -> v3 add up to nothing: v1 and v3 look apart, and v2 like a collider between them."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((rows, 4))
    first = noise[:, 1]
    second = 0.76 * first + noise[:, 2]
    third = 0.79 * noise[:, 0] - 0.76 * 0.82 * first + 0.82 * second + noise[:, 3]
    return np.c_[noise[:, 0], first, second, third]


def test_paths_that_cancel_make_no_arrow() -> None:
    graph = discover(_cancelling_paths(2000), list("abcd"))
    assert graph.edge("b", "d") is None
    assert not any(edge.directed for edge in graph.edges)
    assert any("no two paths cancel" in note for note in graph.notes)


def test_a_collider_that_many_sets_of_nodes_support_is_claimed_with_what_follows_from_it() -> None:
    random = np.random.default_rng(0)
    causes, other = random.standard_normal((1000, 2)), random.standard_normal((1000, 2))
    effect = causes.sum(1) + random.standard_normal(1000)
    table = np.c_[causes, effect, effect + random.standard_normal(1000), other]
    graph = discover(table, list("abcdxy"), options=DiscoveryOptions(bootstraps=20))
    assert {str(edge) for edge in graph.edges} == {"a → c", "b → c", "c → d"}
    assert {edge.orientation_source for edge in graph.edges} == {"collider"}
    few = discover(table[:, :3], list("abc"), options=DiscoveryOptions(bootstraps=20))
    assert [edge.undecided for edge in few.edges] == [True, True]


def test_meeks_rules_add_candidates_only() -> None:
    arrows, candidates, present = (np.zeros((4, 4), dtype=bool) for _ in range(3))
    for i, j in ((0, 1), (1, 2), (2, 3), (1, 3)):
        present[i, j] = present[j, i] = True
    arrows[0, 1] = candidates[0, 1] = candidates[1, 2] = candidates[2, 3] = True
    derived = _apply_meek_rules(arrows, candidates, present)
    # 0 -> 1 and 0 apart from 2: 1 -> 2. That 2 -> 3 follows from nothing; 1 -> 3 would, and is no candidate.
    assert [tuple(map(int, pair)) for pair in np.argwhere(derived)] == [(0, 1), (1, 2)]
    candidates[1, 3] = True
    assert _apply_meek_rules(arrows, candidates, present)[1, 3]


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_a_binary_common_cause_explains_its_effects(share: float) -> None:
    random = np.random.default_rng(0)
    sex = (random.random(2000) < share) * 1.0
    table = np.c_[sex, 2 * sex + random.normal(size=2000), 2 * sex + random.normal(size=2000)]
    graph = discover(table, ["sex", "x", "y"], options=DiscoveryOptions(bootstraps=20))
    assert graph.edge("x", "y") is None
    assert graph.edge("sex", "x") is not None is not graph.edge("sex", "y")
    assert any("Discrete columns: sex (2 values)" in note for note in graph.notes)
    with pytest.raises(PellucidError, match="'sex' and 'gender' are copies"):
        discover(np.c_[sex, 3 - 2 * sex], ["sex", "gender"])


def test_fci_with_tiers_says_what_is_no_cause_and_not_what_is_one() -> None:
    random = np.random.default_rng(1)
    hidden = random.normal(size=3000)
    table = np.c_[hidden + random.normal(size=3000), hidden + random.normal(size=3000)]
    options = DiscoveryOptions(method="fci", bootstraps=10)
    for knowledge in (BackgroundKnowledge(tiers={"A": 0, "B": 1}), BackgroundKnowledge(forbidden=(("B", "A"),))):
        (edge,) = discover(table, ["A", "B"], knowledge=knowledge, options=options).edges
        assert (edge.source_mark, edge.target_mark, edge.orientation_source) == ("circle", "arrow", "knowledge")
        (reversed_edge,) = discover(table[:, ::-1], ["B", "A"], knowledge=knowledge, options=options).edges
        assert (reversed_edge.source_mark, reversed_edge.target_mark) == ("arrow", "circle")
    (edge,) = discover(table, ["A", "B"], knowledge=BackgroundKnowledge(required=(("A", "B"),)), options=options).edges
    assert edge.directed


@pytest.mark.parametrize(
    ("knowledge", "message"),
    [
        ({"required": (("a", "b"), ("b", "a"))}, "cycle among"),
        ({"required": (("a", "b"), ("b", "c"), ("c", "a"))}, "cycle among"),
        ({"required": (("a", "a"),)}, "cycle among"),
        ({"required": (("a", "b"),), "forbidden": (("a", "b"),)}, "both required and forbidden"),
        ({"required": (("a", "b"),), "tiers": {"a": 1, "b": 0}}, "'a' is required to cause 'b', but its tier 1 comes"),
        ({"required": (("a", "x"), ("x", "b")), "tiers": {"a": 1, "b": 0}}, "required to cause 'b', but its tier 1"),
    ],
)
def test_knowledge_that_contradicts_itself_is_refused(knowledge: dict[str, Any], message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        BackgroundKnowledge(**knowledge)


def test_a_dependence_that_neither_rises_nor_falls_is_named_where_it_gives_no_edge() -> None:
    random = np.random.default_rng(0)
    cause = random.standard_normal(1000)
    spread = random.standard_normal(1000) * np.exp(cause / 2)
    table = np.c_[cause, cause**2 + random.standard_normal(1000), spread, random.standard_normal(1000)]
    graph = discover(table, ["z", "square", "spread", "other"], options=DiscoveryOptions(bootstraps=5))
    (named,) = [note for note in graph.notes if note.startswith("Without an edge and yet dependent")]
    assert "z and square" in named
    assert "z and spread" in named
    assert "other" not in named
    assert "--test kci" in named
    quiet = discover(collider(1000, random), list("tslo"), options=DiscoveryOptions(bootstraps=5))
    assert not any("yet dependent" in note for note in quiet.notes)
