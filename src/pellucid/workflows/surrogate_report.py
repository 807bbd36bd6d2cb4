"""What a surrogate's page shows: the surrogate without its networks, and images with their explanations."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.surrogate import (
    Assessment,
    AuxiliaryQuality,
    Counterfactual,
    DisplaySpace,
    GlobalExplanation,
    LocalExplanation,
    SurrogateExplainer,
    TrainingOptions,
    probabilities,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class SurrogateFacts:
    """A surrogate without its networks: what is known of it, and how its numbers and images are shown.

    Attributes:
        model: name of the classifier.
        weights: fingerprint of the classifier's weights.
        layers: where the classifier is read; none for a black box.
        class_names: of the K classes; of a single logit, of its two sides.
        context_names: of the K_c contexts.
        latent_names: of the unexplained latents.
        context_mean, context_std: (K_c,) of the training table, in its units.
        space: how images of the classifier's input space are shown.
        options: of the training.
        steps: of the training that were made.
        quality: what its predictors and probes reach.
        assessment: its fidelity; None if it was never assessed.
        global_explanation: the causal graph and what moves the decision; None if it was never discovered.
    """

    model: str
    weights: str
    layers: tuple[str, ...]
    class_names: tuple[str, ...]
    context_names: tuple[str, ...]
    latent_names: tuple[str, ...]
    context_mean: Tensor
    context_std: Tensor
    space: DisplaySpace
    options: TrainingOptions
    steps: int
    quality: AuxiliaryQuality
    assessment: Assessment | None
    global_explanation: GlobalExplanation | None

    def to_units(self, concept: str, levels: Tensor) -> tuple[list[float], str]:
        """Values (V,) of a concept's coordinate in the table's units.

        Returns:
            The values and their unit: none for contexts, "sd" for latents, which have standard deviations only.
        """
        if concept not in self.context_names:
            return levels.tolist(), "sd"
        column = self.context_names.index(concept)
        values: list[float] = (levels.cpu() * self.context_std[column] + self.context_mean[column]).tolist()
        return values, ""


@dataclass(frozen=True, eq=False)
class ExplainedImage:
    """An image with its explanation by a surrogate.

    Attributes:
        name: of its file.
        explanation: every local answer.
        counterfactual: of requested values, or None.
        flip_probabilities: (K,) that the classifier gives to the minimal counterfactual; None where there is none.
    """

    name: str
    explanation: LocalExplanation
    counterfactual: Counterfactual | None = None
    flip_probabilities: Tensor | None = None

    def to_dict(self, surrogate: SurrogateFacts) -> dict[str, Any]:
        """The numbers as plain JSON, without the images; what is not a number is null.

        Args:
            surrogate: that made the explanation (`describe_surrogate`).
        """
        explanation, names = self.explanation, self.explanation.class_names
        return {
            "file": self.name,
            "target": names[explanation.target],
            "probabilities": _by_name(names, probabilities(explanation.logits)[0].tolist()),
            "reconstruction_probabilities": _by_name(
                names, probabilities(explanation.reconstruction_logits)[0].tolist()
            ),
            "fidelity": {
                "reliable": bool(explanation.fidelity.reliable[0]),
                "kl": float(explanation.fidelity.kl[0]),
                "agrees": bool(explanation.fidelity.same_class[0]),
                "resemblance": None
                if math.isnan(resemblance := float(explanation.fidelity.resemblance[0]))
                else resemblance,
                "reason": explanation.fidelity.warning(0),
            },
            "importance": _importance(explanation),
            "against": explanation.importance.against,
            "supported": float(explanation.importance.supported[0]),
            "residual_transfer": explanation.residual_transfer,
            "margin": float(explanation.importance.margin[0]),
            "baseline": float(explanation.importance.baseline[0]),
            "effects": [
                {
                    "concept": effect.concept,
                    "direct": effect.direct,
                    "total": list(effect.total),
                    "paths": [{"path": list(path.nodes), "effect": path.effect} for path in effect.paths],
                    "remainder": None if math.isnan(effect.remainder) else effect.remainder,
                    "in_distribution": effect.in_distribution,
                }
                for effect in explanation.effects
            ],
            "interactions": [{"pair": list(pair.concepts), "value": pair.effect} for pair in explanation.interactions],
            "traversals": [
                {
                    "concept": traversal.concept,
                    "values": surrogate.to_units(traversal.concept, traversal.levels)[0],
                    "predicted": surrogate.to_units(traversal.concept, traversal.predicted)[0],
                    "probabilities": traversal.probabilities.tolist(),
                    "in_distribution": traversal.in_distribution.tolist(),
                }
                for traversal in explanation.traversals
            ],
            "minimal_counterfactual": _minimal_counterfactual(explanation),
            "counterfactual": _counterfactual(self.counterfactual, explanation, surrogate),
            "refused": dict(explanation.refused),
            "sentences": list(explanation.sentences),
        }


def describe_surrogate(explainer: SurrogateExplainer) -> SurrogateFacts:
    """What a page needs to know of a surrogate; runs no network.

    >>> from pellucid.surrogate import digit_surrogate
    >>> surrogate = describe_surrogate(digit_surrogate())
    >>> surrogate.model, surrogate.to_units("thickness", torch.zeros(1))[1]
    ('digit_cnn', '')
    """
    surrogate = explainer.surrogate
    auxiliary = surrogate.auxiliary_models
    return SurrogateFacts(
        model=explainer.classifier.name,
        weights=explainer.classifier.fingerprint(),
        layers=tuple(surrogate.features.layers),
        class_names=tuple(explainer.class_names),
        context_names=tuple(explainer.context_names),
        latent_names=tuple(explainer.latent_names),
        context_mean=auxiliary.context_mean.detach().cpu(),
        context_std=auxiliary.context_std.detach().cpu(),
        space=surrogate.space,
        options=surrogate.options,
        steps=surrogate.steps,
        quality=surrogate.quality,
        assessment=explainer.assessment,
        global_explanation=explainer.global_explanation,
    )


def attach_flip_probabilities(
    explainer: SurrogateExplainer, name: str, explanation: LocalExplanation, counterfactual: Counterfactual | None
) -> ExplainedImage:
    """An explained image with what the classifier says of its minimal counterfactual.

    Args:
        explainer: that made the explanation.
        name: of the image's file.
        explanation: of the image.
        counterfactual: of requested values, or None.
    """
    flip = explanation.minimal_counterfactual
    if flip is None:
        return ExplainedImage(name, explanation, counterfactual)
    with torch.no_grad():
        answer = probabilities(explainer.logits(flip.images))[0]
    return ExplainedImage(name, explanation, counterfactual, answer.cpu())


def _importance(explanation: LocalExplanation) -> list[dict[str, Any]]:
    shares = explanation.importance
    columns = (shares.values[0], shares.errors[0], shares.half_widths[0], explanation.percentiles)
    keys = ("concept", "value", "error", "half_width", "percentile")
    rows = [dict(zip(keys, row, strict=True)) for row in zip(shares.names, *(c.tolist() for c in columns), strict=True)]
    return [{**row, "refused": row["concept"] in explanation.refused} for row in rows]


def _minimal_counterfactual(explanation: LocalExplanation) -> dict[str, Any] | None:
    flip = explanation.minimal_counterfactual
    if flip is None:
        return None
    change = _by_name(explanation.importance.names, flip.change[0].tolist())
    return {
        "target": explanation.class_names[int(flip.targets[0])],
        "valid": bool(flip.valid[0]),
        "transferred_valid": bool(flip.transferred_valid[0]),
        "change_sd": {name: by for name, by in change.items() if by},
        "pixels": float(flip.pixel_change[0]),
        "probability": float(flip.probability[0]),
        "in_distribution": bool(flip.in_distribution[0]),
        "plausibility": float(flip.plausibility[0]),
        "notes": list(flip.notes),
    }


def _counterfactual(
    counterfactual: Counterfactual | None, explanation: LocalExplanation, surrogate: SurrogateFacts
) -> dict[str, Any] | None:
    if counterfactual is None:
        return None
    return {
        "do": dict(counterfactual.do),
        "before": _by_name(explanation.class_names, counterfactual.before[0].tolist()),
        "reconstruction": _by_name(explanation.class_names, counterfactual.reconstructed[0].tolist()),
        "after": _by_name(explanation.class_names, counterfactual.after[0].tolist()),
        "predicted": _by_name(surrogate.context_names, counterfactual.predicted[0].tolist()),
        "in_distribution": bool(counterfactual.in_distribution[0]),
        "transfer_refused": dict(counterfactual.transfer_refused),
        "notes": list(counterfactual.notes),
    }


def _by_name(names: Iterable[str], values: list[float]) -> dict[str, float]:
    return dict(zip(names, values, strict=True))
