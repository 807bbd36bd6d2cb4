"""The local explanation of one image: what counts, along which paths, what would flip it, and may it be believed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.causal.effects import PathEffects, interaction, path_effects
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.causal.mechanisms import FittedStructuralModel
from pellucid.surrogate.explain.encoded_batch import EncodedBatch
from pellucid.surrogate.explain.minimal_counterfactual import FlipOptions, MinimalCounterfactual, flip
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.explain.shapley import Importance, importance
from pellucid.surrogate.explain.traversal import LatentTraversal, difference_map, strip
from pellucid.surrogate.explain.validity import (
    DataSupport,
    Fidelity,
    RefusedError,
    check_effective,
    fidelity,
)
from pellucid.surrogate.model.codes import Codes

_PAIRED = 4
_MOST_OPEN = 4  # undecided edges of which every orientation is tried: up to 16 models


@dataclass(frozen=True)
class ConceptEffect:
    """What one standard deviation more of a concept does to the margin of the class, in logits.

    Attributes:
        concept: its name.
        direct: the concept alone.
        total: lowest and highest total effect over the orientations that the data leave open.
        paths: each path of the graph -> effect along it; empty where orientations are open.
        remainder: what acts only together; NaN where orientations are open.
        supported: whether real images lie near the changed concepts.
    """

    concept: str
    direct: float
    total: tuple[float, float]
    paths: Mapping[tuple[str, ...], float]
    remainder: float
    in_distribution: bool


@dataclass(frozen=True)
class LocalExplanation:
    """All that the twin says of one image.

    Attributes:
        painting: the image, its codes, its reconstruction and the classifier's logits.
        fidelity: how well the twin stands for the classifier here.
        target: the class explained.
        importance: Shapley values of the concepts for the margin of that class.
        effects: per concept that the twin controls.
        strips: the same concepts moved over their range.
        interactions: pairs of the concepts that count most and are controlled -> what one standard deviation more of
            both does to the margin beyond what each does alone, in logits.
        maps: concept -> (1, 1, H, W), where the image changes between both ends of its strip.
        flipped: the smallest flip to the runner-up or the class asked for; None where every concept is refused.
        refused: concept -> why its counterfactuals are not shown.
        transferred: whether importance, effects and interactions were measured with the changes laid on the image,
            not on the twin's own drawing of it.
        percentiles: (K,) where each concept of this image lies among real images, in [0, 1].
        sentences: the same in words.
    """

    batch: EncodedBatch
    fidelity: Fidelity
    target: int
    importance: Importance
    effects: tuple[ConceptEffect, ...]
    traversals: tuple[LatentTraversal, ...]
    interactions: Mapping[tuple[str, str], float]
    maps: Mapping[str, Tensor]
    flipped: MinimalCounterfactual | None
    refused: Mapping[str, str]
    transferred: bool
    percentiles: Tensor
    sentences: tuple[str, ...]


def explain_locally(
    batch: EncodedBatch,
    reference: ReferenceSet,
    graph: CausalGraph | None = None,
    *,
    target: int | None = None,
    flip_to: int | None = None,
    permutations: int = 64,
    values: int = 9,
    transferred: bool = False,
    options: FlipOptions | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> LocalExplanation:
    """Answer every local question about one image.

    Args:
        painting: one image.
        reference: real images.
        graph: perceived graph, for effects along paths; without it all effects are direct.
        target: class explained; the factual one by default.
        flip_to: class of the counterfactual; the runner-up by default.
        permutations: of the Shapley values.
        values: levels of each strip.
        transferred: measure importance and effects with the changes laid on the image, not on the twin's own
            drawing of it.
        options: of the flip.
        class_names: for the sentences; "class 0" ... by default.
        seed: of everything drawn.

    Raises:
        PellucidError: more than one image, or classes that do not exist.
    """
    if len(batch) != 1:
        raise PellucidError(f"an explanation is of one image; {len(batch)} were given")
    surrogate = batch.surrogate
    names = (*surrogate.context_names, *surrogate.latent_names)
    wanted = int(batch.classes[0]) if target is None else target
    classes = torch.tensor([wanted], device=batch.logits.device)
    refused = _refused(names, reference.effectiveness)
    shown = [name for name in names if name not in refused]
    support = DataSupport(reference.codes)
    measured = batch if transferred else batch.reconstructed()
    shares = importance(measured, reference.codes, classes=classes, permutations=permutations, seed=seed)
    models, open_edges = fit_structural_models(
        graph, surrogate.context_names, surrogate.latent_names, reference.codes.concept_coordinates()
    )
    traversals = tuple(strip(batch, name, reference.codes, values=values, support=support) for name in shown)
    free = torch.tensor([name in shown for name in names])
    goal = torch.tensor([_runner_up(batch.logits[0]) if flip_to is None else flip_to]).to(classes)
    flipped = flip(batch, goal, reference.codes, allowed=free, options=options) if shown else None
    trust = fidelity(batch)
    percentiles = (reference.codes.concept_coordinates() < batch.codes.concept_coordinates()).float().mean(0)
    return LocalExplanation(
        batch,
        trust,
        wanted,
        shares,
        tuple(_effect(measured, models, name, classes, reference.codes, support) for name in shown),
        traversals,
        _interactions(measured, classes, shares, shown, reference.codes),
        {one.concept: _where(batch, one) for one in traversals},
        flipped,
        refused,
        transferred,
        percentiles,
        tuple(
            _sentences(trust, shares, flipped, percentiles, refused, _Labels(wanted, class_names))
            + _left_out(open_edges)
        ),
    )


def fit_structural_models(
    graph: CausalGraph | None, contexts: tuple[str, ...], latents: tuple[str, ...], concepts: Tensor
) -> tuple[tuple[FittedStructuralModel, ...], tuple[Edge, ...]]:
    """A structural model of the concepts (R, K) for every orientation that the graph leaves open.

    Edges of hidden common causes carry no effect, nor do those between two latents: their axes are arbitrary, so a
    direction between them means nothing. Concepts that are no nodes have neither causes nor effects.

    Returns:
        The models, one or more; and the edges that are left out of all: the undecided ones where they are too many to
        try, or every one where they fit no graph without a circle, as edges found in resamples may.
    """
    names = (*contexts, *latents)
    firm = () if graph is None else graph.drop_tentative().edges
    known = tuple(edge for edge in firm if edge.pair <= set(names) and not edge.pair <= set(latents))
    directed = tuple(edge for edge in known if edge.directed)
    undecided = tuple(edge for edge in known if edge.undecided)
    left_out = undecided if len(undecided) > _MOST_OPEN else ()
    extensions = CausalGraph(names, directed if left_out else directed + undecided).extensions()
    if not extensions:
        extensions, left_out = (CausalGraph(names, ()),), known
    table = concepts.detach().double().cpu().numpy()
    return tuple(FittedStructuralModel.fit(table, extension) for extension in extensions), left_out


def _refused(names: tuple[str, ...], effectiveness: Mapping[str, float]) -> dict[str, str]:
    refused = {}
    for name in names:
        try:
            check_effective(effectiveness, name)
        except RefusedError as error:
            refused[name] = str(error)
    return refused


def _runner_up(logits: Tensor) -> int:
    if len(logits) == 1:
        return int(logits[0] <= 0)
    return int(logits.argsort(descending=True)[1])


def _effect(
    batch: EncodedBatch,
    models: tuple[FittedStructuralModel, ...],
    name: str,
    classes: Tensor,
    reference: Codes,
    support: DataSupport,
) -> ConceptEffect:
    concepts = batch.codes.concept_coordinates()
    column = models[0].graph.nodes.index(name)
    value = concepts[:, column] + reference.concept_coordinates()[:, column].std()
    outcome = batch.outcome(classes)
    found: list[PathEffects] = [path_effects(model, outcome, concepts, name, value) for model in models]
    totals = [float(one.total) for one in found]
    changed = concepts.clone()
    changed[:, column] = value
    decided = len(found) == 1
    return ConceptEffect(
        name,
        float(found[0].direct),
        (min(totals), max(totals)),
        {path: float(effect) for path, effect in found[0].paths.items()} if decided else {},
        float(found[0].remainder) if decided else float("nan"),
        bool(support.in_distribution(changed)),
    )


def _interactions(
    batch: EncodedBatch, classes: Tensor, shares: Importance, shown: Sequence[str], reference: Codes
) -> dict[tuple[str, str], float]:
    """The second difference of the margin for each pair of the concepts shown that count most."""
    concepts, spread = batch.codes.concept_coordinates(), reference.concept_coordinates().std(0)
    order = shares.values[0].abs().argsort(descending=True).tolist()
    first = [column for column in order if shares.names[column] in shown][:_PAIRED]
    set_to = {column: (column, float(concepts[0, column] + spread[column])) for column in first}
    outcome = batch.outcome(classes)
    return {
        (shares.names[one], shares.names[other]): float(interaction(outcome, concepts, set_to[one], set_to[other]))
        for one, other in combinations(first, 2)
    }


def _where(batch: EncodedBatch, shown: LatentTraversal) -> Tensor:
    ends = shown.images[[0, -1]]
    return difference_map(batch.repeat(2), ends).mean(0, keepdim=True)


def _left_out(edges: Sequence[Edge]) -> list[str]:
    if not edges:
        return []
    named = ", ".join(map(str, edges))
    reason = "the data do not orient them" if any(edge.undecided for edge in edges) else "they form a circle"
    return [f"Effects through {named} are left out: {reason}; knowledge of tiers would mend that."]


@dataclass(frozen=True)
class _Labels:
    """What classes are called in sentences."""

    target: int
    names: Sequence[str] | None

    def __call__(self, index: int) -> str:
        return f"class {index}" if self.names is None else self.names[index]


def _sentences(
    trust: Fidelity,
    shares: Importance,
    flipped: MinimalCounterfactual | None,
    percentiles: Tensor,
    refused: Mapping[str, str],
    label: _Labels,
) -> "list[str]":
    reason = trust.reason(0)
    said = [f"Do not rely on what follows: {reason}."] if reason else []
    for column in shares.values[0].abs().argsort(descending=True).tolist()[:3]:
        value, error = float(shares.values[0, column]), float(shares.errors[0, column])
        speaks = f"speaks {'for' if value > 0 else 'against'} {label(label.target)}"
        if abs(value) <= 2 * error:
            speaks = f"cannot be shown to speak for or against {label(label.target)}"
        doubt = (
            "; but the twin does not control it, so this may be another's" if shares.names[column] in refused else ""
        )
        said.append(
            f"{shares.names[column]} (higher than in {float(percentiles[column]):.0%} of images) {speaks}: "
            f"{value:+.2f} ± {error:.2f} logits{doubt}."
        )
    if flipped is not None:
        goal = label(int(flipped.targets[0]))
        moved = [f"{name} {float(by):+.2f} sd" for name, by in zip(shares.names, flipped.change[0], strict=True) if by]
        said.append(
            f"It would be {goal} with {', '.join(moved)}."
            if bool(flipped.valid[0])
            else f"No change of the concepts was found that makes it {goal}."
        )
    return said + [f"Not shown: {text}." for text in refused.values()]
