"""The result of an attribution method: the maps, how they were made, and the receipt that goes with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from pellucid.results import Passes, Provenance, Receipt, Result, plot_maps
from pellucid.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation(Result):
    """Maps of evidence for N images and T targets each, at the layer's own resolution.

    Attributes:
        values: (N, T, h, w) float32, summed over channels; signed unless `signed` is False. Positive values speak for
            the target.
        scores: (N, T) the explained numbers themselves (logits, unless the target says otherwise).
        delta: (N, T) score minus the score at the baseline, for methods whose maps should sum to it; else None.
        targets: N tuples of T texts.
        signed: False for methods whose maps are >= 0 by definition.
        notes: N tuples of remarks on that image's maps, such as why a map is zero.
        provenance: the model, the layer, the method and every option's value.
        receipt: what it cost, the activation's own pass included; and the largest relative completeness gap.

    >>> import pellucid as pl
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
    >>> explanation = pl.attribution.IntegratedGradients(steps=5)(view, torch.ones(1, 3, 8, 8), [0, 1])
    >>> explanation.values.shape, explanation.method, bool(explanation.relative_gap.max() < 1e-4)
    (torch.Size([1, 2, 6, 6]), 'IntegratedGradients', True)
    """

    kind: ClassVar[str] = "attribution"

    values: Float[Tensor, "N T h w"]
    scores: Float[Tensor, "N T"]
    delta: Float[Tensor, "N T"] | None = None
    targets: tuple[tuple[str, ...], ...]
    signed: bool = True
    notes: tuple[tuple[str, ...], ...]
    provenance: Provenance
    receipt: Receipt

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.provenance.method

    @property
    def options(self) -> Mapping[str, object]:
        """Every option of the method with its value."""
        return self.provenance.options

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return self.provenance.layer

    @property
    def versions(self) -> Mapping[str, str]:
        """Of pellucid and torch."""
        return self.provenance.versions

    @property
    def passes(self) -> Passes:
        """What it cost."""
        return self.receipt.passes

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
        relative = _relative_gaps(self.values, self.delta)
        return relative[:, 0] if relative.shape[1] == 1 else relative

    def target(self, index: int) -> "Explanation":
        """The explanation of the `index`-th target alone."""
        delta = None if self.delta is None else self.delta[:, index : index + 1]
        values = self.values[:, index : index + 1]
        return replace(
            self,
            values=values,
            scores=self.scores[:, index : index + 1],
            delta=delta,
            targets=tuple((labels[index],) for labels in self.targets),
            receipt=replace(self.receipt, gap=largest_gap(values, delta)),
        )

    def rows(self) -> list[dict[str, object]]:
        """A mapping for each image and target: its score, change in score, gap, and the evidence for and against."""
        gaps = None if self.delta is None else self.values.sum((2, 3)) - self.delta
        evidence_for, evidence_against = self.values.clamp(min=0).sum((2, 3)), self.values.clamp(max=0).sum((2, 3))
        return [
            {
                "image": n,
                "target": label,
                "score": float(self.scores[n, t]),
                "delta": None if self.delta is None else float(self.delta[n, t]),
                "gap": None if gaps is None else float(gaps[n, t]),
                "evidence_for": float(evidence_for[n, t]),
                "evidence_against": float(evidence_against[n, t]),
            }
            for n, labels in enumerate(self.targets)
            for t, label in enumerate(labels)
        ]

    def plot(self, images: Tensor | None = None) -> "Figure":
        """The maps as a matplotlib figure: a row for each image, a column for each target, one scale for all.

        Args:
            images: (N, C, H, W) in [0, 1], shown gray below the maps; none by default.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        same = len(set(self.targets)) == 1
        rows = [f"image {n}" if same else ", ".join(labels) for n, labels in enumerate(self.targets)]
        columns = self.targets[0] if same else ()
        title = f"{self.method} at {self.layer}"
        return plot_maps(self.values, rows=rows, columns=columns, signed=self.signed, images=images, title=title)

    @staticmethod
    def join(parts: Sequence["Explanation"]) -> "Explanation":
        """Explanations of consecutive images by one method as one."""
        first = parts[0]
        deltas = [part.delta for part in parts if part.delta is not None]
        gaps = [part.receipt.gap for part in parts if part.receipt.gap is not None]
        passes = sum((part.passes for part in parts), Passes())
        return replace(
            first,
            values=torch.cat([part.values for part in parts]),
            scores=torch.cat([part.scores for part in parts]),
            delta=torch.cat(deltas) if deltas else None,
            targets=tuple(labels for part in parts for labels in part.targets),
            notes=tuple(notes for part in parts for notes in part.notes),
            receipt=replace(first.receipt, passes=passes, gap=max(gaps, default=None)),
        )


def largest_gap(values: Tensor, delta: Tensor | None) -> float | None:
    """The largest relative completeness gap of maps (N, T, h, w) that should sum to `delta` (N, T); None without.

    >>> largest_gap(torch.full((1, 1, 2, 2), 0.25), torch.tensor([[2.0]]))
    0.5
    """
    return None if delta is None else float(_relative_gaps(values, delta).max())


def _relative_gaps(values: Tensor, delta: Tensor) -> Tensor:
    """(N, T): |sum - delta| / |delta|; 0 where both are 0."""
    gap = (values.sum((2, 3)) - delta).abs()
    return torch.where(gap == 0, 0.0, gap / delta.abs())
