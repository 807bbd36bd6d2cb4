"""The causal graph of concepts: discovery, comparison, the fitted structural model and effects along paths."""

from pellucid.surrogate.causal.compare import GraphDifference, GraphScore, compare_graphs, score_graph
from pellucid.surrogate.causal.discovery import CLASS_NODE, discover
from pellucid.surrogate.causal.graph import CausalGraph, Edge, OrientationSource
from pellucid.surrogate.causal.mechanisms import FittedStructuralModel, MechanismOptions
from pellucid.surrogate.causal.rank_normalize import rank_gaussianize
from pellucid.surrogate.causal.search import BackgroundKnowledge, DiscoveryOptions

__all__ = [
    "CLASS_NODE",
    "BackgroundKnowledge",
    "CausalGraph",
    "DiscoveryOptions",
    "Edge",
    "FittedStructuralModel",
    "GraphDifference",
    "GraphScore",
    "MechanismOptions",
    "OrientationSource",
    "compare_graphs",
    "discover",
    "rank_gaussianize",
    "score_graph",
]
