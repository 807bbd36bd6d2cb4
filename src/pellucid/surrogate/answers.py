"""The questions that can be asked of a trained twin."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.explain.counterfactual import Counterfactual
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, probabilities
from pellucid.surrogate.explain.local_explanation import LocalExplanation, explain_locally, fit_structural_models
from pellucid.surrogate.explain.minimal_counterfactual import FlipOptions, MinimalCounterfactual, flip
from pellucid.surrogate.explain.necessity import Necessity, necessity
from pellucid.surrogate.explain.shapley import Importance, importance
from pellucid.surrogate.explain.traversal import difference_map
from pellucid.surrogate.explain.validity import DataSupport, check_effective, fidelity
from pellucid.surrogate.memory import Memory


class Answers(Memory):
    """Answers to questions about images, mixed into the surrogate."""

    def counterfactual(
        self, images: Tensor, do: Mapping[str, float], *, propagate: bool = False, max_batch: int = 64
    ) -> Counterfactual:
        """Images as they would be with contexts set to values, all else held.

        Args:
            images: (N, C, H, W).
            do: context -> value in the table's units.
            propagate: let the effects of what is set respond, along the perceived graph.
            max_batch: images drawn at once.

        Raises:
            RefusedError: the twin does not control a context that is to be set.
            PellucidError: an unknown context, or an open orientation where effects should respond.
        """
        if unknown := sorted(set(do) - set(self.context_names)):
            raise PellucidError(f"no context {unknown}; there are {list(self.context_names)}")
        for name in do:
            check_effective(self._effectiveness(), name)
        batch = self.encode_batch(images, max_batch)
        codes = batch.codes.replace_concepts(self._set(batch, do, propagate))
        raw = batch.drawn(codes)
        changed = batch.transferred(raw)
        after = self.encode_batch(changed, max_batch)
        return Counterfactual(
            dict(do),
            codes,
            raw,
            changed,
            probabilities(batch.logits),
            probabilities(after.logits),
            self.context_values(after.codes.context),
            difference_map(batch, changed),
            DataSupport(self._known().codes).in_distribution(codes.concept_coordinates()),
            fidelity(batch),
        )

    def _set(self, batch: EncodedBatch, do: Mapping[str, float], propagate: bool) -> Tensor:
        values = self.context_values(batch.codes.context).clone()
        columns = {name: self.context_names.index(name) for name in do}
        for name, value in do.items():
            values[:, columns[name]] = value
        concepts = batch.codes.concept_coordinates().clone()
        asked = self.standard_context(values)[:, list(columns.values())]
        concepts[:, list(columns.values())] = asked
        if not propagate:
            return concepts
        known = self._known().codes.concept_coordinates()
        models, left_out = fit_structural_models(self.graph, self.context_names, self.latent_names, known)
        given = {name: asked[:, at].double().cpu().numpy() for at, name in enumerate(columns)}
        before = batch.codes.concept_coordinates().double().cpu().numpy()
        found = torch.stack([torch.from_numpy(model.counterfactual(before, given)) for model in models])
        if left_out or float((found - found[0]).abs().max()) > 1e-6:
            undecided = [edge for edge in self.graph.drop_tentative().edges if edge.undecided]
            open_edges = ", ".join(map(str, left_out or undecided))
            raise PellucidError(
                f"the graph leaves orientations open ({open_edges}), so what responds is not known: give discover() "
                "knowledge of tiers"
            )
        return found[0].to(concepts)

    def flip(
        self, images: Tensor, target: int | str | Sequence[int | str], *, options: FlipOptions | None = None
    ) -> MinimalCounterfactual:
        """The smallest and sparsest change of concepts after which the classifier says `target`.

        Args:
            images: (N, C, H, W).
            target: a class, or one for each image; other than what the classifier says now.
            options: of the search.
        """
        batch, reference = self.encode_batch(images), self._known()
        names = self._concept_names()
        allowed = torch.tensor([not self._refuses(name) for name in names], device=batch.images.device)
        return flip(batch, self._classes(target, len(batch)), reference.codes, allowed=allowed, options=options)

    def importance(
        self,
        images: Tensor,
        target: int | str | Sequence[int | str] | None = None,
        *,
        against: Literal["all", "other"] = "all",
        permutations: int = 64,
        transferred: bool = False,
        seed: int = 0,
    ) -> Importance:
        """Shapley values of all concepts for the margin of a class; of the images' own by default.

        They are of the twin's own drawings, or with `transferred` of the changes laid on the images.
        """
        batch, reference = self.encode_batch(images), self._known()
        return importance(
            batch if transferred else batch.reconstructed(),
            reference.codes,
            classes=batch.classes if target is None else self._classes(target, len(batch)),
            reference_classes=reference.classes,
            against=against,
            permutations=permutations,
            seed=seed,
        )

    def necessity(
        self, images: Tensor, target: int | str, *, transferred: bool = False, seed: int = 0
    ) -> tuple[Necessity, ...]:
        """How often a class falls without a concept's value, and how often the value brings it about.

        Args:
            images: (N, C, H, W), some that the classifier gives to the class, as the twin redraws them, and some
                that it does not.
            target: the class.
            transferred: lay the changes on the images instead of judging the twin's own drawings.
            seed: of who gives its value to whom.

        Raises:
            PellucidError: no image of the class, or none of another.
        """
        batch = self.encode_batch(images) if transferred else self.encode_batch(images).reconstructed()
        inside = batch.classes == self.class_index(target)
        return necessity(batch[inside.nonzero()[:, 0]], batch[(~inside).nonzero()[:, 0]], seed=seed)

    def explain(
        self,
        image: Tensor,
        target: int | str | None = None,
        *,
        flip_to: int | str | None = None,
        permutations: int = 64,
        values: int = 9,
        transferred: bool = False,
        seed: int = 0,
    ) -> LocalExplanation:
        """Every local question about one image.

        Args:
            image: (1, C, H, W).
            target: class explained; the factual one by default.
            flip_to: class of the counterfactual; the runner-up by default.
            permutations: of the Shapley values.
            values: levels of each strip.
            transferred: measure importance and effects with the changes laid on the image, not on the twin's own
                drawing of it.
            seed: of everything drawn.
        """
        return explain_locally(
            self.encode_batch(image),
            self._known(),
            None if self.global_explanation is None else self.global_explanation.perceived,
            target=None if target is None else self.class_index(target),
            flip_to=None if flip_to is None else self.class_index(flip_to),
            permutations=permutations,
            values=values,
            transferred=transferred,
            class_names=self.class_names,
            seed=seed,
        )

    def _concept_names(self) -> tuple[str, ...]:
        return (*self.context_names, *self.latent_names)

    def _classes(self, target: int | str | Sequence[int | str], count: int) -> Tensor:
        many = [target] * count if isinstance(target, int | str) else list(target)
        if len(many) != count:
            raise PellucidError(f"{len(many)} targets were given for {count} images: give one, or one for each")
        return torch.tensor([self.class_index(one) for one in many], device=self.classifier.device)
