"""StyleSpace: the styles of all convolutions side by side, the coordinates that StylEx searches."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from pellucid.surrogate.model import Generator, ModulatedConv


class StyleSpace:
    """The styles of a generator as coordinates that can be set one by one.

    Source: Wu et al., StyleSpace Analysis (CVPR 2021).

    Args:
        generator: whose convolutions are modulated.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._affine = [part.style for part in generator.modules() if isinstance(part, ModulatedConv)]

    @torch.no_grad()
    def coordinates(self, codes: Tensor) -> Tensor:
        """The styles (N, S) of joined codes (N, D)."""
        return torch.cat([affine(codes) for affine in self._affine], dim=1)

    @torch.no_grad()
    def draw(self, coordinates: Tensor, codes: Tensor) -> Tensor:
        """Images (N, C, R, R) in display space of styles (N, S); only a gain layer still reads the codes (N, D)."""
        with self._given(coordinates):
            drawn: Tensor = self._generator(codes)
        return drawn

    @contextmanager
    def _given(self, coordinates: Tensor) -> Iterator[None]:
        sizes = [affine.weight.shape[0] for affine in self._affine]
        parts = torch.split(coordinates, sizes, dim=1)
        hooks = [
            affine.register_forward_hook(partial(_answer, part))
            for affine, part in zip(self._affine, parts, strict=True)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _answer(style: Tensor, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return style
