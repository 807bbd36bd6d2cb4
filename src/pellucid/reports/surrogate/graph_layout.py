"""A layered layout for causal graphs: causes on the left, effects on the right, few crossings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx

WIDTH, HEIGHT, GAP, COLUMN_GAP, MARGIN = 138, 46, 20, 116, 14
_PORT, _BEND, _SWEEPS = 11, 34, 8

Pair = tuple[str, str]


@dataclass(frozen=True)
class NodeBox:
    """Where a node stands: its left upper corner and its size."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Route:
    """How an edge runs, from its left end to its right one.

    Attributes:
        path: of SVG.
        ends: (x, y, direction) at the first and the second node of the pair; direction is that in which an arrow
            there points, 1 to the right, -1 to the left.
    """

    path: str
    ends: tuple[tuple[float, float, int], tuple[float, float, int]]


@dataclass(frozen=True)
class GraphLayout:
    """Boxes of nodes and routes of pairs in a drawing of some size."""

    boxes: Mapping[str, NodeBox]
    routes: Mapping[Pair, Route]
    width: float
    height: float


def assign_layers(nodes: Sequence[str], directed: Sequence[Pair], sink: str | None = None) -> dict[str, int]:
    """The layer of each node: one more than that of its last cause; the sink is right of all.

    A directed edge that would close a cycle is left out, later ones first: graphs drawn together may disagree.

    Args:
        nodes: names.
        directed: (cause, effect) pairs.
        sink: name of the node that is right of all others; its edges do not count.

    >>> assign_layers(["a", "b", "c", "decision"], [("a", "b"), ("b", "c"), ("c", "a")], "decision")
    {'a': 0, 'b': 1, 'c': 2, 'decision': 3}
    """
    graph = networkx.DiGraph()
    graph.add_nodes_from(nodes)
    for cause, effect in directed:
        if sink not in (cause, effect) and not networkx.has_path(graph, effect, cause):
            graph.add_edge(cause, effect)
    if sink is not None:
        graph.add_edges_from((name, sink) for name in nodes if name != sink)
    generations = enumerate(networkx.topological_generations(graph))
    layers = {name: layer for layer, names in generations for name in names}
    return {name: layers[name] for name in [*nodes, *layers]}


def lay_out(nodes: Sequence[str], pairs: Sequence[Pair], layers: Mapping[str, int]) -> GraphLayout:
    """Place nodes in columns and route edges between them.

    Edges over several columns pass through places kept free for them. Order within a column: repeated barycenters
    (Sugiyama et al. 1981).

    Args:
        nodes: names.
        pairs: ends of the edges.
        layers: column of each node, see `assign_layers`.

    Returns:
        Where each node stands, and the path of each edge.

    >>> layout = lay_out(["a", "b"], [("a", "b")], {"a": 0, "b": 1})
    >>> layout.boxes["a"].x < layout.boxes["b"].x
    True
    """
    chains = {pair: _chain(pair, layers) for pair in pairs}
    columns = _columns(nodes, chains, layers)
    neighbors = _neighbors(chains)
    for sweep in range(_SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            _order(column, columns, neighbors)
    ports = _degrees(nodes, chains, layers)
    heights = {
        name: max(HEIGHT, _PORT * ports.get(name, 0) + 8) if name in layers else GAP for c in columns for name in c
    }
    boxes = _boxes(columns, heights)
    routes = _routes(chains, boxes, layers)
    real = {name: boxes[name] for name in nodes}
    bends = max((_bulge(boxes[a], boxes[b]) for a, b in pairs if layers[a] == layers[b]), default=0)
    right = max((box.x + box.width for box in real.values()), default=0) + MARGIN + (bends if len(columns) == 1 else 0)
    return GraphLayout(real, routes, right, max((box.y + box.height for box in boxes.values()), default=0) + MARGIN)


def _chain(pair: Pair, layers: Mapping[str, int]) -> list[str]:
    """The nodes from left to right with a free place in each column between."""
    left, right = sorted(pair, key=lambda name: layers[name])
    between = [f"{left}\0{right}\0{column}" for column in range(layers[left] + 1, layers[right])]
    return [left, *between, right]


def _columns(nodes: Sequence[str], chains: Mapping[Pair, list[str]], layers: Mapping[str, int]) -> list[list[str]]:
    columns: list[list[str]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for name in nodes:
        columns[layers[name]].append(name)
    for chain in chains.values():
        for position, name in enumerate(chain[1:-1], start=layers[chain[0]] + 1):
            columns[position].append(name)
    return columns


def _neighbors(chains: Mapping[Pair, list[str]]) -> dict[str, list[str]]:
    neighbors: dict[str, list[str]] = {}
    for chain in chains.values():
        for first, second in pairwise(chain):
            neighbors.setdefault(first, []).append(second)
            neighbors.setdefault(second, []).append(first)
    return neighbors


def _order(column: list[str], columns: Sequence[Sequence[str]], neighbors: Mapping[str, list[str]]) -> None:
    position = {name: (index + 0.5) / len(column) for column in columns for index, name in enumerate(column)}
    known = {name: [position[other] for other in neighbors.get(name, ())] for name in column}
    center = {name: sum(at) / len(at) if at else position[name] for name, at in known.items()}
    column.sort(key=lambda name: center[name])


def _degrees(nodes: Sequence[str], chains: Mapping[Pair, list[str]], layers: Mapping[str, int]) -> dict[str, int]:
    """The most edges at one side of each node."""
    left, right = dict.fromkeys(nodes, 0), dict.fromkeys(nodes, 0)
    for chain in chains.values():
        right[chain[0]] += 1
        (right if layers[chain[0]] == layers[chain[-1]] else left)[chain[-1]] += 1
    return {name: max(left[name], right[name]) for name in nodes}


def _boxes(columns: Sequence[Sequence[str]], heights: Mapping[str, float]) -> dict[str, NodeBox]:
    totals = [sum(heights[name] + GAP for name in column) - GAP for column in columns]
    boxes = {}
    for index, column in enumerate(columns):
        y = MARGIN + (max(totals) - totals[index]) / 2
        for name in column:
            boxes[name] = NodeBox(MARGIN + index * (WIDTH + COLUMN_GAP), y, WIDTH, heights[name])
            y += heights[name] + GAP
    return boxes


def _routes(
    chains: Mapping[Pair, list[str]], boxes: Mapping[str, NodeBox], layers: Mapping[str, int]
) -> dict[Pair, Route]:
    ports = _ports(chains, boxes, layers)
    routes = {}
    for pair, chain in chains.items():
        first, last = chain[0], chain[-1]
        start = boxes[first].x + WIDTH, ports[pair, first]
        if layers[first] == layers[last]:
            end = boxes[last].x + WIDTH, ports[pair, last]
            bend = start[0] + _bulge(boxes[first], boxes[last])
            path = f"M{_at(*start)} C{_at(bend, start[1])} {_at(bend, end[1])} {_at(*end)}"
            ends = ((*start, -1), (*end, -1))
        else:
            end = boxes[last].x, ports[pair, last]
            path, ends = _through(start, [boxes[name] for name in chain[1:-1]], end), ((*start, -1), (*end, 1))
        routes[pair] = Route(path, ends if pair[0] == first else ends[::-1])
    return routes


def _ports(
    chains: Mapping[Pair, list[str]], boxes: Mapping[str, NodeBox], layers: Mapping[str, int]
) -> dict[tuple[Pair, str], float]:
    """The height at which each edge meets each of its ends, spread over the side of the box."""
    sides: dict[tuple[str, str], list[tuple[float, Pair]]] = {}
    for pair, chain in chains.items():
        level = layers[chain[0]] == layers[chain[-1]]
        for name, towards, side in (
            (chain[0], chain[1], "right"),
            (chain[-1], chain[-2], "right" if level else "left"),
        ):
            sides.setdefault((name, side), []).append((boxes[towards].y + boxes[towards].height / 2, pair))
    heights = {}
    for (name, _), edges in sides.items():
        box = boxes[name]
        for position, (_, pair) in enumerate(sorted(edges)):
            heights[pair, name] = box.y + box.height / 2 + (position - (len(edges) - 1) / 2) * _PORT
    return heights


def _through(start: tuple[float, float], between: Sequence[NodeBox], end: tuple[float, float]) -> str:
    """A smooth path that crosses the columns between on the level."""
    x, y = start
    parts = [f"M{_at(x, y)}"]
    for box in between:
        level = box.y + box.height / 2
        middle = (x + box.x) / 2
        parts.append(f"C{_at(middle, y)} {_at(middle, level)} {_at(box.x, level)} L{_at(box.x + box.width, level)}")
        x, y = box.x + box.width, level
    middle = (x + end[0]) / 2
    return " ".join([*parts, f"C{_at(middle, y)} {_at(middle, end[1])} {_at(*end)}"])


def _bulge(one: NodeBox, other: NodeBox) -> float:
    apart = abs(one.y - other.y) / (HEIGHT + GAP)
    return min(_BEND + 16 * apart, COLUMN_GAP - 12)


def _at(x: float, y: float) -> str:
    return f"{x:.1f},{y:.1f}"
