"""The local explanation of one image: what counts, along which paths, what would flip it, and is it reliable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.results import Provenance, Receipt, Result, plot_maps
from pellucid.surrogate.causal.graph import CausalGraph, Edge
from pellucid.surrogate.explain.concept_effects import (
    ConceptEffect,
    Interaction,
    fit_structural_models,
    measure_concept_effect,
    measure_interactions,
)
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, classify, predict_class, unknown_provenance
from pellucid.surrogate.explain.minimal_counterfactual import (
    FlipOptions,
    MinimalCounterfactual,
    find_minimal_counterfactual,
)
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.explain.shapley import Importance, shapley_importance
from pellucid.surrogate.explain.traversal import LatentTraversal, difference_map, traverse_latent
from pellucid.surrogate.explain.validity import MIN_OF_CLASS, ControlGate, DataSupport, Fidelity, measure_fidelity
from pellucid.surrogate.model.codes import Codes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOO_FEW = (
    "There are too few real images of this class to compare with: concepts are exchanged with those of all classes, "
    "and nothing counts as supported"
)
_PAIRED = 4  # concepts whose pairs are looked at


@dataclass(frozen=True)
class LocalOptions:
    """How a local explanation is computed.

    Attributes:
        permutations: of the Shapley values; even.
        levels: of each latent traversal.
        residual_transfer: measure importance and effects with the residual transferred to the input image, not on
            the reconstruction.
        search: of the minimal counterfactual.
        seed: of everything sampled.

    >>> LocalOptions(permutations=16).levels
    9
    """

    permutations: int = 64
    levels: int = 9
    residual_transfer: bool = False
    search: FlipOptions = field(default_factory=FlipOptions)
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalExplanation(Result):
    """Every local explanation of one image.

    Attributes:
        images: (1, C, H, W), the image in the classifier's input space.
        codes: of the image.
        reconstructions: (1, C, H, W), the codes decoded.
        logits: (1, K) that the classifier gives to the image.
        reconstruction_logits: (1, K) that it gives to the reconstruction.
        class_names: of the K classes; of a single logit, of its two sides.
        fidelity: how well the surrogate stands for the classifier here.
        target: the class explained.
        importance: Shapley values of the concepts for the margin of that class.
        effects: per concept that the surrogate controls.
        traversals: the same concepts moved over their range.
        interactions: of the concepts that count most and are controlled, in pairs.
        maps: concept -> (1, 1, H, W), where the image changes between both ends of its traversal.
        minimal_counterfactual: of the runner-up or the class requested; None where every concept is refused.
        refused: concept -> why its counterfactuals are not shown.
        control_notes: in words: what was never assessed of the concepts shown.
        residual_transfer: whether importance, effects and interactions were measured with the residual transferred to
            the input image, not on the reconstruction.
        percentiles: (K_c + K_u,) where each concept of this image lies among real images, in [0, 1].
        sentences: the same in words.
        provenance: the classifier, the layers that the surrogate sees and the options.
        receipt: what it cost, and how often the reconstructions of held-out images keep their class.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> digit = draw_digits(torch.tensor([3]), size=32)[:, None] / 127.5 - 1
    >>> fast = LocalOptions(permutations=2, levels=2, search=FlipOptions(steps=5))
    >>> explanation = digit_surrogate().explain(digit, options=fast)
    >>> explanation.class_names[explanation.target], len(explanation.traversals)
    ('3', 12)
    """

    kind: ClassVar[str] = "surrogate_local"

    images: Tensor
    codes: Codes
    reconstructions: Tensor
    logits: Tensor
    reconstruction_logits: Tensor
    class_names: tuple[str, ...]
    fidelity: Fidelity
    target: int
    importance: Importance
    effects: tuple[ConceptEffect, ...]
    traversals: tuple[LatentTraversal, ...]
    interactions: tuple[Interaction, ...]
    maps: Mapping[str, Tensor]
    minimal_counterfactual: MinimalCounterfactual | None
    refused: Mapping[str, str]
    control_notes: tuple[str, ...]
    residual_transfer: bool
    percentiles: Tensor
    sentences: tuple[str, ...]
    provenance: Provenance = field(default_factory=unknown_provenance)
    receipt: Receipt = field(default_factory=Receipt)

    @property
    def decided_class(self) -> int:
        """The class that the classifier decides on."""
        return int(predict_class(self.logits)[0])

    @property
    def values(self) -> Mapping[str, Tensor]:
        """`maps`: where each concept changes the image."""
        return self.maps

    @property
    def scores(self) -> Tensor:
        """(1,) the margin that is explained, in logits."""
        return self.importance.margin

    @property
    def targets(self) -> tuple[str, ...]:
        """The name of the class explained."""
        return (self.class_names[self.target],)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why the explanation is not reliable, what was never assessed, and why concepts are refused."""
        warning = self.fidelity.warning(0)
        return (*([warning] if warning else []), *self.control_notes, *self.refused.values())

    def rows(self) -> list[dict[str, object]]:
        """A mapping for each concept: its Shapley value with standard error, percentile and effects, in logits."""
        effects = {effect.concept: effect for effect in self.effects}
        rows: list[dict[str, object]] = []
        for column, concept in enumerate(self.importance.names):
            effect = effects.get(concept)
            rows.append(
                {
                    "image": 0,
                    "target": self.targets[0],
                    "concept": concept,
                    "importance": float(self.importance.values[0, column]),
                    "standard_error": float(self.importance.errors[0, column]),
                    "percentile": float(self.percentiles[column]),
                    "direct_effect": None if effect is None else effect.direct,
                    "lowest_total_effect": None if effect is None else effect.total[0],
                    "highest_total_effect": None if effect is None else effect.total[1],
                }
            )
        return rows

    def plot(self) -> "Figure":
        """Where each concept changes the image, as a matplotlib figure: one map for each concept, one scale for all.

        Raises:
            MissingExtraError: matplotlib is not installed.
            PellucidError: every concept is refused, so there is no map.
        """
        if not self.maps:
            raise PellucidError("there is no map to plot: the surrogate controls no concept well enough")
        maps = torch.cat(list(self.maps.values()), dim=1)
        low, high = self.images.amin(), self.images.amax()
        images = (self.images - low) / (high - low).clamp_min(1e-12)
        return plot_maps(maps, columns=tuple(self.maps), signed=False, images=images, title=f"why {self.targets[0]}")


def compute_local_explanation(
    batch: EncodedBatch,
    reference: ReferenceSet,
    graph: CausalGraph | None = None,
    *,
    target: int | None = None,
    flip_to: int | None = None,
    gate: ControlGate | None = None,
    class_names: Sequence[str] | None = None,
    options: LocalOptions | None = None,
) -> LocalExplanation:
    """Explain one image in every local way.

    Args:
        batch: one image.
        reference: real images.
        graph: perceived graph, for effects along paths; without it all effects are direct.
        target: class explained; by default the one that the classifier decides on.
        flip_to: class of the minimal counterfactual; the runner-up by default.
        gate: what is known of the contexts' control, nothing by default; those that are not controlled are refused.
        class_names: for the sentences; "class 0" ... by default.
        options: how much is computed, and how.

    Raises:
        PellucidError: more than one image, or classes that do not exist.
    """
    if len(batch) != 1:
        raise PellucidError(f"an explanation is of one image; {len(batch)} were given")
    options = options or LocalOptions()
    surrogate, names, codes = batch.surrogate, batch.concept_names, reference.codes
    explained = int(batch.classes[0]) if target is None else target
    classes = torch.tensor([explained], device=batch.logits.device)
    gate = gate or ControlGate(tuple(surrogate.context_names))
    refused = gate.refused
    shown = [name for name in names if name not in refused]
    support = DataSupport(reference)
    measured = batch if options.residual_transfer else batch.reconstructed()
    few = len(reference.of_class(int(measured.classes[0]))) < MIN_OF_CLASS
    importance = shapley_importance(
        measured,
        reference,
        classes=classes,
        against="all" if few else "class",
        permutations=options.permutations,
        seed=options.seed,
    )
    notes = [*gate.notes(shown), *([_TOO_FEW] if few else [])]
    models, open_edges = fit_structural_models(
        graph, surrogate.context_names, surrogate.latent_names, codes.concept_coordinates()
    )
    traversals = tuple(
        traverse_latent(batch, name, reference, levels=options.levels, support=support, gate=gate) for name in shown
    )
    allowed = torch.tensor([name in shown for name in names])
    flip_target = torch.tensor([_runner_up(batch.logits[0]) if flip_to is None else flip_to]).to(classes)
    minimal = (
        find_minimal_counterfactual(batch, flip_target, reference, allowed=allowed, options=options.search, gate=gate)
        if shown
        else None
    )
    fidelity = measure_fidelity(batch)
    percentiles = (codes.concept_coordinates() < batch.codes.concept_coordinates()).float().mean(0)
    labels = tuple(class_names or (f"class {index}" for index in range(max(2, batch.logits.shape[1]))))
    words = _Words(explained, labels, refused, percentiles)
    return LocalExplanation(
        images=batch.images,
        codes=batch.codes,
        reconstructions=batch.reconstructions,
        logits=batch.logits,
        reconstruction_logits=classify(surrogate, batch.reconstructions, batch.max_batch),
        class_names=labels,
        fidelity=fidelity,
        target=explained,
        importance=importance,
        effects=tuple(
            measure_concept_effect(measured, models, name, codes, classes=classes, support=support) for name in shown
        ),
        traversals=traversals,
        interactions=measure_interactions(measured, _most_important(importance, shown), codes, classes=classes),
        maps={traversal.concept: _changed_pixels(batch, traversal) for traversal in traversals},
        minimal_counterfactual=minimal,
        refused=refused,
        control_notes=tuple(notes),
        residual_transfer=options.residual_transfer,
        percentiles=percentiles,
        sentences=(
            *words.describe(fidelity, importance, minimal),
            *(f"Not assessed: {note}." for note in gate.notes(shown)),
            *([f"{_TOO_FEW}."] if few else []),
            *_describe_left_out(open_edges),
        ),
    )


def _runner_up(logits: Tensor) -> int:
    if len(logits) == 1:
        return int(logits[0] <= 0)
    return int(logits.argsort(descending=True)[1])


def _most_important(importance: Importance, shown: Sequence[str]) -> list[str]:
    """The concepts shown that count most."""
    order = importance.values[0].abs().argsort(descending=True).tolist()
    return [importance.names[column] for column in order if importance.names[column] in shown][:_PAIRED]


def _changed_pixels(batch: EncodedBatch, traversal: LatentTraversal) -> Tensor:
    ends = traversal.images[[0, -1]]
    return difference_map(batch.repeat(2), ends).mean(0, keepdim=True)


def _describe_left_out(edges: Sequence[Edge]) -> list[str]:
    if not edges:
        return []
    named = ", ".join(map(str, edges))
    reason = "the data do not orient them" if any(edge.undecided for edge in edges) else "they form a circle"
    return [f"Effects through {named} are left out: {reason}; knowledge of tiers would fix that."]


@dataclass(frozen=True)
class _Words:
    """Sentences about one image."""

    target: int
    class_names: Sequence[str]
    refused: Mapping[str, str]
    percentiles: Tensor

    def describe(self, fidelity: Fidelity, importance: Importance, minimal: MinimalCounterfactual | None) -> list[str]:
        warning = fidelity.warning(0)
        lines = [f"Do not rely on what follows: {warning}."] if warning else []
        strongest = importance.values[0].abs().argsort(descending=True).tolist()[:3]
        lines += [self._describe_concept(importance, column) for column in strongest]
        if minimal is not None:
            lines.append(self._describe_flip(importance.names, minimal))
        return lines + [f"Not shown: {reason}." for reason in self.refused.values()]

    def _describe_concept(self, importance: Importance, column: int) -> str:
        name, label = importance.names[column], self.class_names[self.target]
        value, half_width = float(importance.values[0, column]), float(importance.half_widths[0, column])
        verdict = f"speaks {'for' if value > 0 else 'against'} {label}"
        if abs(value) <= half_width:
            verdict = f"is not significant for {label}"
        interval = f" ± {half_width:.2f}" if isfinite(half_width) else " (too few permutations for an interval)"
        caution = (
            "; but the surrogate does not control this concept, so it may be another's effect"
            if name in self.refused
            else ""
        )
        return (
            f"{name} (higher than in {float(self.percentiles[column]):.0%} of images) {verdict}: "
            f"{value:+.2f}{interval} logits{caution}."
        )

    def _describe_flip(self, names: Sequence[str], minimal: MinimalCounterfactual) -> str:
        label = self.class_names[int(minimal.targets[0])]
        moved = [f"{name} {float(by):+.2f} sd" for name, by in zip(names, minimal.change[0], strict=True) if by]
        if bool(minimal.valid[0]):
            doubt = "" if bool(minimal.in_distribution[0]) else f", but no real {label} is like that: do not rely on it"
            return f"It would be {label} with {', '.join(moved)}{doubt}."
        return f"No change of the concepts was found that makes it {label}."
