"""The result of an attribution method: the maps, and the receipt that goes with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Passes:
    """How many images (rows) went through each part of the network: what an explanation cost.

    Prefix and suffix are the parts before and after the layer; `network` counts passes of the whole.
    """

    prefix_forward: int = 0
    suffix_forward: int = 0
    suffix_backward: int = 0
    network_forward: int = 0

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(
            self.prefix_forward + other.prefix_forward,
            self.suffix_forward + other.suffix_forward,
            self.suffix_backward + other.suffix_backward,
            self.network_forward + other.network_forward,
        )

    def __sub__(self, other: "Passes") -> "Passes":
        return Passes(
            self.prefix_forward - other.prefix_forward,
            self.suffix_forward - other.suffix_forward,
            self.suffix_backward - other.suffix_backward,
            self.network_forward - other.network_forward,
        )


@dataclass(frozen=True)
class Explanation:
    """Maps of evidence for N images and T targets each, at the layer's own resolution.

    Attributes:
        values: (N, T, h, w) float32, summed over channels; signed unless `signed` is False. Positive values speak for
            the target.
        scores: (N, T) the explained numbers themselves (logits, unless the target says otherwise).
        delta: (N, T) score minus the score at the baseline, for methods whose maps should sum to it; else None.
        method, options: what made the maps, with every option's value.
        layer: name of the layer.
        targets: N tuples of T texts.
        signed: False for methods whose maps are >= 0 by definition.
        notes: N tuples of remarks on that image's maps, such as why a map is zero.
        passes: what it cost; the activation's own pass included.
        versions: of pellucid and torch.
    """

    values: Tensor
    scores: Tensor
    delta: Tensor | None
    method: str
    options: Mapping[str, object]
    layer: str
    targets: tuple[tuple[str, ...], ...]
    signed: bool
    notes: tuple[tuple[str, ...], ...]
    passes: Passes
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def gap(self) -> Tensor | None:
        """Completeness gap: the maps' sums minus `delta`, in units of the score; (N,) for one target, else (N, T)."""
        if self.delta is None:
            return None
        gap = self.values.sum((2, 3)) - self.delta
        return gap[:, 0] if gap.shape[1] == 1 else gap

    @property
    def relative_gap(self) -> Tensor | None:
        """`gap` in units of |delta|; 0 where both are 0."""
        if self.delta is None:
            return None
        gap = (self.values.sum((2, 3)) - self.delta).abs()
        relative = torch.where(gap == 0, 0.0, gap / self.delta.abs())
        return relative[:, 0] if relative.shape[1] == 1 else relative

    def target(self, index: int) -> "Explanation":
        """The explanation of the `index`-th target alone."""
        return replace(
            self,
            values=self.values[:, index : index + 1],
            scores=self.scores[:, index : index + 1],
            delta=None if self.delta is None else self.delta[:, index : index + 1],
            targets=tuple((labels[index],) for labels in self.targets),
        )

    @staticmethod
    def join(parts: Sequence["Explanation"]) -> "Explanation":
        """Explanations of consecutive images by one method as one."""
        first = parts[0]
        deltas = [part.delta for part in parts if part.delta is not None]
        return replace(
            first,
            values=torch.cat([part.values for part in parts]),
            scores=torch.cat([part.scores for part in parts]),
            delta=torch.cat(deltas) if deltas else None,
            targets=tuple(labels for part in parts for labels in part.targets),
            notes=tuple(notes for part in parts for notes in part.notes),
            passes=sum((part.passes for part in parts), Passes()),
        )
