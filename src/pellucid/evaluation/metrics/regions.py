"""Maps against regions of an image, boxes or masks: pointing game, relevance mass and relevance rank accuracy.

Every score stands beside its chance level, which is large where the region is: most boxes cover half an image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.evaluation.localization import (
    NEGLIGIBLE,
    as_maps,
    row_batches,
    upsample,
)
from pellucid.evaluation.metrics.metric import ExplainedImages, MetricScores

BoundingBox = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the image, edges not centers: (0, 0, W, H) is the whole image."""


@dataclass(frozen=True)
class RegionScores:
    """One score per image, with what a map without information reaches.

    Attributes:
        scores: (N,) float64 in [0, 1]; NaN for a map with NaN or infinite values.
        chance: (N,) float64: expected score of a map that is the same everywhere.
    """

    scores: Tensor
    chance: Tensor

    @property
    def finite(self) -> Tensor:
        """(N,) bool: False for maps that cannot be scored."""
        return self.scores.isfinite()


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The three scores of maps against the regions of their images; images without a region have none.

    Attributes:
        tolerance: how near to the region a hit of the pointing game may be, in pixels of the classifier's input.
    """

    tolerance: float = 15
    uses_maps: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True
    description: ClassVar[str] = "How much of the positive evidence lies in the boxes or masks of the object."

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise PellucidError(f"tolerance is {self.tolerance}; it is a distance of 0 pixels or more")

    def __call__(self, explained: ExplainedImages) -> tuple[MetricScores, ...]:
        """Pointing game, relevance mass and relevance rank accuracy of each map."""
        if explained.masks is None:
            raise PellucidError("the metric 'regions' needs boxes or masks of the images; give them with regions=")
        known = torch.nonzero(explained.masks.flatten(1).any(1))[:, 0]
        values, masks = as_maps(explained.values)[known], explained.masks[known]
        games: dict[str, Callable[[], RegionScores]] = {
            "pointing game": lambda: pointing_game(values, masks, tolerance=self.tolerance),
            "relevance mass": lambda: relevance_mass_accuracy(values, masks),
            "relevance rank": lambda: relevance_rank_accuracy(values, masks),
        }
        results = []
        for quantity, play in games.items():
            scores, chance = torch.full((2, len(explained.masks)), torch.nan, dtype=torch.float64)
            if len(known):
                region = play()
                scores[known], chance[known] = region.scores.cpu(), region.chance.cpu()
            results.append(MetricScores(quantity, scores, chance))
        return tuple(results)


def pointing_game(values: Tensor, masks: Tensor, *, tolerance: float = 15) -> RegionScores:
    """Hit or miss: is the map's largest value in the region, or within `tolerance` pixels of it?

    Source: Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016.

    Args:
        values: (N, 1, h, w) or (N, h, w), signed; brought to the masks' size by bilinear interpolation.
        masks: (N, H, W) bool, True in the region; `box_masks` makes them of boxes.
        tolerance: Euclidean distance in pixels of the mask.

    Returns:
        `RegionScores` (N,): 1 for a hit and 0 for a miss; where several pixels share the largest value, the share of
        them that hit.

    Raises:
        PellucidError: maps and masks do not fit, or a region is empty.

    >>> masks = torch.tensor([[[True, False], [False, False]]])
    >>> pointing_game(torch.tensor([[[3.0, 1.0], [0.0, 0.0]]]), masks, tolerance=0).scores
    tensor([1.], dtype=torch.float64)
    """
    near = _dilated(_checked(values, masks), tolerance)

    def hits(maps: Tensor, region: Tensor) -> Tensor:
        largest = maps == maps.amax(1, keepdim=True)
        return (largest & region).sum(1) / largest.sum(1).double()

    return _score(values, near, hits)


def relevance_mass_accuracy(values: Tensor, masks: Tensor) -> RegionScores:
    """Share of the positive evidence that lies in the region; 0 for a map without positive evidence.

    Source: Arras, Osman, Samek, CLEVR-XAI, Information Fusion 2022. Arguments and errors as in `pointing_game`.

    >>> masks = torch.tensor([[[True, False], [False, False]]])
    >>> result = relevance_mass_accuracy(torch.tensor([[[3.0, 1.0], [0.0, -2.0]]]), masks)
    >>> result.scores, result.chance
    (tensor([0.7500], dtype=torch.float64), tensor([0.2500], dtype=torch.float64))
    """

    def inside(maps: Tensor, region: Tensor) -> Tensor:
        positive = maps.clamp(min=0)
        total = positive.sum(1)
        return torch.where(total <= NEGLIGIBLE * maps.abs().sum(1), 0.0, (positive * region).sum(1) / total)

    return _score(values, _checked(values, masks), inside)


def energy_pointing_game(values: Tensor, boxes: Sequence[Sequence[BoundingBox]], size: tuple[int, int]) -> RegionScores:
    """`relevance_mass_accuracy` against boxes: share of the positive evidence in the boxes of each image.

    Source: Wang et al., Score-CAM, CVPR Workshops 2020.

    Args:
        values: (N, 1, h, w) or (N, h, w), signed.
        boxes: for every image its boxes (left, top, right, bottom), in pixels of `size`.
        size: (H, W) of the image.

    Returns:
        `RegionScores` (N,).

    Raises:
        PellucidError: maps and boxes do not fit, or a box holds no pixel.

    >>> energy_pointing_game(torch.ones(1, 4, 4), [[(0, 0, 4, 2)]], (4, 4)).scores
    tensor([0.5000], dtype=torch.float64)
    """
    return relevance_mass_accuracy(values, box_masks(boxes, size))


def relevance_rank_accuracy(values: Tensor, masks: Tensor) -> RegionScores:
    """Of the K largest values, K being the region's area, the share that lies in the region.

    Values that tie for the last ranks count in proportion, so that a flat map scores the area's share. Source: Arras,
    Osman, Samek, CLEVR-XAI, Information Fusion 2022. Arguments and errors as in `pointing_game`.

    >>> masks = torch.tensor([[[True, True], [False, False]]])
    >>> relevance_rank_accuracy(torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]), masks).scores
    tensor([0.5000], dtype=torch.float64)
    """

    def ranked(maps: Tensor, region: Tensor) -> Tensor:
        area = region.sum(1)
        last = maps.sort(1, descending=True).values.gather(1, area[:, None] - 1)
        above, equal = maps > last, maps == last
        free = area - above.sum(1)
        tied = (equal & region).sum(1) * free / equal.sum(1).double()
        return ((above & region).sum(1) + tied) / area

    return _score(values, _checked(values, masks), ranked)


def box_masks(boxes: Sequence[Sequence[BoundingBox]], size: tuple[int, int]) -> Tensor:
    """Masks (N, H, W) of the pixels whose center lies in one of an image's boxes (left, top, right, bottom).

    Args:
        boxes: for every image its boxes, edges in pixels.
        size: (H, W) of the images.

    Raises:
        PellucidError: a box that is empty or holds no pixel center of the image.

    >>> box_masks([[(1, 0, 2, 2)]], (2, 3)).int()
    tensor([[[0, 1, 0],
             [0, 1, 0]]], dtype=torch.int32)
    """
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    down, across = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    for index, boxes_of_image in enumerate(boxes):
        for left, top, right, bottom in boxes_of_image:
            inside = ((top <= down) & (down < bottom))[:, None] & (left <= across) & (across < right)
            if not bool(inside.any()):
                raise PellucidError(
                    f"box {(left, top, right, bottom)} of image {index} holds no pixel of {size[0]} x {size[1]}; "
                    "expected (left, top, right, bottom) in pixels"
                )
            masks[index] |= inside
    return masks


def _score(values: Tensor, masks: Tensor, rule: Callable[[Tensor, Tensor], Tensor]) -> RegionScores:
    """Apply a rule for flat maps (B, H * W) and regions (B, H * W) to all finite maps, a few at a time."""
    maps, size = as_maps(values), (masks.shape[1], masks.shape[2])
    scores = torch.full((len(maps),), torch.nan, dtype=torch.float64, device=maps.device)
    for rows in row_batches(torch.nonzero(maps.isfinite().flatten(1).all(1))[:, 0], size):
        scores[rows] = rule(upsample(maps[rows], size).flatten(1), masks[rows].flatten(1))
    return RegionScores(scores, masks.flatten(1).double().mean(1))


def _checked(values: Tensor, masks: Tensor) -> Tensor:
    maps = as_maps(values)
    if masks.ndim != 3 or len(masks) != len(maps) or masks.dtype != torch.bool:
        raise PellucidError(
            f"masks {tuple(masks.shape)} {masks.dtype} for {len(maps)} maps; expected ({len(maps)}, H, W) bool"
        )
    empty = torch.nonzero(~masks.flatten(1).any(1))[:, 0].tolist()
    if empty:
        raise PellucidError(f"the region of image {empty[0]} is empty ({len(empty)} in all); leave such images out")
    return masks.to(maps.device)


def _dilated(masks: Tensor, tolerance: float) -> Tensor:
    """The pixels within a Euclidean distance of a region."""
    from scipy.ndimage import distance_transform_edt

    if tolerance < 0:
        raise PellucidError(f"tolerance is {tolerance}; expected a distance of 0 pixels or more")
    near = [torch.from_numpy(distance_transform_edt(~mask) <= tolerance) for mask in masks.cpu().numpy()]
    return torch.stack(near).to(masks.device) if near else masks
