"""A twin whose every answer is known: pictures are linear in the codes, the classifier is linear in the concepts."""

import torch
from torch import Tensor

from pellucid.surrogate.explain.encoded_batch import Painting
from pellucid.surrogate.model.codes import Codes


class LinearTwin:
    """Pictures 1 x 4 x 4; two contexts, one latent, three nuisance codes; two logits, margin = concepts @ weights."""

    context_names = ("width", "grey")
    latent_names = ("u0",)

    def __init__(self, weights: tuple[float, float, float] = (2.0, 0.0, 1.0), blind: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        self.basis = torch.linalg.qr(torch.randn(16, 6, generator=generator))[0].T
        self.weights = torch.tensor(weights)
        self.blind = blind  # draws every code alike

    def encode(self, pictures: Tensor) -> Codes:
        code = pictures.flatten(1) @ self.basis.T
        return Codes(code[:, :2], code[:, 2:3], code[:, 3:])

    def decode(self, codes: Codes) -> Tensor:
        drawn = (codes.joined() @ self.basis).view(-1, 1, 4, 4)
        return drawn * 0 if self.blind else drawn

    def clip(self, pictures: Tensor) -> Tensor:
        return pictures.clamp(-100, 100)

    def logits(self, pictures: Tensor) -> Tensor:
        return self.read(pictures)[:, None] * torch.tensor([0.0, 1.0])

    def read(self, pictures: Tensor) -> Tensor:
        return self.encode(pictures).concepts() @ self.weights

    def perceived_context(self, pictures: Tensor) -> Tensor:
        return self.encode(pictures).context


def some_codes(count: int, seed: int = 0) -> Codes:
    drawn = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return Codes(drawn[:, :2], drawn[:, 2:3], drawn[:, 3:])


def painted(twin: LinearTwin, count: int, seed: int = 0) -> Painting:
    """Pictures that the twin does not redraw to the last pixel: there is something outside its basis."""
    outside = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed + 1))
    pictures = (some_codes(count, seed).joined() @ twin.basis).view(-1, 1, 4, 4)
    outside = outside.flatten(1) - outside.flatten(1) @ twin.basis.T @ twin.basis
    return Painting.of(twin, pictures + outside.view(-1, 1, 4, 4), max_batch=7)
