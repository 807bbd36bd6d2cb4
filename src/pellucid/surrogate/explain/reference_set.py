"""The real images that explanations are made against, as codes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.storage import read_tensors, write_tensors
from pellucid.surrogate.explain.encoded_batch import EncodedBatch
from pellucid.surrogate.model.codes import Codes

_MIN_IMAGES = 50


@dataclass(frozen=True)
class ReferenceSet:
    """Real images that explanations are made against.

    Attributes:
        codes: of R images.
        classes: (R,) that the classifier gives them.

    >>> empty = torch.zeros(3, 0)
    >>> len(ReferenceSet(Codes(torch.zeros(3, 2), empty, empty), classes=torch.zeros(3)))
    3
    """

    codes: Codes
    classes: Tensor

    def __len__(self) -> int:
        return len(self.codes)

    def of_class(self, index: int) -> Tensor:
        """The concepts (M, K) of the images of a class."""
        return self.codes.concept_coordinates()[self.classes == index]

    @classmethod
    def from_batch(cls, batch: EncodedBatch, *, max_images: int = 2000) -> "ReferenceSet":
        """The codes of images, evenly thinned to at most `max_images`.

        Args:
            batch: 50 images or more.
            max_images: kept.

        Raises:
            PellucidError: too few images.
        """
        if len(batch) < _MIN_IMAGES:
            raise PellucidError(f"{len(batch)} images are too few to explain against: give {_MIN_IMAGES} or more")
        rows = torch.linspace(0, len(batch) - 1, min(max_images, len(batch))).long()
        return cls(batch.codes[rows], batch.classes[rows])

    def save(self, path: Path) -> None:
        """Write codes and classes as safetensors."""
        codes = {"context": self.codes.context, "latent": self.codes.latent, "nuisance": self.codes.nuisance}
        write_tensors(path, codes | {"classes": self.classes})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "ReferenceSet":
        """Read what `save` wrote.

        Raises:
            PellucidError: the file is missing or damaged.
        """
        tensors = {name: tensor.to(device) for name, tensor in read_tensors(path).items()}
        if missing := {"context", "latent", "nuisance", "classes"} - set(tensors):
            raise PellucidError(f"{path} is not a reference set of a surrogate: {sorted(missing)} are missing")
        return cls(Codes(tensors["context"], tensors["latent"], tensors["nuisance"]), tensors["classes"])
