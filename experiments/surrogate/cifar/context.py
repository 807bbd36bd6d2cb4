"""What is known of CIFAR-10 images besides their pixels: statistics by code, and what a classifier makes of concepts.

The classifier is the published ResNet-20; no image here is one that it was trained on.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import pellucid as pl
from experiments.attribution_evaluation.images import cifar_images
from experiments.surrogate.real_images.statistics import STATISTICS, measure_statistics, shown, surround_mask, unshown
from pellucid.concepts import (
    CAV,
    ConceptWarning,
    VisualTCAV,
    fit_cavs,
)
from pellucid.data import find_images, read_image

LAYER = "layer2"
"""The middle one of three stages, 32 channels on 16 x 16 cells."""

_COLORS = {"blue": (0.35, 0.55, 0.9), "green": (0.35, 0.6, 0.25), "brown": (0.55, 0.4, 0.25)}
_TEXTURE = "dotted"
SEEN = (*(f"{name} seen" for name in _COLORS), f"{_TEXTURE} seen")
COUNTED = ("blue counts", "green counts")
CONTEXTS = (*STATISTICS, *SEEN, *COUNTED)
"""`... seen` is the mean of Visual-TCAV's concept map, in [0, 1]; `... counts` is its signed attribution to the class
that the classifier gives the image, in logits. The colors are those of the surroundings."""

_PER_CONCEPT, _NEGATIVES = 50, 150
_CHUNK = 256


def load_images(classifier: pl.Classifier, data: Path, work: Path) -> tuple[Tensor, Tensor]:
    """CIFAR-10's test images in the classifier's input space, (10000, 3, 32, 32), and classes; in a random order."""
    labeled = cifar_images(data, work / "cifar10")
    order = torch.randperm(len(labeled), generator=torch.Generator().manual_seed(0)).tolist()
    images = classifier.read([labeled[row][0] for row in order])
    return images, torch.tensor([labeled[row][1] for row in order])


def fit_concepts(classifier: pl.Classifier, data: Path) -> list[CAV]:
    """CAVs of colored surroundings and of a texture, against ordinary photographs (ImageNet samples at 32 pixels).

    The images of a color are further ordinary photographs whose surroundings code has tinted, so that a CAV cannot
    tell drawings from photographs. The texture's are the middles of photographs from the Describable Textures Dataset.
    """
    files = find_images(data / "imagenet_samples_256")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = classifier.read([_middle(files[row]) for row in order[: _NEGATIVES + len(_COLORS) * _PER_CONCEPT]])
    negatives, plain = chosen[:_NEGATIVES], chosen[_NEGATIVES:]
    parts = torch.split(plain, _PER_CONCEPT)
    concepts = {
        name: _tinted(classifier, part, color, seed)
        for seed, (part, (name, color)) in enumerate(zip(parts, _COLORS.items(), strict=True))
    }
    textures = [_middle(file, 0.6) for file in find_images(data / "dtd_concepts" / _TEXTURE)]
    concepts[_TEXTURE] = classifier.read(textures)
    with warnings.catch_warnings():  # the AUC of each is among the results
        warnings.simplefilter("ignore", ConceptWarning)
        return fit_cavs(classifier.at(LAYER), concepts, negatives)


class Concepts:
    """Measures all contexts of images in the classifier's input space.

    Args:
        classifier: whose view of the concepts is measured.
        cavs: as `fit_concepts` returns them.
    """

    def __init__(self, classifier: pl.Classifier, cavs: list[CAV]) -> None:
        self._classifier = classifier
        self._explainer = VisualTCAV(classifier.at(LAYER), cavs, permutations=0, max_batch=_CHUNK)

    def __call__(self, images: Tensor, tell: Callable[[str], None] = lambda line: None) -> Tensor:
        """(N, K) in the order of `CONTEXTS`, of images (N, 3, 32, 32)."""
        result = []
        for chunk in torch.split(images, _CHUNK):
            result.append(torch.cat([measure_statistics(shown(self._classifier, chunk)), self._concepts(chunk)], dim=1))
            tell(f"measured the context of {sum(map(len, result))} of {len(images)} images")
        return torch.cat(result)

    def _concepts(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            classes = self._classifier.logits(images).argmax(1)
        result = self._explainer(images, classes[:, None])
        seen, counted = result.maps.mean((2, 3)), result.signed[:, :, 0]
        return torch.cat([seen, counted[:, : len(COUNTED)]], dim=1).detach()


def _tinted(classifier: pl.Classifier, images: Tensor, color: tuple[float, ...], seed: int) -> Tensor:
    """Photographs with surroundings in shades of a color; light and dark stay where they were."""
    random = torch.Generator().manual_seed(seed)
    plain = shown(classifier, images)
    shade = torch.tensor(color)[None, :, None, None] + 0.08 * torch.randn(len(plain), 3, 1, 1, generator=random)
    painted = (shade.clamp(0, 1) * (0.6 + 0.8 * plain.mean(1, keepdim=True))).clamp(0, 1)
    cover = 0.85 * surround_mask(plain.shape[-1])
    return unshown(classifier, plain * (1 - cover) + painted * cover)


def _middle(file: Path, part: float = 1.0) -> Image.Image:
    """The square in the middle of a photograph, `part` of its shorter side."""
    image = read_image(file)
    side = int(part * min(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
