"""Fitting CAVs: images are streamed twice, once for the directions and once for the emblems."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pellucid.classifiers import LayerView
from pellucid.concepts.cav import CAV
from pellucid.concepts.cav_cache import CavCache
from pellucid.concepts.concept_sets import (
    ConceptSet,
    Images,
    check_sets,
    concept_set,
    warn,
)
from pellucid.concepts.estimators import Estimator, find_estimator
from pellucid.concepts.layer_activations import Inputs, LayerActivations
from pellucid.concepts.layer_fit import FitOptions, LayerFit, PartialFit
from pellucid.concepts.multi_layer import order_by_depth

HELD_CONCEPT_BYTES, HELD_NEGATIVE_BYTES = 64 * 2**20, 256 * 2**20
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

    Raises:
        PellucidError: fewer than two images on a side, or the same images on both.
        ModelError: NaN or infinite activations.
    """
    chosen = name or (Path(concept_images).name if isinstance(concept_images, str | Path) else "concept")
    concept = concept_set(concept_images, chosen)
    concept = concept if name is None else replace(concept, name=name)
    return fit_cavs(view, [concept], negative_images, estimator, options=options, cache=cache)[0]


def fit_cavs(
    view: LayerView,
    concepts: Mapping[str, Images] | Sequence[ConceptSet],
    negative_images: Images | ConceptSet,
    estimator: str | Estimator = "difference",
    *,
    options: FitOptions | None = None,
    cache: str | Path | None = None,
) -> list[CAV]:
    """Fit the CAVs of several concepts that share their negatives: these go through the network once for all.

    Args:
        view, negative_images, estimator, options, cache: as in `fit_cav`.
        concepts: images by name, or concept sets.

    Returns:
        CAVs in the order of the concepts. Remarks on them are also emitted as `ConceptWarning`.
    """
    return fit_layers([view], concepts, negative_images, estimator, options=options, cache=cache)[0]


def fit_layers(
    views: Sequence[LayerView],
    concepts: Mapping[str, Images] | Sequence[ConceptSet],
    negative_images: Images | ConceptSet,
    estimator: str | Estimator = "difference",
    *,
    options: FitOptions | None = None,
    cache: str | Path | None = None,
) -> list[list[CAV]]:
    """Fit the CAVs of several concepts at several layers: images are read once, and each layer goes on from the last.

    The CAVs are those of `fit_cavs` at each layer.

    Args:
        views: of one classifier, in any order.
        concepts, negative_images, estimator, options, cache: as in `fit_cavs`.

    Returns:
        CAVs for each view, in the order of the concepts.
    """
    options, found = options or FitOptions(), find_estimator(estimator)
    sets = (
        [concept_set(images, name) for name, images in concepts.items()] if isinstance(concepts, Mapping) else concepts
    )
    given = [
        Inputs(one, views[0].classifier, options.max_batch)
        for one in (*sets, concept_set(negative_images, "negatives"))
    ]
    remarks = [check_sets(one.concept.name, one.digests, given[-1].digests) for one in given[:-1]]
    fitted: dict[int, list[CAV]] = {}
    before: list[LayerActivations | None] = [None] * len(given)
    for index in order_by_depth(views):
        limits = [HELD_CONCEPT_BYTES] * len(sets) + [HELD_NEGATIVE_BYTES]
        activations = [LayerActivations(views[index], *each) for each in zip(given, limits, before, strict=True)]
        fit = LayerFit(views[index], activations[-1], found, options)
        fitted[index] = _fit_layer(fit, activations[:-1], remarks, cache)
        for earlier in before:
            if earlier is not None:
                earlier.release()
        before = [*activations]
    return [fitted[index] for index in range(len(views))]


def _fit_layer(
    fit: LayerFit, concepts: Sequence[LayerActivations], remarks: Sequence[list[str]], cache: str | Path | None
) -> list[CAV]:
    store = None if cache is None else CavCache(cache, fit.view, fit.fit_config)
    absent = fit.negatives.inputs.digests
    found: dict[int, CAV] = {}
    drafts: dict[int, PartialFit] = {}
    for index, (activations, said) in enumerate(zip(concepts, remarks, strict=True)):
        concept = activations.inputs.concept
        cached = None if store is None else store.look_up(activations.inputs.digests, absent)
        if cached is None:
            drafts[index] = fit.draft(activations, said)
        else:
            found[index] = replace(
                cached,
                **fit.provenance(concept),
                remarks=said + fit.quality_warnings(concept, cached.direction, cached.auc),
            )
    for (index, draft), cav in zip(drafts.items(), fit.compute_emblems(list(drafts.values())), strict=True):
        found[index] = cav
        if store is not None:
            store.keep(cav, draft.activations.inputs.digests, absent)
    cavs = [found[index] for index in range(len(concepts))]
    for cav in cavs:
        warn(cav.remarks)
    return cavs
