"""CAVs kept on disk by content: what changed is never answered from a stale file."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from pellucid._version import __version__
from pellucid.classifiers import LayerView
from pellucid.concepts.cav import CAV, FORMAT
from pellucid.concepts.concept_sets import warn
from pellucid.errors import PellucidError


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
            "versions": [__version__, torch.__version__],
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
        """The CAV of these images, or None; a file that cannot be read is told of."""
        path = self.path(concept, negatives)
        try:
            return CAV.load(path) if path.exists() else None
        except (PellucidError, OSError) as error:
            warn([f"cache: {error}; the CAV is computed anew"])
            return None

    def keep(self, cav: CAV, concept: Sequence[str], negatives: Sequence[str]) -> None:
        """Write a CAV; a folder that cannot be written to is told of, and changes no result."""
        try:
            cav.save(self.path(concept, negatives))
        except PellucidError as error:
            warn([f"cache: CAV {cav.name!r} was computed but not kept: {error}"])
