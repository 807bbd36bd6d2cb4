"""What a surrogate knows of an image (context, latents and nuisance), and what a surrogate can do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Codes:
    """The codes of N images in the surrogate's latent space, one row per image.

    Attributes:
        context: (N, K_c), the aligned concepts in standard deviations of the training table, 0 at its mean.
        latent: (N, K_u), what the classifier sees that no context explains; about zero mean and unit variance.
        nuisance: (N, K_n), what is needed to reconstruct the image and the classifier must not use.

    >>> codes = Codes(torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, 5))
    >>> len(codes), codes.to_vector().shape, codes.concept_coordinates().shape
    (4, torch.Size([4, 10]), torch.Size([4, 5]))
    """

    context: Tensor
    latent: Tensor
    nuisance: Tensor

    def __len__(self) -> int:
        return len(self.context)

    def __getitem__(self, rows: slice | Tensor) -> "Codes":
        return Codes(self.context[rows], self.latent[rows], self.nuisance[rows])

    def detach(self) -> "Codes":
        """The same codes without gradients."""
        return Codes(self.context.detach(), self.latent.detach(), self.nuisance.detach())

    def to_vector(self) -> Tensor:
        """The vector that drives the generator, (N, K_c + K_u + K_n)."""
        return torch.cat([self.context, self.latent, self.nuisance], dim=1)

    def concept_coordinates(self) -> Tensor:
        """Context and latents side by side, (N, K_c + K_u): the nodes of the perceived graph."""
        return torch.cat([self.context, self.latent], dim=1)

    def replace_concepts(self, concepts: Tensor) -> "Codes":
        """The same codes with context and latents (N, K_c + K_u) replaced."""
        contexts = self.context.shape[1]
        return replace(self, context=concepts[:, :contexts], latent=concepts[:, contexts:])

    @classmethod
    def concat(cls, parts: "Sequence[Codes]") -> "Codes":
        """The rows of several codes, one after the other."""
        return cls(
            torch.cat([part.context for part in parts]),
            torch.cat([part.latent for part in parts]),
            torch.cat([part.nuisance for part in parts]),
        )

    def repeat(self, times: int) -> "Codes":
        """Each row `times` times in a row: (N * times, ...)."""
        return Codes(*(block.repeat_interleave(times, dim=0) for block in (self.context, self.latent, self.nuisance)))


class SurrogateProtocol(Protocol):
    """What every explanation needs of a surrogate: images to codes and back, and the classifier it mimics.

    Images are (N, C, H, W) in the classifier's own input space.

    Attributes:
        context_names: Names of the K_c contexts.
        latent_names: Names of the K_u latents.
    """

    context_names: tuple[str, ...]
    latent_names: tuple[str, ...]

    def encode(self, images: Tensor) -> Codes:
        """The codes of images."""
        ...

    def decode(self, codes: Codes) -> Tensor:
        """The images of codes; differentiable with respect to them."""
        ...

    def clip(self, images: Tensor) -> Tensor:
        """Images brought into the range that real ones have."""
        ...

    def logits(self, images: Tensor) -> Tensor:
        """The classifier's logits (N, K); differentiable with respect to the images."""
        ...

    def perceived_context(self, images: Tensor) -> Tensor:
        """The context that a probe reads off the classifier's features, (N, K_c), in standard deviations."""
        ...


def name_latents(count: int) -> tuple[str, ...]:
    """Names of unexplained latents.

    >>> name_latents(2)
    ('latent 1', 'latent 2')
    """
    return tuple(f"latent {number}" for number in range(1, count + 1))
