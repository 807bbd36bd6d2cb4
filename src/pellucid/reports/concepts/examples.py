"""Example images of the class page: those with the most and the least evidence for each concept."""

from pathlib import Path
from typing import Any

from pellucid.concepts import ClassExplanation
from pellucid.data import Geometry
from pellucid.reports.shared.bars import Scale
from pellucid.reports.shared.overlays import map_uri
from pellucid.workflows import ClassExamples, extreme_images


def example_views(examples: ClassExamples, result: ClassExplanation, t: int, scale: Scale) -> list[dict[str, Any]]:
    """What the template prints of each concept's examples at a layer, concepts in the order of their means.

    Args:
        examples: the images with their concept maps.
        result: the layer's result.
        t: index of the target.
        scale: on which evidence is written.
    """
    views = []
    for d in result.signed.mean[:, t].argsort(descending=True, stable=True).tolist():
        highest, lowest = extreme_images(result, d, t)
        shots = {
            name: [_shot(examples, result, (n, d, t), scale) for n in chosen]
            for name, chosen in (("highest", highest), ("lowest", lowest))
        }
        views.append({"name": result.concepts[d], **shots})
    return views


def _shot(examples: ClassExamples, result: ClassExplanation, at: tuple[int, int, int], scale: Scale) -> dict[str, Any]:
    """One image; `at` is its index, the concept's and the target's."""
    n, d, _ = at
    whole = Geometry(*examples.size, box=(0, 0, *examples.size))
    return {
        "image": n,
        "name": Path(result.sources[n]).name,
        "map": map_uri(examples.maps[result.layer, n][d], whole, examples.size),
        "text": scale.write(float(result.signed.values[at])),
        "seen": f"{float(result.strongest[n, d]):.2f}",
    }
