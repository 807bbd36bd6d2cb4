"""AggAtt: all maps of one grid position, sorted by how well they localize and averaged in six bins."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.evaluation.localization import as_maps, row_batches, upsample
from pellucid.shapes import Float

PERCENTILES = (0, 2, 5, 50, 95, 98, 100)
"""Edges of the bins in percent of the maps, best first: unequal, because the tails tell most."""

_SCALE_PERMILLE = 995


@dataclass(frozen=True)
class Bins:
    """Which maps belong to which bin.

    Attributes:
        members: six index tensors, best map first; together every finite map exactly once. A bin may be empty when
            there are few maps (fewer than 25).
        excluded: indices of maps without a finite score; they are in no bin.
    """

    members: tuple[Tensor, ...]
    excluded: Tensor

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(indices) for indices in self.members)

    def examples(self, reach: int = 0) -> tuple[tuple[int, ...], ...]:
        """The map of median rank of each bin, then its neighbors at ranks +1, -1, +2, -2 ... up to `reach`."""
        steps = [0] + [sign * step for step in range(1, reach + 1) for sign in (1, -1)]
        examples = []
        for indices in self.members:
            ranks = [(len(indices) - 1) // 2 + step for step in steps]
            examples.append(tuple(int(indices[rank]) for rank in ranks if 0 <= rank < len(indices)))
        return tuple(examples)

    def bin_of_each_map(self, count: int) -> Tensor:
        """(count,) the bin of every map; -1 for the excluded ones."""
        bins = torch.full((count,), -1)
        for index, members in enumerate(self.members):
            bins[members] = index
        return bins


@dataclass(frozen=True)
class AggAtt:
    """Mean maps of the bins, on one scale.

    Attributes:
        maps: (6, H, W) float64 in [-1, 1]: the means divided by `scale` and clipped. NaN for an empty bin.
        means: (6, H, W) float64, in the maps' own unit.
        scale: 99.5th percentile by rank of all |pixel values| of the means together.
        bins: the members of every bin, and the maps that were left out.
    """

    maps: Float[Tensor, "6 H W"]
    means: Float[Tensor, "6 H W"]
    scale: float
    bins: Bins


def agg_att(
    values: Float[Tensor, "... h w"],
    scores: Float[Tensor, " N"],
    mass: Float[Tensor, " N"],
    *,
    size: tuple[int, int] | None = None,
    signed: bool = False,
) -> AggAtt:
    """Aggregate the maps of one grid position over many grids.

    Maps are sorted by localization score, ties by the positive mass in the cell, and averaged pixel by pixel in the
    bins 0-2, 2-5, 5-50, 50-95, 95-98 and 98-100 %. No map is normalized before the average. Source: Rao et al., Towards
    Better Understanding Attribution Methods, CVPR 2022, section 3 (AggAtt).

    Args:
        values: (N, 1, h, w) or (N, h, w), signed: every map for the same cell.
        scores: (N,) localization scores in that cell; NaN leaves a map out and reports it.
        mass: (N,) positive mass in that cell.
        size: (H, W) to which maps are up-sampled (bilinear) first; None keeps their resolution.
        signed: average the signed maps; otherwise their positive part after up-sampling.

    Returns:
        `AggAtt`, mean maps (6, H, W), best bin first.

    >>> from pellucid.evaluation import localization_score, localize
    >>> maps = torch.rand(50, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> scores = localization_score(maps, n=2, cell=0)
    >>> result = agg_att(maps, scores, mass=localize(maps, n=2).mass[:, 0])
    >>> result.maps.shape, result.bins.sizes
    (torch.Size([6, 4, 4]), (1, 2, 22, 23, 1, 1))
    """
    return agg_att_batches([values], scores, mass, size=size, signed=signed)


def agg_att_batches(
    batches: Iterable[Tensor],
    scores: Float[Tensor, " N"],
    mass: Float[Tensor, " N"],
    *,
    size: tuple[int, int] | None = None,
    signed: bool = False,
) -> AggAtt:
    """`agg_att` of maps that come batch by batch, so that memory does not grow with their number.

    Args:
        batches: tensors (B, 1, h, w) or (B, h, w), in the order of `scores`.
        scores: as in `agg_att`; all of them are needed first, for the bins.
        mass: as in `agg_att`.
        size: as in `agg_att`.
        signed: as in `agg_att`.

    Raises:
        PellucidError: the number or the sizes of the maps do not fit.
    """
    bins = rank_bins(scores, mass)
    bin_of = bins.bin_of_each_map(len(scores))
    sums: Tensor | None = None
    seen = 0
    for batch in batches:
        maps = as_maps(batch).cpu()
        shape = size or (maps.shape[1], maps.shape[2])
        sums = torch.zeros(len(bins.members), *shape, dtype=torch.float64) if sums is None else sums
        if tuple(sums.shape[1:]) != shape or seen + len(maps) > len(scores):
            raise PellucidError(
                f"maps {seen} to {seen + len(maps) - 1} are {shape[0]} x {shape[1]}; expected {len(scores)} maps of "
                f"{sums.shape[1]} x {sums.shape[2]} in all, one per score: pass size=(H, W) for maps of several sizes"
            )
        kept = torch.nonzero(bin_of[seen : seen + len(maps)] >= 0)[:, 0]
        for rows in row_batches(kept, shape):
            large = upsample(maps[rows], shape)
            sums.index_add_(0, bin_of[seen + rows], large if signed else large.clamp_(min=0))
        seen += len(maps)
    if sums is None or seen != len(scores):
        raise PellucidError(
            f"{seen} maps were given for {len(scores)} scores; expected one score per map, and at least one"
        )
    if not bool(sums.isfinite().all()):
        raise PellucidError(
            "a map with a finite score holds NaN or infinite values; give it the score NaN to leave it out"
        )
    return _on_one_scale(sums, bins)


def rank_bins(scores: Float[Tensor, " N"], mass: Tensor) -> Bins:
    """Sort maps by score, ties by larger mass (then by index), and cut the order at the rounded `PERCENTILES`.

    Args:
        scores: (N,) localization scores; NaN for maps that cannot be scored.
        mass: (N,) positive mass in the cell: on DiFull most scores are exactly 1.

    >>> bins = rank_bins(torch.arange(100.0), torch.ones(100))
    >>> bins.sizes, bins.members[0].tolist()
    ((2, 3, 45, 45, 3, 2), [99, 98])
    """
    if scores.ndim != 1 or scores.shape != mass.shape:
        raise PellucidError(f"scores {tuple(scores.shape)} and mass {tuple(mass.shape)} must both be (N,)")
    scores, mass = scores.detach().cpu(), mass.detach().cpu()
    order = torch.argsort(mass, descending=True, stable=True)
    order = order[torch.argsort(scores[order], descending=True, stable=True)]
    finite = scores.isfinite() & mass.isfinite()
    order = order[finite[order]]
    edges = [(percent * len(order) + 50) // 100 for percent in PERCENTILES]
    members = tuple(order[start:end] for start, end in pairwise(edges))
    return Bins(members, torch.nonzero(~finite)[:, 0])


def rank_scale(values: Tensor) -> float:
    """99.5th percentile of the finite |values| by rank: the smallest that at least 99.5 % of them do not exceed.

    >>> rank_scale(torch.arange(1000.0))
    994.0
    """
    sizes = values[values.isfinite()].abs()
    if not len(sizes):
        return 0.0
    rank = -(-_SCALE_PERMILLE * len(sizes) // 1000)
    return float(sizes.kthvalue(rank).values)


def _on_one_scale(sums: Tensor, bins: Bins) -> AggAtt:
    means = sums / torch.tensor(bins.sizes, dtype=torch.float64)[:, None, None]
    scale = rank_scale(means)
    # Where at most 0.5 % of the pixels differ from zero, the scale is zero and the limit of the division is the sign.
    maps = (means / scale).clamp(-1, 1) if scale > 0 else means.sign()
    return AggAtt(maps, means, scale, bins)
