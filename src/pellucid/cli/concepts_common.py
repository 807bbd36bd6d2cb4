"""What the concept commands share: their options, where CAVs come from, and what is said about them."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import platformdirs
import typer

from pellucid.cli.common import messages, progress_bar, split_names
from pellucid.errors import ImageError, PellucidError

if TYPE_CHECKING:
    from pellucid.classifiers import Classifier
    from pellucid.concepts import CAV, ConceptSet

DEFAULT_LAYERS = "middle,final"

Concepts = Annotated[
    Path | None,
    typer.Option(
        "--concepts",
        help="Folder with a folder of images per concept (and one named 'negatives'), or with fitted CAVs.",
    ),
]
Builtin = Annotated[
    str, typer.Option(help="Concepts to draw, separated by commas (see `concepts list`); 'textures' for all textures.")
]
Negatives = Annotated[
    Path | None,
    typer.Option(help="Folder of images without the concepts. \\[default: 'negatives' in --concepts, else drawn]"),
]
ConceptLayers = Annotated[
    str | None,
    typer.Option(
        "--layers", help=f"Layers, separated by commas. \\[default: those of fitted CAVs, else {DEFAULT_LAYERS}]"
    ),
]
EstimatorName = Annotated[str, typer.Option("--estimator", help="difference, pattern, ridge, lda, logistic, svm.")]
Count = Annotated[int | None, typer.Option(min=1, help="At most so many images of each concept. \\[default: all; 40]")]
Seed = Annotated[int, typer.Option(help="Of samples, drawings, splits, relabellings and bootstraps.")]
Cache = Annotated[
    str, typer.Option(help="Folder that keeps CAVs by content; 'none' for none. \\[default: the user's cache folder]")
]
Permutations = Annotated[int, typer.Option(min=0, help="Relabelled CAVs behind the p-values; 0 for no p-values.")]


@dataclass(frozen=True, kw_only=True)
class ConceptRequest:
    """Which CAVs a command was asked for; the attributes are the options of that name."""

    concepts: Path | None = None
    builtin: str = ""
    negatives: Path | None = None
    layers: str | None = None
    estimator: str = "difference"
    features: str = "pooled"
    count: int | None = None
    seed: int = 0
    cache: str = ""
    max_batch: int = 16


def cavs_by_layer(classifier: "Classifier", wanted: ConceptRequest, quiet: bool) -> "dict[str, list[CAV]]":
    """The CAVs at each layer in the order of the layers asked for: read from files, or fitted."""
    from pellucid.concepts.cav_store import cav_files

    with warn_once():
        if wanted.concepts is not None and cav_files(wanted.concepts):
            found = _loaded(classifier, wanted)
        else:
            found = _fitted(classifier, wanted, quiet)
        if not any(bool(cav.direction.any()) for cavs in found.values() for cav in cavs):
            raise PellucidError(
                f"images with and without the concepts activate {', '.join(found)} alike, so no concept has a "
                "direction; choose other layers, and check the weights"
            )
    return found


def _loaded(classifier: "Classifier", wanted: ConceptRequest) -> "dict[str, list[CAV]]":
    from pellucid.concepts import load_cavs
    from pellucid.concepts.cav import check_cavs

    if wanted.builtin or wanted.negatives is not None:
        raise PellucidError(f"{wanted.concepts} holds fitted CAVs; --builtin and --negatives are for fitting")
    known: dict[str, list[CAV]] = {}
    for cav in load_cavs(wanted.concepts or ""):
        known.setdefault(cav.layer, []).append(cav)
    order = [info.name for info in classifier.layers() if info.name in known]
    layers = order or list(known)
    if wanted.layers is not None:
        layers = list(dict.fromkeys(classifier.resolve(name) for name in split_names(wanted.layers)))
    missing = [layer for layer in layers if layer not in known]
    if missing or not layers:
        raise PellucidError(
            f"{wanted.concepts} holds CAVs at {', '.join(known)}, none at {', '.join(missing) or 'none'}"
        )
    for layer in layers:
        check_cavs(classifier.at(layer), known[layer])
    return {layer: known[layer] for layer in layers}


def _fitted(classifier: "Classifier", wanted: ConceptRequest, quiet: bool) -> "dict[str, list[CAV]]":
    from pellucid.concepts import FitOptions, fit_layers

    features: Any = wanted.features  # checked by FitOptions
    options = FitOptions(features=features, seed=wanted.seed, max_batch=wanted.max_batch)
    layers = dict.fromkeys(classifier.resolve(name) for name in split_names(wanted.layers or DEFAULT_LAYERS))
    if not layers:
        raise PellucidError("no layers given; name some, such as middle or final")
    views = {layer: classifier.at(layer) for layer in layers}
    with progress_bar(quiet) as progress:
        task = progress.add_task("", total=None)
        sets, negatives = _sets(classifier, wanted, lambda name: progress.update(task, description=f"images: {name}"))
        progress.update(task, description=f"{len(sets)} concepts at {', '.join(views)}")
        found = fit_layers(
            list(views.values()), sets, negatives, wanted.estimator, options=options, cache=cache_folder(wanted.cache)
        )
    return dict(zip(views, found, strict=True))


def _sets(classifier: "Classifier", wanted: ConceptRequest, on_set: Any) -> "tuple[list[ConceptSet], ConceptSet]":
    from pellucid.concepts import collect_sets
    from pellucid.synthetic import COLORS, TEXTURES

    groups = {"textures": list(TEXTURES), "colors": list(COLORS)}
    drawn = [name for text in split_names(wanted.builtin) for name in groups.get(text, [text])]
    if wanted.concepts is None and not drawn:
        raise PellucidError("no concepts given: --concepts FOLDER, --builtin striped,dotted, or both")
    return collect_sets(
        wanted.concepts,
        list(dict.fromkeys(drawn)),
        wanted.negatives,
        count=wanted.count,
        size=max(16, *classifier.input_shape[1:]),
        seed=wanted.seed,
        on_set=on_set,
    )


def cache_folder(text: str) -> Path | None:
    """The folder that `--cache` names."""
    if text.strip().lower() == "none":
        return None
    return Path(text) if text else platformdirs.user_cache_path("pellucid", appauthor=False) / "cavs"


@contextmanager
def warn_once() -> Iterator[None]:
    """Each remark on concepts as one line on stderr; of those on the cache the first, and how many there are."""
    from pellucid.concepts import ConceptWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConceptWarning)
        try:
            yield
        finally:
            own = [str(each.message) for each in caught if issubclass(each.category, ConceptWarning)]
    for each in caught:
        if not issubclass(each.category, ConceptWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    of_cache = [text for text in own if text.startswith("cache: ")]
    more = f" (and {len(of_cache) - 1} more like this)" if len(of_cache) > 1 else ""
    for text in [*(text + more for text in of_cache[:1]), *(text for text in own if text not in of_cache)]:
        say(text)


def readable_images(images: Sequence[str]) -> "tuple[list[Path], list[dict[str, str]]]":
    """The files that can be read and, if there are others, why not; looked at before anything long is computed.

    Raises:
        ImageError: there is one file only, or none that can be read.
    """
    from pellucid.data import (
        ImageFailure,
        find_images,
        read_image,
        read_images,
    )

    files = find_images(images)
    if len(files) == 1:
        read_image(files[0])
    skipped = [
        {"file": str(file), "reason": found.reason}
        for file, found in read_images(files)
        if isinstance(found, ImageFailure)
    ]
    for each in skipped:
        messages.print(f"skipped: {each['file']}: {each['reason']}", style="yellow", highlight=False, markup=False)
    bad = {each["file"] for each in skipped}
    if len(bad) == len(files):
        raise ImageError(f"none of the {len(files)} images could be read")
    return [file for file in files if str(file) not in bad], skipped


def check_baseline(baseline: str) -> None:
    """Refuse an unknown baseline before anything long is computed."""
    if baseline not in ("zero", "negatives"):
        raise PellucidError(f"unknown baseline {baseline!r}: zero or negatives")


def say(text: str) -> None:
    """One remark on stderr."""
    messages.print(f"note: {' '.join(text.split())}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def concept_targets(classifier: "Classifier", texts: Sequence[str] | None) -> list[int | str] | None:
    """Classes by name or index, looked up before anything long is computed; None if none are given."""
    if not texts:
        return None
    named: list[int | str] = [int(text) if text.isdecimal() else text for text in texts]
    if classifier.num_classes == 1:
        return named  # one logit has two sides, which only Visual-TCAV names
    return [classifier.class_index(each) for each in named]


def about(classifier: "Classifier", found: "dict[str, list[CAV]]", **more: object) -> dict[str, Any]:
    """What made a result: classifier, versions, and the receipt of every CAV."""
    from pellucid.results import library_versions

    return {
        "classifier": {"name": classifier.name, "weights": classifier.fingerprint(), "device": str(classifier.device)},
        "versions": library_versions(),
        "cavs": [cav.summary() for cavs in found.values() for cav in cavs],
        **more,
    }
