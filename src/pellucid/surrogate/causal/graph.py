"""A causal graph that claims no more than is identified: edges with marks, confidence, strength and their source."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from math import nan
from typing import Any, Literal

from pellucid.errors import PellucidError

EndMark = Literal["tail", "arrow", "circle"]
OrientationSource = Literal["knowledge", "collider", "intervention", "undecided"]

_MAX_EXTENSIONS = 4096


@dataclass(frozen=True)
class Edge:
    """An edge between two nodes.

    Attributes:
        source: Name of one node; a directed edge points from source to target.
        target: Name of the other node.
        source_mark: What is known of the source's end; tail and arrow is a cause, two tails are undecided, two arrows a
            hidden common cause, and a circle (of FCI) may be either.
        target_mark: What is known of the target's end.
        confidence: Share of bootstraps in which the two are adjacent, in [0, 1]; NaN without bootstraps.
        forward: Share of bootstraps that point source -> target.
        backward: Share of bootstraps that point target -> source.
        strength: Partial correlation of the rank-Gaussianized nodes given the nodes known to point into either, in
            [-1, 1]; of an edge to the decision the change of the margin in its standard deviations, signed; for a class
            label, which has no sign, the share of variance it explains.
        orientation_source: What identifies the orientation: the user's knowledge, a collider (and what follows from it
            by Meek's rules), an intervention, or nothing.
        tentative: Less confident than required for a firm edge; drawn dashed.
        p_value: Of a test of this edge on its own, corrected for the number of edges tested; NaN if there was none.

    >>> edge = Edge("thickness", "intensity", "tail", "arrow")
    >>> print(edge, edge.directed, edge.undecided)
    thickness → intensity True False
    """

    source: str
    target: str
    source_mark: EndMark = "tail"
    target_mark: EndMark = "tail"
    confidence: float = nan
    forward: float = nan
    backward: float = nan
    strength: float = nan
    orientation_source: OrientationSource = "undecided"
    tentative: bool = False
    p_value: float = nan

    @property
    def directed(self) -> bool:
        """Whether source causes target."""
        return self.source_mark == "tail" and self.target_mark == "arrow"

    @property
    def undecided(self) -> bool:
        """Whether the data leave the direction open."""
        return self.source_mark == self.target_mark == "tail" or "circle" in (self.source_mark, self.target_mark)

    def __str__(self) -> str:
        """As "thickness → intensity"; "—" is undecided, "↔" a hidden common cause, "o" an end that may be either."""
        left = {"tail": "—", "arrow": "←", "circle": "o"}[self.source_mark]
        right = {"tail": "—", "arrow": "→", "circle": "o"}[self.target_mark]
        both = {"—→": "→", "←—": "←", "——": "—", "←→": "↔", "oo": "o—o"}.get(left + right, left + right)
        return f"{self.source} {both} {self.target}"

    def has_arrow_at(self, end: str) -> bool:
        """Whether there is an arrowhead at that end: it does not cause the other."""
        return (self.source_mark if end == self.source else self.target_mark) == "arrow"

    @property
    def pair(self) -> frozenset[str]:
        """The two ends."""
        return frozenset((self.source, self.target))

    def reverse(self) -> "Edge":
        """The same edge, named from the other end."""
        return replace(
            self,
            source=self.target,
            target=self.source,
            source_mark=self.target_mark,
            target_mark=self.source_mark,
            forward=self.backward,
            backward=self.forward,
        )


@dataclass(frozen=True)
class CausalGraph:
    """Nodes and edges, with how they were found.

    Attributes:
        nodes: Names.
        edges: At most one for each pair of nodes.
        provenance: Method, options, seeds, versions and numbers of samples, as JSON has them.
        notes: What a reader must know, in words.

    Raises:
        PellucidError: An edge names an unknown node, or a pair has two edges.

    >>> graph = CausalGraph(("a", "b", "c"), (Edge("a", "b", "tail", "arrow"), Edge("b", "c")))
    >>> graph.topological_order(), graph.parents("b"), [len(each.edges) for each in graph.extensions()]
    (('a', 'c', 'b'), ('a',), [2])
    """

    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    provenance: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted({name for edge in self.edges for name in edge.pair} - set(self.nodes))
        if unknown:
            raise PellucidError(f"edges name {unknown}, which are no nodes of the graph ({list(self.nodes)})")
        if len({edge.pair for edge in self.edges}) < len(self.edges):
            raise PellucidError("a pair of nodes has more than one edge; merge them into one with two marks")

    @cached_property
    def _arrows(self) -> Any:
        """The directed edges alone, as a `networkx.DiGraph`."""
        import networkx

        arrows = networkx.DiGraph()
        arrows.add_nodes_from(self.nodes)
        arrows.add_edges_from((edge.source, edge.target) for edge in self.edges if edge.directed)
        return arrows

    def edge(self, node: str, other: str) -> Edge | None:
        """The edge of a pair, named from `node`, or None."""
        for edge in self.edges:
            if edge.pair == {node, other}:
                return edge if edge.source == node else edge.reverse()
        return None

    def parents(self, node: str) -> tuple[str, ...]:
        """The nodes that are known to cause this one directly, in the order of the nodes."""
        causes = {edge.source for edge in self.edges if edge.directed and edge.target == node}
        return tuple(name for name in self.nodes if name in causes)

    def children(self, node: str) -> tuple[str, ...]:
        """The nodes that this one is known to cause directly, in the order of the nodes."""
        effects = {edge.target for edge in self.edges if edge.directed and edge.source == node}
        return tuple(name for name in self.nodes if name in effects)

    def descendants(self, node: str) -> tuple[str, ...]:
        """All that this node is known to cause, directly or not, causes before effects."""
        import networkx

        reached = networkx.descendants(self._arrows, node)
        return tuple(name for name in self.topological_order() if name in reached)

    def paths(self, node: str) -> Iterator[tuple[str, ...]]:
        """Every directed path that begins at a node, the node itself first."""
        yield (node,)
        for child in self.children(node):
            for path in self.paths(child):
                yield (node, *path)

    def topological_order(self) -> tuple[str, ...]:
        """Causes before effects.

        Raises:
            PellucidError: The directed edges make a cycle.
        """
        import networkx

        if not self.is_acyclic():
            cycle = [source for source, _ in networkx.find_cycle(self._arrows)]
            raise PellucidError(f"the directed edges among {cycle} make a cycle: orient one of them the other way")
        generations = networkx.topological_generations(self._arrows)
        return tuple(name for generation in generations for name in sorted(generation, key=self.nodes.index))

    def drop_nodes(self, names: Collection[str]) -> "CausalGraph":
        """The graph of the other nodes."""
        nodes = tuple(name for name in self.nodes if name not in names)
        return replace(self, nodes=nodes, edges=tuple(edge for edge in self.edges if edge.pair <= set(nodes)))

    def drop_tentative(self) -> "CausalGraph":
        """The graph of the firm edges."""
        return replace(self, edges=tuple(edge for edge in self.edges if not edge.tentative))

    def orient(self, choices: Mapping[str, str] | tuple[tuple[str, str], ...]) -> "CausalGraph":
        """The graph with cause -> effect pairs decided by the user, as knowledge.

        Raises:
            PellucidError: A pair has no edge, or one whose direction is decided or excluded.
        """
        edges = {edge.pair: edge for edge in self.edges}
        for cause, effect in choices.items() if isinstance(choices, Mapping) else choices:
            edge = self.edge(cause, effect)
            if edge is None:
                raise PellucidError(f"no edge between {cause!r} and {effect!r} that could be oriented")
            if edge.reverse().directed:
                raise PellucidError(f"{effect!r} -> {cause!r} is already decided; it cannot be reversed")
            if edge.has_arrow_at(cause):
                raise PellucidError(f"{edge} says that {cause!r} does not cause {effect!r}")
            decided = replace(edge, source_mark="tail", target_mark="arrow", orientation_source="knowledge")
            edges[edge.pair] = edge if edge.directed else decided
        return replace(self, edges=tuple(edges.values()))

    def extensions(self) -> tuple["CausalGraph", ...]:
        """Every acyclic way to orient the undecided edges that adds no collider that the data would have shown.

        An edge with an arrowhead at one end and a circle at the other is directed: it may also be a hidden common
        cause, which carries no effect, but never the other way round.

        Edges found in resamples need not fit one graph: where every way adds a collider, all acyclic ways are given.
        Edges of hidden common causes stay as they are. Without undecided edges it is the graph itself; where directed
        edges form a circle, there is none.

        Raises:
            PellucidError: There are too many undecided edges to list all orientations.
        """
        undecided = [edge for edge in self.edges if edge.undecided]
        if 2 ** len(undecided) > _MAX_EXTENSIONS:
            raise PellucidError(
                f"{len(undecided)} edges are undecided, too many to try all orientations: "
                "give tiers or required edges as background knowledge"
            )
        extensions = []
        for reversals in product((False, True), repeat=len(undecided)):
            choices = tuple(
                (edge.target, edge.source) if reverse else (edge.source, edge.target)
                for edge, reverse in zip(undecided, reversals, strict=True)
            )
            if any(edge.has_arrow_at(cause) for edge, (cause, _) in zip(undecided, choices, strict=True)):
                continue
            candidate = self.orient(choices)
            if candidate.is_acyclic():
                extensions.append(candidate)
        allowed = self.unshielded_colliders()
        return tuple(each for each in extensions if each.unshielded_colliders() <= allowed) or tuple(extensions)

    def is_acyclic(self) -> bool:
        """Whether the directed edges make no cycle."""
        import networkx

        return bool(networkx.is_directed_acyclic_graph(self._arrows))

    def unshielded_colliders(self) -> set[tuple[frozenset[str], str]]:
        """Pairs of nodes that are not adjacent and point into the same third one."""
        return {
            (frozenset((parent, other)), node)
            for node in self.nodes
            for parent in self.parents(node)
            for other in self.parents(node)
            if parent < other and self.edge(parent, other) is None
        }

    def to_graphml(self) -> str:
        """The graph as GraphML, for Gephi, yEd, networkx and others.

        GraphML has no marks at the ends: each edge carries `source_mark` and `target_mark`, and an undecided one is
        written once, from the node that was named first.
        """
        import networkx

        drawing = networkx.DiGraph()
        drawing.add_nodes_from(self.nodes)
        for edge in self.edges:
            labels = {key: v for key, v in asdict(edge).items() if key not in ("source", "target")}
            drawing.add_edge(edge.source, edge.target, **labels)
        return "\n".join(networkx.generate_graphml(drawing))
