"""How good a twin of a digit classifier is: fidelity, and whether an intervention does what was asked, by measuring."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from experiments.surrogate.digits import CONTEXTS, Digits, grey_of, input_of
from pellucid.data.morphomnist.measuring import measure
from pellucid.data.morphomnist.setting import redraw
from pellucid.surrogate import Codes, TwinSurrogate
from pellucid.surrogate.fitting import determination
from pellucid.surrogate.losses import divergence

__all__ = ["effectiveness", "fidelity", "oracle_agreement"]

_GROUND = 0.1  # of the brightest grey: drawn pictures are not quite black around the digit
_INSIDE = (0.05, 0.95)  # quantiles between which values are asked for


@torch.no_grad()
def fidelity(twin: TwinSurrogate, digits: Digits) -> dict[str, float]:
    """How well the twin redraws pictures and answers for the classifier, on pictures that it was not trained on."""
    pictures = digits.pictures
    codes = twin.encode(pictures)
    redrawn = _drawn(twin, codes)
    asked, found, head = _logits(twin, pictures), _logits(twin, redrawn), twin.head_logits(codes)
    swapped = _drawn(twin, replace(codes, nuisance=codes.nuisance.roll(1, 0)))
    label = asked.argmax(1)
    return {
        "classifier_accuracy": _share(label == digits.labels),
        "agreement": _share(found.argmax(1) == label),
        "divergence": float(divergence(asked, found).mean()),
        "head_agreement": _share(head.argmax(1) == label),
        "logit_determination": float(determination(found, asked).mean()),
        "pixel_distance": float((redrawn - pictures).abs().mean() / 2),
        "nuisance_swap_flips": _share(_logits(twin, swapped).argmax(1) != label),
        "nuisance_swap_divergence": float(divergence(asked, _logits(twin, swapped)).mean()),
    }


@torch.no_grad()
def effectiveness(twin: TwinSurrogate, digits: Digits, seed: int = 0) -> dict[str, dict[str, float]]:
    """Ask for values of one context at a time and measure the pictures that are drawn.

    Returns:
        For each context: `correlation` and `slope` of the measured on the asked values, `error` (mean distance, in
        standard deviations), `judge_gap` (what the judges say of it, against measuring), and the `leak` into every
        other context: mean distance of its measure to that of the same picture redrawn unchanged, in deviations.
    """
    random = torch.Generator().manual_seed(seed)
    codes = twin.encode(digits.pictures)
    deviation = digits.context.values.std(0).float()
    before = _measured(_drawn(twin, codes))
    results = {}
    for column, name in enumerate(CONTEXTS):
        asked = _asked(digits, column, random)
        drawn = _drawn(twin, _set(twin, codes, column, asked))
        after = _measured(drawn)
        judged = twin.context_values(twin.judged_context(drawn).mean(0))[:, column]
        usable = after.isfinite().all(1) & before.isfinite().all(1)
        moved = ((after - before)[usable].abs() / deviation).mean(0)
        results[name] = {
            **_line(asked[usable], after[usable, column]),
            "error": float((after[usable, column] - asked[usable]).abs().mean() / deviation[column]),
            "judge_gap": float((after[usable, column] - judged[usable]).abs().mean() / deviation[column]),
            "measurable": _share(usable),
            **{f"leak_{other}": float(moved[k]) for k, other in enumerate(CONTEXTS) if k != column},
        }
    return results


@torch.no_grad()
def oracle_agreement(twin: TwinSurrogate, digits: Digits, names: Sequence[str] = CONTEXTS) -> dict[str, float]:
    """Correlation of the decision's change by the twin's interventions with its change when real digits are redrawn.

    The margin is the logit of the class that the classifier gives the unchanged picture over the best other one. It is
    changed by setting a context to its 5 % and 95 % quantile; the correlation is over pictures, of the difference.
    """
    codes = twin.encode(digits.pictures)
    label = _logits(twin, digits.pictures).argmax(1)
    results = {}
    for name in names:
        column = CONTEXTS.index(name)
        bounds = torch.quantile(digits.context.values[:, column].float(), torch.tensor(_INSIDE))
        ours, true = [], []
        for value in bounds.tolist():
            asked = torch.full((len(label),), value)
            ours.append(_margin(twin, _drawn(twin, _set(twin, codes, column, asked)), label))
            drawn = redraw(grey_of(digits.pictures), **{name: asked})  # type: ignore[arg-type]
            true.append(_margin(twin, input_of(drawn), label))
        results[name] = _line(true[1] - true[0], ours[1] - ours[0])["correlation"]
    return results


def _drawn(twin: TwinSurrogate, codes: Codes) -> Tensor:
    return torch.cat([twin.decode(codes[rows]) for rows in torch.split(torch.arange(len(codes)), 128)])


def _logits(twin: TwinSurrogate, pictures: Tensor) -> Tensor:
    return torch.cat([twin.logits(chunk) for chunk in torch.split(pictures, 128)])


def _margin(twin: TwinSurrogate, pictures: Tensor, label: Tensor) -> Tensor:
    logits = _logits(twin, pictures)
    others = logits.scatter(1, label[:, None], -torch.inf).amax(1)
    return logits.gather(1, label[:, None])[:, 0] - others


def _measured(pictures: Tensor) -> Tensor:
    found = measure(grey_of(pictures), background=_GROUND)
    return torch.stack([getattr(found, name) for name in CONTEXTS], dim=1)


def _asked(digits: Digits, column: int, random: torch.Generator) -> Tensor:
    low, high = torch.quantile(digits.context.values[:, column].float(), torch.tensor(_INSIDE)).tolist()
    return low + (high - low) * torch.rand(len(digits.labels), generator=random)


def _set(twin: TwinSurrogate, codes: Codes, column: int, values: Tensor) -> Codes:
    context = codes.context.clone()
    raw = twin.context_values(context)
    raw[:, column] = values
    context[:, column] = twin.standard_context(raw)[:, column]
    return replace(codes, context=context)


def _line(x: Tensor, y: Tensor) -> dict[str, float]:
    covariance = torch.cov(torch.stack([x, y]).double())
    scale = (covariance[0, 0] * covariance[1, 1]).sqrt()
    return {"correlation": float(covariance[0, 1] / scale), "slope": float(covariance[0, 1] / covariance[0, 0])}


def _share(mask: Tensor) -> float:
    return float(mask.float().mean())
