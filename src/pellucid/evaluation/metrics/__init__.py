"""Metrics of explanations: how well maps do on single images, whether they depend on what was learnt, and controls.

`METRICS` holds those that `pellucid evaluate --metrics` measures; each is a frozen dataclass of options that scores
`ExplainedImages`. A new metric is a class with `description`, `higher_is_better` and one call, and a line in the dict.
"""

import ast
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from pellucid.errors import PellucidError
from pellucid.evaluation.metrics.concept_agreement import (
    ConceptAgreement,
    balanced_mse,
    cell_shares,
    false_alarm,
    soft_iou,
)
from pellucid.evaluation.metrics.concept_pointing import (
    ConceptPointing,
    concept_evidence,
    concept_grids,
    concept_pointing_game,
)
from pellucid.evaluation.metrics.concept_removal import (
    ConceptCurves,
    concept_amounts,
    deletion_rank_correlation,
    remove_concepts,
)
from pellucid.evaluation.metrics.controls import (
    CONTROLS,
    ControlMap,
    grid_controls,
    image_controls,
    input_magnitude,
    oracle_mask,
    random_map,
    sobel_edges,
    uniform_map,
)
from pellucid.evaluation.metrics.deletion import Deletion, Insertion, PerturbationCurves, Road, baseline_images
from pellucid.evaluation.metrics.imputation import NoisyLinear, impute_linearly
from pellucid.evaluation.metrics.metric import ExplainedImages, MeasuredImages, Metric, MetricScores
from pellucid.evaluation.metrics.region_files import RegionFiles, read_regions
from pellucid.evaluation.metrics.regions import (
    Regions,
    RegionScores,
    box_masks,
    energy_pointing_game,
    pointing_game,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
)
from pellucid.evaluation.metrics.sanity import (
    MapSimilarity,
    RandomizationStep,
    RandomLogit,
    TargetSensitivity,
    WeightRandomization,
    cascade_steps,
    map_similarity,
    parameter_randomization_test,
    random_logit_test,
    target_sensitivity,
)

__all__ = [
    "CONTROLS",
    "METRICS",
    "ConceptAgreement",
    "ConceptCurves",
    "ConceptPointing",
    "ControlMap",
    "Deletion",
    "ExplainedImages",
    "Insertion",
    "MapSimilarity",
    "MeasuredImages",
    "Metric",
    "MetricScores",
    "NoisyLinear",
    "PerturbationCurves",
    "RandomLogit",
    "RandomizationStep",
    "RegionFiles",
    "RegionScores",
    "Regions",
    "Road",
    "TargetSensitivity",
    "WeightRandomization",
    "balanced_mse",
    "baseline_images",
    "box_masks",
    "cascade_steps",
    "cell_shares",
    "concept_amounts",
    "concept_evidence",
    "concept_grids",
    "concept_pointing_game",
    "deletion_rank_correlation",
    "energy_pointing_game",
    "false_alarm",
    "grid_controls",
    "image_controls",
    "impute_linearly",
    "input_magnitude",
    "make_metrics",
    "map_similarity",
    "oracle_mask",
    "parameter_randomization_test",
    "pointing_game",
    "random_logit_test",
    "random_map",
    "read_regions",
    "relevance_mass_accuracy",
    "relevance_rank_accuracy",
    "remove_concepts",
    "sobel_edges",
    "soft_iou",
    "target_sensitivity",
    "uniform_map",
]


METRICS: dict[str, type[Metric]] = {
    "deletion": Deletion,
    "insertion": Insertion,
    "road": Road,
    "randomization": WeightRandomization,
    "random_logit": RandomLogit,
    "target_sensitivity": TargetSensitivity,
    "regions": Regions,
    "concepts": ConceptAgreement,
}
"""Metrics of single images by name."""


def make_metrics(names: Sequence[str], options: Sequence[str] = ()) -> dict[str, Metric]:
    """Make metrics of single images from text.

    Args:
        names: of `METRICS`.
        options: such as "deletion.steps=10"; values are Python literals or words.

    Returns:
        name -> metric, in the order of the names.

    Raises:
        PellucidError: no such metric or option, or a value that the metric refuses.

    >>> make_metrics(["random_logit"], ["random_logit.seed=3"])
    {'random_logit': RandomLogit(seed=3)}
    """
    arguments: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in options:
        key, equals, value = text.partition("=")
        name, dot, option = key.strip().partition(".")
        if not equals or not dot or name not in arguments:
            raise PellucidError(f"option {text!r} is not metric.option=value with a metric of {', '.join(names)}")
        known = [item.name for item in fields(METRICS[name])]  # type: ignore[arg-type]
        if option not in known:
            raise PellucidError(f"the metric {name} has no option {option!r}; it has {', '.join(known)}")
        try:
            arguments[name][option] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            arguments[name][option] = value.strip()
    return {name: _make_metric(name, chosen) for name, chosen in arguments.items()}


def _make_metric(name: str, options: dict[str, Any]) -> Metric:
    try:
        return METRICS[name](**options)
    except TypeError as error:
        raise PellucidError(f"the metric {name} refuses its options {options}: {error}") from error
