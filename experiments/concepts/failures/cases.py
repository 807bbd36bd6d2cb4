"""The five failures, measured before and after the fix. All results are plain numbers for JSON."""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.attribution import Target
from pellucid.classifiers import Classifier
from pellucid.concepts import (
    CAV,
    ConceptExplanation,
    ConceptSet,
    VisualTCAV,
    fit_cavs,
    gram_matrix,
)
from pellucid.evaluation.metrics import remove_concepts

Result = dict[str, Any]
SIGNED, RECTIFIED = "blocks.15", "head"
"""The last layer whose values have both signs, and the last map, which is behind a ReLU6."""
LOOK_ALIKES = ["zebra", "hartebeest", "sorrel", "tiger", "impala", "gazelle", "ostrich", "cheetah"]
"""Classes that an image of a zebra speaks for or against."""


@dataclass(frozen=True, eq=False)
class Bench:
    """What all five look at.

    Attributes:
        classifier: EfficientNet-Lite0.
        concepts, placebo, negatives: photographed textures, photographs like the negatives, and photographs.
        zebras: (N, 3, H, W).
        mixed: (M, 3, H, W) of many classes.
    """

    classifier: Classifier
    concepts: list[ConceptSet]
    placebo: ConceptSet
    negatives: ConceptSet
    zebras: Tensor
    mixed: Tensor
    _cavs: dict[str, list[CAV]] = field(default_factory=dict)

    def cavs(self, layer: str) -> list[CAV]:
        """The concepts at a layer, fitted once."""
        if layer not in self._cavs:
            self._cavs[layer] = fit_cavs(self.classifier.at(layer), self.concepts, self.negatives)
        return self._cavs[layer]

    def explain(self, layer: str, images: Tensor, target: object = None, **options: Any) -> ConceptExplanation:
        """An explanation without p-values."""
        view = self.classifier.at(layer)
        return VisualTCAV(view, self.cavs(layer), permutations=0, **options)(images, target)

    def effects(self, layer: str, images: Tensor, target: object) -> Tensor:
        """(N, D, T) how far the score falls when a concept is taken out of the layer: the truth by intervention."""
        view = self.classifier.at(layer)
        scores = remove_concepts(view, images, self.cavs(layer), target, steps=1).scores
        return scores[..., 0] - scores[..., 1]


def silent_zeros(bench: Bench) -> Result:
    """How many published scores are exactly 0, and why; what the signed contribution says of the same cells."""
    rows = []
    for layer in ("blocks.15.expand.bn", SIGNED, "head.bn", RECTIFIED):
        result = bench.explain(layer, bench.mixed, tolerance=None)
        zero = result.reference == 0
        reasons = Counter(str(status) for status in result.status[zero.numpy()])
        rows.append(
            {
                "layer": layer,
                "signed_layer": layer != RECTIFIED,
                "cells": zero.numel(),
                "zeros": int(zero.sum()),
                "reasons": dict(reasons.most_common()),
                "zeros_without_reason": reasons.get("ok", 0),
                "zeros_with_signed_contribution": int((zero & (result.signed != 0)).sum()),
                "negative_map_seen_where_map_is_empty": int(
                    ((result.maps.amax((2, 3)) == 0) & (result.negative_maps.amax((2, 3)) > 0)).sum()
                ),
                "empty_maps": int((result.maps.amax((2, 3)) == 0).sum()),
            }
        )
    return {"images": len(bench.mixed), "concepts": len(bench.concepts), "targets": 3, "layers": rows}


def hidden_sign(bench: Bench) -> Result:
    """Concepts that speak against a class: the published score cannot say so, signed ones can."""
    rows = []
    for layer in (SIGNED, RECTIFIED):
        published = bench.explain(layer, bench.zebras, LOOK_ALIKES).reference.mean(0)
        for output in ("logit", "log_probability"):
            target = Target(LOOK_ALIKES, output)
            result = bench.explain(layer, bench.zebras, target)
            truth = bench.effects(layer, bench.zebras, target).mean(0)
            scores = {
                "reference": published,
                "signed": result.signed.mean(0),
                "joint": result.joint.contributions.mean(0),
            }
            rows.append(_signs(result, scores, truth) | {"output": output})
    return {"images": len(bench.zebras), "concepts": len(bench.concepts), "rows": rows}


def _signs(result: ConceptExplanation, scores: dict[str, Tensor], truth: Tensor) -> Result:
    """Scores (D, T) against what taking a concept out does: sign, rank, and stripes class by class."""
    against, stripes = truth < 0, result.concepts.index("striped")
    place = (scores["reference"] > scores["reference"][stripes]).sum(0) + 1
    return {
        "layer": result.layer,
        "cells": truth.numel(),
        "against": int(against.sum()),
        "against_and_said_so": {name: int((against & (values < 0)).sum()) for name, values in scores.items()},
        "against_and_said_for": {name: int((against & (values > 0)).sum()) for name, values in scores.items()},
        "sign_agreement": {name: _agreement(values, truth) for name, values in scores.items()},
        "weighted_sign_agreement": {name: _agreement(values, truth, truth.abs()) for name, values in scores.items()},
        "rank_correlation": {name: _spearman(values, truth) for name, values in scores.items()},
        "striped": [
            {"class": name, "reference_rank": int(place[t]), "effect_of_removal": float(truth[stripes, t])}
            | {score: float(values[stripes, t]) for score, values in scores.items()}
            for t, name in enumerate(LOOK_ALIKES)
        ],
    }


def _agreement(scores: Tensor, truth: Tensor, weights: Tensor | None = None) -> float:
    """Share of the numbers that have the sign of the truth, each counted by its weight."""
    weights = torch.ones_like(truth) if weights is None else weights
    return float((weights * (scores.sign() == truth.sign())).sum() / weights.sum())


def baselines(bench: Bench) -> Result:
    """Zero is no ordinary activation of a signed layer; the mean of ordinary images is nearer to one."""
    rows = []
    for layer in ("blocks.11.expand.bn", "blocks.10", SIGNED, RECTIFIED):
        mean = bench.cavs(layer)[0].negative_features.mean(0)
        ordinary = _ordinary_logits(bench, layer)
        truth = bench.effects(layer, bench.mixed, _three_most_likely(bench))
        for name in ("zero", "negatives"):
            result = bench.explain(layer, bench.mixed, _three_most_likely(bench), baseline=name, tolerance=None)
            cells = torch.zeros_like(mean) if name == "zero" else mean
            with torch.no_grad():
                logits = bench.classifier.at(layer).logits(
                    cells[None, :, None, None].expand(1, -1, *result.maps.shape[2:]).clone()
                )[0]
            best = logits.softmax(0).max(0)
            rows.append(
                {
                    "layer": layer,
                    "baseline": name,
                    "oddness": _oddness(logits, ordinary),
                    "most_likely_class": bench.classifier.class_names[int(best.indices)],
                    "its_probability": float(best.values),
                    "classes_not_above_baseline": int((result.delta <= 0).sum()),
                    "classes": result.delta.numel(),
                    "rank_correlation_with_removal": _mean_spearman(result.signed, truth),
                    "sign_agreement_with_removal": float((result.signed.sign() == truth.sign()).double().mean()),
                    "median_gap": float(result.gap.median()),
                }
            )
    return {"images": len(bench.mixed), "layers": rows}


def gauge(bench: Bench) -> Result:
    """One and the same function to probabilities, written with other logits, gets other published scores."""
    classifier, zebra = bench.classifier, bench.classifier.class_index("zebra")
    weight = _last(classifier.module).weight.detach()
    shifts = {"as trained": torch.zeros_like(weight[0]), "rows centered": weight.mean(0), "zebra's row": weight[zebra]}
    before = classifier.logits(bench.zebras).detach()
    rows, names = [], [cav.name for cav in bench.cavs(SIGNED)]
    for name, shift in shifts.items():
        other = _shifted(classifier, shift)
        moved = (other.logits(bench.zebras).detach().softmax(1) - before.softmax(1)).abs().max()
        cavs = [replace(cav, fingerprint=other.fingerprint()) for cav in bench.cavs(SIGNED)]
        explainer = VisualTCAV(other.at(SIGNED), cavs, permutations=0)
        by_target = {
            out: explainer(bench.zebras, Target("zebra", out)) for out in ("logit", "centered", "log_probability")
        }
        reference = by_target["logit"].reference.mean(0)[:, 0]
        stripes = names.index("striped")
        rows.append(
            {
                "logits_minus": name,
                "largest_change_of_a_probability": float(moved),
                "reference_striped": float(reference[stripes]),
                "reference_first": names[int(reference.argmax())] if float(reference.max()) > 0 else None,
                "status": Counter(str(one) for one in by_target["logit"].status[:, stripes, 0]).most_common(1)[0][0],
                "signed_striped": {out: float(result.signed.mean(0)[stripes, 0]) for out, result in by_target.items()},
                "signed": {out: result.signed.mean(0)[:, 0].tolist() for out, result in by_target.items()},
                "reference": reference.tolist(),
            }
        )
    return {"images": len(bench.zebras), "layer": SIGNED, "concepts": names, "gauges": rows}


def correlated(bench: Bench) -> Result:
    """A concept that is there twice is counted twice, unless the evidence is shared out."""
    view = bench.classifier.at(SIGNED)
    striped = next(concept for concept in bench.concepts if concept.name == "striped")
    halves = [
        ConceptSet(f"striped {part}", striped.images[start::2], striped.sources[start::2])
        for part, start in (("A", 0), ("B", 1))
    ]
    others = [cav for cav in bench.cavs(SIGNED) if cav.name != "striped"][:7]
    whole = next(cav for cav in bench.cavs(SIGNED) if cav.name == "striped")
    twice = fit_cavs(view, halves, bench.negatives)
    rows = []
    for label, cavs in (("once", [whole]), ("twice", twice)):
        for method in ("least_squares", "shapley"):
            result = VisualTCAV(view, [*cavs, *others], permutations=0, joint=method)(bench.zebras, "zebra")
            own, delta = len(cavs), float(result.delta.mean())
            joint = result.joint.contributions.mean(0)[:, 0]
            rows.append(
                {
                    "striped": label,
                    "joint": method,
                    "delta": delta,
                    "single_striped": float(result.signed.mean(0)[:own, 0].sum()),
                    "single_total": float(result.signed.mean(0)[:, 0].sum()),
                    "joint_striped": float(joint[:own].sum()),
                    "joint_each": joint[:own].tolist(),
                    "joint_total": float(joint.sum()),
                    "residual": float(result.joint.residual.mean()),
                }
            )
    gram = gram_matrix(torch.stack([cav.direction for cav in [*twice, *bench.cavs(SIGNED)]]))
    names = [cav.name for cav in [*twice, *bench.cavs(SIGNED)]]
    return {
        "images": len(bench.zebras),
        "layer": SIGNED,
        "others": [cav.name for cav in others],
        "cosine_of_halves": float(gram[0, 1]),
        "concepts": names,
        "gram": gram.tolist(),
        "rows": rows,
    }


def _three_most_likely(bench: Bench) -> Tensor:
    with torch.no_grad():
        return bench.classifier.logits(bench.mixed).topk(3).indices


def _ordinary_logits(bench: Bench, layer: str) -> Tensor:
    """Logits (n, K) of the images without the concepts, where each cell of the layer is their own mean cell.

    A baseline is the same in all cells, so it is compared with activations that are.
    """
    view, size = bench.classifier.at(layer), bench.explain(layer, bench.mixed[:1]).maps.shape[2:]
    cells = bench.cavs(layer)[0].negative_features[:, :, None, None].expand(-1, -1, *size)
    with torch.no_grad():
        return torch.cat([view.logits(part.clone()) for part in torch.split(cells, 16)])


def _oddness(logits: Tensor, ordinary: Tensor) -> float:
    """Distance (K,) from the mean of ordinary logits (n, K), in units of their own root mean squared distance."""
    center = ordinary.mean(0)
    return float((logits - center).norm() / (ordinary - center).square().sum(1).mean().sqrt())


def _last(module: nn.Module) -> nn.Linear:
    return [part for part in module.modules() if isinstance(part, nn.Linear)][-1]


def _shifted(classifier: Classifier, shift: Tensor) -> Classifier:
    """The classifier with `shift` (C,) taken from every row of its last layer: no probability changes."""
    module = deepcopy(classifier.module)
    with torch.no_grad():
        _last(module).weight -= shift
    return Classifier(module, preprocess=classifier.preprocess, class_names=classifier.class_names)


def _spearman(one: Tensor, other: Tensor) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(one.flatten().numpy(), other.flatten().numpy()).statistic)


def _mean_spearman(scores: Tensor, truth: Tensor) -> float:
    """Mean over images and targets of the rank correlation over the concepts (N, D, T); constant ones left out."""
    result = [
        _spearman(scores[n, :, t], truth[n, :, t])
        for n, t in np.ndindex(scores.shape[0], scores.shape[2])
        if len(torch.unique(scores[n, :, t])) > 1 and len(torch.unique(truth[n, :, t])) > 1
    ]
    return float(np.mean(result))
