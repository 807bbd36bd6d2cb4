"""Concept maps against masks of the concept: is it seen where it is, and nowhere else? And the metric that says so.

The masks are brought to the map's resolution, not the other way round: a map is not blamed for the size of its cells.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.concepts import CAV, VisualTCAV, load_cavs
from pellucid.errors import PellucidError
from pellucid.evaluation.localization import as_maps
from pellucid.evaluation.metrics.concept_removal import deletion_rank_correlation, remove_concepts
from pellucid.evaluation.metrics.metric import MeasuredImages, MetricScores

_WHOLE = 1 - 1e-9


def cell_shares(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute the share of each cell of a map that lies in a mask, by area averaging.

    Args:
        masks: (N, H, W) boolean or in [0, 1], 1 inside, as the classifier's input shows the images.
        size: (h, w) of the map, at most (H, W). Where it does not divide (H, W), neighboring cells share pixels.

    Returns:
        (N, h, w) float64 in [0, 1].

    Raises:
        PellucidError: masks smaller than the map, or values outside [0, 1].

    Example:
        >>> cell_shares(torch.tensor([[[1, 1], [0, 1]]]), size=(1, 1)).item()
        0.75
    """
    if masks.ndim != 3 or masks.shape[1] < size[0] or masks.shape[2] < size[1]:
        raise PellucidError(
            f"masks {tuple(masks.shape)} for maps of {size[0]} x {size[1]}; expected (N, H, W), at least as large"
        )
    shares = masks.detach().double()
    if not bool(((shares >= 0) & (shares <= 1)).all()):
        raise PellucidError(f"masks hold {float(shares.min()):g} to {float(shares.max()):g}; expected 0 to 1")
    averaged: Tensor = F.adaptive_avg_pool2d(shares[:, None], size)[:, 0]
    return averaged


def soft_iou(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the intersection over union of a concept map M and a mask's cell shares G.

    sum MG / (sum M + sum G - sum MG)

    Args:
        maps: (N, h, w) or (N, 1, h, w) in [0, 1], such as `explanation.maps[:, concept]`.
        masks: (N, H, W), see `cell_shares`.

    Returns:
        (N,) float64 in [0, 1]; NaN where map and mask are both empty, and for a map that is not finite. A mask that
        covers parts of cells cannot be matched fully: M = G gives 1 only where all shares are 0 or 1.

    Raises:
        PellucidError: maps or masks outside [0, 1], or of shapes that do not fit.

    Example:
        >>> soft_iou(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1, 0]]])).item()
        0.5
    """
    seen, shares = _fitting(maps, masks)
    both = (seen * shares).sum((1, 2))
    return both / (seen.sum((1, 2)) + shares.sum((1, 2)) - both)


def balanced_mse(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the squared error of a concept map with the inside and the outside of a mask weighing alike.

    (mean of (M - G)^2 over the cells wholly inside + the mean over the cells wholly outside) / 2. A map that says the
    same everywhere reaches 0.25 at best.

    Args:
        maps: as in `soft_iou`.
        masks: as in `soft_iou`.

    Returns:
        (N,) float64 in [0, 1]; NaN where no cell is wholly inside or none wholly outside, and for a map that is not
        finite.

    Raises:
        PellucidError: as `soft_iou`.

    Example:
        >>> balanced_mse(torch.full((1, 1, 4), 0.5), torch.tensor([[[1, 0, 0, 0]]])).item()
        0.25
    """
    seen, shares = _fitting(maps, masks)
    inside, outside = shares >= _WHOLE, shares == 0

    def mean_error(cells: Tensor) -> Tensor:
        squared = torch.where(cells, (seen - shares).square(), 0.0)
        return squared.sum((1, 2)) / cells.sum((1, 2))

    balanced = (mean_error(inside) + mean_error(outside)) / 2
    return torch.where(seen.isfinite().flatten(1).all(1), balanced, torch.nan)


def false_alarm(maps: Tensor) -> Tensor:
    """Average concept maps of images that do not show the concept: (N, h, w) or (N, 1, h, w) -> (N,); 0 is right.

    Raises:
        PellucidError: maps outside [0, 1].

    Example:
        >>> false_alarm(torch.tensor([[[0.5, 0.0]]])).item()
        0.25
    """
    return _checked(maps).mean((1, 2))


def _fitting(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and cell shares of the masks, (N, h, w) float64 each."""
    seen = _checked(maps)
    if len(masks) != len(seen):
        raise PellucidError(f"{len(seen)} concept maps and {len(masks)} masks; expected one mask for each map")
    return seen, cell_shares(masks, (seen.shape[1], seen.shape[2])).to(seen.device)


def _checked(maps: Tensor) -> Tensor:
    """Concept maps (N, h, w) float64."""
    seen = as_maps(maps).double()
    if bool(((seen < 0) | (seen > 1)).any()):
        raise PellucidError(
            f"concept maps hold {float(seen.min()):g} to {float(seen.max()):g}; expected 0 to 1, as concept_map gives"
        )
    return seen


@dataclass(frozen=True, kw_only=True)
class ConceptAgreement:
    """Visual-TCAV against what is known of the images: regions of the concept, and what removing it does.

    With regions, the soft intersection over union of each concept's map and the region. With two concepts or more, how
    the signed contributions rank the concepts beside how much of the class's score is lost without them.

    Attributes:
        cavs: folder of fitted CAVs (`pellucid concepts fit`); those of other layers are left out.
        steps: in how many steps a concept is removed.
        max_batch: most images in one pass.
    """

    cavs: str = ""
    steps: int = 10
    max_batch: int = 16
    uses_maps: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True
    description: ClassVar[str] = "Whether concept maps and scores agree with regions and with removing the concept."

    def __post_init__(self) -> None:
        if not self.cavs:
            raise PellucidError("the metric 'concepts' needs fitted CAVs; give their folder as concepts.cavs=FOLDER")

    def digest(self) -> str:
        """SHA-256 of the CAVs' files."""
        content = hashlib.sha256()
        for path in sorted(Path(self.cavs).rglob("*.safetensors")):
            content.update(path.relative_to(self.cavs).as_posix().encode() + b"\0" + path.read_bytes())
        return content.hexdigest()

    def __call__(self, images: MeasuredImages) -> tuple[MetricScores, ...]:
        """Soft IoU of each concept where there are regions, and the rank correlation with what removing does."""
        layer = images.view.layer
        cavs = [cav for cav in load_cavs(self.cavs) if cav.layer == layer and cav.is_pooled]
        if not cavs:
            raise PellucidError(f"no pooled CAV in {self.cavs} was fitted at {layer!r}")
        explained = VisualTCAV(images.view, cavs, permutations=0, max_batch=self.max_batch)(
            images.images, images.targets
        )
        results = [] if images.masks is None else _compare_with_regions(cavs, explained.maps, images.masks)
        if len(cavs) > 1:
            curves = remove_concepts(
                images.view, images.images, cavs, images.targets, steps=self.steps, max_batch=self.max_batch
            )
            # A concept that counts leaves little score behind when it is removed: the correlation is negative.
            agreement = -deletion_rank_correlation(explained.signed, curves)[:, 0]
            results.append(MetricScores.without_chance("rank correlation of scores with removal", agreement))
        if not results:
            raise PellucidError("the metric 'concepts' needs regions of the images, or two concepts at the layer")
        return tuple(results)


def _compare_with_regions(cavs: list[CAV], maps: Tensor, masks: Tensor) -> list[MetricScores]:
    """Soft IoU of the maps (N, D, h, w) of each concept, beside that of a map that is one everywhere."""
    known = masks.flatten(1).any(1)
    results = []
    for index, cav in enumerate(cavs):
        scores, chance = (
            torch.where(known, soft_iou(concept_maps, masks).cpu(), torch.nan)
            for concept_maps in (maps[:, index], torch.ones_like(maps[:, index]))
        )
        results.append(MetricScores(f"soft IoU of {cav.name}", scores, chance))
    return results
