"""The explanations of a classifier through its surrogate, local and global."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.errors import PellucidError
from pellucid.results import Measurement, Provenance, Receipt, library_versions
from pellucid.storage import RecordError, from_record, read_json, to_record, write_json
from pellucid.surrogate.assess.assessment import Assessment, agreement_warnings, assess
from pellucid.surrogate.assess.leakage import ContextMeasurement, Measure
from pellucid.surrogate.causal.graph import CausalGraph
from pellucid.surrogate.explain.counterfactual import Counterfactual, compute_counterfactual
from pellucid.surrogate.explain.encoded_batch import METHOD, EncodedBatch, PassCounter, encode_batch
from pellucid.surrogate.explain.global_explanation import (
    GlobalExplanation,
    GlobalOptions,
    compute_global_explanation,
    probe_warnings,
)
from pellucid.surrogate.explain.local_explanation import LocalExplanation, LocalOptions, compute_local_explanation
from pellucid.surrogate.explain.minimal_counterfactual import (
    FlipOptions,
    MinimalCounterfactual,
    find_minimal_counterfactual,
)
from pellucid.surrogate.explain.necessity import Necessity, estimate_necessity
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.explain.shapley import Against, Importance, shapley_importance
from pellucid.surrogate.explain.validity import ControlGate, check_control
from pellucid.surrogate.model.codes import Codes, SurrogateProtocol
from pellucid.surrogate.model.features import LOGITS_ONLY
from pellucid.surrogate.surrogate import Surrogate, load_surrogate

T = TypeVar("T")
Target = int | str | Sequence[int | str]

REFERENCE, ASSESSMENT, GLOBAL_EXPLANATION = "reference.safetensors", "assessment.json", "global_explanation.json"


class SurrogateExplainer:
    """Explains a classifier through its surrogate: counterfactuals, importance, and the causal graph.

    Images are (N, C, H, W) in the classifier's own input space, as `classifier.read` returns them.

    Args:
        surrogate: frozen.
        reference: real images that explanations are made against; `set_reference` sets it.
        assessment: the surrogate's scores; `assess` sets it. Concepts that it does not control are refused.
        global_explanation: with the causal graph; `discover` sets it.

    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> digit = draw_digits(torch.tensor([5]), size=32)[:, None] / 127.5 - 1  # (1, 1, 32, 32)
    >>> thicker = explainer.counterfactual(digit, do={"thickness": 4.0})
    >>> round(float(thicker.predicted[0, 0]))  # as the surrogate reads it off the result
    4
    >>> explainer.graph.edge("thickness", "intensity").directed
    True
    """

    def __init__(
        self,
        surrogate: Surrogate,
        *,
        reference: ReferenceSet | None = None,
        assessment: Assessment | None = None,
        global_explanation: GlobalExplanation | None = None,
    ) -> None:
        self.surrogate = surrogate
        self.reference, self.assessment, self.global_explanation = reference, assessment, global_explanation

    # --- The surrogate and its classifier

    @property
    def classifier(self) -> Classifier:
        """The classifier that is explained."""
        return self.surrogate.classifier

    @property
    def context_names(self) -> tuple[str, ...]:
        """Names of the contexts."""
        return self.surrogate.context_names

    @property
    def latent_names(self) -> tuple[str, ...]:
        """Names of the unexplained latents."""
        return self.surrogate.latent_names

    @property
    def concept_names(self) -> tuple[str, ...]:
        """Names of the concepts, contexts before latents."""
        return (*self.context_names, *self.latent_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; a single logit has two sides."""
        return self.surrogate.class_names

    def class_index(self, target: int | str) -> int:
        """`Surrogate.class_index`."""
        return self.surrogate.class_index(target)

    def encode(self, images: Tensor, max_batch: int = 128) -> Codes:
        """`Surrogate.encode`."""
        return self.surrogate.encode(images, max_batch)

    def decode(self, codes: Codes) -> Tensor:
        """`Surrogate.decode`."""
        return self.surrogate.decode(codes)

    def reconstruct(self, images: Tensor) -> Tensor:
        """`Surrogate.reconstruct`."""
        return self.surrogate.reconstruct(images)

    def logits(self, images: Tensor) -> Tensor:
        """`Surrogate.logits`."""
        return self.surrogate.logits(images)

    def standard_context(self, values: Tensor) -> Tensor:
        """`Surrogate.standard_context`."""
        return self.surrogate.standard_context(values)

    def context_values(self, standard: Tensor) -> Tensor:
        """`Surrogate.context_values`."""
        return self.surrogate.context_values(standard)

    def encode_batch(
        self, images: Tensor, max_batch: int = 64, *, through: SurrogateProtocol | None = None
    ) -> EncodedBatch:
        """Encode, reconstruct and classify images once, for several explanations.

        Args:
            images: (N, C, H, W).
            max_batch: images processed at once.
            through: what stands for the surrogate, to count its passes, say.
        """
        images = self.classifier.check_images(images).to(self.classifier.device, torch.float32)
        return encode_batch(through or self.surrogate, images, max_batch=max_batch)

    # --- What explanations are made against

    @property
    def effectiveness(self) -> dict[str, float]:
        """Context -> how well the surrogate controls it; empty before `assess`."""
        return {} if self.assessment is None else self.assessment.effectiveness

    @property
    def refused(self) -> dict[str, str]:
        """Contexts that the surrogate does not control -> the reason."""
        return self.gate.refused

    @property
    def gate(self) -> ControlGate:
        """What the assessment knows of the contexts' control, and so lets through."""
        known = self.assessment
        transferred = {} if known is None else known.transferred_effectiveness
        return ControlGate(tuple(self.context_names), self.effectiveness, transferred)

    @property
    def graph(self) -> CausalGraph:
        """The perceived graph with the edges to the decision.

        Raises:
            PellucidError: `discover` was not called.
        """
        if self.global_explanation is None:
            raise PellucidError("there is no graph yet: give the surrogate images with discover(images, context)")
        return self.global_explanation.perceived

    def set_reference(self, images: Tensor, *, max_images: int = 2000) -> ReferenceSet:
        """Keep the codes of real images (N, C, H, W), 50 or more, for every later explanation."""
        self.reference = ReferenceSet.from_batch(self.encode_batch(images), max_images=max_images)
        return self.reference

    def assess(
        self,
        images: Tensor,
        measure: Measure | None = None,
        *,
        measured_by: str = "the surrogate's own attribute predictors",
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Assessment:
        """Assess the surrogate on held-out images; contexts that it does not control are refused from then on.

        Args:
            images: (N, C, H, W) not seen in training.
            measure: of the contexts, in standard deviations of the table; best by code. By default the attribute
                predictors, which the surrogate was trained to please: scores by them are upper bounds.
            measured_by: says what `measure` is.
            seed: of the requested values.
            on_progress: called with (contexts done, in all).
        """
        measure = measure or (lambda generated: self.encode_batch(generated).codes.context)
        self.assessment = assess(
            self.encode_batch(images),
            self.surrogate.head_logits,
            self.surrogate.pooled_features,
            self.surrogate.span,
            ContextMeasurement(measure, measured_by),
            seed=seed,
            on_progress=on_progress,
        )
        return self.assessment

    def discover(
        self,
        images: Tensor,
        context: Tensor | None = None,
        *,
        target: int | str | None = None,
        options: GlobalOptions | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> GlobalExplanation:
        """Discover the global explanation: what the classifier perceives, and what of it moves its decision.

        Args:
            images: (N, C, H, W), best not seen in training.
            context: (N, K_c) measured, in the table's units; None where it is not known.
            target: class whose margin the effects on the decision follow; by default each image's own class, but the
                second of two, as what speaks for one speaks against the other.
            options: background knowledge, discovery, interventions.
            on_progress: called with (stage, done, in all).

        Raises:
            PellucidError: too few images, a context of another shape, unknown names, or nothing to be a node.
        """
        options, counter = options or GlobalOptions(), PassCounter(self.surrogate)
        if context is not None and context.shape != (len(images), len(self.context_names)):
            raise PellucidError(
                f"context has shape {tuple(context.shape)}; give a row for each of {len(images)} images and a column "
                f"for each of {', '.join(self.context_names) or 'no contexts'}"
            )
        measured = None
        if context is not None and self.context_names:
            measured = self.surrogate.standard_context(context.to(self.surrogate.span))
        explanation = compute_global_explanation(
            self.encode_batch(images, through=counter),
            measured,
            options,
            target=None if target is None else self.class_index(target),
            refused=tuple(self.refused),
            on_progress=on_progress,
        )
        warnings = [*self.gate.notes(), *probe_warnings(self.context_names, self.surrogate.quality)]
        if not options.residual_transfer and self.assessment is not None:
            warnings = [*agreement_warnings(self.assessment), *warnings]
        self.global_explanation = replace(
            explanation,
            notes=(*explanation.notes, *warnings),
            provenance=self._provenance(options),
            receipt=self._receipt(counter),
        )
        return self.global_explanation

    # --- Local explanations

    def counterfactual(
        self, images: Tensor, do: Mapping[str, float], *, propagate: bool = False, max_batch: int = 64
    ) -> Counterfactual:
        """Images as they would be with contexts set to values, all else held, as the surrogate generates them.

        On these the control of each context is assessed. With the residual transferred to the input images they are
        given beside them, where that follows what is set as well.

        Args:
            images: (N, C, H, W).
            do: context -> value in the table's units.
            propagate: let the effects of what is set respond, along the perceived graph.
            max_batch: images generated at once.

        Raises:
            RefusedError: the surrogate does not control a context that is to be set.
            PellucidError: an unknown context, or an open orientation where effects should respond.
        """
        for name in do:
            check_control(self.effectiveness, name)
        return compute_counterfactual(
            self.encode_batch(images, max_batch),
            self.surrogate,
            do,
            self._require_reference(),
            graph=self.graph if propagate else None,
            gate=self.gate,
        )

    def flip(
        self,
        images: Tensor,
        target: Target,
        *,
        confidence: float | None = None,
        second: Classifier | None = None,
        options: FlipOptions | None = None,
    ) -> MinimalCounterfactual:
        """The smallest and sparsest change of concepts after which the classifier decides on `target`.

        Args:
            images: (N, C, H, W).
            target: a class, or one for each image; other than what the classifier decides on now.
            confidence: probability of the target to reach, in [0, 1[; that of `options` by default.
            second: another classifier of the same images and classes, whose vote on the result is given with it: what
                only one network sees may be a weakness of that network.
            options: of the search.

        Raises:
            PellucidError: no reference, a target that is decided on already, or every concept is refused.
        """
        batch, reference = self.encode_batch(images), self._require_reference()
        gate, options = self.gate, options or FlipOptions()
        if confidence is not None:
            options = replace(options, confidence=confidence)
        allowed = torch.tensor([name not in gate.refused for name in self.concept_names], device=batch.images.device)
        return find_minimal_counterfactual(
            batch,
            self._classes(target, len(batch)),
            reference,
            allowed=allowed,
            options=options,
            gate=gate,
            second=None if second is None else second.logits,
        )

    def importance(
        self,
        images: Tensor,
        target: Target | None = None,
        *,
        against: Against = "class",
        permutations: int = 64,
        residual_transfer: bool = False,
        seed: int = 0,
    ) -> Importance:
        """Shapley values of all concepts for the margin of a class.

        Args:
            images: (N, C, H, W).
            target: a class, or one for each image; by default the ones that the classifier decides on.
            against: replace concepts by those of real images of the class of the image, of all, or of other classes.
            permutations: sampled for each image; even.
            residual_transfer: transfer the residual to the input images instead of explaining the reconstructions.
            seed: of permutations and baselines.
        """
        batch, reference = self.encode_batch(images), self._require_reference()
        return shapley_importance(
            batch if residual_transfer else batch.reconstructed(),
            reference,
            classes=batch.classes if target is None else self._classes(target, len(batch)),
            against=against,
            permutations=permutations,
            seed=seed,
        )

    def necessity(
        self, images: Tensor, target: int | str, *, residual_transfer: bool = False, seed: int = 0
    ) -> tuple[Necessity, ...]:
        """How often a class falls without a concept's value, and how often the value brings it about.

        Args:
            images: (N, C, H, W), some whose reconstructions the classifier gives to the class, and some others.
            target: the class.
            residual_transfer: transfer the residual to the input images instead of judging the reconstructions.
            seed: of which image gives its value to which.

        Raises:
            PellucidError: there are no images of the class, or none of others.
        """
        batch = self.encode_batch(images)
        shown = batch if residual_transfer else batch.reconstructed()
        return estimate_necessity(shown, self.class_index(target), seed=seed)

    def explain(
        self,
        image: Tensor,
        target: int | str | None = None,
        *,
        flip_to: int | str | None = None,
        options: LocalOptions | None = None,
    ) -> LocalExplanation:
        """Explain one image in every local way.

        Args:
            image: (1, C, H, W).
            target: class explained; by default the one that the classifier decides on.
            flip_to: class of the minimal counterfactual; the runner-up by default.
            options: how much is computed, and how.
        """
        options, counter = options or LocalOptions(), PassCounter(self.surrogate)
        explanation = compute_local_explanation(
            self.encode_batch(image, through=counter),
            self._require_reference(),
            None if self.global_explanation is None else self.global_explanation.perceived,
            target=None if target is None else self.class_index(target),
            flip_to=None if flip_to is None else self.class_index(flip_to),
            gate=self.gate,
            class_names=self.class_names,
            options=options,
        )
        return replace(explanation, provenance=self._provenance(options), receipt=self._receipt(counter))

    def _provenance(self, options: LocalOptions | GlobalOptions) -> Provenance:
        return Provenance(
            model=self.classifier.name,
            layers=tuple(self.surrogate.features.layers) or (LOGITS_ONLY,),
            method=METHOD,
            options=to_record(options),
            seeds={"sampling": options.seed},
            versions=library_versions(),
        )

    def _receipt(self, counter: PassCounter) -> Receipt:
        fidelity = None
        if self.assessment is not None:
            fidelity = Measurement(
                test="same class on the reconstruction",
                value=self.assessment.agreement,
                count=self.assessment.num_images,
            )
        return Receipt(passes=counter.passes, seconds=counter.seconds, fidelity=fidelity)

    def _require_reference(self) -> ReferenceSet:
        if self.reference is None:
            raise PellucidError("the surrogate has no real images to compare with: call set_reference(images) first")
        return self.reference

    def _classes(self, target: Target, count: int) -> Tensor:
        targets = [target] * count if isinstance(target, int | str) else list(target)
        if len(targets) != count:
            raise PellucidError(f"{len(targets)} targets were given for {count} images: give one, or one for each")
        return torch.tensor([self.class_index(each) for each in targets], device=self.classifier.device)

    # --- On disk

    def save(self, folder: str | Path) -> None:
        """Write the surrogate and what explanations are made against into a folder, for `load`."""
        self.surrogate.save(folder)
        self.save_state(Path(folder))

    def save_state(self, folder: Path) -> None:
        """Write reference, assessment and global explanation beside the surrogate, as far as there are any."""
        if self.reference is not None:
            self.reference.save(folder / REFERENCE)
        if self.assessment is not None:
            write_json(folder / ASSESSMENT, to_record(self.assessment))
        if self.global_explanation is not None:
            write_json(folder / GLOBAL_EXPLANATION, to_record(self.global_explanation))

    def __repr__(self) -> str:
        return f"SurrogateExplainer({self.surrogate!r})"


def load(folder: str | Path, *, classifier: Classifier) -> SurrogateExplainer:
    """Load the surrogate that was trained or saved in a folder; of an unfinished training, that of the last checkpoint.

    Args:
        folder: of the training, or of `SurrogateExplainer.save`.
        classifier: the one that the surrogate mimics.

    Raises:
        CheckpointError: there is no surrogate, or it is another classifier's.

    >>> import pellucid as pl
    >>> load(pl.surrogate.pretrained_folder("digits"), classifier=pl.load("digit_cnn")).class_names[:2]
    ('0', '1')
    """
    path = Path(folder)
    return SurrogateExplainer(
        load_surrogate(path, classifier=classifier),
        reference=ReferenceSet.load(path / REFERENCE, classifier.device) if (path / REFERENCE).exists() else None,
        assessment=_read(path / ASSESSMENT, Assessment, "evaluate --keep"),
        global_explanation=_read(path / GLOBAL_EXPLANATION, GlobalExplanation, "graph"),
    )


def _read(path: Path, cls: type[T], command: str) -> T | None:
    """What is in a file, if it is there."""
    if not path.exists():
        return None
    try:
        return from_record(cls, read_json(path), source=path)
    except RecordError as error:
        raise PellucidError(
            f"{error}; if an older pellucid wrote it, delete it and run `pellucid surrogate {command}` again"
        ) from error
