"""Which concepts move the decision: interventions through generator and classifier against a nuisance null."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.statistics import Interval, cluster_interval
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, margin, predict_class
from pellucid.surrogate.model.codes import Codes

DECISION_NODE = "decision"
DOSE_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of a concept at which its dose response is measured."""

NEGLIGIBLE = 0.1
"""Change of the margin, in its standard deviations, that is negligible whatever the nuisance does."""

_BLOCKS = 20
_MIN_BLOCK = 4
_MIN_IMAGES = 20


@dataclass(frozen=True)
class DecisionEffect:
    """How a concept acts on the decision when it alone is set, over many images.

    Attributes:
        concept: its name.
        strength: mean absolute change of the margin followed, of each image's own class or of one, when the concept
            takes another image's value, in standard deviations of the margin.
        flip_rate: share of those swaps that change the class, in [0, 1].
        dose_response: (5,) mean change of the margin when the concept is set to its 5, 25, 50, 75 and 95 % quantile,
            same unit.
        sign_agreement: share of images whose margin moves in the direction of the mean between 5 and 95 %, in [0, 1];
            NaN where it moves in none.
        low, high: 95 % interval of the strength over images and swaps; NaN where it was not measured.
        bound: strengths up to here are negligible: `NEGLIGIBLE`, or what swapping the whole nuisance does if that is
            more, since it must not count.

    >>> dose = (-0.2, -0.1, 0.0, 0.1, 0.2)
    >>> effect = DecisionEffect("width", 0.5, 0.1, dose, sign_agreement=0.9, low=0.4, high=0.6)
    >>> effect.matters, effect.negligible, effect.sign
    (True, False, 1.0)
    """

    concept: str
    strength: float
    flip_rate: float
    dose_response: tuple[float, ...]
    sign_agreement: float
    low: float = math.nan
    high: float = math.nan
    bound: float = NEGLIGIBLE

    @property
    def matters(self) -> bool:
        """Whether the whole interval is above what is negligible; without an interval, the strength."""
        return (self.strength if math.isnan(self.low) else self.low) > self.bound

    @property
    def negligible(self) -> bool:
        """Whether the whole interval is below; neither this nor `matters` leaves it open."""
        return (self.strength if math.isnan(self.high) else self.high) <= self.bound

    @property
    def sign(self) -> float:
        """+1 where more of the concept speaks for the class followed, -1 where against it."""
        return 1.0 if self.dose_response[-1] >= self.dose_response[0] else -1.0


@dataclass(frozen=True)
class NuisanceNull:
    """What swaps of codes that must not count do, in standard deviations of the margin.

    Attributes:
        block: mean absolute change when the whole nuisance is another image's.
        single: (K_n,) the same for each coordinate alone.
        flip_rate: share of swaps of the whole nuisance that change the class, in [0, 1].

    >>> NuisanceNull(block=0.1, single=(0.02, 0.03), flip_rate=0.0).strongest
    0.03
    """

    block: float
    single: tuple[float, ...]
    flip_rate: float

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
    """Measure the effect of every concept on the decision by interventions.

    Args:
        batch: N images to intervene on, 20 or more; `reconstructed` for effects on the reconstruction.
        reference: codes of real images, for quantiles.
        classes: (N,) whose margin is followed; by default the ones that the classifier decides on. With two classes
            these make dose responses cancel: what speaks for one speaks against the other.
        seed: of the swaps.
        on_progress: called with (interventions done, in all).

    Returns:
        An effect for each context and each latent, in their order; and the null.

    Raises:
        PellucidError: too few images, or a classifier whose margin never changes.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> digits = draw_digits(torch.arange(20) % 10, size=32, jitter=0.5)[:, None] / 127.5 - 1
    >>> batch = digit_surrogate().encode_batch(digits)
    >>> effects, null = measure_decision_effects(batch.reconstructed(), batch.codes)
    >>> len(effects), max(effect.strength for effect in effects) > null.strongest
    (12, True)
    """
    if len(batch) < _MIN_IMAGES:
        raise PellucidError(f"{len(batch)} images are too few to measure decision effects: give {_MIN_IMAGES} or more")
    interventions = _Interventions(batch, batch.classes if classes is None else classes, on_progress)
    donors = _derangement(len(batch), seed)
    nuisance, concepts = batch.codes.nuisance, batch.codes.concept_coordinates()
    block, block_flips = interventions.measure(replace(batch.codes, nuisance=nuisance[donors]))
    single = []
    for column in range(nuisance.shape[1]):
        swapped = _set_column(nuisance, column, nuisance[donors, column])
        single.append(interventions.measure(replace(batch.codes, nuisance=swapped))[0].abs())
    measured = []
    for column in range(concepts.shape[1]):
        swap, flips = interventions.measure_concept(column, concepts[donors, column])
        levels = torch.quantile(reference.concept_coordinates()[:, column], torch.tensor(DOSE_QUANTILES).to(concepts))
        doses = torch.stack([interventions.measure_concept(column, level)[0] for level in levels])
        measured.append((swap, flips, doses))
    intervals = [strength_interval(swap.abs(), donors) for swap, _, _ in measured]
    bound = max(NEGLIGIBLE, float(block.abs().mean()))
    effects = tuple(
        DecisionEffect(
            concept=name,
            strength=float(swap.abs().mean()),
            flip_rate=float(flips.float().mean()),
            dose_response=tuple(doses.mean(1).tolist()),
            sign_agreement=_sign_agreement(doses[-1] - doses[0]),
            low=interval.low,
            high=interval.high,
            bound=bound,
        )
        for name, (swap, flips, doses), interval in zip(batch.concept_names, measured, intervals, strict=True)
    )
    return effects, NuisanceNull(
        block=float(block.abs().mean()),
        single=tuple(float(swap.mean()) for swap in single),
        flip_rate=float(block_flips.float().mean()),
    )


class _Interventions:
    """Changes of the margin of classes (N,) under changed codes, counted for the progress."""

    def __init__(self, batch: EncodedBatch, classes: Tensor, on_progress: Callable[[int, int], None] | None) -> None:
        self._batch, self._classes, self._on_progress = batch, classes, on_progress
        self._before = margin(batch.logits, classes)
        self._spread = float(self._before.std())
        if not self._spread > 1e-6 * float(self._before.abs().max()):
            raise PellucidError(
                "the classifier gives the same margin to every image: there is no decision to explain. If it does not "
                "do so for the images themselves, the reconstructions are all alike: train the surrogate longer"
            )
        nuisance, concepts = batch.codes.nuisance.shape[1], len(batch.concept_names)
        self._done, self._total = 0, (1 + len(DOSE_QUANTILES)) * concepts + nuisance + 1

    def measure(self, codes: Codes) -> tuple[Tensor, Tensor]:
        """Change of the margin (N,) in its standard deviations, and whether the class changes (N,)."""
        logits = self._batch.counterfactual_logits(codes)
        self._done += 1
        if self._on_progress:
            self._on_progress(self._done, self._total)
        change = (margin(logits, self._classes) - self._before) / self._spread
        return change, predict_class(logits) != self._batch.classes

    def measure_concept(self, column: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """The same with one concept set to values (N,) or to one value ()."""
        concepts = _set_column(self._batch.codes.concept_coordinates(), column, values)
        return self.measure(self._batch.codes.replace_concepts(concepts))


def add_decision_edges(
    graph: CausalGraph, effects: tuple[DecisionEffect, ...], refused: Collection[str] = ()
) -> CausalGraph:
    """The perceived graph with the effects that matter as edges to the decision, oriented by interventions.

    Args:
        graph: of the concepts.
        effects: of the concepts on the decision.
        refused: concepts that the surrogate does not control: their edges are tentative.

    >>> effect = DecisionEffect("width", 0.5, 0.1, (-0.2, -0.1, 0.0, 0.1, 0.2), 0.9, low=0.4, high=0.6)
    >>> [str(edge) for edge in add_decision_edges(CausalGraph(("width",), ()), (effect,)).edges]
    ['width → decision']
    """
    edges = tuple(
        Edge(
            effect.concept,
            DECISION_NODE,
            "tail",
            "arrow",
            strength=effect.sign * effect.strength,
            orientation_source="intervention",
            tentative=effect.concept in refused,
        )
        for effect in effects
        if effect.matters
    )
    added = {edge.source for edge in edges} - set(graph.nodes)
    nodes = (*graph.nodes, *(effect.concept for effect in effects if effect.concept in added), DECISION_NODE)
    note = (
        "Edges to the decision come from interventions; their strength is in standard deviations of the margin. "
        "Drawn are those whose 95 % interval lies above what is negligible."
    )
    return replace(graph, nodes=nodes, edges=graph.edges + edges, notes=(*graph.notes, note))


def _set_column(block: Tensor, column: int, values: Tensor) -> Tensor:
    changed = block.clone()
    changed[:, column] = values
    return changed


def _derangement(count: int, seed: int) -> Tensor:
    """A donor for every image, never itself."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    donors = torch.empty_like(order)
    donors[order] = order.roll(1)
    return donors


def strength_interval(change: Tensor, donors: Tensor) -> Interval:
    """Interval of a mean change over images, each of which gives its value to one image and takes that of another.

    The changes of neighbors in the circle of donors share an image: blocks of them are drawn whole.

    Args:
        change: (N,).
        donors: (N,) which image gives its value to each; one circle.

    >>> strength_interval(torch.arange(20.0), torch.arange(20).roll(1)).grids
    5
    """
    count, place = len(donors), torch.empty_like(donors)
    image = 0
    for position in range(count):
        place[image] = position
        image = int(donors[image])
    size = max(_MIN_BLOCK, count // _BLOCKS)
    blocks = (place // size).clamp(max=count // size - 1)
    return cluster_interval(change.double().cpu().numpy(), blocks.cpu().numpy(), "mean")


def _sign_agreement(change: Tensor) -> float:
    moves = change != 0
    return float((change.sign() == change.mean().sign())[moves].float().mean())
