"""Deletion and insertion: how the score changes when the pixels a map ranks highest are taken away or put in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pellucid.attribution import smooth
from pellucid.errors import PellucidError, TargetError
from pellucid.evaluation.localization import as_maps, upsample
from pellucid.evaluation.metrics.imputation import NoisyLinear
from pellucid.evaluation.metrics.metric import ExplainedImages, MetricScores

Baseline = Literal["blur", "mean", "zero"]
Score = Literal["probability", "logit"]


@dataclass(frozen=True)
class PerturbationCurves:
    """Score of the target class while pixels are replaced, map by map, and the same in random order.

    Attributes:
        fractions: (S + 1,) share of the pixels that were deleted or inserted, 0 to 1.
        scores: (N, S + 1) float64, in the order of the map; NaN for a map with NaN or infinite values.
        random: (N, S + 1) float64, mean over random orders.
        inserting: True for insertion, where a large area is good; False for deletion, where a small one is.
        baseline: what pixels are replaced by.
        score: what the curves measure.
    """

    fractions: Tensor
    scores: Tensor
    random: Tensor
    inserting: bool
    baseline: str
    score: Score

    @property
    def area(self) -> Tensor:
        """(N,) area under the curve (trapezoids), in the unit of the score."""
        return torch.trapezoid(self.scores, self.fractions)

    @property
    def random_area(self) -> Tensor:
        """(N,) area under the mean curve of random orders."""
        return torch.trapezoid(self.random, self.fractions)

    @property
    def ratio(self) -> Tensor:
        """(N,) area over random area; 1 is no better than random. NaN where the random area is not positive."""
        return torch.where(self.random_area > 0, self.area / self.random_area, torch.nan)

    @property
    def gain(self) -> Tensor:
        """(N,) how much better than random order, in the unit of the score: positive is good, inserting or deleting."""
        return self.area - self.random_area if self.inserting else self.random_area - self.area


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """Replace pixels by a baseline, those with the largest values first (MoRF), and follow the score of the target.

    Random orders are those of noise at the map's own resolution, brought to the image like the map: single pixels in
    random order would be compared with blocks. Equal values are ordered at random. Source: Petsiuk et al., RISE,
    BMVC 2018; the comparison with random order after Samek et al., IEEE TNNLS 2017.

    Attributes:
        baseline: "blur", "mean" (of each image's channels) or "zero" (in the input space), see `baseline_images`;
            images (N, C, H, W) or (1, C, H, W); or `NoisyLinear()`, which fills in what is missing from its
            surroundings (ROAD). Results with different baselines are not comparable.
        score: "probability" (softmax) or "logit" of the target.
        steps: S equal portions of the pixels.
        random_orders: how many random orders are averaged; each costs as much as the map.
        seed: of the random orders, of ties and of imputation's noise; image n has those of seed + n.
        max_batch: most images per call of the classifier.

    >>> def logits(images):  # class 0 is as likely as the image is bright
    ...     brightness = images.sum((1, 2, 3))
    ...     return torch.stack([brightness, -brightness], dim=1)
    >>> images, maps = torch.rand(1, 1, 4, 4), torch.rand(1, 4, 4)
    >>> curves = Deletion(baseline="zero", steps=4).curves(logits, images, images[:, 0], torch.tensor([0]))
    >>> curves.scores.shape, bool(curves.gain > 0)
    (torch.Size([1, 5]), True)
    """

    baseline: Baseline | Tensor | NoisyLinear = "blur"
    score: Score = "probability"
    steps: int = 20
    random_orders: int = 2
    seed: int = 0
    max_batch: int = 16
    inserting: ClassVar[bool] = False
    uses_maps: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = False
    description: ClassVar[str] = "How fast the class's probability falls when the pixels ranked highest are replaced."

    def __post_init__(self) -> None:
        least = min(self.steps, self.random_orders, self.max_batch)
        if least < 1 or self.score not in ("probability", "logit"):
            raise PellucidError(
                f"steps={self.steps}, random_orders={self.random_orders}, max_batch={self.max_batch}, "
                f"score={self.score!r}: expected at least 1 of each, and 'probability' or 'logit'"
            )

    def __call__(self, explained: ExplainedImages) -> tuple[MetricScores, ...]:
        """The area under each curve, beside that of random orders."""
        seeded = replace(self, seed=self.seed + explained.offset)
        key = (seeded, explained.values.shape)
        logits, known = explained.view.classifier.logits, explained.shared.get(key)
        curves = seeded.curves(logits, explained.images, explained.values, explained.targets, random=known)
        explained.shared[key] = curves.random
        return (MetricScores(f"area under the {self.score} curve", curves.area, curves.random_area),)

    def curves(
        self,
        logits: Callable[[Tensor], Tensor],
        images: Tensor,
        values: Tensor,
        targets: Tensor,
        *,
        random: Tensor | None = None,
    ) -> PerturbationCurves:
        """Measure the curves of N maps.

        Args:
            logits: images (B, C, H, W) -> (B, K), for instance `classifier.logits`.
            images: (N, C, H, W) in the classifier's own input space.
            values: (N, 1, h, w) or (N, h, w), signed; brought to the images' size by bilinear interpolation.
            targets: (N,) class indices.
            random: (N, S + 1) the curves of random orders, where they are known from other maps of the same size of the
                same images; NaN where not.

        Raises:
            PellucidError: the shapes do not fit.
            TargetError: no such class.
        """
        maps = as_maps(values).to(images.device)
        if images.ndim != 4 or not len(images) == len(maps) == len(targets):
            raise PellucidError(
                f"images {tuple(images.shape)}, {len(maps)} maps and {len(targets)} targets; "
                "expected (N, C, H, W) and one map and one target per image"
            )
        _check_targets(targets)
        replace_pixels = self._pixel_replacement(images)
        pixels = images.shape[2] * images.shape[3]
        counts = (torch.arange(self.steps + 1) * pixels / self.steps).round().long()
        scores = torch.full((len(maps), len(counts)), torch.nan, dtype=torch.float64)
        random = torch.full_like(scores, torch.nan) if random is None else random.clone()
        for index in torch.nonzero(maps.isfinite().flatten(1).all(1))[:, 0].tolist():
            ranks = self._ranks(maps[index], images.shape[2:], self.seed + index)
            is_known = bool(random[index].isfinite().all())
            orders = ranks[:1] if is_known else ranks
            curves = self._follow(logits, partial(replace_pixels, index), orders, counts, int(targets[index]))
            scores[index] = curves[0]
            if not is_known:
                random[index] = curves[1:].mean(0)
        name = "given images" if isinstance(self.baseline, Tensor) else str(self.baseline)
        return PerturbationCurves(counts / pixels, scores, random, self.inserting, name, self.score)

    def _pixel_replacement(self, images: Tensor) -> Callable[[int, Tensor], Tensor]:
        """A function from the index of an image and what is removed of it (B, H, W) to images (B, C, H, W)."""
        if isinstance(self.baseline, NoisyLinear):
            impute = self.baseline
            return lambda index, removed: impute(images[index], removed, seed=self.seed + index)
        fill = baseline_images(images, self.baseline)
        return lambda index, removed: torch.where(removed[:, None], fill[index], images[index])

    def _ranks(self, values: Tensor, size: Sequence[int], seed: int) -> Tensor:
        """When each pixel is replaced, by the map and by the random orders: (1 + R, H, W), 0 first."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(self.random_orders, *values.shape, dtype=torch.float64, generator=generator).to(
            values.device
        )
        large = upsample(torch.cat([values[None].double(), noise]), (size[0], size[1])).flatten(1)
        shuffled = torch.randperm(large.shape[1], generator=generator).to(values.device)
        order = shuffled[large[:, shuffled].argsort(dim=1, descending=True, stable=True)]
        return order.argsort(dim=1).view(-1, *size)

    def _follow(
        self,
        logits: Callable[[Tensor], Tensor],
        replace_pixels: Callable[[Tensor], Tensor],
        ranks: Tensor,
        counts: Tensor,
        target: int,
    ) -> Tensor:
        """The curves (1 + R, S + 1) of one image; their ends, common to all orders, are measured once."""
        inner = [(order, int(count)) for order in range(len(ranks)) for count in counts[1:-1]]
        jobs = [(0, 0), (0, int(counts[-1])), *inner]
        parts = []
        for start in range(0, len(jobs), self.max_batch):
            order, count = torch.tensor(jobs[start : start + self.max_batch], device=ranks.device).T
            replaced = ranks[order] < count[:, None, None]
            with torch.no_grad():
                output = logits(replace_pixels(~replaced if self.inserting else replaced)).double()
            if target >= output.shape[1]:
                raise TargetError(f"class {target} does not exist: there are classes 0 to {output.shape[1] - 1}")
            parts.append((output.softmax(1) if self.score == "probability" else output)[:, target].cpu())
        scores = torch.cat(parts)
        first, last = scores[:2].expand(len(ranks), 2)[:, :, None].unbind(1)
        return torch.cat([first, scores[2:].view(len(ranks), len(counts) - 2), last], dim=1)


@dataclass(frozen=True, kw_only=True)
class Insertion(Deletion):
    """Put the image's pixels into the baseline, those with the largest values first; otherwise as `Deletion`.

    Read from its end, the curve is that of deleting the pixels with the smallest values first (LeRF).
    """

    inserting: ClassVar[bool] = True
    uses_maps: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True
    description: ClassVar[str] = "How fast the class's probability rises when the pixels ranked highest are put in."


@dataclass(frozen=True, kw_only=True)
class Road(Deletion):
    """`Deletion` in which what is removed is filled in from its surroundings, so that it leaves no shape behind.

    Source: Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods (ROAD), ICML 2022.

    Attributes:
        noise: standard deviation of the noise on imputed pixels, see `NoisyLinear`.
    """

    noise: float = 0.01
    description: ClassVar[str] = "Deletion with what is removed filled in from its surroundings (ROAD)."

    def __post_init__(self) -> None:
        object.__setattr__(self, "baseline", NoisyLinear(self.noise))
        super().__post_init__()


def _check_targets(targets: Tensor) -> None:
    """Refuse what indexes no class, or one from the end, as -1 for "no label" would."""
    if targets.ndim != 1 or targets.dtype == torch.bool or targets.is_floating_point() or targets.is_complex():
        raise TargetError(f"targets are {tuple(targets.shape)} {targets.dtype}; expected (N,) class indices")
    if len(targets) and int(targets.min()) < 0:
        raise TargetError(f"class {int(targets.min())} does not exist; leave out images without a label")


def baseline_images(images: Tensor, baseline: Baseline | Tensor) -> Tensor:
    """What pixels are replaced by: (N, C, H, W) -> (N, C, H, W).

    "zero" is 0 in the input space, for normalized images the mean color of the training set; "mean" each image's
    own mean color; "blur" a Gaussian with a window of about a quarter of the shorter side (sigma a quarter of that).

    Args:
        images: (N, C, H, W).
        baseline: by name, or images (N, C, H, W) or (1, C, H, W).

    Raises:
        PellucidError: no such baseline, or images that do not fit.

    >>> baseline_images(torch.tensor([[[[1.0, 3.0]]]]), "mean")
    tensor([[[[2., 2.]]]])
    """
    if isinstance(baseline, Tensor):
        if baseline.ndim != 4 or baseline.shape[1:] != images.shape[1:] or len(baseline) not in (1, len(images)):
            raise PellucidError(f"baseline {tuple(baseline.shape)} does not fit images {tuple(images.shape)}")
        return baseline.to(images).expand_as(images)
    if baseline == "zero":
        return torch.zeros_like(images)
    if baseline == "mean":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    if baseline == "blur":
        return smooth(images, min(images.shape[2:]) // 4 | 1)
    raise PellucidError(f"no baseline {baseline!r}; choose 'blur', 'mean' or 'zero', or give images")
