"""What a trained twin knows: real images, its own marks, and the classifier's world."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.errors import PellucidError, TargetError
from pellucid.storage import RecordError, from_record, read_json, to_record, write_json
from pellucid.surrogate.assess.assessment import Assessment, assess
from pellucid.surrogate.assess.leakage import Measure
from pellucid.surrogate.causal.graph import CausalGraph
from pellucid.surrogate.causal.search import BackgroundKnowledge, DiscoveryOptions
from pellucid.surrogate.explain.encoded_batch import EncodedBatch
from pellucid.surrogate.explain.global_explanation import MIN_PROBE_R2, GlobalExplanation, explain_globally
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.explain.validity import RefusedError, check_effective
from pellucid.surrogate.model.auxiliary_models import AuxiliaryQuality
from pellucid.surrogate.model.codes import Codes

MIN_PROBE_GAIN = 0.05
"""R2 by which a context is told better by the classifier than with random weights, for it to count as learnt."""

MIN_AGREEMENT = 0.95
"""Share of images that keep their class when redrawn, below which effects on the drawings need a warning."""

T = TypeVar("T")

REFERENCE, ASSESSMENT, WORLD = "reference.safetensors", "assessment.json", "graph.json"


class Memory:
    """What explanations are drawn against, kept with the surrogate.

    Attributes:
        reference: real images that explanations are drawn against; set by `set_reference`.
        assessment: the twin's marks; set by `assess`. Concepts that it fails are refused.
        world: the global explanation; set by `discover`.
    """

    reference: ReferenceSet | None = None
    assessment: Assessment | None = None
    global_explanation: GlobalExplanation | None = None

    context_names: tuple[str, ...]
    latent_names: tuple[str, ...]
    quality: AuxiliaryQuality
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

    def pooled_features(self, images: Tensor) -> Tensor:
        """What the classifier's layers make of images, (N, F), without gradients."""
        raise NotImplementedError

    def encode_batch(self, images: Tensor, max_batch: int = 64) -> EncodedBatch:
        """Images (N, C, H, W) with codes, reconstructions and logits: what several questions share."""
        images = self.classifier.check_images(images).to(self.classifier.device, torch.float32)
        return EncodedBatch.of(self, images, max_batch=max_batch)  # type: ignore[arg-type]

    def set_reference(self, images: Tensor, *, most: int = 2000) -> ReferenceSet:
        """Keep the codes of real images, for every later question."""
        self.reference = ReferenceSet.of(self.encode_batch(images), self._effectiveness(), most=most)
        return self.reference

    def assess(
        self,
        images: Tensor,
        measure: Measure | None = None,
        *,
        measured_by: str = "the twin's judges",
        transferred: bool = False,
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Assessment:
        """Measure the twin on held-out images; contexts that it does not control are refused from then on.

        Args:
            images: (N, C, H, W) not seen in training.
            measure: re-measures contexts in standard deviations of the table; best by code. The twin's own judges
                otherwise, which it was trained to please: marks by them are upper bounds.
            measured_by: says what `measure` is.
            transferred: measure control with the changes laid on the images, as they are shown, instead of on the
                twin's own drawings, from which effects are told.
            seed: of what is asked.
            on_progress: called with (contexts done, in all).
        """
        own: Measure = lambda drawn: self.encode_batch(drawn).codes.context  # noqa: E731
        self.assessment = assess(
            self.encode_batch(images),
            self.head_logits,
            self.pooled_features,
            self.span,
            measure or own,
            measured_by,
            transferred=transferred,
            seed=seed,
            on_progress=on_progress,
        )
        if self.reference is not None:
            self.reference = replace(self.reference, effectiveness=self._effectiveness())
        return self.assessment

    def discover(
        self,
        images: Tensor,
        context: Tensor | None = None,
        *,
        knowledge: BackgroundKnowledge | None = None,
        options: DiscoveryOptions | None = None,
        max_interventions: int = 200,
        target: int | str | None = None,
        transferred: bool = False,
        seed: int = 0,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> GlobalExplanation:
        """The global explanation: what the classifier perceives, how it hangs together and what moves its decision.

        Args:
            images: (N, C, H, W), best not seen in training.
            context: (N, K_c) measured, in the table's units; None where it is not known.
            knowledge: tiers, required and forbidden edges.
            options: of the discovery.
            intervened: images that are intervened on, at most.
            target: class whose margin the edges to the decision follow; by default each image's own class, but the
                second of two, as what speaks for one speaks against the other.
            transferred: lay the changes on the images instead of measuring their effect on the twin's own drawings.
                Effects then come out too small wherever the twin redraws imperfectly; where it redraws badly, they
                may still follow the single image better.
            seed: of the swaps.
            on_progress: called with (stage, done, in all).

        Raises:
            PellucidError: too few images, a context of another shape, unknown names, or nothing to be a node.
        """
        if context is not None and context.shape != (len(images), len(self.context_names)):
            raise PellucidError(
                f"context has shape {tuple(context.shape)}; wanted a row for each of {len(images)} images and a "
                f"column for each of {', '.join(self.context_names) or 'no contexts'}"
            )
        measured = None if context is None or not self.context_names else self.standard_context(context.to(self.span))
        self.global_explanation = explain_globally(
            self.encode_batch(images),
            measured,
            knowledge=knowledge,
            options=options,
            max_interventions=max_interventions,
            target=None if target is None else self.class_index(target),
            transferred=transferred,
            refused=[name for name in self.context_names if self._refuses(name)],
            seed=seed,
            on_progress=on_progress,
        )
        notes = self._told_blindly() if transferred else [*self._redrawn_badly(), *self._told_blindly()]
        self.global_explanation = replace(self.global_explanation, notes=(*self.global_explanation.notes, *notes))
        return self.global_explanation

    @property
    def graph(self) -> CausalGraph:
        """The perceived graph with the edges to the decision.

        Raises:
            PellucidError: `discover` was not run.
        """
        if self.global_explanation is None:
            raise PellucidError("there is no graph yet: give the surrogate images with discover(images, context)")
        return self.global_explanation.perceived

    def save_state(self, folder: Path) -> None:
        """Write what the twin knows of real images beside it."""
        if self.reference is not None:
            self.reference.save(folder / REFERENCE)
        if self.assessment is not None:
            write_json(folder / ASSESSMENT, to_record(self.assessment))
        if self.global_explanation is not None:
            write_json(folder / WORLD, to_record(self.global_explanation))

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote, as far as it is there."""
        if (folder / ASSESSMENT).exists():
            self.assessment = _read(folder / ASSESSMENT, Assessment, "evaluate --keep")
        if (folder / REFERENCE).exists():
            device = self.classifier.device
            self.reference = ReferenceSet.load(folder / REFERENCE, self._effectiveness(), device)
        if (folder / WORLD).exists():
            self.global_explanation = _read(folder / WORLD, GlobalExplanation, "graph")

    def _effectiveness(self) -> dict[str, float]:
        return {} if self.assessment is None else self.assessment.effectiveness

    def _refuses(self, name: str) -> bool:
        try:
            check_effective(self._effectiveness(), name)
        except RefusedError:
            return True
        return False

    def _redrawn_badly(self) -> list[str]:
        """A warning where effects measured on drawings may be those of other images."""
        if self.assessment is None or self.assessment.agreement >= MIN_AGREEMENT:
            return []
        return [
            f"only {self.assessment.agreement:.1%} of images keep their class when they are redrawn, so effects "
            "measured on drawings may be those of other images: compare with transferred=True (--transferred)"
        ]

    def _told_blindly(self) -> list[str]:
        """The contexts that the classifier's features need not have learnt to tell."""
        return [
            f"{name}: the classifier with random weights tells it nearly as well (R2 {blind:.2f}; trained {own:.2f}), "
            "so that it is perceived does not show that it was learnt"
            for name, own, blind in zip(
                self.context_names, self.quality.probe_r2, self.quality.untrained_baseline, strict=False
            )
            if own >= MIN_PROBE_R2 and own - blind < MIN_PROBE_GAIN
        ]

    def _known(self) -> ReferenceSet:
        if self.reference is None:
            raise PellucidError("the surrogate knows no real images to compare with: call remember(images) first")
        return self.reference


def _read(path: Path, cls: type[T], command: str) -> T:
    try:
        return from_record(cls, read_json(path), source=path)
    except RecordError as error:
        raise PellucidError(
            f"{error}; if an older pellucid wrote it, delete it and run `pellucid surrogate {command}` again"
        ) from error
