"""Questions to a trained surrogate: why these images, which causal graph, and how far it may be believed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.errors import PellucidError
from pellucid.storage import to_json
from pellucid.surrogate import (
    Assessment,
    FlipOptions,
    GlobalOptions,
    LocalOptions,
    SurrogateExplainer,
    digit_surrogate,
    load,
    r2_by_context,
)
from pellucid.surrogate.causal import BackgroundKnowledge, DiscoveryOptions
from pellucid.workflows.options import (
    AssessOptions,
    ClassifierOptions,
    DiscoverOptions,
    ExplainSurrogateOptions,
    RunClassifierOptions,
    RunOptions,
)
from pellucid.workflows.reading_inputs import arrows, load_classifier, numbers, whole_numbers
from pellucid.workflows.surrogate_images import (
    MEASURE_DESCRIPTIONS,
    ImageSample,
    digest_of_files,
    find_images_with_context,
    find_measure,
    read_sample,
    split_rows,
)
from pellucid.workflows.surrogate_report import ExplainedImage, attach_flip_probabilities
from pellucid.workflows.surrogate_training import TRAIN_COMMAND, OnStage, TrainCommand


def open_surrogate(run: Path, options: RunClassifierOptions = RunClassifierOptions()) -> SurrogateExplainer:
    """The surrogate of a run with its classifier.

    Args:
        run: folder of a training.
        options: the classifier, if not that of the training.

    Raises:
        PellucidError: there is no such run, or its surrogate is of another classifier.
    """
    model, weights = options.model, options.weights
    if model is None:
        command = TrainCommand.load(run)
        model, weights = command.model, command.weights if weights is None else weights
    return load(run, classifier=load_classifier(ClassifierOptions(model=model, weights=weights, device=options.device)))


def open_any_surrogate(run: Path, options: RunClassifierOptions = RunClassifierOptions()) -> SurrogateExplainer:
    """The surrogate of a run, or the pretrained one that is named `digits`.

    Args:
        run: folder of a training, or "digits".
        options: as in `open_surrogate`.

    Raises:
        PellucidError: as `open_surrogate`.

    >>> open_any_surrogate(Path("digits")).context_names
    ('thickness', 'intensity', 'slant', 'width')
    """
    if str(run) == "digits" and not run.exists():
        return digit_surrogate(options.device)
    return open_surrogate(run, options)


def explain_images_by_surrogate(
    explainer: SurrogateExplainer,
    files: Sequence[Path],
    options: ExplainSurrogateOptions = ExplainSurrogateOptions(),
    *,
    on_image: Callable[[int, int], None] | None = None,
) -> list[ExplainedImage]:
    """Explain images: what counts, along which paths, what would flip the decision, and may it be believed.

    Args:
        explainer: of the classifier.
        files: images.
        options: classes, interventions and effort.
        on_image: called with (images done, in all) before each image.

    Raises:
        PellucidError: an unknown class or concept, or a concept that the surrogate does not control.
    """
    do = numbers(options.do, "--set")
    target, flip_to = class_index(explainer, options.target), class_index(explainer, options.flip_to)
    explained = []
    for done, file in enumerate(files):
        if on_image is not None:
            on_image(done, len(files))
        image = explainer.classifier.read(file)
        explanation = explainer.explain(
            image,
            target,
            flip_to=flip_to,
            options=LocalOptions(
                permutations=options.permutations,
                levels=options.values,
                residual_transfer=options.residual_transfer,
                search=FlipOptions(confidence=options.confidence),
                seed=options.seed,
            ),
        )
        counterfactual = explainer.counterfactual(image, do, propagate=options.propagate) if do else None
        explained.append(attach_flip_probabilities(explainer, file.name, explanation, counterfactual))
    return explained


def discover_graph(
    run: Path,
    options: RunOptions,
    discover: DiscoverOptions,
    *,
    on_stage: OnStage | None = None,
) -> SurrogateExplainer:
    """Discover the causal graph of what a classifier perceives; it is kept in the run.

    Args:
        run: folder of a training.
        options: the classifier and the images.
        discover: knowledge, search and interventions.
        on_stage: called with (stage, done, in all).

    Returns:
        The surrogate with its `global_explanation`.

    Raises:
        PellucidError: unknown names, too few images, or no such run.
    """
    search = GlobalOptions(
        knowledge=BackgroundKnowledge(
            whole_numbers(discover.tier, "--tier"),
            arrows(discover.required, "--required"),
            arrows(discover.forbidden, "--forbidden"),
        ),
        discovery=DiscoveryOptions(
            method=discover.method, test=discover.test, bootstraps=discover.bootstraps, seed=discover.seed
        ),
        max_interventions=discover.max_interventions,
        residual_transfer=discover.residual_transfer,
        seed=discover.seed,
    )
    explainer = open_surrogate(run, options)
    target = class_index(explainer, discover.target)
    sample = choose_sample(run, explainer, options)
    explainer.discover(
        sample.images,
        None if sample.context is None else sample.context.values.float(),
        target=target,
        options=search,
        on_progress=on_stage,
    )
    explainer.save_state(run)
    return explainer


@dataclass(frozen=True)
class SurrogateAssessment:
    """How far a surrogate may be believed.

    Attributes:
        explainer: with its `assessment`.
        context_r2: R2 of each context by who predicts it: "predictors" of the surrogate, a "probe" of the classifier's
            features, and the same probe on an "untrained" classifier, measured on training images; empty without
            context.
    """

    explainer: SurrogateExplainer
    context_r2: dict[str, dict[str, float]]

    @property
    def assessment(self) -> Assessment:
        """Fidelity and control."""
        assert self.explainer.assessment is not None
        return self.explainer.assessment

    def to_dict(self, **more: object) -> dict[str, Any]:
        """The assessment and `context_r2` as plain JSON; `more` stands around them."""
        record: dict[str, Any] = to_json({**more, "assessment": self.assessment, **self.context_r2})
        return record


def assess_surrogate(
    run: Path,
    options: RunOptions,
    assess: AssessOptions,
    *,
    on_stage: OnStage | None = None,
) -> SurrogateAssessment:
    """Measure a surrogate: is it faithful to the classifier, and does it control what it is asked to set?

    Args:
        run: folder of a training.
        options: the classifier and the images.
        assess: what re-measures images, and whether the assessment is kept.
        on_stage: called with (stage, done, in all).

    Raises:
        PellucidError: no such run, or images that do not fit it.
    """
    explainer = open_surrogate(run, options)
    sample = choose_sample(run, explainer, options)
    recorded = TrainCommand.load(run).measure if (run / TRAIN_COMMAND).exists() else "predictors"
    measure = assess.measure or recorded
    if assess.keep:
        explainer.set_reference(sample.images)
    explainer.assess(
        sample.images,
        find_measure(measure, explainer, sample),
        measured_by=MEASURE_DESCRIPTIONS[measure],
        seed=assess.seed,
        on_progress=None if on_stage is None else lambda done, total: on_stage("measuring control", done, total),
    )
    if assess.keep:
        explainer.save_state(run)
    return SurrogateAssessment(explainer, _context_r2(explainer, sample))


def _context_r2(explainer: SurrogateExplainer, sample: ImageSample) -> dict[str, dict[str, float]]:
    if sample.context is None:
        return {}
    table, names = explainer.standard_context(sample.context.values.float()), explainer.context_names
    return {
        "predictors": r2_by_context(names, explainer.encode(sample.images).context, table),
        "probe": r2_by_context(names, explainer.surrogate.perceived_context(sample.images), table),
        "untrained": dict(zip(names, explainer.surrogate.quality.untrained_baseline, strict=False)),
    }


def class_index(explainer: SurrogateExplainer, text: str | None) -> int | None:
    """The class of a name, or of an index in digits; None for none.

    Raises:
        TargetError: no such class.

    >>> class_index(digit_surrogate(), "3"), class_index(digit_surrogate(), None)
    (3, None)
    """
    if text is None:
        return None
    is_side = explainer.classifier.num_classes == 1 and text in ("0", "1")
    return explainer.class_index(int(text) if is_side else text)


def choose_sample(run: Path, explainer: SurrogateExplainer, options: RunOptions) -> ImageSample:
    """The images that are given, with their context, or those that the training held out.

    Args:
        run: folder of the training.
        explainer: that was trained there.
        options: folder of images and their context, if given.

    Raises:
        PellucidError: a context without images, or images that are no longer those of the training.
    """
    if options.context is not None and not explainer.context_names:
        raise PellucidError(
            "the surrogate was trained without context, so there is nothing to take from --context: leave it out"
        )
    if options.images is not None:
        files, table = find_images_with_context(options.images, options.context, explainer.context_names)
        return read_sample(explainer.classifier, files, table, range(len(files)))
    if options.context is not None:
        raise PellucidError("--context is the table of --images; give both, or neither for the held-out images")
    command = TrainCommand.load(run)
    files, table = find_images_with_context(command.data, command.context, explainer.context_names)
    if command.listing != digest_of_files(files):
        raise PellucidError(
            f"{command.data} no longer holds the images that the training began with, so those held out cannot be "
            "separated from the others: give --images (and --context) with some that it has not seen"
        )
    _, held_out = split_rows(len(files), command.held_out, command.seed)
    return read_sample(explainer.classifier, files, table, held_out)
