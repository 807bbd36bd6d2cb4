"""Explain a class by concepts over many images of it (global Visual-TCAV), and test it by TCAV scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from pellucid import concepts
from pellucid.classifiers import Classifier
from pellucid.concepts import (
    Bootstrap,
    ClassExplanation,
    TCAVResult,
    VisualTCAV,
    class_rows,
    compute_concept_maps,
    tcav,
    tcav_rows,
)
from pellucid.data import read_image
from pellucid.storage import to_json
from pellucid.workflows.concept_cavs import CavsByLayer, concept_targets, describe_cavs, gather_cavs, make_explainers
from pellucid.workflows.options import ExplainClassOptions, TCAVOptions
from pellucid.workflows.reading_inputs import layer_labels

_SHOWN = 3  # examples with the most, and with the least evidence
_FIRST = 8
_LONG_SIDE = 168  # pixels of a thumbnail
_BATCH = 8


@dataclass(frozen=True, eq=False)
class ClassExamples:
    """Images as the network saw them, with the concept maps of each layer.

    Attributes:
        thumbnails: index of the image -> what the network saw of it, small.
        first: the images that stand for the class at the top of a page.
        maps: (layer, index of the image) -> (D, h, w).
        size: (width, height) of a thumbnail.
    """

    thumbnails: Mapping[int, Image.Image]
    first: tuple[int, ...]
    maps: Mapping[tuple[str, int], Tensor]
    size: tuple[int, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassConcepts:
    """Classes explained by concepts at several layers.

    Attributes:
        results: one for every layer.
        cavs: layer -> the concepts there.
        layers: what each layer is called on a page.
        examples: images with the most and with the least evidence.
        about: how the results were made.
        options: of the explainers.
    """

    results: Sequence[ClassExplanation]
    cavs: CavsByLayer
    layers: Mapping[str, str]
    examples: ClassExamples
    about: Mapping[str, Any]
    options: Mapping[str, object]

    def to_dict(self, **more: object) -> dict[str, Any]:
        """All numbers as plain JSON: "about", to which `more` is added, and tidy "rows"."""
        rankings = [
            {
                "layer": result.layer,
                "target": target,
                "score": score,
                "ranking": [vars(ranked) for ranked in result.ranking(t, score)],
            }
            for result in self.results
            for t, target in enumerate(result.targets)
            for score in ("signed", "reference")
        ]
        about = {
            **self.about,
            "options": self.options,
            "notes": list(dict.fromkeys(note for result in self.results for note in result.notes)),
            **more,
            "passes": {result.layer: vars(result.passes) for result in self.results},
            "rankings": rankings,
        }
        whole: dict[str, Any] = to_json({"about": about, "rows": list(class_rows(self.results))})
        return whole


@dataclass(frozen=True, eq=False, kw_only=True)
class TCAVScores:
    """A class tested by TCAV at several layers.

    Attributes:
        results: one for every layer.
        files: the images.
        about: how the results were made.
    """

    results: Sequence[TCAVResult]
    files: Sequence[Path]
    about: Mapping[str, Any]

    def to_dict(self, **more: object) -> dict[str, Any]:
        """All numbers as plain JSON: "about", to which `more` is added, and tidy "rows"."""
        rows = list(tcav_rows(self.results, [str(file) for file in self.files]))
        about: dict[str, Any] = {**self.about, **more}
        whole: dict[str, Any] = to_json({"about": about, "rows": rows})
        return whole


def explain_class(
    classifier: Classifier,
    files: Sequence[str | Path],
    options: ExplainClassOptions,
    *,
    cavs: CavsByLayer | None = None,
    on_images: Callable[[int], None] = lambda number: None,
) -> ClassConcepts:
    """Explain classes by concepts over image files of them.

    Args:
        classifier: made with `preprocess`.
        files: image files.
        options: which concepts, layers and classes; at least one class.
        cavs: layer -> CAVs; by default those that `options` asks for (`gather_cavs`).
        on_images: called after each batch with the number of its images.

    Raises:
        TargetError: no class.
        PellucidError: no such class, layer or concept.
    """
    targets = concept_targets(classifier, options.target)
    cavs = gather_cavs(classifier, options) if cavs is None else cavs
    explainers = make_explainers(classifier, cavs, options)
    results = concepts.explain_class(
        explainers,
        list(map(Path, files)),
        targets,
        bootstrap=Bootstrap(hierarchical=options.hierarchical, seed=options.seed),
        on_images=on_images,
    )
    return ClassConcepts(
        results=results,
        cavs=cavs,
        layers=layer_labels(classifier, [result.layer for result in results]),
        examples=choose_examples(classifier, explainers, results),
        about=describe_cavs(classifier, cavs),
        options=explainers[0].options,
    )


def score_tcav(
    classifier: Classifier,
    files: Sequence[str | Path],
    options: TCAVOptions,
    *,
    cavs: CavsByLayer | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> TCAVScores:
    """TCAV scores of a class, tested: for how many images a step towards a concept raises its logit.

    Args:
        classifier: made with `preprocess`.
        files: image files.
        options: which concepts, layers and class.
        cavs: layer -> CAVs; by default those that `options` asks for (`gather_cavs`).
        on_layer: called after each layer.

    Raises:
        PellucidError: no such class, layer or concept.
    """
    paths = list(map(Path, files))
    (target,) = concept_targets(classifier, [options.target]) or []
    cavs = gather_cavs(classifier, options) if cavs is None else cavs
    images, results = classifier.read(paths), []
    choices = {name: getattr(options, name) for name in ("random_sets", "permutations", "seed")}
    for layer, at_layer in cavs.items():
        results.append(tcav(classifier.at(layer), at_layer, images, target, **choices, max_batch=options.max_batch))
        on_layer()
    notes = list(dict.fromkeys(note for result in results for note in result.notes))
    about = describe_cavs(classifier, cavs, notes=notes, **choices)
    return TCAVScores(results=results, files=paths, about=about)


def choose_examples(
    classifier: Classifier, explainers: Sequence[VisualTCAV], results: Sequence[ClassExplanation]
) -> ClassExamples:
    """Read the images to show once more and map the concepts in them: one pass per image for all layers.

    Args:
        classifier: made with `preprocess`; it reads the images again.
        explainers: what `pellucid.concepts.explain_class` was given.
        results: what it returned, for files.

    Raises:
        ImageError: an image is not there any more.
    """
    sources = results[0].sources
    first = tuple(range(min(_FIRST, len(sources))))
    shown = set(first)
    for result in results:
        for t in range(len(result.targets)):
            for d in range(len(result.concepts)):
                shown |= {n for indices in extreme_images(result, d, t) for n in indices}
    height, width = classifier.input_shape[1:]
    shrink = _LONG_SIDE / max(height, width)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    layers = classifier.at_layers([explainer.view.layer for explainer in explainers])
    thumbnails: dict[int, Image.Image] = {}
    maps: dict[tuple[str, int], Tensor] = {}
    order = sorted(shown)
    for indices in (order[start : start + _BATCH] for start in range(0, len(order), _BATCH)):
        images = [read_image(sources[n]) for n in indices]
        for n, image in zip(indices, images, strict=True):
            thumbnails[n] = _crop_as_seen(classifier, image, size)
        activations = layers.activations(classifier.read(images))
        for explainer, activation in zip(explainers, activations, strict=True):
            concept_maps, _ = compute_concept_maps(activation, explainer.cavs)
            maps |= {(explainer.view.layer, n): own.cpu() for n, own in zip(indices, concept_maps, strict=True)}
    return ClassExamples(thumbnails, first, maps, size)


def extreme_images(result: ClassExplanation, d: int, t: int) -> tuple[list[int], list[int]]:
    """Images with the most and with the least evidence, none twice.

    Args:
        result: of one layer.
        d: index of the concept.
        t: index of the target.

    Returns:
        Indices of the images, each list with its most extreme one first.
    """
    order = result.signed.values[:, d, t].argsort(descending=True, stable=True).tolist()
    count = min(_SHOWN, (len(order) + 1) // 2)
    return order[:count], order[count:][-count:][::-1]


def _crop_as_seen(classifier: Classifier, image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The part of an image that the network saw; white where the preprocessing padded."""
    left, top, right, bottom = classifier.geometry(*image.size).box
    box = (round(left), round(top), round(right), round(bottom))
    window = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), "white")
    window.paste(image, (-box[0], -box[1]))
    return window.resize(size, Image.Resampling.LANCZOS)
