"""The CAVs that options ask for: read from files, or fitted to folders of images and to drawn ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path

from pellucid.classifiers import Classifier
from pellucid.concepts import (
    CAV,
    ConceptSet,
    FitOptions,
    VisualTCAV,
    cav_files,
    check_cavs,
    collect_sets,
    fit_cavs,
    gram_matrix,
    load_cavs,
)
from pellucid.errors import PellucidError
from pellucid.results import library_versions
from pellucid.synthetic import COLORS, TEXTURES
from pellucid.workflows.options import (
    ConceptOptions,
    ConceptSourceOptions,
    ExplainConceptsOptions,
    ExplainOptions,
    FitConceptsOptions,
    TCAVOptions,
)
from pellucid.workflows.reading_inputs import classifier_facts

DEFAULT_LAYERS = ("middle", "final")

CavsByLayer = Mapping[str, Sequence[CAV]]


def gather_cavs(
    classifier: Classifier,
    options: ConceptOptions,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> dict[str, list[CAV]]:
    """Read or fit CAVs; classes that `options` names are looked up before.

    Args:
        classifier: whose activations they are directions of.
        options: which concepts, at which layers.
        on_stage: called with what is done next, in words.

    Returns:
        layer -> the CAVs there, in the order of the layers requested. Remarks on them are `ConceptWarning`s.

    Raises:
        PellucidError: no concepts, no such layer or class, or images that differ in nothing at any layer.

    >>> import warnings, pellucid as pl
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5), torch.nn.Flatten(), torch.nn.Linear(1152, 2))
    >>> classifier = pl.Classifier(network.eval(), preprocess=pl.data.Preprocess((16, 16)), input_size=16)
    >>> options = ConceptOptions(builtin=("striped", "red"), layers=("0",), count=10, cache="none")
    >>> with warnings.catch_warnings(action="ignore"):  # of concepts that an untrained network hardly knows
    ...     cavs = gather_cavs(classifier, options)
    >>> [cav.name for cav in cavs["0"]]
    ['striped', 'red']
    """
    if isinstance(options, ExplainConceptsOptions | TCAVOptions):
        concept_targets(classifier, [options.target] if isinstance(options.target, str) else options.target)
    cavs = _load(classifier, options) if _are_fitted(options) else _fit(classifier, options, on_stage)
    if not any(bool(cav.direction.any()) for at_layer in cavs.values() for cav in at_layer):
        raise PellucidError(
            f"images with and without the concepts activate {', '.join(cavs)} alike, so no concept has a "
            "direction; choose other layers, and check the weights"
        )
    return cavs


def gather_cavs_for_maps(
    classifier: Classifier,
    sources: ConceptSourceOptions,
    options: ExplainOptions,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> dict[str, list[CAV]]:
    """Concepts for images that are explained by maps: fitted CAVs at their own layers, others at those of the maps.

    Args:
        classifier: whose activations they are directions of.
        sources: which concepts.
        options: of the maps; concepts are not fitted at the input unless it is the only layer.
        on_stage: called with what is done next, in words.

    Returns:
        As `gather_cavs`; empty if `sources` names no concepts.
    """
    if not sources.are_named:
        return {}
    layers = tuple(layer for layer in options.layers if classifier.resolve(layer) != "input") or options.layers
    whole = ConceptOptions(**vars(sources), max_batch=options.max_batch)
    return gather_cavs(classifier, whole if _are_fitted(whole) else replace(whole, layers=layers), on_stage=on_stage)


@dataclass(frozen=True)
class CAVFolder:
    """The fitted CAVs in a folder.

    Attributes:
        cavs: file -> CAV.
        damaged: file that cannot be read -> reason.
    """

    cavs: Mapping[Path, CAV]
    damaged: Mapping[str, str]

    def by_layer(self) -> dict[str, list[CAV]]:
        """Layer -> the CAVs there."""
        layers: dict[str, list[CAV]] = {}
        for cav in self.cavs.values():
            layers.setdefault(cav.layer, []).append(cav)
        return layers

    def to_dict(self) -> dict[str, Any]:
        """Receipts, cosines, and what is damaged, as plain JSON."""
        receipts = [{"file": str(file), **cav.summary()} for file, cav in self.cavs.items()]
        return {"cavs": receipts, "cosines": compare_cavs(self.by_layer()), "damaged": dict(self.damaged)}


def read_cav_folder(folder: Path) -> CAVFolder:
    """Read each CAV in a folder, or why it cannot be read.

    Raises:
        PellucidError: there are none.
    """
    files = cav_files(folder)
    if not files:
        raise PellucidError(f"{folder}: no CAVs (*.safetensors) in this folder; `pellucid concepts fit` writes them")
    cavs, damaged = {}, {}
    for file in files:
        try:
            cavs[file] = CAV.load(file)
        except PellucidError as error:
            damaged[str(file)] = str(error).removeprefix(f"{file}: ")
    return CAVFolder(cavs, damaged)


def make_explainers(classifier: Classifier, cavs: CavsByLayer, options: ExplainConceptsOptions) -> list[VisualTCAV]:
    """Visual-TCAV at each layer.

    Args:
        classifier: whose layers they are.
        cavs: layer -> CAVs.
        options: baseline, permutations, seed and batches.
    """
    return [
        VisualTCAV(
            classifier.at(layer),
            at_layer,
            baseline=options.baseline,
            permutations=options.permutations,
            seed=options.seed,
            max_batch=options.max_batch,
            max_bytes=options.max_bytes,
        )
        for layer, at_layer in cavs.items()
    ]


def concept_targets(classifier: Classifier, texts: Sequence[str]) -> list[int | str] | None:
    """Classes by name or index, looked up before anything long is computed; None if none are given.

    >>> from pellucid.classifiers import load
    >>> concept_targets(load("digit_cnn"), ["3"]), concept_targets(load("digit_cnn"), [])
    ([3], None)
    """
    if classifier.num_classes == 1:  # one logit has two sides, which only Visual-TCAV names
        return [int(text) if text.isdecimal() else text for text in texts] or None
    return [classifier.class_index(text) for text in texts] or None


def describe_cavs(classifier: Classifier, cavs: CavsByLayer, **more: object) -> dict[str, Any]:
    """How a result was made: classifier, versions, and the receipt of every CAV."""
    return {
        "classifier": classifier_facts(classifier),
        "versions": library_versions(),
        "cavs": [cav.summary() for at_layer in cavs.values() for cav in at_layer],
        **more,
    }


def compare_cavs(cavs: CavsByLayer) -> dict[str, dict[str, dict[str, float]]]:
    """Cosines between the CAVs of a layer: layer -> concept -> other concept -> cosine.

    Args:
        cavs: layer -> CAVs; where they have several lengths, pooled and flattened ones, there are no cosines.
    """
    cosines: dict[str, dict[str, dict[str, float]]] = {}
    for layer, at_layer in cavs.items():
        names = [cav.name for cav in at_layer]
        if len({len(cav.direction) for cav in at_layer}) > 1:
            cosines[layer] = {name: {} for name in names}
            continue
        gram = gram_matrix(torch.stack([cav.direction for cav in at_layer])).tolist()
        cosines[layer] = {
            name: {other: gram[i][j] for j, other in enumerate(names) if j != i} for i, name in enumerate(names)
        }
    return cosines


def cav_cache_folder(text: str) -> Path | None:
    """The folder that the option `cache` names: none for "none", the user's own for an empty text.

    >>> cav_cache_folder("none") is None, cav_cache_folder("here")
    (True, PosixPath('here'))
    """
    if text.strip().lower() == "none":
        return None
    return Path(text) if text else user_cache_path("pellucid") / "cavs"


def _are_fitted(options: ConceptSourceOptions) -> bool:
    return options.concepts is not None and bool(cav_files(options.concepts))


def _load(classifier: Classifier, options: ConceptOptions) -> dict[str, list[CAV]]:
    folder = options.concepts or Path()
    if options.builtin or options.negatives is not None:
        raise PellucidError(f"{folder} holds fitted CAVs; --builtin and --negatives are for fitting")
    known: dict[str, list[CAV]] = {}
    for cav in load_cavs(folder):
        known.setdefault(cav.layer, []).append(cav)
    layers = [info.name for info in classifier.layers() if info.name in known] or list(known)
    if options.layers:
        layers = list(dict.fromkeys(classifier.resolve(name) for name in options.layers))
    missing = [layer for layer in layers if layer not in known]
    if missing or not layers:
        raise PellucidError(f"{folder} holds CAVs at {', '.join(known)}, none at {', '.join(missing) or 'none'}")
    for layer in layers:
        check_cavs(classifier.at(layer), known[layer])
    return {layer: known[layer] for layer in layers}


def _fit(
    classifier: Classifier,
    options: ConceptOptions,
    on_stage: Callable[[str], None],
) -> dict[str, list[CAV]]:
    features = options.features if isinstance(options, FitConceptsOptions) else "pooled"
    fitting = FitOptions(features=features, seed=options.seed, max_batch=options.max_batch)
    layers = dict.fromkeys(classifier.resolve(name) for name in options.layers or DEFAULT_LAYERS)
    views = {layer: classifier.at(layer) for layer in layers}
    sets, negatives = _collect(classifier, options, lambda name: on_stage(f"images: {name}"))
    on_stage(f"{len(sets)} concepts at {', '.join(views)}")
    cavs = fit_cavs(
        list(views.values()),
        sets,
        negatives,
        options.estimator,
        options=fitting,
        cache=cav_cache_folder(options.cache),
    )
    return dict(zip(views, cavs, strict=True))


def _collect(
    classifier: Classifier, options: ConceptOptions, on_set: Callable[[str], None]
) -> tuple[list[ConceptSet], ConceptSet]:
    groups = {"textures": list(TEXTURES), "colors": list(COLORS)}
    drawn = [name for text in options.builtin for name in groups.get(text, [text])]
    if options.concepts is None and not drawn:
        raise PellucidError("no concepts given: --concepts FOLDER, --builtin striped,dotted, or both")
    return collect_sets(
        options.concepts,
        list(dict.fromkeys(drawn)),
        options.negatives,
        count=options.count,
        size=max(16, *classifier.input_shape[1:]),
        seed=options.seed,
        on_set=on_set,
    )
