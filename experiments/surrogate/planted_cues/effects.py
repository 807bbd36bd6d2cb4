"""What setting a context does to a decision: by the surrogate, in truth, and as plain correlation would have it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from pellucid.surrogate import (
    DOSE_QUANTILES,
    Codes,
    DecisionEffect,
    EncodedBatch,
    NuisanceNull,
    ReferenceSet,
    margin,
    shapley_importance,
)

_PERMUTATIONS = 16
_SHAPLEY_IMAGES = 50


def score(logits: Tensor, classes: Tensor) -> Tensor:
    """What is explained, (N,): of two classes how far the second is ahead, else how far the factual one is."""
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else margin(logits, classes)


def interventions(values: Tensor) -> Tensor:
    """What a context (N,) is set to, (1 + 5, N): another image's value, then its quantiles."""
    doses = torch.quantile(values, torch.tensor(DOSE_QUANTILES).to(values))
    return torch.cat([values.roll(1)[None], doses[:, None].expand(-1, len(values))])


@torch.no_grad()
def true_effects(
    logits: Callable[[Tensor], Tensor], images: Tensor, kept: Tensor, redrawn: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Change of the score by true interventions.

    Args:
        logits: the classifier.
        images: (N, C, H, W).
        kept: the same redrawn with nothing set.
        redrawn: context -> (1 + 5, N, C, H, W), redrawn with what `interventions` sets.

    Returns:
        context -> (1 + 5, N).
    """
    classes = logits(images).argmax(1)
    before = score(logits(kept), classes)
    return {name: torch.stack([score(logits(row), classes) - before for row in rows]) for name, rows in redrawn.items()}


def causal_effects(
    shown: EncodedBatch,
    batch: EncodedBatch,
    standard: Callable[[Tensor], Tensor],
    context: Mapping[str, Tensor],
    truth: Mapping[str, Tensor],
    usable: Tensor,
) -> dict[str, dict[str, float]]:
    """The surrogate's effect of every context beside the true one.

    Args:
        shown: how the surrogate's interventions are shown: `batch` itself, or it `reconstructed`.
        batch: of N images.
        standard: from contexts (N, K) in the table's units to the codes'.
        context: name -> (N,) measured values of all contexts, in the codes' order.
        truth: of `true_effects`.
        usable: name by name (K, N), images whose true counterfactuals are what was asked for.

    Returns:
        For each context: `strength` and `true_strength`, the mean absolute change of the score when the context takes
        another image's value, in standard deviations of the score; `flips` and `true_flips`, the share of images
        whose class changes then; `reach` and `true_reach`, the range of the mean score over five quantiles of the
        context, in logits; `correlation` of the change with the true one over images, mean over the quantiles;
        `images` that were usable.
    """
    classes = batch.classes
    before, own = score(shown.logits, classes), score(batch.logits, classes)
    measured = torch.stack(list(context.values()), dim=1)
    result = {}
    for column, (name, values) in enumerate(context.items()):
        requested = [standard(_with(measured, column, row))[:, column] for row in interventions(values)]
        logits = [shown.counterfactual_logits(_set(batch.codes, column, row)) for row in requested]
        mine = torch.stack([score(after, classes) - before for after in logits])[:, usable[column]]
        true = truth[name][:, usable[column]]
        means, true_means = mine[1:].mean(1), true[1:].mean(1)
        pairs = zip(mine[1:], true[1:], strict=True)
        result[name] = {
            "strength": float(mine[0].abs().mean() / own.std()),
            "true_strength": float(true[0].abs().mean() / own.std()),
            "flips": _flips(before[usable[column]], mine[0]),
            "true_flips": _flips(own[usable[column]], true[0]),
            "reach": float(means.max() - means.min()),
            "true_reach": float(true_means.max() - true_means.min()),
            "correlation": float(torch.stack([_correlation(x, y) for x, y in pairs]).mean()),
            "images": int(usable[column].sum()),
        }
    return result


def _with(table: Tensor, column: int, values: Tensor) -> Tensor:
    changed = table.clone()
    changed[:, column] = values
    return changed


def _set(codes: Codes, column: int, values: Tensor) -> Codes:
    return codes.replace_concepts(_with(codes.concept_coordinates(), column, values))


def _flips(before: Tensor, change: Tensor) -> float:
    return float(((before > 0) != (before + change > 0)).float().mean())


def plain_correlation(scores: Tensor, context: Mapping[str, Tensor]) -> dict[str, float]:
    """Pearson's correlation of scores (N,) with each context (N,)."""
    return {name: float(_correlation(scores, values)) for name, values in context.items()}


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([x.double(), y.double()]))[0, 1]


def reported(
    batch: EncodedBatch, edges: Sequence[DecisionEffect], null: NuisanceNull, reference: ReferenceSet
) -> dict[str, Any]:
    """What a user reads: decision edges beside the nuisance null, and Shapley values of the concepts.

    Args:
        batch: held-out images; the first of them get Shapley values.
        edges, null: of `measure_decision_effects`.
        reference: real images.
    """
    shares = shapley_importance(batch[:_SHAPLEY_IMAGES], reference, against="all", permutations=_PERMUTATIONS)
    sizes = shares.values.abs().mean(0)
    return {
        "edges": {edge.concept: asdict(edge) for edge in edges},
        "null": asdict(null),
        "importance": dict(zip(shares.names, sizes.tolist(), strict=True)),
        "importance_order": [shares.names[place] for place in sizes.argsort(descending=True)],
    }
