"""Counts of passes: how many images go through each part of the network. `attribution/cases.py` counts them."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Passes:
    """How many images (rows) went through each part of the network: what a result cost.

    Prefix and suffix are the parts before and after the layer; `network_forward` counts passes of the whole.

    >>> Passes(suffix_forward=2) + Passes(suffix_forward=1, suffix_backward=1)
    Passes(prefix_forward=0, suffix_forward=3, suffix_backward=1, network_forward=0)
    """

    prefix_forward: int = 0
    suffix_forward: int = 0
    suffix_backward: int = 0
    network_forward: int = 0

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(Passes)))

    def __sub__(self, other: "Passes") -> "Passes":
        return Passes(*(getattr(self, part.name) - getattr(other, part.name) for part in fields(Passes)))
