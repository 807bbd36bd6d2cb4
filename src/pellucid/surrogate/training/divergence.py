"""When a training has gone astray, by rules, so that it can be rolled back and said."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from pellucid.errors import PellucidError

MEMORY = 0.95
"""Of the running means that are watched: about twenty steps."""

SPIKE = 5.0
"""A discriminator loss above this is no longer that of a game (at balance it is 2 ln 2 = 1.4)."""

COLLAPSE, PATIENCE = 0.02, 300
"""A discriminator loss below the first, for so many steps in a row, leaves the generator without gradients."""

WORSE = 2.0
"""Redrawn images so many times further away than they have been are lost."""


class DivergedError(PellucidError):
    """A training went astray again after it was rolled back."""


@dataclass
class DivergenceMonitor:
    """Running means of what is watched.

    Attributes:
        discriminator: running mean of the discriminator's loss on real and redrawn images; None before the first.
        won: steps in a row with next to no such loss.
        pixel, best_pixel: running mean of the pixel loss, and its least value so far.
    """

    discriminator: float | None = None
    won: int = 0
    pixel: float | None = None
    best_pixel: float | None = None

    def trouble(self, losses: Mapping[str, float]) -> str | None:
        """Note the losses and gradient norms of a step; what is wrong, in words, or None."""
        wild = [name for name, value in losses.items() if not isfinite(value)]
        if wild:
            return f"{wild[0]} is {losses[wild[0]]}"
        self.pixel = _followed(self.pixel, losses["pixel"])
        self.best_pixel = min(self.pixel, self.best_pixel if self.best_pixel is not None else self.pixel)
        if "real" in losses:
            self.discriminator = _followed(self.discriminator, losses["real"] + losses["fake"])
            self.won = self.won + 1 if self.discriminator < COLLAPSE else 0
        return self._verdict()

    def _verdict(self) -> str | None:
        if self.discriminator is not None and self.discriminator > SPIKE:
            return f"the discriminator's loss rose to {self.discriminator:.1f}"
        if self.won >= PATIENCE:
            return f"the discriminator's loss was below {COLLAPSE} for {PATIENCE} steps: it has won"
        if self.pixel is not None and self.best_pixel is not None and self.pixel > WORSE * self.best_pixel + 0.1:
            return f"the pixel loss rose from {self.best_pixel:.2f} to {self.pixel:.2f}"
        return None


def _followed(mean: float | None, value: float) -> float:
    return value if mean is None else MEMORY * mean + (1 - MEMORY) * value
