"""How good the surrogate of a digit classifier is, beyond `pellucid surrogate evaluate`: against real digits
redrawn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.surrogate.digits.data import CONTEXTS, Digits, gray_of, input_of
from pellucid.surrogate import SurrogateExplainer, margin
from pellucid.synthetic.morphomnist import redraw

_INSIDE = torch.tensor([0.05, 0.95])  # quantiles between which values are asked for


def oracle_agreement(
    explainer: SurrogateExplainer, digits: Digits, names: Sequence[str] = CONTEXTS
) -> dict[str, dict[str, float]]:
    """The decision's change by the surrogate's interventions against its change when the real digits are redrawn.

    The margin is the logit of the class that the classifier gives the unchanged image over the best other one. A
    context is set to its 5 % and 95 % quantile; what is compared is the difference, over images.

    Returns:
        For each context: `correlation`, `slope` of the change of the reconstructions on the true one, and the
        standard deviations of both (`ours`, `true`), in logits; and the first two for residual transferred to the
        input digits.
    """
    batch = explainer.encode_batch(digits.images)
    reconstructed = batch.reconstructed()
    results = {}
    for name in names:
        column = CONTEXTS.index(name)
        bounds = torch.quantile(digits.context.values[:, column].float(), _INSIDE)
        ours, laid, true = [], [], []
        for value in bounds.tolist():
            requested = torch.full((len(batch),), value)
            concepts = batch.codes.concept_coordinates().clone()
            concepts[:, column] = _standard(explainer, column, value)
            codes = batch.codes.replace_concepts(concepts)
            ours.append(margin(reconstructed.counterfactual_logits(codes), batch.classes))
            laid.append(margin(batch.counterfactual_logits(codes), batch.classes))
            drawn = input_of(redraw(gray_of(digits.images), **{name: requested}))  # type: ignore[arg-type]
            true.append(margin(explainer.encode_batch(drawn).logits, batch.classes))
        over = _line(true[1] - true[0], laid[1] - laid[0])
        results[name] = _line(true[1] - true[0], ours[1] - ours[0]) | {
            "residual_correlation": over["correlation"],
            "residual_slope": over["slope"],
        }
    return results


def _standard(explainer: SurrogateExplainer, column: int, value: float) -> float:
    row = torch.zeros(1, len(CONTEXTS))
    row[0, column] = value
    return float(explainer.standard_context(row)[0, column])


def _line(true: Tensor, ours: Tensor) -> dict[str, float]:
    covariance = torch.cov(torch.stack([true, ours]).double())
    scale = (covariance[0, 0] * covariance[1, 1]).sqrt()
    return {
        "correlation": float(covariance[0, 1] / scale),
        "slope": float(covariance[0, 1] / covariance[0, 0]),
        "true": float(covariance[0, 0].sqrt()),
        "ours": float(covariance[1, 1].sqrt()),
    }
