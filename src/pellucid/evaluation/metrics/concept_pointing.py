"""The concept grid pointing game: grids with one cell that holds a concept. Is it seen there, and only there?

Concept maps, and maps of the evidence that they select, are scored by the cells that their mass lies in, like any map
of Rao et al., Towards Better Understanding Attribution Methods, CVPR 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.attribution import BatchBudget, TargetLike, View, count_targets, image_batches
from pellucid.concepts import CAV, check_cavs, compute_concept_maps, direction_weights, gather_evidence
from pellucid.errors import PellucidError
from pellucid.evaluation.localization import (
    Grid,
    grid_shape,
    join_cells,
    localize,
    split_cells,
)
from pellucid.evaluation.settings import GridSettingView


@dataclass(frozen=True, eq=False)
class ConceptPointing:
    """Concept maps of D concepts on N grid images, each against the cell that holds the concept.

    Attributes:
        concepts: D names.
        maps: (N, D, h, w) concept maps of whole grids, in [0, 1].
        scores: (N, D) float64 localization score: share of the map's mass in the concept's cell. 0 for an empty map.
        strongest: (N, D) largest value of each map in the concept's cell: 0 where the concept is not seen there.
        chance: score of a map that is the same everywhere, 1 / cells.

    Example:
        >>> maps = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
        >>> pointing = ConceptPointing(("striped",), maps, torch.ones(1, 1), torch.ones(1, 1), chance=0.25)
        >>> pointing.scores.item() > pointing.chance
        True
    """

    concepts: tuple[str, ...]
    maps: Tensor
    scores: Tensor
    strongest: Tensor
    chance: float


def concept_grids(shown: Tensor, others: Tensor, n: Grid = 2, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Lay out grids with one image of a concept each, in a random cell, among images without it.

    Args:
        shown: (N, C, h, w) images of the concept.
        others: (M, C, h, w) images without it, at least as many as there are other cells; no grid has one twice.
        n: n for n x n cells, or (rows, columns).
        seed: of the draw.

    Returns:
        Grid images (N, C, rows * h, columns * w), and the cell of the concept in each (N,).

    Raises:
        PellucidError: fewer than two cells, too few other images, or images of different sizes.

    Example:
        >>> grids, cells = concept_grids(torch.ones(2, 3, 4, 4), torch.zeros(5, 3, 4, 4))
        >>> tuple(grids.shape), tuple(cells.shape)
        ((2, 3, 8, 8), (2,))
    """
    rows, columns = grid_shape(n)
    count = rows * columns
    if len(others) < count - 1 or count < 2 or shown.shape[1:] != others.shape[1:]:
        raise PellucidError(
            f"{tuple(shown.shape)} images of the concept and {tuple(others.shape)} others for {rows} x {columns} "
            f"cells; expected at least 2 cells, images of one size, and {count - 1} others or more"
        )
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(count, (len(shown),), generator=generator)
    grids = []
    for image, cell in zip(shown, cells.tolist(), strict=True):
        around = others[torch.randperm(len(others), generator=generator)[: count - 1]]
        grids.append(torch.cat([around[:cell], image[None], around[cell:]]))
    return join_cells(torch.stack(grids), n), cells


def concept_pointing_game(view: GridSettingView, grids: Tensor, cavs: Sequence[CAV], cells: Tensor) -> ConceptPointing:
    """Score concept maps of grid images by the share that lies in the cell of the concept.

    A concept map does not depend on a target, so neither do these scores; `concept_evidence` does.

    Args:
        view: `setting.at(layer)` of GridPG, DiFull or DiPart.
        grids: (N, C, H, W) grid images.
        cavs: D concepts, fitted at this layer of the setting's classifier.
        cells: (N,) or (N, D) which cell holds the concept.

    Returns:
        The maps of the grids, and the share of each in the concept's cell.

    Raises:
        PellucidError: the cells do not fit, or a CAV of another layer.
    """
    check_cavs(view, cavs)
    by_concept = cells[:, None].expand(-1, len(cavs)) if cells.ndim == 1 else cells
    if by_concept.shape != (len(grids), len(cavs)):
        raise PellucidError(
            f"cells {tuple(cells.shape)} for {len(grids)} grids and {len(cavs)} concepts; expected (N,) or (N, D)"
        )
    grid, size = view.classifier.grid, (grids.shape[2], grids.shape[3])
    maps = compute_concept_maps(view.activation(grids).as_subclass(Tensor), cavs)[0]
    scores = localize(maps.flatten(0, 1), grid, size).target_scores(by_concept.flatten())
    strongest = split_cells(maps, grid).amax((3, 4))  # (N, cells, D)
    in_cell = strongest.gather(1, by_concept[:, None].to(maps.device))[:, 0]
    names = tuple(cav.name for cav in cavs)
    return ConceptPointing(names, maps, scores.reshape(by_concept.shape), in_cell, 1 / (grid[0] * grid[1]))


def concept_evidence(
    view: View, images: Tensor, cavs: Sequence[CAV], target: TargetLike = None, *, max_batch: int = 16
) -> Tensor:
    """Map the evidence that makes up the signed contributions of concepts: M_ij sum_c phat_c IG_c,ij.

    Args:
        view: the classifier, or a grid setting, seen from the layer of the CAVs.
        images: (N, C, H, W).
        cavs: D concepts.
        target: as `VisualTCAV` takes it; (head, class) for settings with several heads.
        max_batch: most rows that go through the network at once.

    Returns:
        (N, D, T, h, w), signed, in the target's unit; the sum over the cells is `explanation.signed` from a zero
        baseline with 50 steps. On DiFull it is 0 in the cells that a head does not see.

    Raises:
        PellucidError: no images, or a CAV of another layer.
        TargetError: no such class.

    Example:
        >>> import torch, pellucid as pl
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> view = pl.Classifier(network.eval(), input_size=8).at("0")
        >>> dark, bright = torch.rand(2, 12, 3, 8, 8)
        >>> cav = pl.concepts.fit_cav(view, bright + 2, dark)
        >>> tuple(concept_evidence(view, bright[:2], [cav], target=1).shape)
        (2, 1, 1, 6, 6)
    """
    check_cavs(view, cavs)
    budget = BatchBudget(view, images[:1], targets=count_targets(target), max_batch=max_batch)
    directions = torch.stack([cav.direction for cav in cavs])
    parts = []
    for batch in image_batches([budget], images, target, differentiate=True):
        evidence = gather_evidence(view, batch.images, batch.target, budget=budget)
        maps = compute_concept_maps(evidence.activation, cavs)[0]
        weights = direction_weights(evidence.activation, directions, maps)
        aligned = torch.einsum("ndc,ntchw->ndthw", weights, evidence.path.values)
        parts.append((maps[:, :, None] * aligned).cpu())
    return torch.cat(parts)
