"""What chance is for a concept: four sets of random directions to compare a score with."""

import torch
from torch import Tensor

from experiments.concepts.failures.cases import SIGNED, Bench, Result
from pellucid.concepts import (
    CAV,
    ESTIMATORS,
    VisualTCAV,
    fit_cavs,
    fit_directions,
    gather_evidence,
    null_directions,
    score_directions,
)
from pellucid.statistics import rank_p_value

_DRAWS = 199


def chance(bench: Bench) -> Result:
    """p-values of each texture, and of the placebo, for zebra, under four meanings of chance."""
    view = bench.classifier.at(SIGNED)
    cavs = [*bench.cavs(SIGNED), *fit_cavs(view, [bench.placebo], bench.negatives)]
    scores = VisualTCAV(view, cavs, permutations=0)(bench.zebras, "zebra").reference.mean(0)[:, 0]
    evidence = [gather_evidence(view, part, "zebra") for part in torch.split(bench.zebras, 8)]
    rows = []
    for d, cav in enumerate(cavs):
        for name, directions in chance_directions(cav).items():
            result = [score_directions(one, directions, *cav.emblems).reference for one in evidence]
            null = torch.cat(result).mean(0)[:, 0]
            cosines = torch.nn.functional.cosine_similarity(directions, cav.direction[None]).abs()
            rows.append(
                {
                    "concept": cav.name,
                    "chance": name,
                    "reference": float(scores[d]),
                    "p_value": float(rank_p_value(scores[d], null)),
                    "null_median": float(null.median()),
                    "null_95": float(null.quantile(0.95)),
                    "length": float(directions.norm(dim=1).median() / cav.direction.norm()),
                    "cosine_median": float(cosines.median()),
                    "cosine_95": float(cosines.quantile(0.95)),
                }
            )
    return {"images": len(bench.zebras), "layer": SIGNED, "draws": _DRAWS, "rows": rows}


def chance_directions(cav: CAV) -> dict[str, Tensor]:
    """Random directions (199, C) by name; all but the first have the CAV's length.

    Relabeling mixes the images of the concept into both sides. What sets these apart from others then dominates
    what the sides differ in, so that many of the directions are the CAV's own, or its opposite. Centered images, and
    halves of the negatives, know nothing of that.
    """
    shown, absent = cav.concept_features.double(), cav.negative_features.double()
    halves = torch.nn.functional.normalize(_random_sides(absent, len(absent) // 2), dim=1)
    return {
        "relabeled, own length": _random_sides(torch.cat([shown, absent]), len(shown)),
        "relabeled": null_directions(cav, _DRAWS, null="relabel"),
        "relabeled after centering": null_directions(cav, _DRAWS, null="centered"),
        "halves of the negatives": halves * cav.direction.norm(),
    }


def _random_sides(features: Tensor, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(features), generator=generator) for _ in range(_DRAWS)]
    divisions = [(order[:size], order[size:]) for order in orders]
    return fit_directions(ESTIMATORS["difference"](), features, divisions).float()
