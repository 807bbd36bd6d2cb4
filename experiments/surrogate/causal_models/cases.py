"""One known causal model and one seed: digits drawn from it, their graphs, and effects against the equations."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import pellucid as pl
from experiments.surrogate.digits.data import Digits, digit_classifier, input_of
from experiments.surrogate.shared.idx import read_mnist
from experiments.surrogate.shared.parts import Parts
from pellucid.classifiers import reinitialize, replace_module
from pellucid.data import ContextTable
from pellucid.storage import read_tensors, write_tensors
from pellucid.surrogate import MIN_PROBE_R2, fit_structural_models, r2_by_context
from pellucid.surrogate.causal import (
    BackgroundKnowledge,
    CausalGraph,
    DiscoveryOptions,
    Edge,
    discover,
    rank_gaussianize,
    score_graph,
)
from pellucid.surrogate.model import FeatureExtractor, fit_context_probe, mean_and_std
from pellucid.synthetic import CausalModel, Mechanism
from pellucid.synthetic.morphomnist import CAUSAL_MODELS, measure, redraw

_LEFT_OUT = 1  # the digit: it cannot be both thin and wide. Digits are drawn apart from contexts, so none is favored
_SIDE = 32
_GRID = torch.linspace(0.02, 0.98, 17).double()


def _heavier_width(model: CausalModel, weight: float = 0.25) -> CausalModel:
    """TSWI with another weight of the width, of which the intensity is 64 + 191 σ(.. + 0.12 (w - 14) + ..).

    With 0.25 thickness and width are all but independent given the intensity (partial correlation -0.02): what they
    share directly is just cancelled by their common effect, and no test of independence can find the edge.
    """
    *others, intensity = model.mechanisms
    change = weight - 0.12

    def shifted(values: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        return intensity.value(values, noise + change * (values["width"] - 14) / 0.5)

    def explained(values: Mapping[str, Tensor], value: Tensor) -> Tensor:
        return intensity.noise(values, value) - change * (values["width"] - 14) / 0.5

    return CausalModel(UNFAITHFUL, (*others, Mechanism("intensity", intensity.parents, shifted, explained)))


UNFAITHFUL = "TSWI-0.25"

LEVELS = ("true", "measured", "perceived", "blind")
"""Where variables come from: the model itself, measuring the digits, a CNN, and one that has learnt nothing."""

MODELS: Mapping[str, CausalModel] = {**CAUSAL_MODELS, UNFAITHFUL: _heavier_width(CAUSAL_MODELS["TSWI"])}
"""The known models, and one of them with an edge that hides."""


@dataclass(frozen=True)
class Plan:
    """How much of each model is drawn.

    Attributes:
        digits: whose graphs are looked for.
        training: further digits that the classifier is trained on.
        epochs: of the classifier.
        reading: steps of each reader of its features.
        bootstraps: of each graph.
    """

    digits: int = 2000
    training: int = 2000
    epochs: int = 6
    reading: int = 1500
    bootstraps: int = 50


@dataclass(frozen=True)
class Drawn:
    """Digits (N, 1, 32, 32) drawn to a context, and what came out."""

    images: Tensor
    labels: Tensor
    requested: ContextTable
    measured: ContextTable

    def digits(self) -> Digits:
        """As the classifier's training takes them."""
        return Digits(self.images, self.labels, self.measured)


def truth_of(model: CausalModel, nodes: Sequence[str] | None = None) -> CausalGraph:
    """The true graph; of some of the nodes, the edges among them."""
    kept = tuple(name for name in model.names if nodes is None or name in nodes)
    edges = [Edge(cause, effect, "tail", "arrow") for cause, effect in model.edges if {cause, effect} <= set(kept)]
    return CausalGraph(kept, tuple(edges))


def tie(model: CausalModel, one: str, other: str, given: str, rows: int = 200_000) -> float:
    """The partial correlation of two variables given a third, on rank-Gaussian scales."""
    table = model.sample(rows).select([one, other, given]).values.numpy()
    precision = np.linalg.inv(np.corrcoef(rank_gaussianize(table).T))
    return float(-precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1]))


def knowledge_of(model: CausalModel) -> BackgroundKnowledge:
    """Tiers: how many arrows lead to a variable at most."""
    tiers: dict[str, int] = {}
    for mechanism in model.mechanisms:
        tiers[mechanism.name] = max((tiers[parent] + 1 for parent in mechanism.parents), default=0)
    return BackgroundKnowledge(tiers=tiers)


def levels_of(
    model: CausalModel, seed: int, plan: Plan, mnist: Path, work: Path, parts: Parts, *, perceived: bool
) -> dict[str, Any]:
    """Every level's graphs and effects, for one model and seed; kept one by one."""
    name = f"{model.title} {seed}"
    drawn = draw(model, seed, 0, plan.digits, mnist, work / f"{model.title}-{seed}.safetensors")
    result = {
        "true": parts.part(f"{name} true", partial(evaluate_graphs, model, drawn.requested, drawn, None, plan, seed)),
        "measured": parts.part(
            f"{name} measured", partial(evaluate_graphs, model, drawn.measured, drawn, drawn.labels, plan, seed)
        ),
    }
    for level in ("perceived", "blind") if perceived else ():
        result[level] = parts.part(
            f"{name} {level}", partial(_read_level, level, model, drawn, plan, seed, mnist, work)
        )
    return result


def _read_level(
    level: str, model: CausalModel, drawn: Drawn, plan: Plan, seed: int, mnist: Path, work: Path
) -> dict[str, Any]:
    """Graphs of what a CNN trained on further digits of the model tells, or of one whose weights are redrawn."""
    name = f"{model.title}-{seed}"
    further = draw(model, seed, plan.digits, plan.training, mnist, work / f"{name}-training.safetensors")
    folder = work / f"{name}-classifier"
    folder.mkdir(parents=True, exist_ok=True)
    classifier = digit_classifier(further.digits(), folder, epochs=plan.epochs)
    if level == "blind":
        classifier = replace_module(classifier, reinitialize(classifier.module, seed=seed))
    with torch.no_grad():
        classes = torch.cat([classifier.logits(chunk) for chunk in torch.split(drawn.images, 128)]).argmax(1)
    predicted, r2 = read_off(classifier, drawn, plan, seed)
    result = {"accuracy": float((classes == drawn.labels).double().mean()), "r2": r2}
    nodes = [name for name in model.names if r2[name] >= MIN_PROBE_R2]
    if len(nodes) < 2:
        return result
    values = ContextTable(model.names, predicted).select(nodes)
    return result | evaluate_graphs(model, values, drawn, classes, plan, seed)


def draw(model: CausalModel, seed: int, first: int, count: int, mnist: Path, kept: Path) -> Drawn:
    """Draw `count` rows of a model and MNIST digits to them, those from place `first` on in the order of the seed.

    Digits of which nothing is left, because thinner strokes were asked for than they can take, are dropped.
    """
    images, labels = read_mnist(mnist, "t10k")
    usable = (labels != _LEFT_OUT).nonzero()[:, 0]
    order = usable[torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))]
    chosen = order[first : first + count]
    requested = model.sample(len(chosen), seed=10 * seed + (first > 0))
    if not kept.exists():
        write_tensors(kept, _redrawn(images[chosen], requested))
    result = read_tensors(kept)
    rows = result["rows"]
    measured = ContextTable(model.names, result["measured"])
    return Drawn(input_of(result["images"].float()), labels[chosen][rows], requested.subset(rows), measured)


def _redrawn(digits: Tensor, requested: ContextTable) -> dict[str, Tensor]:
    margin = (_SIDE - digits.shape[-1]) // 2
    settings = {name: requested.column(name) for name in requested.names}
    images = redraw(F.pad(digits, (margin,) * 4), **settings).round().to(torch.uint8)  # type: ignore[arg-type]
    result = measure(images)
    values = torch.stack([getattr(result, name) for name in requested.names], dim=1).double()
    rows = values.isfinite().all(1).nonzero()[:, 0]
    return {"images": images[rows], "measured": values[rows], "rows": rows}


def read_off(classifier: pl.Classifier, drawn: Drawn, plan: Plan, seed: int) -> tuple[Tensor, dict[str, float]]:
    """The perceived context (N, K) in the table's units, each row by a reader that never saw it, and its R2."""
    features = FeatureExtractor(classifier)
    with torch.no_grad():
        phi = torch.cat([features(chunk).phi for chunk in torch.split(drawn.images, 128)])
    mean, spread = mean_and_std(phi)
    scale = drawn.measured.scale()
    context = scale.standardize(drawn.measured.values)
    _, unseen = fit_context_probe((phi - mean) / spread, context, steps=plan.reading, seed=seed)
    return scale.unstandardize(unseen), r2_by_context(drawn.measured.names, unseen, context)


def evaluate_graphs(
    model: CausalModel, values: ContextTable, drawn: Drawn, labels: Tensor | None, plan: Plan, seed: int
) -> dict[str, Any]:
    """Graphs of a table with and without knowledge of tiers, held against the truth; and effects by these graphs.

    Args:
        model: the truth.
        values: rows of `drawn` as they are at some level; not all variables need be there.
        drawn: the digits.
        labels: (N,) the class, whose means are taken away; or None.
        plan: bootstraps.
        seed: of rows and bootstraps.
    """
    tiers = knowledge_of(model)
    known = BackgroundKnowledge({name: tier for name, tier in tiers.tiers.items() if name in values.names})
    options = DiscoveryOptions(
        bootstraps=plan.bootstraps, show_threshold=0.0, seed=seed
    )  # all pairs, for their confidence
    truth = truth_of(model, values.names)
    result: dict[str, Any] = {"rows": len(values)}
    for name, knowledge in (("with tiers", known), ("without tiers", None)):
        graph = discover(
            values.values.numpy(),
            values.names,
            labels=None if labels is None else labels.numpy(),
            knowledge=knowledge,
            options=options,
        )
        result[name] = scored(graph, truth)
        if knowledge:
            result["effects"] = _effects(model, values, drawn.requested, graph)
    result["effects, true graph given"] = _effects(model, values, drawn.requested, truth)
    return result


def scored(graph: CausalGraph, truth: CausalGraph) -> dict[str, Any]:
    """Marks of the firm edges, and the confidence of every pair that was looked at."""
    own = [edge for edge in graph.edges if edge.pair <= set(truth.nodes)]
    edges = [
        {
            "edge": str(edge),
            "true": truth.edge(edge.source, edge.target) is not None,
            **{
                key: getattr(edge, key)
                for key in ("confidence", "forward", "backward", "strength", "orientation_source")
            },
            "tentative": edge.tentative,
        }
        for edge in own
    ]
    return asdict(score_graph(graph.drop_tentative(), truth)) | {"edges": edges}


def _effects(
    model: CausalModel, values: ContextTable, requested: ContextTable, graph: CausalGraph
) -> list[dict[str, Any]]:
    """The total effect of every cause on its effects, along the graph and by the true equations.

    Where the graph leaves orientations open, that of the worst; nothing where they contradict each other.
    """
    table = values.values.numpy()
    fitted, _ = fit_structural_models(graph, tuple(values.names), (), values.values)
    rows = []
    for edge in truth_of(model, values.names).edges if fitted else ():
        column = values.names.index(edge.target)
        levels = torch.quantile(requested.column(edge.source), _GRID)
        true = torch.stack([model.counterfactual(requested, {edge.source: v}).column(edge.target) for v in levels])
        marks = []
        for one in fitted:
            moved = [one.counterfactual(table, {edge.source: v})[:, column] for v in levels.tolist()]
            marks.append(_against(torch.from_numpy(np.stack(moved)), true))
        worst = max(marks, key=lambda mark: mark["curve_rmse"])
        curves = {"levels": levels.tolist(), "true": true.mean(1).tolist()}
        rows.append({"edge": str(edge), "orientations": len(fitted)} | worst | curves)
    return rows


def _against(result: Tensor, true: Tensor) -> dict[str, Any]:
    """Counterfactuals (levels, N) against the true ones, in % of the range of the true mean curve."""
    curve, expected = result.mean(1), true.mean(1)
    reach = expected[-1] - expected[0]
    return {
        "range_error": float(100 * ((curve[-1] - curve[0]) / reach - 1)),
        "curve_rmse": float(100 * (curve - expected).square().mean().sqrt() / reach.abs()),
        "counterfactual_error": float(100 * (result - true).abs().mean() / reach.abs()),
        "found": curve.tolist(),
    }
