"""What a metric of single images is given, and what it says."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from pellucid.attribution import Explanation, Method, Output, TargetLike, View, explain_case, iterate_cases
from pellucid.classifiers import LayerView


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasuredImages:
    """N single images with what is known of them, at a layer of a classifier.

    Attributes:
        view: the classifier seen from the layer.
        images: (N, C, H, W) in the classifier's own input space.
        targets: (N,) indices of the classes that are explained.
        masks: (N, H, W) bool, True in the region that the class names, empty where it is not known; None without any.
        offset: number of the first image among all that are measured: seeds count from it, so that an image has the
            same random numbers in every batch.
    """

    view: LayerView
    images: Tensor
    targets: Tensor
    masks: Tensor | None = None
    offset: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class ExplainedImages(MeasuredImages):
    """Images with the maps that one method made of them.

    Attributes:
        method: what made the maps; some metrics explain again with it.
        values: (N, h, w) the maps, signed, at any resolution.
        output: what of the classes the maps explain.
        shared: what metrics computed of these images that does not depend on the method; whoever measures several
            methods gives them all the same dict.
    """

    method: Method
    values: Tensor
    output: Output = "logit"
    shared: dict[Hashable, Any] = field(default_factory=dict)

    def explain_again(self, view: View, images: Tensor, target: TargetLike) -> Explanation:
        """Explain these images as the maps were made, with the same random numbers, of another view or target.

        Args:
            view: the classifier or another one, seen from the layer.
            images: (N, C, H, W).
            target: as `Method.__call__` takes it.
        """
        batches = iterate_cases(view, images, target, [self.method], offset=self.offset)
        return Explanation.join([explain_case(case, self.method) for case in batches])


@dataclass(frozen=True, eq=False)
class MetricScores:
    """One number for each of N maps, beside what a map without information reaches.

    Attributes:
        quantity: what the numbers are, such as "area under the curve".
        scores: (N,) float64; NaN where there is none.
        chance: (N,) float64, of random order, of a flat map; NaN where no such number is known.
    """

    quantity: str
    scores: Tensor
    chance: Tensor

    @staticmethod
    def without_chance(quantity: str, scores: Tensor) -> "MetricScores":
        """Scores of which no chance level is known."""
        scores = scores.detach().double().cpu()
        return MetricScores(quantity, scores, torch.full_like(scores, torch.nan))


class Metric(Protocol):
    """A frozen dataclass of options that scores single images, mostly the maps that a method made of them.

    Attributes:
        description: what it measures, in one sentence.
        higher_is_better: whether a larger score speaks for the method.
        uses_maps: whether it scores the maps of methods; if not, it is called once for all methods, with images only.
    """

    description: ClassVar[str]
    higher_is_better: ClassVar[bool]
    uses_maps: ClassVar[bool]

    def __call__(self, images: Any, /) -> tuple[MetricScores, ...]:
        """Score `ExplainedImages`, or `MeasuredImages` without maps; what one scores does not depend on the others."""
