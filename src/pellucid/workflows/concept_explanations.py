"""Explain image files by concepts (Visual-TCAV): where they are seen, and how much they counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.attribution import TargetLike
from pellucid.classifiers import Classifier
from pellucid.concepts import ConceptExplanation, VisualTCAV, cav_rows, concept_rows, explain_layers
from pellucid.storage import to_json
from pellucid.workflows.concept_cavs import CavsByLayer, concept_targets, describe_cavs, gather_cavs, make_explainers
from pellucid.workflows.options import ExplainConceptsOptions
from pellucid.workflows.reading_inputs import ImageFacts, layer_labels, read_input


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
    options: ExplainConceptsOptions = ExplainConceptsOptions(),  # noqa: B008 - frozen
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
