"""Fitting CAVs: images are streamed twice, once for the directions and once for the emblems."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

from pellucid.classifiers import LayerView
from pellucid.concepts.cav import CAV
from pellucid.concepts.concept_sets import ConceptSet, Images, check_sets, concept_set
from pellucid.concepts.estimators import Estimator, find_estimator
from pellucid.concepts.layer_activations import Inputs, LayerActivations
from pellucid.concepts.layer_fit import FitOptions, LayerFit

Concepts = Mapping[str, Images] | Sequence[ConceptSet]

CONCEPT_CACHE_BYTES, NEGATIVE_CACHE_BYTES = 64 * 2**20, 256 * 2**20
"""Activations of a concept's and of the negatives' images are kept for the second pass and for the next layer if they
take no more than this.
"""


def fit_cav(
    view: LayerView,
    concept_images: Images | ConceptSet,
    negative_images: Images | ConceptSet,
    estimator: str | Estimator = "difference",
    *,
    name: str | None = None,
    options: FitOptions | None = None,
    cache: str | Path | None = None,
) -> CAV:
    """Fit the CAV of one concept.

    Args:
        view: `classifier.at(layer)`.
        concept_images: a `ConceptSet`, or what `concept_set` takes: a folder, files, images, arrays, a tensor.
        negative_images: images without the concept, given in the same ways.
        estimator: a name from `ESTIMATORS`, or an `Estimator` with its options.
        name: of the concept; by default the folder's or the set's.
        options: how to fit and examine.
        cache: folder in which CAVs are kept. A CAV is found again only if weights, layer, precision, options, versions
            and every image as the network sees it are the same.

    Returns:
        The CAV. Remarks on it are also emitted as `ConceptWarning`.

    Raises:
        PellucidError: fewer than two images on a side, or the same images on both.
        ModelError: NaN or infinite activations.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cav = fit_cav(view, bright + 2, dark, "lda", name="bright")
        >>> cav.estimator, cav.auc > 0.9
        ('lda', True)
    """
    default = Path(concept_images).name if isinstance(concept_images, str | Path) else "concept"
    concept = concept_set(concept_images, name or default)
    concept = concept if name is None else replace(concept, name=name)
    return fit_cavs(view, [concept], negative_images, estimator, options=options, cache=cache)[0]


@overload
def fit_cavs(
    views: LayerView,
    concepts: Concepts,
    negative_images: Images | ConceptSet,
    estimator: str | Estimator = ...,
    *,
    options: FitOptions | None = ...,
    cache: str | Path | None = ...,
) -> list[CAV]: ...
@overload
def fit_cavs(
    views: Sequence[LayerView],
    concepts: Concepts,
    negative_images: Images | ConceptSet,
    estimator: str | Estimator = ...,
    *,
    options: FitOptions | None = ...,
    cache: str | Path | None = ...,
) -> list[list[CAV]]: ...
def fit_cavs(
    views: LayerView | Sequence[LayerView],
    concepts: Concepts,
    negative_images: Images | ConceptSet,
    estimator: str | Estimator = "difference",
    *,
    options: FitOptions | None = None,
    cache: str | Path | None = None,
) -> list[CAV] | list[list[CAV]]:
    """Fit the CAVs of several concepts that share their negatives, at one layer or at several.

    Images are read once, the negatives go through the network once for all concepts, and each layer continues from the
    one before it. The CAVs are those of `fit_cav` for each concept and layer.

    Args:
        views: `classifier.at(layer)`, or several of one classifier in any order.
        concepts: images by name, or concept sets.
        negative_images: images without any of the concepts, as `fit_cav` takes them.
        estimator: as in `fit_cav`.
        options: as in `fit_cav`.
        cache: as in `fit_cav`.

    Returns:
        CAVs in the order of the concepts; for a sequence of views, such a list for each of them. Remarks on the CAVs
        are also emitted as `ConceptWarning`.

    Raises:
        PellucidError: fewer than two images on a side, or the same images on both.
        ModelError: NaN or infinite activations.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cavs = fit_cavs([view.classifier.at("input"), view], {"bright": bright + 2}, dark)
        >>> [(cav.layer, len(cav.direction)) for (cav,) in cavs]
        [('input', 3), ('0', 4)]
    """
    every = views if isinstance(views, Sequence) else [views]
    options = options or FitOptions()
    sets = (
        [concept_set(images, name) for name, images in concepts.items()] if isinstance(concepts, Mapping) else concepts
    )
    *inputs, negatives = (
        Inputs(item, every[0].classifier, options.max_batch)
        for item in (*sets, concept_set(negative_images, "negatives"))
    )
    remarks = [check_sets(item.concept.name, item.digests, negatives.digests) for item in inputs]
    limits = [CONCEPT_CACHE_BYTES] * len(inputs) + [NEGATIVE_CACHE_BYTES]
    fitted: dict[int, list[CAV]] = {}
    earlier: list[LayerActivations | None] = [None] * len(limits)
    for index in every[0].classifier.at_layers(every).order:
        activations = [
            LayerActivations(every[index], *item) for item in zip((*inputs, negatives), limits, earlier, strict=True)
        ]
        fit = LayerFit(every[index], activations[-1], find_estimator(estimator), options)
        fitted[index] = fit.fit(activations[:-1], remarks, cache)
        for item in earlier:
            if item is not None:
                item.release()
        earlier = [*activations]
    by_view = [fitted[index] for index in range(len(every))]
    return by_view if isinstance(views, Sequence) else by_view[0]
