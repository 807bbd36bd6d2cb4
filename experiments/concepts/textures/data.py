"""What the texture experiment runs on: concept sets, classes, and what anybody would expect of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import pellucid as pl
from experiments.attribution_evaluation.models import load_model
from pellucid.classifiers import Classifier
from pellucid.concepts import ConceptSet, concept_set
from pellucid.data import Preprocess, find_images
from pellucid.errors import ImageError
from pellucid.synthetic import NEGATIVES, TEXTURES, draw_images

LAYERS = {
    "efficientnet_lite0": ("blocks.6", "blocks.10", "blocks.15", "head"),
    "mobilenet_v2": ("features.17",),
    "squeezenet": ("features.12",),
}
"""Layers by classifier. Blocks of the first two end in a linear convolution (signed); head and SqueezeNet in a ReLU."""

EXPECTED = {
    "zebra": "striped",
    "tiger": "striped",
    "lionfish": "striped",
    "garter snake": "striped",
    "dalmatian": "dotted",
    "ladybug": "dotted",
    "leopard": "dotted",
    "cheetah": "dotted",
    "strawberry": "dotted",
    "spotted salamander": "dotted",
    "crossword puzzle": "chequered",
    "spider web": "cobwebbed",
    "chainlink fence": "crosshatched",
    "window screen": "crosshatched",
    "mosquito net": "crosshatched",
    "knot": "braided",
    "hamper": "braided",
    "bubble": "bubbly",
    "window shade": "banded",
    "radiator": "banded",
    "custard apple": "bumpy",
    "brain coral": "bumpy",
    "stone wall": "cracked",
    "European fire salamander": "blotchy",
}
"""Texture that the name of a class makes one expect; written down before anything was computed."""
HONEYCOMB = "honeycomb"
"""A class whose texture is among the drawn sets only."""
PLACEBO = "photographs"
"""A concept that is none: photographs like the negatives. It must not come out."""
_MANY = {
    "zebra": "zebra",
    "pizza": "caltech101_subset/pizza",
    "laptop": "caltech101_subset/laptop",
    "computer keyboard": "office31/amazon/keyboard",
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much the experiment takes.

    Attributes:
        per_concept, negatives: photographs of each texture, and without any.
        drawn, drawn_negatives: the same for drawn images.
        per_class: most images of a class that has many.
        classes: how many of the classes with many images.
        pairs: how many of `EXPECTED`.
        permutations: relabelings behind each p-value.
    """

    per_concept: int = 50
    negatives: int = 100
    drawn: int = 40
    drawn_negatives: int = 60
    per_class: int = 25
    classes: int = 4
    pairs: int = len(EXPECTED)
    permutations: int = 499


FULL = Sizes()


def load_classifier(name: str, data: Path) -> Classifier:
    """A classifier of `LAYERS` with its published weights, at the 224 pixels that it was trained for."""
    if name == "efficientnet_lite0":
        return pl.load(name)
    result = load_model(name, data)
    assert isinstance(result.preprocess, Preprocess)
    resize = None if result.preprocess.resize is None else 256
    preprocess = replace(result.preprocess, input_size=(224, 224), resize=resize)
    return Classifier(result.module, preprocess=preprocess, class_names=result.class_names, name=name)


def photo_sets(data: Path, classifier: Classifier, sizes: Sizes) -> tuple[list[ConceptSet], ConceptSet]:
    """Photographed textures and the placebo, with photographs of other classes as their negatives."""
    folders = sorted(path for path in (data / "dtd_concepts").iterdir() if path.is_dir())
    textures = [
        concept_set(folder, folder.name, count=min(sizes.per_concept, len(find_images(folder)))) for folder in folders
    ]
    samples = _samples(data)
    explained = {classifier.class_index(name) for name in (*EXPECTED, *_MANY, HONEYCOMB)}
    others = [file for index, file in enumerate(samples) if index not in explained]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = [others[place] for place in order[: sizes.negatives + sizes.per_concept]]
    placebo = concept_set(chosen[sizes.negatives :], PLACEBO)
    return [*textures, placebo], concept_set(chosen[: sizes.negatives], "negatives")


def drawn_name(texture: str) -> str:
    """What the drawn images of a texture are called here."""
    return f"drawn {texture}"


def drawn_sets(sizes: Sizes) -> tuple[list[ConceptSet], ConceptSet]:
    """pellucid's own textures, with its own images without regular texture as their negatives."""
    textures = [concept_set(draw_images(name, sizes.drawn), drawn_name(name)) for name in TEXTURES]
    return textures, concept_set(draw_images(NEGATIVES, sizes.drawn_negatives), "drawn negatives")


def class_images(data: Path, sizes: Sizes) -> dict[str, list[Path]]:
    """Files of the classes of which there are many, a seeded sample."""
    result = {}
    for name in list(_MANY)[: sizes.classes]:
        files = find_images(data / _MANY[name])
        chosen = concept_set(files, name, count=min(sizes.per_class, len(files)))
        result[name] = [path for path in chosen.images if isinstance(path, Path)]
    return result


def few_images(data: Path, classifier: Classifier, sizes: Sizes) -> list[tuple[str, Path]]:
    """The one or two images of each class in `EXPECTED`, and of honeycombs: (class, file)."""
    samples, labeled = _samples(data), find_images(data / "foolbox_imagenet20")
    result = []
    for name in (*list(EXPECTED)[: sizes.pairs], HONEYCOMB):
        index = classifier.class_index(name)
        files = [samples[index], *(file for file in labeled if file.stem.endswith(f"_{index}"))]
        result += [(name, file) for file in files]
    return result


def _samples(data: Path) -> Sequence[Path]:
    """One photograph of each of the 1000 classes, in the order of the classes."""
    files = sorted((data / "imagenet_samples_256").glob("*.jpg"))
    if len(files) != 1000:
        raise ImageError(f"{data / 'imagenet_samples_256'}: {len(files)} images, expected one for each of 1000 classes")
    return files
