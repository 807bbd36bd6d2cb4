"""Evaluation: is an explanation true? Grids of known truth, localization scores, AggAtt, and runs over data sets.

`metrics`, `settings` and `sweep` have more: metrics of single images and controls, what all grid settings are, and the
parts of a run.
"""

from pellucid.evaluation.aggregation import (
    PERCENTILES,
    AggAtt,
    Bins,
    agg_att,
    agg_att_batches,
    rank_bins,
    rank_scale,
)
from pellucid.evaluation.grids import (
    Candidate,
    GridSet,
    GridSetError,
    candidate_pool,
    common_pool,
    distinct_grids,
    same_class_grids,
)
from pellucid.evaluation.localization import (
    Grid,
    Localization,
    attainable_score,
    cell_slices,
    join_cells,
    localization_score,
    localize,
    split_cells,
    upsample,
)
from pellucid.evaluation.metrics import METRICS
from pellucid.evaluation.settings import DiFull, DiPart, GridPG
from pellucid.evaluation.sweep import ModelSource, Run, RunError, SweepOptions, evaluate, evaluate_maps

__all__ = [
    "METRICS",
    "PERCENTILES",
    "AggAtt",
    "Bins",
    "Candidate",
    "DiFull",
    "DiPart",
    "Grid",
    "GridPG",
    "GridSet",
    "GridSetError",
    "Localization",
    "ModelSource",
    "Run",
    "RunError",
    "SweepOptions",
    "agg_att",
    "agg_att_batches",
    "attainable_score",
    "candidate_pool",
    "cell_slices",
    "common_pool",
    "distinct_grids",
    "evaluate",
    "evaluate_maps",
    "join_cells",
    "localization_score",
    "localize",
    "rank_bins",
    "rank_scale",
    "same_class_grids",
    "split_cells",
    "upsample",
]
