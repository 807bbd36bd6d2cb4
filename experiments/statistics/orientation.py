"""How many arrows that are claimed by colliders of random linear graphs point the wrong way? Expected: 5 % at most."""

import numpy as np

from experiments.statistics.simulate import Claims, Settings, Simulation
from pellucid.surrogate.causal import discover


def _arrows(settings: Settings, random: np.random.Generator) -> Claims:
    """Draw a graph, and compare the arrows that are claimed and shown as firm with the true ones."""
    nodes, rows = settings["nodes"], settings["rows"]
    present = random.random((nodes, nodes)) < settings["degree"] / (nodes - 1)
    weights = np.tril(random.uniform(0.4, 1.2, present.shape) * random.choice([-1, 1], present.shape) * present, -1)
    table = np.zeros((rows, nodes))
    for node in range(nodes):
        table[:, node] = table @ weights[node] + random.standard_normal(rows)
    order = random.permutation(nodes)
    graph = discover(table[:, order], [f"v{node}" for node in order])
    ends = [
        (int(edge.source[1:]), int(edge.target[1:])) for edge in graph.edges if edge.directed and not edge.tentative
    ]
    joined = [(source, target) for source, target in ends if weights[target, source] or weights[source, target]]
    found = {tuple(sorted((int(edge.source[1:]), int(edge.target[1:])))) for edge in graph.edges if not edge.tentative}
    true = [(source, target) for target, source in zip(*np.nonzero(weights), strict=True)]
    return {
        "claimed arrows that point the wrong way": [not weights[target, source] for source, target in joined],
        "true edges whose arrow is claimed": [(source, target) in joined for source, target in true],
        "true edges that are found": [tuple(sorted(pair)) in found for pair in true],
    }


ARROWS = Simulation(
    "orientation",
    "Random linear graphs, default options (PC, 50 bootstraps). Expected over all: at most 5 % of the arrows wrong.",
    [{"nodes": nodes, "degree": degree, "rows": rows} for nodes in (4, 8) for degree in (2, 3) for rows in (500, 2000)],
    _arrows,
    replications=25,
)

SIMULATIONS = (ARROWS,)
