"""The options of each workflow: one frozen record per question, from which the command line is generated too.

Field names are option names.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pellucid.errors import PellucidError

DEFAULT_MODEL = "efficientnet_lite0"
DEFAULT_METHODS = ("GradCAM", "IntegratedGradients", "LRP")
EVALUATED_METHODS = ("Gradient", "InputXGradient", "IntegratedGradients", "GradCAM", "LayerCAM")

EstimatorName = Literal["difference", "pattern", "ridge", "lda", "logistic", "svm"]
MeasureName = Literal["predictors", "morphomnist"]
RerenderName = Literal["none", "morphomnist"]


_MOST_IMAGES = 10_000  # of a concept; all of them are in memory, and estimates no longer change


def _check_minimum(options: object, **minimum: int) -> None:
    """Refuse values below a minimum; None passes."""
    for name, least in minimum.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise PellucidError(f"{name.replace('_', '-')} is {value}; it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """Which classifier, and where it runs.

    Attributes:
        model: name that `pellucid models` lists.
        weights: weights file (safetensors or a torch state dict), or "random".
        device: where to run, such as cpu, cuda or cuda:1.
        class_names: file with a class name per line, or JSON; folder with one folder per class, sorted as ImageFolder
            does; or "imagenet". None for what the model brings.
    """

    model: str = DEFAULT_MODEL
    weights: str | None = None
    device: str | None = None
    class_names: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """How images are explained by attribution maps.

    Attributes:
        methods: attribution methods; "all" for every one.
        layers: input, middle, final, or names of layers.
        target: class names or indices; none for the predicted class.
        option: options of methods, as in IntegratedGradients.steps=50.
        smooth: also smooth all maps with a Gaussian of this many cells (odd).
        top: how many predictions to keep.
        max_batch: most images, steps or masks in one pass; bounds the memory.
        max_bytes: most bytes that the tensors of one pass may take.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    layers: tuple[str, ...] = ("input", "middle", "final")
    target: tuple[str, ...] = ()
    option: tuple[str, ...] = ()
    smooth: int | None = None
    top: int = 5
    max_batch: int = 16
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        _check_minimum(self, top=1, max_batch=1, max_bytes=1)


@dataclass(frozen=True, kw_only=True)
class ConceptSourceOptions:
    """Which concepts.

    Attributes:
        concepts: folder with a folder of images per concept (and one named "negatives"), or with fitted CAVs.
        builtin: concepts to draw (see `pellucid concepts list`); "textures" for all textures.
        cache: folder that keeps CAVs by content; "none" for none; empty for the user's cache folder.
    """

    concepts: Path | None = None
    builtin: tuple[str, ...] = ()
    cache: str = ""

    @property
    def are_named(self) -> bool:
        """Whether there are any."""
        return self.concepts is not None or bool(self.builtin)


@dataclass(frozen=True, kw_only=True)
class ConceptOptions(ConceptSourceOptions):
    """Which concepts, and how their CAVs are fitted.

    Attributes:
        negatives: folder of images without the concepts; none for "negatives" in `concepts`, else drawn ones.
        layers: layers of the CAVs; none for those of fitted CAVs, else middle and final.
        estimator: how a CAV is estimated.
        count: at most this many images of each concept; none for all, or 40 drawn ones.
        seed: of samples, drawings, splits, relabelings and bootstraps.
        max_batch: most images in one pass; bounds the memory.
    """

    negatives: Path | None = None
    layers: tuple[str, ...] = ()
    estimator: EstimatorName = "difference"
    count: int | None = None
    seed: int = 0
    max_batch: int = 16

    def __post_init__(self) -> None:
        _check_minimum(self, count=1, max_batch=1)
        if self.count is not None and self.count > _MOST_IMAGES:
            raise PellucidError(f"count is {self.count}; at most {_MOST_IMAGES:,} images of a concept are of use")


@dataclass(frozen=True, kw_only=True)
class FitConceptsOptions(ConceptOptions):
    """How CAVs are fitted to be kept.

    Attributes:
        features: "pooled", or "flattened" (every cell on its own, for TCAV only).
    """

    features: Literal["pooled", "flattened"] = "pooled"


@dataclass(frozen=True, kw_only=True)
class ExplainConceptsOptions(ConceptOptions):
    """How images are explained by concepts (Visual-TCAV).

    Attributes:
        target: class names or indices; none for the three most likely classes.
        baseline: where integrated gradients start: zero, or the mean of the negatives.
        permutations: relabelings behind the p-values; 0 for no p-values.
        max_bytes: most bytes that the tensors of one pass may take.
    """

    target: tuple[str, ...] = ()
    baseline: Literal["zero", "negatives"] = "zero"
    permutations: int = 999
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_minimum(self, permutations=0, max_bytes=1)


@dataclass(frozen=True, kw_only=True)
class ExplainClassOptions(ExplainConceptsOptions):
    """How a class is explained by concepts over many images of it.

    Attributes:
        hierarchical: whether the intervals include the uncertainty of the CAVs.
    """

    hierarchical: bool = False


@dataclass(frozen=True, kw_only=True)
class TCAVOptions(FitConceptsOptions):
    """How a class is tested by TCAV scores.

    Attributes:
        target: class name or index.
        random_sets: parts of the negatives that each stand in for all of them, at least 2.
        permutations: relabelings behind the p-values; 0 for no p-values.
    """

    target: str
    random_sets: int = 10
    permutations: int = 499

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_minimum(self, random_sets=2, permutations=0)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Which models and methods are evaluated; the grids are in `pellucid.evaluation.SweepOptions`.

    Attributes:
        model: names that `pellucid models` lists.
        weights: weights file, for one model.
        device: where to run, such as cpu or cuda.
        input_size: side of one cell; none for what the model was trained with.
        class_names: file with a class name per line, or JSON; folder with one folder per class, sorted as ImageFolder
            does; or "imagenet". None for what the model brings.
        methods: attribution methods; "all" for every one.
        option: options of methods, as in IntegratedGradients.steps=50.
        backend: "local", or "ray" for the workers of a Ray cluster.
    """

    model: tuple[str, ...] = (DEFAULT_MODEL,)
    weights: str | None = None
    device: str | None = None
    input_size: int | None = None
    class_names: str | None = None
    methods: tuple[str, ...] = EVALUATED_METHODS
    option: tuple[str, ...] = ()
    backend: Literal["local", "ray"] = "local"


@dataclass(frozen=True, kw_only=True)
class TrainSurrogateOptions:
    """What a surrogate is trained on, and how; kept in the run's folder.

    Attributes:
        data: folder of images, searched with all its folders.
        model: name that `pellucid models` lists.
        weights: weights file of the classifier, or "random".
        context: CSV with a row per image: its path below `data` in the column "file", and its features.
        columns: context columns to use; none for all.
        preset: ci-16, cpu-32, gpu-128 or gpu-256.
        steps: training steps; none for those of the preset.
        layers: where the classifier is read; "logits" for a black box; none for one at each of its last resolutions.
        held_out: share of the images that the surrogate is measured on, not trained.
        measure: what re-measures generated images: "predictors", its own attribute predictors (whose scores are
            upper bounds), or "morphomnist" for digits.
        rerender: "morphomnist" also trains on digits redrawn with other values, so that tied contexts come apart.
        option: other training options or loss weights, as in latent_dim=4.
        seed: of everything drawn.
    """

    data: Path = field(kw_only=False)
    model: str
    weights: str | None = None
    context: Path | None = None
    columns: tuple[str, ...] = ()
    preset: str = "cpu-32"
    steps: int | None = None
    layers: tuple[str, ...] = ()
    held_out: float = 0.15
    measure: MeasureName = "predictors"
    rerender: RerenderName = "none"
    option: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        _check_minimum(self, steps=1, seed=0)


@dataclass(frozen=True, kw_only=True)
class RunClassifierOptions:
    """The classifier that a trained surrogate is used with.

    Attributes:
        model: the classifier; none for that of the training.
        weights: its weights file; none for that of the training.
        device: where to run, such as cpu or cuda.
    """

    model: str | None = None
    weights: str | None = None
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunOptions(RunClassifierOptions):
    """The classifier and the images that a trained surrogate is used with.

    Attributes:
        images: folder of other images; none for those held out in training.
        context: CSV with the context of `images`, as for training.
    """

    images: Path | None = None
    context: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ExplainSurrogateOptions:
    """How images are explained by a surrogate.

    Attributes:
        target: class explained, by name or index; none for the predicted one.
        flip_to: class to flip to; none for the runner-up.
        confidence: probability that the class flipped to must reach, from 0 to below 1; 0 for the likeliest.
        do: CONTEXT=VALUE, as in thickness=4.0: also show the image with the context set so.
        propagate: let the effects of what `do` sets respond, along the graph.
        permutations: behind the importances of each image; even.
        values: images in a latent traversal.
        residual_transfer: measure effects with the residual transferred to the input image, not on the reconstruction.
        seed: of everything drawn.
    """

    target: str | None = None
    flip_to: str | None = None
    confidence: float = 0.0
    do: tuple[str, ...] = ()
    propagate: bool = False
    permutations: int = 64
    values: int = 9
    residual_transfer: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_minimum(self, permutations=2, values=3, seed=0)


@dataclass(frozen=True, kw_only=True)
class DiscoverOptions:
    """How the causal graph of what a classifier perceives is discovered.

    Attributes:
        tier: CONCEPT=NUMBER: a concept is never caused by one of a higher tier.
        required: "a->b": a causes b wherever the two are joined.
        forbidden: "a->b": a cannot cause b.
        method: pc; fci, which allows for hidden common causes; or ges.
        test: of independence: "fisherz" sees rising and falling dependence, "kci" (a kernel test, slow) any.
        bootstraps: resamples behind the confidence of each edge.
        max_interventions: images that are intervened on, at most.
        target: class that the edges to the decision are for; none for each image's own, and the second of two.
        residual_transfer: measure effects with the residual transferred to the input image, not on the reconstruction.
        seed: of everything drawn.
    """

    tier: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    method: Literal["pc", "fci", "ges"] = "pc"
    test: Literal["fisherz", "kci"] = "fisherz"
    bootstraps: int = 50
    max_interventions: int = 200
    target: str | None = None
    residual_transfer: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_minimum(self, bootstraps=0, max_interventions=20, seed=0)


@dataclass(frozen=True, kw_only=True)
class AssessOptions:
    """How the fidelity of a surrogate is measured.

    Attributes:
        measure: what re-measures generated images; none for what the training used.
        keep: let this assessment decide what is refused, and explain against these images.
        seed: of everything drawn.
    """

    measure: MeasureName | None = None
    keep: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_minimum(self, seed=0)
