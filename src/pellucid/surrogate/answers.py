"""The questions that can be asked of a trained twin."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.data import write_atomically
from pellucid.errors import PellucidError, TargetError
from pellucid.surrogate.assessment import Assessment, Measure, assess
from pellucid.surrogate.causal.graph import CausalGraph
from pellucid.surrogate.causal.search import DiscoveryOptions, Knowledge
from pellucid.surrogate.codes import Codes
from pellucid.surrogate.explaining.counterfactual import Counterfactual
from pellucid.surrogate.explaining.importance import Importance, importance
from pellucid.surrogate.explaining.minimal import FlipOptions, Flipped, flip
from pellucid.surrogate.explaining.painting import Painting, probabilities
from pellucid.surrogate.explaining.strips import difference_map
from pellucid.surrogate.explaining.support import RefusedError, Support, check_effective, fidelity
from pellucid.surrogate.globally import GlobalExplanation, explain_globally
from pellucid.surrogate.locally import LocalExplanation, explain_locally, structural_models
from pellucid.surrogate.reference import Reference

__all__ = ["Answers", "Counterfactual"]

REFERENCE, ASSESSMENT, WORLD = "reference.safetensors", "assessment.json", "graph.json"


class Answers:
    """Answers to questions about pictures, mixed into the surrogate.

    Attributes:
        reference: real pictures that explanations are drawn against; set by `remember`.
        assessment: the twin's marks; set by `assess`. Concepts that it fails are refused.
        world: the global explanation; set by `discover`.
    """

    reference: Reference | None = None
    assessment: Assessment | None = None
    world: GlobalExplanation | None = None

    context_names: tuple[str, ...]
    latent_names: tuple[str, ...]
    span: Tensor

    @property
    def classifier(self) -> Classifier:
        """The classifier that is mimicked."""
        raise NotImplementedError

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called; a single logit has two sides."""
        names = tuple(self.classifier.class_names)
        return (f"not {names[0]}", names[0]) if len(names) == 1 else names

    def class_index(self, target: int | str) -> int:
        """The class of a name or index; of a single logit 0 is against it and 1 for it.

        Raises:
            TargetError: no such class.
        """
        if self.classifier.num_classes > 1:
            return self.classifier.class_index(target)
        if target in (0, 1):
            return int(target)
        if target not in self.class_names:
            raise TargetError(f"no class {target!r}: {self.classifier.name} has {' and '.join(self.class_names)}")
        return self.class_names.index(str(target))

    def context_values(self, standard: Tensor) -> Tensor:
        """Context of codes (N, K_c) in the table's units."""
        raise NotImplementedError

    def standard_context(self, values: Tensor) -> Tensor:
        """Context in the table's units (N, K_c) as the codes have it."""
        raise NotImplementedError

    def head_logits(self, codes: Codes) -> Tensor:
        """The logits (N, K) of the discriminative twin."""
        raise NotImplementedError

    def seen_features(self, pictures: Tensor) -> Tensor:
        """What the classifier's layers make of pictures, (N, F), without gradients."""
        raise NotImplementedError

    def paint(self, pictures: Tensor, max_batch: int = 64) -> Painting:
        """Pictures (N, C, H, W) with codes, reconstructions and logits: what several questions share."""
        return Painting.of(self, self.classifier.check_pictures(pictures), max_batch=max_batch)  # type: ignore[arg-type]

    def remember(self, pictures: Tensor, *, most: int = 2000) -> Reference:
        """Keep the codes of real pictures, for every later question."""
        self.reference = Reference.of(self.paint(pictures), self._effectiveness(), most=most)
        return self.reference

    def assess(
        self,
        pictures: Tensor,
        measure: Measure | None = None,
        *,
        measured_by: str = "the twin's judges",
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Assessment:
        """Measure the twin on held-out pictures; contexts that it does not control are refused from then on.

        Args:
            pictures: (N, C, H, W) not seen in training.
            measure: re-measures contexts in standard deviations of the table; best by code. The twin's own judges
                otherwise, which it was trained to please: marks by them are upper bounds.
            measured_by: says what `measure` is.
            seed: of what is asked.
            on_progress: called with (contexts done, in all).
        """
        own: Measure = lambda drawn: self.paint(drawn).codes.context  # noqa: E731
        self.assessment = assess(
            self.paint(pictures),
            self.head_logits,
            self.seen_features,
            self.span,
            measure or own,
            measured_by,
            seed=seed,
            on_progress=on_progress,
        )
        if self.reference is not None:
            self.reference = replace(self.reference, effectiveness=self._effectiveness())
        return self.assessment

    def discover(
        self,
        pictures: Tensor,
        context: Tensor | None = None,
        *,
        knowledge: Knowledge | None = None,
        options: DiscoveryOptions | None = None,
        intervened: int = 200,
        seed: int = 0,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> GlobalExplanation:
        """The global explanation: what the classifier perceives, how it hangs together and what moves its decision.

        Args:
            pictures: (N, C, H, W), best not seen in training.
            context: (N, K_c) measured, in the table's units; None where it is not known.
            knowledge: tiers, required and forbidden edges.
            options: of the discovery.
            intervened: pictures that are intervened on, at most.
            seed: of the swaps.
            on_progress: called with (stage, done, in all).
        """
        measured = None if context is None else self.standard_context(context.to(self.span))
        self.world = explain_globally(
            self.paint(pictures),
            measured,
            knowledge=knowledge,
            options=options,
            intervened=intervened,
            seed=seed,
            on_progress=on_progress,
        )
        return self.world

    @property
    def graph(self) -> CausalGraph:
        """The perceived graph with the edges to the decision.

        Raises:
            PellucidError: `discover` was not run.
        """
        if self.world is None:
            raise PellucidError("there is no graph yet: give the surrogate pictures with discover(pictures, context)")
        return self.world.perceived

    def counterfactual(
        self, pictures: Tensor, do: Mapping[str, float], *, propagate: bool = False, max_batch: int = 64
    ) -> Counterfactual:
        """Pictures as they would be with contexts set to values, all else held.

        Args:
            pictures: (N, C, H, W).
            do: context -> value in the table's units.
            propagate: let the effects of what is set respond, along the perceived graph.
            max_batch: pictures drawn at once.

        Raises:
            RefusedError: the twin does not control a context that is to be set.
            PellucidError: an unknown context, or an open orientation where effects should respond.
        """
        if unknown := sorted(set(do) - set(self.context_names)):
            raise PellucidError(f"no context {unknown}; there are {list(self.context_names)}")
        for name in do:
            check_effective(self._effectiveness(), name)
        painting = self.paint(pictures, max_batch)
        codes = painting.codes.with_concepts(self._set(painting, do, propagate))
        raw = painting.drawn(codes)
        changed = painting.transferred(raw)
        after = self.paint(changed, max_batch)
        return Counterfactual(
            dict(do),
            codes,
            raw,
            changed,
            probabilities(painting.logits),
            probabilities(after.logits),
            self.context_values(after.codes.context),
            difference_map(painting, changed),
            Support(self._known().codes).holds(codes.concepts()),
            fidelity(painting),
        )

    def _set(self, painting: Painting, do: Mapping[str, float], propagate: bool) -> Tensor:
        values = self.context_values(painting.codes.context).clone()
        columns = {name: self.context_names.index(name) for name in do}
        for name, value in do.items():
            values[:, columns[name]] = value
        concepts = painting.codes.concepts().clone()
        asked = self.standard_context(values)[:, list(columns.values())]
        concepts[:, list(columns.values())] = asked
        if not propagate:
            return concepts
        known = self._known().codes.concepts()
        models, left_out = structural_models(self.graph, self.context_names, self.latent_names, known)
        if len(models) > 1 or left_out:
            raise PellucidError(
                "the graph leaves orientations open, so what responds is not known: give discover() knowledge of tiers"
            )
        given = {name: asked[:, at].double().cpu().numpy() for at, name in enumerate(columns)}
        moved = models[0].counterfactual(painting.codes.concepts().double().cpu().numpy(), given)
        return torch.from_numpy(moved).to(concepts)

    def flip(
        self, pictures: Tensor, target: int | str | Sequence[int | str], *, options: FlipOptions | None = None
    ) -> Flipped:
        """The smallest and sparsest change of concepts after which the classifier says `target`.

        Args:
            pictures: (N, C, H, W).
            target: a class, or one for each picture; other than what the classifier says now.
            options: of the search.
        """
        painting, reference = self.paint(pictures), self._known()
        names = self._concept_names()
        allowed = torch.tensor([not self._refuses(name) for name in names], device=painting.pictures.device)
        return flip(painting, self._classes(target, len(painting)), reference.codes, allowed=allowed, options=options)

    def importance(
        self,
        pictures: Tensor,
        target: int | str | Sequence[int | str] | None = None,
        *,
        against: Literal["all", "other"] = "all",
        permutations: int = 64,
        seed: int = 0,
    ) -> Importance:
        """Shapley values of all concepts for the margin of a class; of the factual one by default."""
        painting, reference = self.paint(pictures), self._known()
        return importance(
            painting,
            reference.codes,
            classes=None if target is None else self._classes(target, len(painting)),
            reference_classes=reference.classes,
            against=against,
            permutations=permutations,
            seed=seed,
        )

    def explain(
        self,
        picture: Tensor,
        target: int | str | None = None,
        *,
        flip_to: int | str | None = None,
        permutations: int = 64,
        values: int = 9,
        seed: int = 0,
    ) -> LocalExplanation:
        """Every local question about one picture.

        Args:
            picture: (1, C, H, W).
            target: class explained; the factual one by default.
            flip_to: class of the counterfactual; the runner-up by default.
            permutations: of the Shapley values.
            values: levels of each strip.
            seed: of everything drawn.
        """
        return explain_locally(
            self.paint(picture),
            self._known(),
            None if self.world is None else self.world.perceived,
            target=None if target is None else self.class_index(target),
            flip_to=None if flip_to is None else self.class_index(flip_to),
            permutations=permutations,
            values=values,
            class_names=self.class_names,
            seed=seed,
        )

    def save_answers(self, folder: Path) -> None:
        """Write what the twin knows of real pictures beside it."""
        if self.reference is not None:
            self.reference.save(folder / REFERENCE)
        if self.assessment is not None:
            write_atomically(folder / ASSESSMENT, self.assessment.to_json().encode())
        if self.world is not None:
            write_atomically(folder / WORLD, self.world.to_json().encode())

    def load_answers(self, folder: Path) -> None:
        """Read what `save_answers` wrote, as far as it is there."""
        if (folder / ASSESSMENT).exists():
            self.assessment = Assessment.from_json((folder / ASSESSMENT).read_text(encoding="utf-8"))
        if (folder / REFERENCE).exists():
            device = self.classifier.device
            self.reference = Reference.load(folder / REFERENCE, self._effectiveness(), device)
        if (folder / WORLD).exists():
            self.world = GlobalExplanation.from_json((folder / WORLD).read_text(encoding="utf-8"))

    def _concept_names(self) -> tuple[str, ...]:
        return (*self.context_names, *self.latent_names)

    def _effectiveness(self) -> dict[str, float]:
        return {} if self.assessment is None else self.assessment.effectiveness

    def _refuses(self, name: str) -> bool:
        try:
            check_effective(self._effectiveness(), name)
        except RefusedError:
            return True
        return False

    def _known(self) -> Reference:
        if self.reference is None:
            raise PellucidError("the surrogate knows no real pictures to compare with: call remember(pictures) first")
        return self.reference

    def _classes(self, target: int | str | Sequence[int | str], count: int) -> Tensor:
        many = [target] * count if isinstance(target, int | str) else list(target)
        if len(many) != count:
            raise PellucidError(f"{len(many)} targets were given for {count} pictures: give one, or one for each")
        return torch.tensor([self.class_index(one) for one in many], device=self.classifier.device)
