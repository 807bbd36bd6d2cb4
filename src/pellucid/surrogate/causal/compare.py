"""How far a graph is from the truth, and how two graphs differ."""

from dataclasses import dataclass
from itertools import combinations

from pellucid.errors import PellucidError
from pellucid.surrogate.causal.graph import CausalGraph, Edge


@dataclass(frozen=True)
class GraphScore:
    """A graph against the true one.

    Attributes:
        precision: Of the skeleton, in [0, 1]; 1 where no edge was found and there is none.
        recall: Of the skeleton, in [0, 1]; 1 where there is no edge.
        f1: Harmonic mean of the two.
        hamming: Structural Hamming distance: pairs of nodes whose edge is missing, superfluous, reversed or left
            undecided where the truth is directed.
        wrong: Edges that claim an orientation against the truth.
        undecided: True directed edges that were found and whose orientation is not claimed.
    """

    precision: float
    recall: float
    f1: float
    hamming: int
    wrong: int
    undecided: int


@dataclass(frozen=True)
class GraphDifference:
    """How two graphs on the same nodes differ; edges are named as in the graph they come from.

    Attributes:
        only_first: Edges that the first graph has and the second lacks.
        only_second: Edges that the second graph has and the first lacks.
        reoriented: Pairs (first, second) that are adjacent in both and whose marks differ.
        common: Pairs that agree.
    """

    only_first: tuple[Edge, ...]
    only_second: tuple[Edge, ...]
    reoriented: tuple[tuple[Edge, Edge], ...]
    common: tuple[tuple[Edge, Edge], ...]


def score_graph(graph: CausalGraph, truth: CausalGraph) -> GraphScore:
    """Compare a graph with the true one, over the nodes of the truth; further nodes are left out.

    Raises:
        PellucidError: The graph lacks a node of the truth.

    >>> truth = CausalGraph(("a", "b"), (Edge("a", "b", "tail", "arrow"),))
    >>> score_graph(CausalGraph(("a", "b"), (Edge("a", "b"),)), truth).undecided
    1
    """
    missing = sorted(set(truth.nodes) - set(graph.nodes))
    if missing:
        raise PellucidError(f"the graph has no node {missing}, which the true graph has")
    pairs = [(truth.edge(*pair), graph.edge(*pair)) for pair in combinations(truth.nodes, 2)]
    both = [(true, guess) for true, guess in pairs if true and guess]
    true_count = sum(true is not None for true, _ in pairs)
    found_count = sum(guess is not None for _, guess in pairs)
    precision = len(both) / found_count if found_count else float(true_count == 0)
    recall = len(both) / true_count if true_count else 1.0
    return GraphScore(
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        hamming=true_count + found_count - 2 * len(both) + sum(_marks(true) != _marks(guess) for true, guess in both),
        wrong=sum(not guess.undecided and _marks(true) != _marks(guess) for true, guess in both),
        undecided=sum(guess.undecided and true.directed != true.reverse().directed for true, guess in both),
    )


def compare_graphs(first: CausalGraph, second: CausalGraph) -> GraphDifference:
    """How two graphs differ, over the nodes that both have.

    >>> first = CausalGraph(("a", "b"), (Edge("a", "b", "tail", "arrow"),))
    >>> compare_graphs(first, CausalGraph(("a", "b"), ())).only_first[0].target
    'b'
    """
    shared = [name for name in first.nodes if name in second.nodes]
    only_first: list[Edge] = []
    only_second: list[Edge] = []
    reoriented: list[tuple[Edge, Edge]] = []
    common: list[tuple[Edge, Edge]] = []
    for pair in combinations(shared, 2):
        edge, other = first.edge(*pair), second.edge(*pair)
        if edge and other:
            (common if _marks(edge) == _marks(other) else reoriented).append((edge, other))
        elif edge:
            only_first.append(edge)
        elif other:
            only_second.append(other)
    return GraphDifference(tuple(only_first), tuple(only_second), tuple(reoriented), tuple(common))


def _marks(edge: Edge) -> tuple[str, str]:
    return edge.source_mark, edge.target_mark
