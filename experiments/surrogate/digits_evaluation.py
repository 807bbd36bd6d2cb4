"""How good the twin of a digit classifier is, beyond `pellucid surrogate evaluate`: against real digits redrawn."""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.surrogate.digits import CONTEXTS, Digits, grey_of, input_of
from pellucid.surrogate import TwinSurrogate
from pellucid.surrogate.explain.encoded_batch import margin
from pellucid.synthetic.morphomnist.redraw import redraw

__all__ = ["oracle_agreement"]

_INSIDE = torch.tensor([0.05, 0.95])  # quantiles between which values are asked for


def oracle_agreement(
    twin: TwinSurrogate, digits: Digits, names: Sequence[str] = CONTEXTS
) -> dict[str, dict[str, float]]:
    """The decision's change by the twin's interventions against its change when the real digits are redrawn.

    The margin is the logit of the class that the classifier gives the unchanged picture over the best other one. A
    context is set to its 5 % and 95 % quantile; what is compared is the difference, over pictures.

    Returns:
        For each context: `correlation`, `slope` of the change of the twin's own drawings on the true one, and the
        standard deviations of both (`ours`, `true`), in logits; and the first two for changes laid on the digits.
    """
    painting = twin.paint(digits.pictures)
    bare = painting.bare()
    results = {}
    for name in names:
        column = CONTEXTS.index(name)
        bounds = torch.quantile(digits.context.values[:, column].float(), _INSIDE)
        ours, laid, true = [], [], []
        for value in bounds.tolist():
            asked = torch.full((len(painting),), value)
            concepts = painting.codes.concepts().clone()
            concepts[:, column] = _standard(twin, column, value)
            codes = painting.codes.with_concepts(concepts)
            ours.append(margin(bare.changed_logits(codes), painting.classes))
            laid.append(margin(painting.changed_logits(codes), painting.classes))
            drawn = input_of(redraw(grey_of(digits.pictures), **{name: asked}))  # type: ignore[arg-type]
            true.append(margin(twin.paint(drawn).logits, painting.classes))
        over = _line(true[1] - true[0], laid[1] - laid[0])
        results[name] = _line(true[1] - true[0], ours[1] - ours[0]) | {
            "laid_on_correlation": over["correlation"],
            "laid_on_slope": over["slope"],
        }
    return results


def _standard(twin: TwinSurrogate, column: int, value: float) -> float:
    row = torch.zeros(1, len(CONTEXTS))
    row[0, column] = value
    return float(twin.standard_context(row)[0, column])


def _line(true: Tensor, ours: Tensor) -> dict[str, float]:
    covariance = torch.cov(torch.stack([true, ours]).double())
    scale = (covariance[0, 0] * covariance[1, 1]).sqrt()
    return {
        "correlation": float(covariance[0, 1] / scale),
        "slope": float(covariance[0, 1] / covariance[0, 0]),
        "true": float(covariance[0, 0].sqrt()),
        "ours": float(covariance[1, 1].sqrt()),
    }
