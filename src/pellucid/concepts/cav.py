"""A concept activation vector with all that is needed to know what it is, its file, and its place in a cache."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import torch
from torch import Tensor

from pellucid.attribution import View
from pellucid.classifiers import Classifier, LayerView
from pellucid.concepts.concept_scores import Emblems
from pellucid.concepts.concept_sets import warn
from pellucid.concepts.estimators import find_estimator, fit_directions
from pellucid.errors import PellucidError
from pellucid.results import library_versions
from pellucid.shapes import Float
from pellucid.storage import DamagedFileError, decode_tensors, encode_tensors, from_record, to_record, write_atomically

Null = Literal["centered", "relabel"]

FORMAT = 1
"""Version of the file's contents; it is part of every cache key."""
WEAK_AUC = 0.7
"""With a held-out AUC below this a CAV weakly separates its concept from other images."""
_TENSORS = ("direction", "concept_features", "negative_features", "resamples", "resample_emblems")


@dataclass(frozen=True, eq=False, kw_only=True)
class CAV:
    """A direction in a layer's space that points towards a concept.

    Attributes:
        name: the concept.
        layer: name of the layer.
        direction: (C,) float32, signed, not normalized; (C * h * w,) if it was fitted to flattened activations. A step
            along it is a step towards the concept.
        emblems: projections at which the concept map is 0 and 1 (see `Emblems`); both NaN if fitted to flattened
            activations.
        negative_emblems: the same for the negative concept map.
        auc: held-out area under the ROC curve of the projections, in [0, 1], mean over random splits; 0.5 is chance.
        auc_deviation: its standard deviation over the splits.
        stability: mean cosine between the directions of bootstrap resamples of the images, in [-1, 1]; 1 is stable.
        concept_features: (n1, C) pooled activations of the images of the concept.
        negative_features: (n0, C) of the images without it.
        resamples: (B, C) directions of the bootstrap resamples.
        resample_emblems: (B, 2) their emblems, low and high.
        estimator, estimator_options: what the direction was fitted with.
        options: further options of the fit.
        sources, negative_sources: which images were used, in order.
        classifier, fingerprint: name and hash of the weights of the network.
        remarks: what a reader should know before trusting it.
        versions: of pellucid and torch.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cav = pl.concepts.fit_cav(view, bright + 2, dark, name="bright")
        >>> cav.name, cav.layer, tuple(cav.direction.shape), cav.is_weak
        ('bright', '0', (4,), False)
    """

    name: str
    layer: str
    direction: Float[Tensor, " C"]
    emblems: Emblems
    negative_emblems: Emblems
    auc: float
    auc_deviation: float
    stability: float
    concept_features: Tensor
    negative_features: Tensor
    resamples: Tensor
    resample_emblems: Tensor
    estimator: str
    estimator_options: Mapping[str, Any]
    options: Mapping[str, Any]
    sources: Sequence[str]
    negative_sources: Sequence[str]
    classifier: str
    fingerprint: str
    remarks: Sequence[str]
    versions: Mapping[str, str]

    @property
    def is_pooled(self) -> bool:
        """Whether the direction lies in the space of single cells, so that there are concept maps."""
        return bool(self.options["features"] == "pooled")

    @property
    def is_separable(self) -> bool:
        """Whether images of the concept typically project higher than others: if not, concept maps are 0."""
        return self.emblems.high > self.emblems.low

    @property
    def is_weak(self) -> bool:
        """Whether the held-out AUC is below `WEAK_AUC`."""
        return not self.auc >= WEAK_AUC

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: all of it or nothing.

        Raises:
            PellucidError: the file cannot be written.
        """
        path = Path(path)
        tensors: dict[str, Tensor] = {}
        record = to_record(self, tensors)
        plain = {name: value for name, value in record.items() if name not in tensors}
        metadata = {"format": str(FORMAT), "cav": json.dumps(plain)}
        try:
            write_atomically(path, encode_tensors(tensors, metadata))
        except OSError as error:
            raise PellucidError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error

    @staticmethod
    def load(path: str | Path) -> "CAV":
        """Read what `save` wrote.

        Raises:
            PellucidError: the file is missing, damaged, or no CAV of this version.
        """
        try:
            tensors, metadata = decode_tensors(Path(path).read_bytes(), path)
            version = metadata.get("format")
            if version == str(FORMAT):
                record = json.loads(metadata["cav"]) | {name: {"tensor": name} for name in tensors}
                return from_record(CAV, record, tensors=tensors, source=path)
        except (OSError, DamagedFileError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise PellucidError(f"{path}: missing or damaged, no CAV can be read ({error}); fit it again") from error
        raise PellucidError(f"{path}: CAV format {version}, this version reads {FORMAT}; fit it again")

    def summary(self) -> dict[str, object]:
        """Everything but the tensors and the list of images, plainly typed for JSON."""
        tensors = {*_TENSORS, "sources", "negative_sources"}
        plain = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in tensors}
        emblems = {name: plain[name]._asdict() for name in ("emblems", "negative_emblems")}
        counts = {"images": len(self.sources), "negative_images": len(self.negative_sources)}
        return {**plain, **emblems, **counts}


def null_directions(cav: CAV, count: int, seed: int = 0, null: Null = "centered") -> Tensor:
    """Fit directions to the same images with the labels concept and negative dealt out at random.

    "relabel" deals out the images as they are. Where a concept stands out, most of what such deals differ in is then
    the concept itself: shuffled directions point along it by chance, and even stripes on zebras look like chance.
    "centered" first takes the mean of its side away from each image, so that only what varies within the concept and
    within the negatives is left, as between two random sets. Where concept and negatives are alike, both are the same.

    Each has the length of the CAV's direction. Without that, relabeled differences of means are several times shorter,
    under the concept's emblems they see nothing, and everything would look significant.

    Args:
        cav: the concept.
        count: how many directions, P.
        seed: of the relabeling.
        null: "centered" or "relabel".

    Returns:
        (P, C) float32.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cav = pl.concepts.fit_cav(view, bright + 2, dark)
        >>> directions = null_directions(cav, 5)
        >>> bool(torch.allclose(directions.norm(dim=1), cav.direction.norm()))
        True
    """
    generator = torch.Generator().manual_seed(seed)
    sides = [cav.concept_features.double(), cav.negative_features.double()]
    features = torch.cat([side - side.mean(0) for side in sides] if null == "centered" else sides)
    estimator = type(find_estimator(cav.estimator))(**cav.estimator_options)
    shuffled = (torch.randperm(len(features), generator=generator) for _ in range(count))
    size = len(cav.concept_features)
    directions = fit_directions(estimator, features, ((order[:size], order[size:]) for order in shuffled))
    scaled: Tensor = torch.nn.functional.normalize(directions, dim=1).float() * cav.direction.norm()
    return scaled


def check_cavs(view: View, cavs: Sequence[CAV]) -> None:
    """Refuse CAVs that were not fitted at this layer of this classifier.

    Args:
        view: the classifier seen from a layer; a classifier without a fingerprint is not compared.
        cavs: at least one, each with its own name.

    Raises:
        PellucidError: no CAVs, two of one name, or one of another layer or of other weights.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cavs = pl.concepts.fit_cavs(view, {"bright": bright + 2}, dark)
        >>> check_cavs(view.classifier.at("input"), cavs)
        Traceback (most recent call last):
        pellucid.errors.PellucidError: CAV 'bright' was fitted at layer '0', this view is at 'input'
    """
    if not cavs:
        raise PellucidError("no concepts to explain with: give one CAV or more, see fit_cavs")
    names = [cav.name for cav in cavs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise PellucidError(
            f"concepts have the same name: {', '.join(repeated)}; give each its own with fit_cav(name=)"
        )
    classifier: object = view.classifier
    fingerprint = classifier.fingerprint() if isinstance(classifier, Classifier) else None
    for cav in cavs:
        if cav.layer != view.layer:
            raise PellucidError(f"CAV {cav.name!r} was fitted at layer {cav.layer!r}, this view is at {view.layer!r}")
        if fingerprint is not None and cav.fingerprint != fingerprint:
            raise PellucidError(
                f"CAV {cav.name!r} was fitted on {cav.classifier!r}, whose weights are not those of this classifier; "
                "fit it again"
            )


def save_cavs(cavs: Sequence[CAV], folder: str | Path) -> list[Path]:
    """Write each CAV to FOLDER/layer/concept.safetensors; characters that no file name may have are percent-encoded.

    Args:
        cavs: of any layers.
        folder: made if missing; other files in it stay.

    Returns:
        The files, in the order of the CAVs.

    Raises:
        PellucidError: the folder cannot be written.

    Example:
        >>> import tempfile, torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cavs = pl.concepts.fit_cavs(view, {"bright": bright + 2}, dark)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(save_cavs(cavs, folder)[0].name, len(load_cavs(folder)), len(cav_files(folder)))
        bright.safetensors 1 1
    """
    files = [Path(folder) / _file_name(cav.layer) / f"{_file_name(cav.name)}.safetensors" for cav in cavs]
    for cav, file in zip(cavs, files, strict=True):
        cav.save(file)
    return files


def load_cavs(folder: str | Path) -> list[CAV]:
    """Read all CAVs in a folder and the folders in it.

    Args:
        folder: that `save_cavs` or `pellucid concepts fit` wrote.

    Returns:
        CAVs, sorted by path.

    Raises:
        PellucidError: there is no CAV, or a file is damaged or of another version.
    """
    files = cav_files(folder)
    if not files:
        raise PellucidError(f"{folder}: no CAVs (*.safetensors) in this folder; `pellucid concepts fit` writes them")
    return [CAV.load(file) for file in files]


def cav_files(folder: str | Path) -> list[Path]:
    """List the files of CAVs in a folder and the folders in it, sorted; none if there is no such folder."""
    return sorted(Path(folder).rglob("*.safetensors"))


def _file_name(name: str) -> str:
    encoded = quote(name, safe=" ,()+")
    return f"%2E{encoded[1:]}" if encoded.startswith(".") else encoded


class CavCache:
    """A folder of CAVs, each under the hash of all that its numbers depend on.

    Args:
        folder: made when the first CAV is kept.
        view: the layer; its name, the network's weights and the precision are part of the hash.
        options: everything else that was chosen, plainly typed.
    """

    def __init__(self, folder: str | Path, view: LayerView, options: dict[str, object]) -> None:
        self.folder = Path(folder)
        precision = view.classifier.precision
        self._common = {
            "format": FORMAT,
            "versions": [*library_versions().values()],
            "weights": view.classifier.fingerprint(),
            "classifier": view.classifier.name,
            "layer": view.layer,
            "layout": repr(view.layout),
            "precision": [precision.device.type, precision.channels_last, str(precision.autocast)],
            **options,
        }

    def path(self, concept: Sequence[str], negatives: Sequence[str]) -> Path:
        """The file for images with these digests, in this order."""
        key = json.dumps(self._common | {"concept": list(concept), "negatives": list(negatives)}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def look_up(self, concept: Sequence[str], negatives: Sequence[str]) -> CAV | None:
        """The CAV of these images, or None; a file that cannot be read raises a warning."""
        path = self.path(concept, negatives)
        try:
            return CAV.load(path) if path.exists() else None
        except (PellucidError, OSError) as error:
            warn([f"cache: {error}; the CAV is computed again"])
            return None

    def keep(self, cav: CAV, concept: Sequence[str], negatives: Sequence[str]) -> None:
        """Write a CAV; a folder that cannot be written to raises a warning, and changes no result.

        Args:
            cav: the CAV.
            concept: digest of the concept's images, as in `path`.
            negatives: digest of the negative images.
        """
        try:
            cav.save(self.path(concept, negatives))
        except PellucidError as error:
            warn([f"cache: CAV {cav.name!r} was computed but not kept: {error}"])
