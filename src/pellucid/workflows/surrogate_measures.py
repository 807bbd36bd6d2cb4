"""Contexts measured and set by code, not by the surrogate's own attribute predictors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.data import ContextTable
from pellucid.errors import PellucidError
from pellucid.surrogate import (
    DisplaySpace,
    Measure,
    Rerender,
    SurrogateExplainer,
    digit_measure,
    digit_rerender,
    measure_digits,
    r2_by_context,
)
from pellucid.synthetic.morphomnist import MEASURES, SETTABLE
from pellucid.workflows.surrogate_images import ImageSample

MORPHOMNIST = "morphomnist"
MEASURE_DESCRIPTIONS = {
    "predictors": "the surrogate's own attribute predictors (upper bounds)",
    MORPHOMNIST: "Morpho-MNIST morphometry",
}
_MIN_R2 = 0.9
_QUANTILES = (0.01, 0.99)


def check_measures(measure: str, rerender: str, contexts: Sequence[str]) -> None:
    """Refuse unknown names, and contexts that are not measures of digits, before anything long is computed.

    Args:
        measure: what re-measures images: "predictors" or "morphomnist".
        rerender: what redraws images for the training: "none" or "morphomnist".
        contexts: names of the context columns.

    Raises:
        PellucidError: an unknown name, or contexts that morphometry cannot measure or set.

    >>> check_measures("morphomnist", "none", ["thickness", "slant"])
    >>> check_measures("morphomnist", "none", ["age"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pellucid.errors.PellucidError: --measure morphomnist knows area, ...; the context has age
    """
    if measure not in MEASURE_DESCRIPTIONS or rerender not in ("none", MORPHOMNIST):
        raise PellucidError(
            f"--measure {measure} --rerender {rerender}: choose predictors or morphomnist, none or morphomnist"
        )
    for chosen, option, known in ((measure, "--measure", MEASURES), (rerender, "--rerender", SETTABLE)):
        others = sorted(set(contexts) - set(known))
        if chosen == MORPHOMNIST and (others or not contexts):
            raise PellucidError(
                f"{option} morphomnist knows {', '.join(known)}; the context has {', '.join(others) or 'no columns'}"
            )


def find_measure(name: str, explainer: SurrogateExplainer, sample: ImageSample) -> Measure | None:
    """What re-measures images; None for the surrogate's own attribute predictors.

    Args:
        name: "predictors" or "morphomnist".
        explainer: whose contexts are measured.
        sample: images, with the context that measuring them must give.

    Raises:
        PellucidError: an unknown name, or measuring the given images does not give what their table says.
    """
    check_measures(name, "none", explainer.context_names)
    if name != MORPHOMNIST:
        return None
    if sample.context is not None:
        _check_units(explainer, sample.images, sample.context)
    return digit_measure(explainer.surrogate)


def _check_units(explainer: SurrogateExplainer, images: Tensor, context: ContextTable) -> None:
    table = explainer.standard_context(context.values.float())
    measured = explainer.standard_context(
        measure_digits(explainer.surrogate.space.to_display(images), explainer.context_names)
    )
    known = measured.isfinite().all(1)
    r2 = r2_by_context(explainer.context_names, measured[known], table[known])
    if poor := {name: share for name, share in r2.items() if not share >= _MIN_R2}:
        values = ", ".join(f"{name} R2 {share:.2f}" for name, share in poor.items())
        raise PellucidError(
            f"morphometry of the images does not give what the context table says ({values}): were they resized since "
            "they were measured? Use --measure predictors, or a table measured on these images"
        )


def find_rerender(name: str, classifier: Classifier, context: ContextTable | None, examples: Tensor) -> Rerender | None:
    """What redraws digits with contexts drawn independently over the table's range; None for none.

    Args:
        name: "none" or "morphomnist".
        classifier: whose input space the images are in.
        context: the training table.
        examples: (N, C, H, W), some training images.
    """
    if name != MORPHOMNIST or context is None:
        return None
    low, high = torch.quantile(context.values, torch.tensor(_QUANTILES, dtype=torch.float64), dim=0).float()
    return digit_rerender(context.names, low, high, DisplaySpace.of(classifier, examples))
