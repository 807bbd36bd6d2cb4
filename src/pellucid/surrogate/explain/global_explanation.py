"""The global explanation: the causal graph of what the classifier perceives, beside that of the data."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import PellucidError
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
from pellucid.surrogate.explain.encoded_batch import EncodedBatch
from pellucid.surrogate.explain.necessity import Necessity, necessity

MIN_PROBE_R2 = 0.7
"""R2 of the perceived on the measured context below which edges would come from errors of reading (GLANCE spec)."""

_DEAD = 0.02


@dataclass(frozen=True)
class GlobalExplanation:
    """What the classifier makes of its world.

    Attributes:
        data: graph of the measured contexts; None when no context was measured.
        perceived: graph of the perceived contexts and the unexplained latents, with edges to the decision.
        unread: concepts that were no nodes to be discovered, but move the decision, so that they are drawn.
        perceives: context -> R2 of the perceived on the measured value.
        decisions: every concept's edge to the decision, significant or not.
        null: what swaps of nuisance do.
        necessity: of every concept for the class `target`; empty without one, or where images of it or of others
            are missing.
        target: the class whose margin the edges to the decision follow; None where it is each image's own.
        transferred: whether they were measured with the changes laid on the images, not on the twin's own drawings.
        notes: in words: what was left out and why.
    """

    data: CausalGraph | None
    perceived: CausalGraph
    unread: tuple[str, ...]
    perceives: Mapping[str, float]
    decisions: tuple[DecisionEffect, ...]
    null: NuisanceNull
    necessity: tuple[Necessity, ...]
    target: int | None
    transferred: bool
    notes: tuple[str, ...]

    @cached_property
    def difference(self) -> GraphDifference | None:
        """How the two graphs differ over contexts that both can have; None without a data graph."""
        return None if self.data is None else compare_graphs(self.data, self.perceived.drop_nodes(self.unread))


def explain_globally(
    batch: EncodedBatch,
    measured: Tensor | None,
    *,
    knowledge: BackgroundKnowledge | None = None,
    options: DiscoveryOptions | None = None,
    max_interventions: int = 200,
    target: int | None = None,
    transferred: bool = False,
    refused: Collection[str] = (),
    seed: int = 0,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> GlobalExplanation:
    """Discover data graph and perceived graph, and weigh the edges to the decision by interventions.

    Args:
        painting: images, ten or more per node; not those that the twin was trained on.
        measured: (N, K_c) their contexts in standard deviations of the table, or None.
        knowledge: of the user, on contexts and latents.
        options: of the discovery.
        intervened: images that are intervened on, at most; evenly thinned, as files often come class by class.
        target: class whose margin the edges to the decision follow; by default each image's own, but class 1 of two.
        transferred: lay the changes on the images instead of measuring them on the twin's own drawings.
        refused: concepts that the twin does not control.
        seed: of the swaps.
        on_progress: called with (stage, done, in all).

    Raises:
        PellucidError: whatever discovery and interventions refuse.
    """
    knowledge, options = knowledge or BackgroundKnowledge(), options or DiscoveryOptions()
    surrogate, classes = batch.surrogate, batch.classes.cpu().numpy()
    _refuse_unknown(knowledge, (*surrogate.context_names, *surrogate.latent_names))
    said = _perceived(batch)
    perceives = {} if measured is None else r2_by_context(surrogate.context_names, said, measured)
    columns, notes = _nodes(batch, said, perceives)
    names = list(columns)
    if not names:
        raise PellucidError(f"nothing can be a node of the perceived graph: {'; '.join(notes)}")
    perceived = discover(
        torch.stack(list(columns.values()), 1).double().cpu().numpy(),
        names,
        labels=classes,
        knowledge=_only(knowledge, names),
        options=options,
        on_progress=_stage(on_progress, "perceived graph"),
    )
    data = None
    if measured is not None:
        known = list(surrogate.context_names)
        data = discover(
            measured.double().cpu().numpy(),
            known,
            labels=classes,
            knowledge=_only(knowledge, known),
            options=options,
            on_progress=_stage(on_progress, "data graph"),
        )
    some = batch[torch.linspace(0, len(batch) - 1, min(max_interventions, len(batch))).long()]
    shown = some if transferred else some.reconstructed()
    if target is None and batch.logits.shape[1] <= 2:
        target = 1
    decisions, null = measure_decision_effects(
        shown,
        batch.codes,
        classes=some.classes if target is None else torch.full_like(some.classes, target),
        seed=seed,
        on_progress=_stage(on_progress, "interventions"),
    )
    notes += [f"{name}: the twin does not control it, so its edge to the decision may be another's" for name in refused]
    if not null.single:
        notes.append("there is no nuisance to compare with: edges to the decision are not tested, and none is drawn")
    graph = add_decision_edges(perceived, decisions, refused)
    unread = tuple(name for name in graph.nodes if name not in perceived.nodes and name != DECISION_NODE)
    needed = () if target is None else _necessity(shown, target, seed, notes)
    return GlobalExplanation(data, graph, unread, perceives, decisions, null, needed, target, transferred, tuple(notes))


def _necessity(batch: EncodedBatch, target: int, seed: int, notes: list[str]) -> tuple[Necessity, ...]:
    inside = batch.classes == target
    if bool(inside.all()) or not bool(inside.any()):
        notes.append("necessity and sufficiency are missing: they need images of the class and images of others")
        return ()
    return necessity(batch[inside.nonzero()[:, 0]], batch[(~inside).nonzero()[:, 0]], seed=seed)


def r2_by_context(names: tuple[str, ...], perceived: Tensor, measured: Tensor) -> dict[str, float]:
    """R2 of perceived (N, K) on measured contexts (N, K): 1 is read off perfectly, 0 or less not at all."""
    left = (perceived - measured).double().square().mean(0)
    r2 = 1 - left / measured.double().var(0, correction=0)
    return dict(zip(names, r2.tolist(), strict=True))


def _perceived(batch: EncodedBatch) -> Tensor:
    with torch.no_grad():
        return torch.cat([batch.surrogate.perceived_context(part) for part in _batches(batch)])


def _batches(batch: EncodedBatch) -> list[Tensor]:
    size = batch.max_batch
    return [batch.images[start : start + size] for start in range(0, len(batch), size)]


def _nodes(batch: EncodedBatch, said: Tensor, perceives: Mapping[str, float]) -> tuple[dict[str, Tensor], list[str]]:
    """The columns that may be nodes, and why others may not."""
    columns: dict[str, Tensor] = {}
    notes = []
    for name, column in zip(batch.surrogate.context_names, said.T, strict=True):
        if perceives.get(name, 1.0) < MIN_PROBE_R2:
            notes.append(f"{name}: not perceived well enough to be a node (R2 {perceives[name]:.2f} < {MIN_PROBE_R2})")
        elif original := _copied(column, columns):
            notes.append(f"{name}: perceived as the same as {original}, left out")
        else:
            columns[name] = column
    for name, column in zip(batch.surrogate.latent_names, batch.codes.latent.T, strict=True):
        if float(column.var()) < _DEAD:
            notes.append(f"{name}: collapsed (variance {float(column.var()):.3f}), left out")
        elif original := _copied(column, columns):
            notes.append(f"{name}: tells the same as {original}, left out")
        else:
            columns[name] = column
    return columns, notes


def _copied(column: Tensor, known: Mapping[str, Tensor]) -> str | None:
    """The node that a column is an increasing or decreasing function of, as latents of a black box may be."""
    own = rank_gaussianize(column[:, None].double().cpu().numpy())[:, 0]
    for name, other in known.items():
        theirs = rank_gaussianize(other[:, None].double().cpu().numpy())[:, 0]
        if abs(np.corrcoef(own, theirs)[0, 1]) > COPY_CORRELATION:
            return name
    return None


def _refuse_unknown(knowledge: BackgroundKnowledge, names: tuple[str, ...]) -> None:
    if unknown := sorted(knowledge.names() - set(names)):
        raise PellucidError(f"background knowledge names {unknown}, which are no concepts; there are {list(names)}")


def _only(knowledge: BackgroundKnowledge, names: list[str]) -> BackgroundKnowledge:
    """The part of the knowledge that speaks of these nodes."""
    known = set(names)
    return BackgroundKnowledge(
        {name: tier for name, tier in knowledge.tiers.items() if name in known},
        tuple(pair for pair in knowledge.required if known.issuperset(pair)),
        tuple(pair for pair in knowledge.forbidden if known.issuperset(pair)),
    )


def _stage(tell: Callable[[str, int, int], None] | None, stage: str) -> Callable[[int, int], None] | None:
    return None if tell is None else lambda done, total: tell(stage, done, total)
