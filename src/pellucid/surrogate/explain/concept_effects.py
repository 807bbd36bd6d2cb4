"""Effects of concepts on the decision along the paths of the perceived graph: direct, total, and of pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.causal.effects import interaction, path_effects
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.causal.mechanisms import FittedStructuralModel
from pellucid.surrogate.explain.encoded_batch import EncodedBatch
from pellucid.surrogate.explain.validity import DataSupport
from pellucid.surrogate.model.codes import Codes

_MAX_OPEN = 4  # undecided edges of which every orientation is tried: up to 16 models


@dataclass(frozen=True)
class EffectPath:
    """A path of the perceived graph and the effect along it.

    Attributes:
        nodes: names of the concepts from the one that is changed to the one that acts on the decision.
        effect: of one standard deviation more of the first, in logits.

    >>> EffectPath(("thickness", "intensity"), effect=0.5).nodes[-1]
    'intensity'
    """

    nodes: tuple[str, ...]
    effect: float


@dataclass(frozen=True)
class Interaction:
    """What two concepts do to the margin together, beyond what each does alone.

    Attributes:
        concepts: their names.
        effect: of one standard deviation more of both, in logits; 0 where their effects simply add up.

    >>> Interaction(("thickness", "width"), effect=0.0).concepts
    ('thickness', 'width')
    """

    concepts: tuple[str, str]
    effect: float


@dataclass(frozen=True)
class ConceptEffect:
    """What one standard deviation more of a concept does to the margin of the class, in logits.

    Attributes:
        concept: its name.
        direct: the concept alone.
        total: lowest and highest total effect over the orientations that the data leave open.
        paths: of the graph, with the effect along each; empty where orientations are open.
        remainder: what acts only together; NaN where orientations are open.
        in_distribution: whether real images of the class of the image lie near the changed concepts.
    """

    concept: str
    direct: float
    total: tuple[float, float]
    paths: tuple[EffectPath, ...]
    remainder: float
    in_distribution: bool


def fit_structural_models(
    graph: CausalGraph | None, contexts: tuple[str, ...], latents: tuple[str, ...], concepts: Tensor
) -> tuple[tuple[FittedStructuralModel, ...], tuple[Edge, ...]]:
    """Fit a structural model of the concepts for every orientation that the graph leaves open.

    Edges of hidden common causes carry no effect, nor do those between two latents: their axes are arbitrary, so a
    direction between them means nothing. Concepts that are not nodes have neither causes nor effects.

    Args:
        graph: perceived; None is a graph without edges.
        contexts: names of the columns that are contexts.
        latents: names of the columns that are latents, after them.
        concepts: (R, K) of real images, to fit the mechanisms to.

    Returns:
        The models, one or more; and the edges that are left out of all: the undecided ones where they are too many to
        try, or every one where they fit no graph without a circle, as edges found in resamples may.

    >>> graph = CausalGraph(("a", "b"), (Edge("a", "b", "tail", "arrow"),))
    >>> cause = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    >>> models, left_out = fit_structural_models(graph, ("a", "b"), (), torch.cat([cause, cause**3], 1))
    >>> len(models), left_out
    (1, ())
    """
    names = (*contexts, *latents)
    firm = () if graph is None else graph.drop_tentative().edges
    known = tuple(edge for edge in firm if edge.pair <= set(names) and not edge.pair <= set(latents))
    directed = tuple(edge for edge in known if edge.directed)
    undecided = tuple(edge for edge in known if edge.undecided)
    left_out = undecided if len(undecided) > _MAX_OPEN else ()
    extensions = CausalGraph(names, directed if left_out else directed + undecided).extensions()
    if not extensions:
        extensions, left_out = (CausalGraph(names, ()),), known
    table = concepts.detach().double().cpu().numpy()
    return tuple(FittedStructuralModel.fit(table, extension) for extension in extensions), left_out


def propagate_effects(graph: CausalGraph, batch: EncodedBatch, do: Mapping[str, Tensor], reference: Codes) -> Tensor:
    """The concepts (N, K) with some set and their effects responding along the perceived graph.

    Args:
        graph: perceived.
        batch: N images.
        do: context -> (N,) values in standard deviations of the table.
        reference: codes of real images, to fit the mechanisms to.

    Raises:
        PellucidError: the graph leaves orientations open on which the answer depends.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> batch = explainer.encode_batch(digits)
    >>> do = {"thickness": torch.tensor([2.0, 2.0])}
    >>> concepts = propagate_effects(explainer.graph, batch, do, explainer.reference.codes)
    >>> concepts[:, 0].tolist(), bool((concepts[:, 1] > batch.codes.context[:, 1]).all())  # brighter, too
    ([2.0, 2.0], True)
    """
    names = batch.surrogate.context_names, batch.surrogate.latent_names
    models, left_out = fit_structural_models(graph, *names, reference.concept_coordinates())
    before = batch.codes.concept_coordinates()
    table = before.double().cpu().numpy()
    values = {name: value.double().cpu().numpy() for name, value in do.items()}
    after = torch.stack([torch.from_numpy(model.counterfactual(table, values)) for model in models])
    if left_out or float((after - after[0]).abs().max()) > 1e-6:
        undecided = [edge for edge in graph.drop_tentative().edges if edge.undecided]
        open_edges = ", ".join(map(str, left_out or undecided))
        raise PellucidError(
            f"the graph leaves orientations open ({open_edges}), so what responds is not known: give discover() "
            "knowledge of tiers"
        )
    return after[0].to(before)


def measure_concept_effect(
    batch: EncodedBatch,
    models: Sequence[FittedStructuralModel],
    concept: str,
    reference: Codes,
    *,
    classes: Tensor,
    support: DataSupport,
) -> ConceptEffect:
    """Measure what one standard deviation more of a concept does to the margin of one image.

    Args:
        batch: one image, to which the residual is transferred; `reconstructed` for effects on the reconstruction.
        models: one for each orientation that the graph leaves open.
        concept: its name.
        reference: codes of real images, for the standard deviation.
        classes: (1,) the class explained.
        support: of the reference.
    """
    concepts = batch.codes.concept_coordinates()
    column = models[0].graph.nodes.index(concept)
    value = concepts[:, column] + reference.concept_coordinates()[:, column].std()
    outcome = batch.outcome(classes)
    effects = [path_effects(model, outcome, concepts, concept, value) for model in models]
    totals = [float(effect.total) for effect in effects]
    changed = concepts.clone()
    changed[:, column] = value
    decided = len(effects) == 1
    return ConceptEffect(
        concept=concept,
        direct=float(effects[0].direct),
        total=(min(totals), max(totals)),
        paths=tuple(EffectPath(path, float(effect)) for path, effect in effects[0].paths.items()) if decided else (),
        remainder=float(effects[0].remainder) if decided else float("nan"),
        in_distribution=bool(support.in_distribution(changed, batch.classes)),
    )


def measure_interactions(
    batch: EncodedBatch, concepts: Sequence[str], reference: Codes, *, classes: Tensor
) -> tuple[Interaction, ...]:
    """Measure the second difference of the margin of one image for each pair of concepts.

    Args:
        batch: one image.
        concepts: names, in the order in which pairs are named.
        reference: codes of real images, for the standard deviations.
        classes: (1,) the class explained.

    Returns:
        One for each pair.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> batch, reference = explainer.encode_batch(digits[:1]), explainer.reference.codes
    >>> (pair,) = measure_interactions(batch, ["slant", "width"], reference, classes=batch.classes)
    >>> pair.concepts
    ('slant', 'width')
    """
    values, spread = batch.codes.concept_coordinates(), reference.concept_coordinates().std(0)
    columns = {name: batch.concept_names.index(name) for name in concepts}
    settings = {name: (column, float(values[0, column] + spread[column])) for name, column in columns.items()}
    outcome = batch.outcome(classes)
    return tuple(
        Interaction((first, second), float(interaction(outcome, values, settings[first], settings[second])))
        for first, second in combinations(concepts, 2)
    )
