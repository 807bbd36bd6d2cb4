"""Which concepts move the decision at all: interventions through generator and classifier against a nuisance null."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.statistics import benjamini_hochberg
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, margin, predict_class
from pellucid.surrogate.model.codes import Codes

DECISION_NODE = "decision"
DOSE_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LEVEL = 0.05
_LEAST = 20


@dataclass(frozen=True)
class DecisionEffect:
    """How a concept acts on the decision when it alone is set, over many images.

    Attributes:
        concept: its name.
        strength: mean absolute change of the margin followed, of each image's own class or of one, when the concept
            takes another image's value, in standard deviations of the margin.
        flips: share of those swaps that change the class, in [0, 1].
        dose: (5,) mean margin change when the concept is set to its 5, 25, 50, 75 and 95 % quantile, same unit.
        agreement: share of images whose margin moves in the direction of the mean between 5 and 95 %, in [0, 1]; NaN
            where it moves in none.
        p_value: that swaps of the concept move the margin no more than swaps of the nuisance coordinate that moves it
            most, one-sided Wilcoxon over images, corrected over concepts (Benjamini-Hochberg); 1 without nuisance.
    """

    concept: str
    strength: float
    flips: float
    dose: tuple[float, ...]
    agreement: float
    p_value: float

    @property
    def significant(self) -> bool:
        """Whether the edge stands out of the null at 5 %."""
        return self.p_value < _LEVEL

    @property
    def sign(self) -> float:
        """+1 where more of the concept speaks for the class followed, -1 where against it."""
        return 1.0 if self.dose[-1] >= self.dose[0] else -1.0


@dataclass(frozen=True)
class NuisanceNull:
    """What swaps of codes that must not count do, in standard deviations of the margin.

    Attributes:
        block: mean absolute change when the whole block is another image's.
        single: (K_n,) the same for each coordinate alone.
        flips: share of block swaps that change the class.
    """

    block: float
    single: tuple[float, ...]
    flips: float

    @property
    def strongest(self) -> float:
        """The largest of `single`: one coordinate that must not count, as a concept is one that may."""
        return max(self.single, default=0.0)


def measure_decision_effects(
    batch: EncodedBatch,
    reference: Codes,
    *,
    classes: Tensor | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[DecisionEffect, ...], NuisanceNull]:
    """Weigh every concept's edge to the decision by interventions.

    Args:
        painting: N images to intervene on, 20 or more; `reconstructed` for effects on the twin's own drawings.
        reference: codes of real images, for quantiles.
        classes: (N,) whose margin is followed; the factual ones by default. With two classes these make doses cancel:
            what speaks for one speaks against the other.
        seed: of the swaps.
        on_progress: called with (interventions done, in all).

    Returns:
        An edge for each context and each latent, in their order; and the null.

    Raises:
        PellucidError: too few images, or a classifier whose margin never changes.
    """
    if len(batch) < _LEAST:
        raise PellucidError(f"{len(batch)} images are too few to weigh decision edges: give {_LEAST} or more")
    classes, factual = batch.classes if classes is None else classes, batch.classes
    before = margin(batch.logits, classes)
    spread = float(before.std())
    if not spread > 1e-6 * float(before.abs().max()):
        raise PellucidError(
            "the classifier gives the same margin to every image: there is no decision to explain. If it does not do "
            "so for the images themselves, the twin's drawings are all alike: train it longer"
        )
    donors = _derangement(len(batch), seed)
    nuisance, concepts = batch.codes.nuisance, batch.codes.concept_coordinates()
    steps = (1 + len(DOSE_QUANTILES)) * concepts.shape[1] + nuisance.shape[1] + 1
    done = 0

    def moved(codes: Codes) -> tuple[Tensor, Tensor]:
        nonlocal done
        logits = batch.changed_logits(codes)
        done += 1
        if on_progress:
            on_progress(done, steps)
        return (margin(logits, classes) - before) / spread, predict_class(logits) != factual

    block, block_flips = moved(replace(batch.codes, nuisance=nuisance[donors]))
    single = [
        moved(replace(batch.codes, nuisance=_set(nuisance, one, nuisance[donors, one])))[0].abs()
        for one in range(nuisance.shape[1])
    ]
    idle = max(single, key=lambda swap: float(swap.mean()), default=torch.zeros_like(block))
    measured = []
    for one, name in enumerate((*batch.surrogate.context_names, *batch.surrogate.latent_names)):
        swap, flips = moved(batch.codes.replace_concepts(_set(concepts, one, concepts[donors, one])))
        levels = torch.quantile(reference.concept_coordinates()[:, one], torch.tensor(DOSE_QUANTILES).to(concepts))
        doses = torch.stack([moved(batch.codes.replace_concepts(_set(concepts, one, level)))[0] for level in levels])
        measured.append((name, swap, flips, doses))
    untested = not nuisance.shape[1]
    p_values = benjamini_hochberg(
        [1.0 if untested else _one_sided(swap.abs(), idle) for _, swap, _, _ in measured]
    ).tolist()
    edges = tuple(
        DecisionEffect(
            name,
            float(swap.abs().mean()),
            float(flips.float().mean()),
            tuple(doses.mean(1).tolist()),
            _agreement(doses[-1] - doses[0]),
            p,
        )
        for (name, swap, flips, doses), p in zip(measured, p_values, strict=True)
    )
    return edges, NuisanceNull(
        float(block.abs().mean()),
        tuple(float(swap.mean()) for swap in single),
        float(block_flips.float().mean()),
    )


def add_decision_edges(
    graph: CausalGraph, edges: tuple[DecisionEffect, ...], refused: Collection[str] = ()
) -> CausalGraph:
    """The perceived graph with the significant decision edges, grounded in interventions.

    Edges of concepts that are refused, as the twin does not draw what is asked of them, are tentative.
    """
    drawn = tuple(
        Edge(
            edge.concept,
            DECISION_NODE,
            "tail",
            "arrow",
            strength=edge.sign * edge.strength,
            orientation_source="intervention",
            p_value=edge.p_value,
            tentative=edge.concept in refused,
        )
        for edge in edges
        if edge.significant
    )
    known = {name for edge in drawn for name in (edge.source,)} - set(graph.nodes)
    nodes = (*graph.nodes, *(edge.concept for edge in edges if edge.concept in known), DECISION_NODE)
    note = "Edges to the decision come from interventions; their strength is in standard deviations of the margin."
    return replace(graph, nodes=nodes, edges=graph.edges + drawn, notes=(*graph.notes, note))


def _set(block: Tensor, column: int, values: Tensor) -> Tensor:
    changed = block.clone()
    changed[:, column] = values
    return changed


def _derangement(count: int, seed: int) -> Tensor:
    """A donor for every image, never itself."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    donors = torch.empty_like(order)
    donors[order] = order.roll(1)
    return donors


def _one_sided(concept: Tensor, null: Tensor) -> float:
    from scipy.stats import wilcoxon

    difference = (concept - null).double().cpu().numpy()
    return 1.0 if not np.any(difference) else float(wilcoxon(difference, alternative="greater").pvalue)


def _agreement(change: Tensor) -> float:
    moves = change != 0
    return float((change.sign() == change.mean().sign())[moves].float().mean())
