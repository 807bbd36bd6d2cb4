"""Real images that a twin's explanations are drawn against, as codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.storage import read_tensors, write_tensors
from pellucid.surrogate.explain.encoded_batch import EncodedBatch
from pellucid.surrogate.model.codes import Codes

_LEAST = 50


@dataclass(frozen=True)
class ReferenceSet:
    """Real images that explanations are drawn against.

    Attributes:
        codes: of R images.
        classes: (R,) that the classifier gives them.
        effectiveness: context -> correlation of asked and re-measured values; missing or NaN where it was not measured.
    """

    codes: Codes
    classes: Tensor
    effectiveness: Mapping[str, float]

    @classmethod
    def of(cls, batch: EncodedBatch, effectiveness: Mapping[str, float], *, most: int = 2000) -> "ReferenceSet":
        """The codes of images, evenly thinned to at most `most`.

        Raises:
            PellucidError: too few images.
        """
        if len(batch) < _LEAST:
            raise PellucidError(f"{len(batch)} images are too few to explain against: give {_LEAST} or more")
        rows = torch.linspace(0, len(batch) - 1, min(most, len(batch))).long()
        return cls(batch.codes[rows], batch.classes[rows], effectiveness)

    def save(self, path: Path) -> None:
        """Write the codes and classes as safetensors."""
        codes = {"context": self.codes.context, "latent": self.codes.latent, "nuisance": self.codes.nuisance}
        write_tensors(path, codes | {"classes": self.classes})

    @classmethod
    def load(cls, path: Path, effectiveness: Mapping[str, float], device: torch.device | str = "cpu") -> "ReferenceSet":
        """Read what `save` wrote.

        Raises:
            PellucidError: the file is missing or damaged.
        """
        kept = {name: tensor.to(device) for name, tensor in read_tensors(path).items()}
        if missing := {"context", "latent", "nuisance", "classes"} - set(kept):
            raise PellucidError(f"{path} is no reference of a surrogate: it lacks {sorted(missing)}")
        return cls(Codes(kept["context"], kept["latent"], kept["nuisance"]), kept["classes"], effectiveness)
