"""Concepts as a metric: are their maps where the concept is, and do their scores say what removing them does?"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.concepts import CAV, VisualTCAV, load_cavs
from pellucid.errors import PellucidError
from pellucid.evaluation.metrics.concepts.agreement import soft_iou
from pellucid.evaluation.metrics.concepts.removal import deletion_rank_correlation, remove_concepts
from pellucid.evaluation.metrics.metric import MeasuredImages, MetricScores


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
