"""Contexts measured by code, not by the twin's own judges: `--measure` and `--rerender` of the surrogate commands."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.surrogate_common import Sample
from pellucid.errors import PellucidError

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.classifiers import Classifier
    from pellucid.data import ContextTable
    from pellucid.surrogate import Rerender, SurrogateExplainer
    from pellucid.surrogate.assess.leakage import Measure

JUDGES = "judges"
MORPHOMNIST = "morphomnist"
_LEAST_R2 = 0.9
_RANGE = (0.01, 0.99)

MeasureName = Annotated[
    str,
    typer.Option(
        "--measure",
        help="What re-measures generated images: 'judges', the twin's own, whose marks are upper bounds; or "
        "'morphomnist', where the context columns are measures of bright digits on black.",
    ),
]
RerenderName = Annotated[
    str,
    typer.Option(
        "--rerender",
        help="'morphomnist' also trains on digits redrawn with other values, so that tied contexts come apart; 'none'.",
    ),
]
DESCRIPTIONS = {JUDGES: "the twin's own judges (upper bounds)", MORPHOMNIST: "Morpho-MNIST morphometry"}


def check_names(measure: str, rerender: str, contexts: Sequence[str]) -> None:
    """Refuse unknown names, and contexts that are no measures of digits, before anything long is computed."""
    from pellucid.synthetic.morphomnist import MEASURES, SETTABLE

    if measure not in DESCRIPTIONS or rerender not in ("none", MORPHOMNIST):
        raise PellucidError(
            f"--measure {measure} --rerender {rerender}: choose judges or morphomnist, none or morphomnist"
        )
    for chosen, option, known in ((measure, "--measure", MEASURES), (rerender, "--rerender", SETTABLE)):
        others = sorted(set(contexts) - set(known))
        if chosen == MORPHOMNIST and (others or not contexts):
            raise PellucidError(
                f"{option} morphomnist knows {', '.join(known)}; the context has {', '.join(others) or 'no columns'}"
            )


def measure_named(name: str, explainer: "SurrogateExplainer", sample: Sample) -> "Measure | None":
    """What re-measures images; None for the twin's own judges.

    Raises:
        PellucidError: an unknown name, or measuring the given images does not give what their table says.
    """
    check_names(name, "none", explainer.context_names)
    if name == JUDGES:
        return None
    from pellucid.surrogate.assess.morphometry import digit_measure

    if sample.context is not None:
        _check_units(explainer, sample)
    return digit_measure(explainer)


def _check_units(explainer: "SurrogateExplainer", sample: Sample) -> None:
    from pellucid.surrogate.assess.morphometry import measure_digits
    from pellucid.surrogate.explain.global_explanation import r2_by_context

    assert sample.context is not None
    table = explainer.standard_context(sample.context.values.float())
    found = explainer.standard_context(
        measure_digits(explainer.space.to_display(sample.images), explainer.context_names)
    )
    known = found.isfinite().all(1)
    r2 = r2_by_context(explainer.context_names, found[known], table[known])
    if poor := {context: share for context, share in r2.items() if not share >= _LEAST_R2}:
        told = ", ".join(f"{context} R2 {share:.2f}" for context, share in poor.items())
        raise PellucidError(
            f"morphometry of the images does not give what the context table says ({told}): were they resized since "
            "they were measured? Use --measure judges, or a table measured on these images"
        )


def rerender_named(
    name: str, classifier: "Classifier", context: "ContextTable | None", examples: "Tensor"
) -> "Rerender | None":
    """Digits redrawn with contexts drawn independently over the table's range; None for none.

    Args:
        name: of the re-renderer.
        classifier: whose input space the images are in.
        context: the training table.
        examples: (N, C, H, W), some training images.
    """
    import torch

    if name != MORPHOMNIST or context is None:
        return None
    from pellucid.surrogate.assess.morphometry import digit_rerender
    from pellucid.surrogate.model import DisplaySpace

    low, high = torch.quantile(context.values, torch.tensor(_RANGE, dtype=torch.float64), dim=0).float()
    return digit_rerender(context.names, low, high, DisplaySpace.of(classifier, examples))
