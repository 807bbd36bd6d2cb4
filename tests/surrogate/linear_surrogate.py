"""A surrogate whose every answer is known: images are linear in the codes, the classifier is linear in the concepts."""

import torch
from torch import Tensor

from pellucid.surrogate.explain.encoded_batch import EncodedBatch, encode_batch
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.model.codes import Codes


class LinearSurrogate:
    """Images 1 x 4 x 4; two contexts, one latent, three nuisance codes; two logits, margin = concepts @ weights."""

    context_names = ("width", "gray")
    latent_names = ("u0",)

    def __init__(self, weights: tuple[float, float, float] = (2.0, 0.0, 1.0), blind: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        self.basis = torch.linalg.qr(torch.randn(16, 6, generator=generator))[0].T
        self.weights = torch.tensor(weights)
        self.blind = blind  # draws every code alike

    def encode(self, images: Tensor) -> Codes:
        code = images.flatten(1) @ self.basis.T
        return Codes(code[:, :2], code[:, 2:3], code[:, 3:])

    def decode(self, codes: Codes) -> Tensor:
        drawn = (codes.to_vector() @ self.basis).view(-1, 1, 4, 4)
        return drawn * 0 if self.blind else drawn

    def clip(self, images: Tensor) -> Tensor:
        return images.clamp(-100, 100)

    def logits(self, images: Tensor) -> Tensor:
        return self.read(images)[:, None] * torch.tensor([0.0, 1.0])

    def read(self, images: Tensor) -> Tensor:
        return self.encode(images).concept_coordinates() @ self.weights

    def perceived_context(self, images: Tensor) -> Tensor:
        return self.encode(images).context


def random_codes(count: int, seed: int = 0) -> Codes:
    drawn = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return Codes(drawn[:, :2], drawn[:, 2:3], drawn[:, 3:])


def encoded(surrogate: LinearSurrogate, count: int, seed: int = 0) -> EncodedBatch:
    """Images that the surrogate does not redraw to the last pixel: there is something outside its basis."""
    outside = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed + 1))
    images = (random_codes(count, seed).to_vector() @ surrogate.basis).view(-1, 1, 4, 4)
    outside = outside.flatten(1) - outside.flatten(1) @ surrogate.basis.T @ surrogate.basis
    return encode_batch(surrogate, images + outside.view(-1, 1, 4, 4), max_batch=7)


def encode_codes(surrogate: LinearSurrogate, codes: Codes) -> EncodedBatch:
    return encode_batch(surrogate, (codes.to_vector() @ surrogate.basis).view(-1, 1, 4, 4))


def reference_of(codes: Codes, surrogate: LinearSurrogate | None = None) -> ReferenceSet:
    """Real images of given codes, in the classes that a surrogate's classifier gives them; of one for all without."""
    if surrogate is None:
        return ReferenceSet(codes, torch.zeros(len(codes), dtype=torch.long))
    return ReferenceSet(codes, (codes.concept_coordinates() @ surrogate.weights > 0).long())
