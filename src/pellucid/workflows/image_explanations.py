"""Explain image files: by attribution maps, every method at every layer, and by concepts (Visual-TCAV)."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid.attribution import Explanation, Method, TargetLike, View, explain_case, iterate_cases
from pellucid.classifiers import Classifier
from pellucid.concepts import ConceptExplanation, VisualTCAV, cav_rows, concept_rows, explain_layers
from pellucid.errors import ImageError, PellucidError
from pellucid.storage import to_json
from pellucid.workflows.concept_cavs import CavsByLayer, concept_targets, describe_cavs, gather_cavs, make_explainers
from pellucid.workflows.options import ExplainConceptsOptions, ExplainOptions
from pellucid.workflows.reading_inputs import ImageFacts, class_indices, layer_labels, read_input, select_methods


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageExplanation(ImageFacts):
    """One image explained by several methods at several layers.

    Attributes:
        explanations: one for every layer and method; the receipt has the seconds that it took. What the methods at a
            layer share is counted in the passes of the first, so that their sum is what was run.
        layer_shapes: (C, h, w) of each layer's activation.
        concepts: the image explained by concepts, too.
    """

    explanations: Sequence[Explanation]
    layer_shapes: Mapping[str, tuple[int, ...]]
    concepts: "ImageConcepts | None" = None

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON, without the maps."""
        return {
            "file": str(self.path),
            "classifier": dict(self.classifier),
            "predictions": [vars(prediction) for prediction in self.predictions],
            "explanations": [_numbers(explanation) for explanation in self.explanations],
        }


def explain_images(
    classifier: Classifier,
    files: Sequence[str | Path],
    options: ExplainOptions = ExplainOptions(),
    *,
    methods: Sequence[Method] | None = None,
    cavs: CavsByLayer | None = None,
    on_map: Callable[[Path, str, str], None] = lambda file, layer, method: None,
    on_failure: Callable[[Path, ImageError], None] | None = None,
) -> Iterator[ImageExplanation]:
    """Explain image files one after the other.

    Args:
        classifier: made with `preprocess`.
        files: image files.
        options: methods, layers and targets by name.
        methods: methods with their own options, instead of those that `options` names.
        cavs: layer -> CAVs, to explain each image by concepts, too.
        on_map: called with file, layer and method before each explanation.
        on_failure: called with a file that is not an image; by default that is an error.

    Yields:
        An `ImageExplanation` for each file that can be read.

    Raises:
        ImageError: a file is not an image, and `on_failure` is not given.
        PellucidError: no such method, option, target or layer.

    >>> import tempfile, pellucid as pl
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (28, 28), 200).save(f"{folder}/gray.png")
    ...     options = ExplainOptions(methods=("GradCAM", "LRP"), layers=("middle", "final"))
    ...     (report,) = explain_images(pl.load("digit_cnn"), [f"{folder}/gray.png"], options)
    >>> [(explanation.method, report.layers[explanation.layer]) for explanation in report.explanations][::3]
    [('GradCAM', 'middle: 6'), ('LRP', 'final: 10')]
    """
    chosen = methods or make_map_methods(options)
    target = class_indices(classifier, options.target)
    by_concepts = ExplainConceptsOptions(max_batch=options.max_batch, max_bytes=options.max_bytes)
    explainers = make_explainers(classifier, cavs or {}, by_concepts)
    for file in map(Path, files):

        def show(layer: str, method: str, file: Path = file) -> None:
            on_map(file, layer, method)

        try:
            image = explain_image(classifier, file, chosen, options.layers, target, top=options.top, on_map=show)
        except ImageError as error:
            if on_failure is None:
                raise
            on_failure(file, error)
            continue
        if explainers:
            concepts = explain_image_by_concepts(classifier, file, explainers, target, top=options.top)
            image = replace(image, concepts=concepts)
        yield image


def make_map_methods(options: ExplainOptions) -> list[Method]:
    """The attribution methods that options name.

    >>> [method.label for method in make_map_methods(ExplainOptions(methods=("GradCAM",)))]
    ['GradCAM']
    """
    return select_methods(
        options.methods,
        options.option,
        smooth=options.smooth,
        max_batch=options.max_batch,
        max_bytes=options.max_bytes,
    )


def explain_image(
    classifier: Classifier,
    path: str | Path,
    methods: Sequence[Method],
    layers: Sequence[str],
    target: TargetLike = None,
    *,
    top: int = 5,
    on_map: Callable[[str, str], None] = lambda layer, method: None,
) -> ImageExplanation:
    """Explain one image file with every method at every layer.

    Args:
        classifier: made with `preprocess`.
        path: image file.
        methods: all explain the same prepared case of a layer.
        layers: names or aliases.
        target: as methods take it; None for the predicted class.
        top: how many predictions to keep.
        on_map: called with layer and method before each explanation.

    Raises:
        ImageError: the file is not an image.
        PellucidError: bad target, layer or classifier.
    """
    if not layers:
        raise PellucidError("no layers given; name some, such as input, middle or final")
    images, facts = read_input(classifier, path, top=top)
    aliases = {classifier.resolve(layer): layer for layer in reversed(layers)}
    explanations: list[Explanation] = []
    for layer in reversed(aliases):
        explanations += _explain_at(classifier.at(layer), images, target, methods, on_map)
    return ImageExplanation(
        **facts,
        layers={name: name if alias == name else f"{alias}: {name}" for name, alias in aliases.items()},
        layer_shapes={info.name: info.shape for info in classifier.layers() if info.name in aliases},
        explanations=explanations,
    )


def _explain_at(
    view: View,
    images: Tensor,
    target: TargetLike,
    methods: Sequence[Method],
    on_map: Callable[[str, str], None],
) -> Iterator[Explanation]:
    """Explanations of one image at a layer; the first method's passes include what all share."""
    for case in iterate_cases(view, images, target, methods):
        for method in methods:
            on_map(view.layer, method.label)
            started = time.perf_counter()
            explanation = explain_case(case, method)
            receipt = replace(explanation.receipt, seconds=time.perf_counter() - started)
            yield replace(explanation, receipt=receipt)


def _numbers(explanation: Explanation) -> dict[str, Any]:
    gap, seconds = explanation.gap, explanation.receipt.seconds
    return {
        "method": explanation.method,
        "layer": explanation.layer,
        "targets": list(explanation.targets[0]),
        "scores": explanation.scores[0].tolist(),
        "gap": None if gap is None else gap.flatten().tolist(),
        "options": {name: _plain(value) for name, value in explanation.options.items()},
        "notes": list(explanation.notes[0]),
        "passes": vars(explanation.passes),
        "seconds": None if seconds is None else round(seconds, 4),
    }


def _plain(value: object) -> object:
    """A value that JSON has."""
    return value if isinstance(value, int | float | str | bool | type(None)) else str(value)


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageConcepts(ImageFacts):
    """One image explained by concepts.

    Attributes:
        explanations: one for every layer, of this image alone.
    """

    explanations: Sequence[ConceptExplanation]

    def rows(self) -> list[dict[str, Any]]:
        """A tidy table as plain JSON: one row per number."""
        rows: list[dict[str, Any]] = to_json(list(concept_rows(self.explanations, [str(self.path)])))
        return rows

    def facts(self) -> dict[str, object]:
        """File, predictions, remarks and passes."""
        return {
            "file": str(self.path),
            "predictions": [vars(prediction) for prediction in self.predictions],
            "notes": list(dict.fromkeys(note for explanation in self.explanations for note in explanation.notes)),
            "passes": {explanation.layer: vars(explanation.passes) for explanation in self.explanations},
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class ConceptReport:
    """Several images explained by the same concepts.

    Attributes:
        images: in the order of the files.
        cavs: layer -> the concepts there.
        about: how they were made.
    """

    images: Sequence[ImageConcepts]
    cavs: CavsByLayer
    about: dict[str, Any]

    def to_dict(self, **more: object) -> dict[str, Any]:
        """All numbers as plain JSON: "about", to which `more` is added, and tidy "rows"."""
        about = {**self.about, **more, "images": [image.facts() for image in self.images]}
        rows = [row for cavs in self.cavs.values() for row in cav_rows(cavs)]
        whole: dict[str, Any] = to_json({"about": about, "rows": rows})
        whole["rows"] += [row for image in self.images for row in image.rows()]
        return whole


def explain_images_by_concepts(
    classifier: Classifier,
    files: Sequence[str | Path],
    options: ExplainConceptsOptions = ExplainConceptsOptions(),
    *,
    cavs: CavsByLayer | None = None,
    on_image: Callable[[Path], None] = lambda file: None,
) -> ConceptReport:
    """Explain image files by concepts at several layers.

    Args:
        classifier: made with `preprocess`.
        files: image files.
        options: which concepts, layers and targets.
        cavs: layer -> CAVs; by default those that `options` asks for (`gather_cavs`).
        on_image: called with each file before it is explained.

    Raises:
        ImageError: a file is not an image.
        PellucidError: no such class, layer or concept.
    """
    targets = concept_targets(classifier, options.target)
    cavs = gather_cavs(classifier, options) if cavs is None else cavs
    explainers = make_explainers(classifier, cavs, options)
    images = []
    for file in map(Path, files):
        on_image(file)
        images.append(explain_image_by_concepts(classifier, file, explainers, targets))
    about = describe_cavs(classifier, cavs, options=images[0].explanations[0].options if images else {})
    return ConceptReport(images=images, cavs=cavs, about=about)


def explain_image_by_concepts(
    classifier: Classifier,
    path: str | Path,
    explainers: Sequence[VisualTCAV],
    targets: TargetLike = None,
    *,
    top: int = 5,
) -> ImageConcepts:
    """Explain one image file by concepts at several layers, from one pass of the image.

    Args:
        classifier: made with `preprocess`.
        path: image file.
        explainers: one per layer.
        targets: as `VisualTCAV` takes them; None for the three most likely classes.
        top: how many predictions to keep.

    Raises:
        ImageError: the file is not an image.
        TargetError: no such class.
    """
    images, facts = read_input(classifier, path, top=top)
    explanations = explain_layers(explainers, images, targets, resample=True)
    labels = layer_labels(classifier, [explanation.layer for explanation in explanations])
    return ImageConcepts(**facts, layers=labels, explanations=explanations)
