"""Example images of the global concept page: those with the most and the least evidence, as the network saw them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.concepts import ClassExplanation, VisualTCAV
from pellucid.concepts.concept_scores import compute_concept_maps
from pellucid.concepts.multi_layer import LayerChain
from pellucid.data import Geometry, read_image
from pellucid.reports.attribution.explain_image import geometry_of
from pellucid.reports.concepts.parts import Scale, map_uri
from pellucid.reports.shared.html import data_uri

_SHOWN = 3
_FIRST = 8
_LONG_SIDE = 168
_BATCH = 8


@dataclass(frozen=True)
class Examples:
    """Images as the network saw them, with the concept maps of each layer.

    Attributes:
        thumbs: index of the image -> data URI.
        first: the images that stand for the class at the top of the page.
        aspect: width / height of what the network sees, as CSS.
        maps: (layer, index of the image) -> (D, h, w).
        size: (width, height) of a thumbnail.
    """

    thumbs: dict[int, str]
    first: tuple[int, ...]
    aspect: str
    maps: dict[tuple[str, int], Tensor]
    size: tuple[int, int]

    def of(self, found: ClassExplanation, t: int, scale: Scale) -> list[dict[str, Any]]:
        """What the template prints of each concept's examples at a layer, concepts in the order of their means."""
        order = found.signed.mean[:, t].argsort(descending=True, stable=True).tolist()
        views = []
        for d in order:
            highest, lowest = _extremes(found, d, t)
            shots = {
                name: [self._shot(found, d, t, n, scale) for n in chosen]
                for name, chosen in (("highest", highest), ("lowest", lowest))
            }
            views.append({"name": found.concepts[d], **shots})
        return views

    def _shot(self, found: ClassExplanation, d: int, t: int, n: int, scale: Scale) -> dict[str, Any]:
        whole = Geometry(*self.size, box=(0, 0, *self.size))
        return {
            "image": n,
            "name": Path(found.sources[n]).name,
            "map": map_uri(self.maps[found.layer, n][d], whole, self.size),
            "text": scale.write(float(found.signed.values[n, d, t])),
            "seen": f"{float(found.strongest[n, d]):.2f}",
        }


def choose_examples(
    classifier: Classifier, explainers: Sequence[VisualTCAV], results: Sequence[ClassExplanation]
) -> Examples:
    """Read the images to show once more and map the concepts in them: one pass per image for all layers."""
    sources = results[0].sources
    first = tuple(range(min(_FIRST, len(sources))))
    shown = set(first)
    for found in results:
        for t in range(len(found.targets)):
            for d in range(len(found.concepts)):
                shown |= {n for chosen in _extremes(found, d, t) for n in chosen}
    height, width = classifier.input_shape[1:]
    shrink = _LONG_SIDE / max(height, width)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    chain = LayerChain([explainer.view for explainer in explainers])
    thumbs: dict[int, str] = {}
    maps: dict[tuple[str, int], Tensor] = {}
    order = sorted(shown)
    for indices in (order[start : start + _BATCH] for start in range(0, len(order), _BATCH)):
        images = [read_image(sources[n]) for n in indices]
        for n, image in zip(indices, images, strict=True):
            thumbs[n] = data_uri(_as_seen(classifier, image, size), "JPEG", quality=80)
        activations = chain.activations(classifier.read(images))
        for explainer, activation in zip(explainers, activations, strict=True):
            found_maps, _ = compute_concept_maps(activation, explainer.cavs)
            maps |= {(explainer.view.layer, n): own.cpu() for n, own in zip(indices, found_maps, strict=True)}
    return Examples(thumbs, first, f"{size[0]} / {size[1]}", maps, size)


def _extremes(found: ClassExplanation, d: int, t: int) -> tuple[list[int], list[int]]:
    """Images with the most and with the least evidence, none twice."""
    order = found.signed.values[:, d, t].argsort(descending=True, stable=True).tolist()
    count = min(_SHOWN, (len(order) + 1) // 2)
    return order[:count], order[count:][-count:][::-1]


def _as_seen(classifier: Classifier, image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The part of an image that the network saw; white where the preprocessing padded."""
    left, top, right, bottom = geometry_of(classifier, image).box
    box = (round(left), round(top), round(right), round(bottom))
    window = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), "white")
    window.paste(image, (-box[0], -box[1]))
    return window.resize(size, Image.Resampling.LANCZOS)
