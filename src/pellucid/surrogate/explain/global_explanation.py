"""The global explanation: the causal graph of what the classifier perceives, beside that of the data."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.results import Provenance, Receipt, Result
from pellucid.surrogate.causal.compare import GraphDifference, compare_graphs
from pellucid.surrogate.causal.discovery import COPY_CORRELATION, discover
from pellucid.surrogate.causal.graph import CausalGraph
from pellucid.surrogate.causal.rank_normalize import rank_gaussianize
from pellucid.surrogate.causal.search import BackgroundKnowledge, DiscoveryOptions
from pellucid.surrogate.explain.decision_effects import (
    DECISION_NODE,
    DecisionEffect,
    NuisanceNull,
    add_decision_edges,
    measure_decision_effects,
)
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, unknown_provenance
from pellucid.surrogate.explain.necessity import Necessity, estimate_necessity
from pellucid.surrogate.model.auxiliary_models import AuxiliaryQuality
from pellucid.surrogate.model.batches import map_batches

MIN_PROBE_R2 = 0.7
"""R2 of the perceived on the measured context below which edges would come from errors of the probe."""

MIN_PROBE_GAIN = 0.05
"""R2 by which a probe must predict a context better than with random weights for it to count as learnt."""

_MIN_VARIANCE = 0.02


@dataclass(frozen=True)
class GlobalOptions:
    """How a global explanation is computed.

    Attributes:
        knowledge: tiers, required and forbidden edges.
        discovery: options of the causal discovery.
        max_interventions: images that are intervened on, at most; evenly thinned, as files often come class by class.
        residual_transfer: transfer the residual to the input images instead of measuring effects on the
            reconstructions. Effects then come out too small wherever the reconstruction is imperfect; where it is
            poor, they may still follow the single image better.
        seed: of the swaps.

    >>> GlobalOptions(knowledge=BackgroundKnowledge(tiers={"thickness": 0})).discovery.method
    'pc'
    """

    knowledge: BackgroundKnowledge = field(default_factory=BackgroundKnowledge)
    discovery: DiscoveryOptions = field(default_factory=DiscoveryOptions)
    max_interventions: int = 200
    residual_transfer: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class GlobalExplanation(Result):
    """What the classifier perceives, how it hangs together and what of it moves the decision.

    Attributes:
        data: graph of the measured contexts; None when no context was measured.
        perceived: graph of the perceived contexts and the unexplained latents, with edges to the decision.
        unmodeled_concepts: concepts that were not nodes of the discovery, but move the decision, so that they are
            drawn.
        probe_r2: context -> R2 of the perceived on the measured value.
        decision_effects: every concept's effect on the decision, negligible or not.
        null: what swaps of nuisance do.
        necessity: of every concept for the class `target`; empty without one, or where images of it or of others
            are missing.
        target: the class whose margin the effects on the decision follow; None where it is each image's own.
        residual_transfer: whether effects were measured with the residual transferred to the input images, not on
            the reconstructions.
        notes: in words: what was left out and why.
        provenance: the classifier, the layers that the surrogate sees and the options.
        receipt: what it cost, and how often the reconstructions of held-out images keep their class.

    >>> from pellucid.surrogate import digit_surrogate
    >>> explanation = digit_surrogate().global_explanation
    >>> [effect.concept for effect in explanation.decision_effects if effect.matters][:2]
    ['thickness', 'intensity']
    """

    kind: ClassVar[str] = "surrogate_global"

    data: CausalGraph | None
    perceived: CausalGraph
    unmodeled_concepts: tuple[str, ...]
    probe_r2: Mapping[str, float]
    decision_effects: tuple[DecisionEffect, ...]
    null: NuisanceNull
    necessity: tuple[Necessity, ...]
    target: int | None
    residual_transfer: bool
    notes: tuple[str, ...]
    provenance: Provenance = field(default_factory=unknown_provenance)
    receipt: Receipt = field(default_factory=Receipt)

    @cached_property
    def difference(self) -> GraphDifference | None:
        """How data graph and perceived graph differ over contexts that both can have; None without a data graph."""
        if self.data is None:
            return None
        return compare_graphs(self.data, self.perceived.drop_nodes(self.unmodeled_concepts))

    @property
    def values(self) -> Tensor:
        """(K, 5), the dose response of every concept, in standard deviations of the margin."""
        return torch.tensor([effect.dose_response for effect in self.decision_effects])

    @property
    def scores(self) -> Tensor:
        """(K,), the strength of every concept's effect on the decision, in standard deviations of the margin."""
        return torch.tensor([effect.strength for effect in self.decision_effects])

    @property
    def targets(self) -> tuple[str, ...]:
        """What the effects are on."""
        return ("each image's own class",) if self.target is None else (f"class {self.target}",)

    def rows(self) -> list[dict[str, object]]:
        """A mapping for each concept's effect on the decision, and for each edge of the graphs."""
        shares = {each.concept: each for each in self.necessity}
        rows: list[dict[str, object]] = []
        for effect in self.decision_effects:
            share = shares.get(effect.concept)
            rows.append(
                {
                    "target": self.targets[0],
                    "concept": effect.concept,
                    "strength": effect.sign * effect.strength,
                    "flip_rate": effect.flip_rate,
                    "sign_agreement": effect.sign_agreement,
                    "low": effect.low,
                    "high": effect.high,
                    "negligible_up_to": effect.bound,
                    "probe_r2": self.probe_r2.get(effect.concept),
                    "necessity": None if share is None else share.necessity.estimate,
                    "sufficiency": None if share is None else share.sufficiency.estimate,
                }
            )
        for name, graph in (("perceived", self.perceived), ("data", self.data)):
            rows += [
                {
                    "graph": name,
                    "edge": str(edge),
                    "confidence": edge.confidence,
                    "strength": edge.strength,
                    "p_value": edge.p_value,
                }
                for edge in (() if graph is None else graph.edges)
            ]
        return rows


def compute_global_explanation(
    batch: EncodedBatch,
    measured: Tensor | None,
    options: GlobalOptions,
    *,
    target: int | None = None,
    refused: Collection[str] = (),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> GlobalExplanation:
    """Discover data graph and perceived graph, and measure the effects on the decision by interventions.

    Args:
        batch: images, ten or more per node; not those that the surrogate was trained on.
        measured: (N, K_c) their contexts in standard deviations of the table, or None.
        options: of discovery and interventions.
        target: class whose margin the effects on the decision follow; by default each image's own, but class 1 of two.
        refused: concepts that the surrogate does not control.
        on_progress: called with (stage, done, in all).

    Raises:
        PellucidError: whatever discovery and interventions refuse.
    """
    surrogate = batch.surrogate
    _check_names(options.knowledge, batch.concept_names)
    predicted = map_batches(surrogate.perceived_context, batch.images, size=batch.max_batch)
    probe_r2 = {} if measured is None else r2_by_context(surrogate.context_names, predicted, measured)
    columns, notes = _select_nodes(batch, predicted, probe_r2)
    if not columns:
        raise PellucidError(f"nothing can be a node of the perceived graph: {'; '.join(notes)}")

    def find_graph(table: Tensor, names: list[str], stage: str) -> CausalGraph:
        return discover(
            table.double().cpu().numpy(),
            names,
            labels=batch.classes.cpu().numpy(),
            knowledge=_restrict(options.knowledge, names),
            options=options.discovery,
            on_progress=_stage(on_progress, stage),
        )

    perceived = find_graph(torch.stack(list(columns.values()), 1), list(columns), "perceived graph")
    data = None if measured is None else find_graph(measured, list(surrogate.context_names), "data graph")
    if target is None and batch.logits.shape[1] <= 2:
        target = 1
    intervened = _thin(batch, options.max_interventions)
    shown = intervened if options.residual_transfer else intervened.reconstructed()
    effects, null = measure_decision_effects(
        shown,
        batch.codes,
        classes=intervened.classes if target is None else torch.full_like(intervened.classes, target),
        seed=options.seed,
        on_progress=_stage(on_progress, "interventions"),
    )
    notes += [
        f"{name}: the surrogate does not control this concept, so its effect on the decision may be another's"
        for name in refused
    ]
    if not null.single:
        notes.append(
            "there is no nuisance to compare with: effects on the decision are compared with a fixed bound only"
        )
    graph = add_decision_edges(perceived, effects, refused)
    return GlobalExplanation(
        data=data,
        perceived=graph,
        unmodeled_concepts=tuple(name for name in graph.nodes if name not in perceived.nodes and name != DECISION_NODE),
        probe_r2=probe_r2,
        decision_effects=effects,
        null=null,
        necessity=() if target is None else _necessity(shown, target, options.seed, notes),
        target=target,
        residual_transfer=options.residual_transfer,
        notes=tuple(notes),
    )


def r2_by_context(names: tuple[str, ...], predicted: Tensor, measured: Tensor) -> dict[str, float]:
    """R2 of predicted (N, K) on measured contexts (N, K): 1 is a perfect prediction, 0 or less none at all.

    Args:
        names: of the K contexts.
        predicted: by a probe or by attribute predictors.
        measured: in the same unit.

    >>> r2_by_context(("width",), torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [2.0]]))
    {'width': 1.0}
    """
    residual = (predicted - measured).double().square().mean(0)
    r2 = 1 - residual / measured.double().var(0, correction=0)
    return dict(zip(names, r2.tolist(), strict=True))


def probe_warnings(names: Sequence[str], quality: AuxiliaryQuality) -> list[str]:
    """A warning for each context that the classifier's features predict whether or not it has learnt anything.

    >>> quality = AuxiliaryQuality(predictor_r2=(), probe_r2=(0.95,), untrained_baseline=(0.94,))
    >>> len(probe_warnings(["thickness"], quality))
    1
    """
    return [
        f"{name}: with random weights the classifier's features predict it nearly as well (R2 {untrained:.2f}; trained "
        f"{trained:.2f}), so that it is perceived does not show that it was learnt"
        for name, trained, untrained in zip(names, quality.probe_r2, quality.untrained_baseline, strict=False)
        if trained >= MIN_PROBE_R2 and trained - untrained < MIN_PROBE_GAIN
    ]


def _thin(batch: EncodedBatch, most: int) -> EncodedBatch:
    return batch[torch.linspace(0, len(batch) - 1, min(most, len(batch))).long()]


def _necessity(batch: EncodedBatch, target: int, seed: int, notes: list[str]) -> tuple[Necessity, ...]:
    of_class = batch.classes == target
    if bool(of_class.all()) or not bool(of_class.any()):
        notes.append("necessity and sufficiency are missing: they need images of the class and images of others")
        return ()
    return estimate_necessity(batch, target, seed=seed)


def _select_nodes(
    batch: EncodedBatch, predicted: Tensor, probe_r2: Mapping[str, float]
) -> tuple[dict[str, Tensor], list[str]]:
    """The columns that may be nodes, and why others may not."""
    columns: dict[str, Tensor] = {}
    notes = []
    for name, column in zip(batch.surrogate.context_names, predicted.T, strict=True):
        if probe_r2.get(name, 1.0) < MIN_PROBE_R2:
            notes.append(
                f"{name}: not perceived well enough to be a node (R2 {probe_r2[name]:.2f}, below {MIN_PROBE_R2})"
            )
        elif original := _find_copied(column, columns):
            notes.append(f"{name}: perceived as the same as {original}, left out")
        else:
            columns[name] = column
    for name, column in zip(batch.surrogate.latent_names, batch.codes.latent.T, strict=True):
        if float(column.var()) < _MIN_VARIANCE:
            notes.append(f"{name}: collapsed (variance {float(column.var()):.3f}), left out")
        elif original := _find_copied(column, columns):
            notes.append(f"{name}: the same as {original}, left out")
        else:
            columns[name] = column
    return columns, notes


def _find_copied(column: Tensor, known: Mapping[str, Tensor]) -> str | None:
    """The node that a column is an increasing or decreasing function of, as latents of a black box may be."""
    ranks = rank_gaussianize(column[:, None].double().cpu().numpy())[:, 0]
    for name, other in known.items():
        other_ranks = rank_gaussianize(other[:, None].double().cpu().numpy())[:, 0]
        if abs(np.corrcoef(ranks, other_ranks)[0, 1]) > COPY_CORRELATION:
            return name
    return None


def _check_names(knowledge: BackgroundKnowledge, names: tuple[str, ...]) -> None:
    if unknown := sorted(knowledge.names() - set(names)):
        raise PellucidError(f"background knowledge names {unknown}, which are not concepts; there are {list(names)}")


def _restrict(knowledge: BackgroundKnowledge, names: list[str]) -> BackgroundKnowledge:
    """The part of the knowledge about these nodes."""
    known = set(names)
    return BackgroundKnowledge(
        {name: tier for name, tier in knowledge.tiers.items() if name in known},
        tuple(pair for pair in knowledge.required if known.issuperset(pair)),
        tuple(pair for pair in knowledge.forbidden if known.issuperset(pair)),
    )


def _stage(on_progress: Callable[[str, int, int], None] | None, stage: str) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, total: on_progress(stage, done, total)
