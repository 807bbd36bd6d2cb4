"""The sweep: every method, at every layer, in every setting, over a data set, in shards that survive a kill."""

from pellucid.evaluation.sweep.external_maps import evaluate_maps
from pellucid.evaluation.sweep.labeled_images import DataSet, grid_images, grid_targets, read_data_set
from pellucid.evaluation.sweep.models import ModelSource
from pellucid.evaluation.sweep.plan import PlannedModel
from pellucid.evaluation.sweep.run_evaluation import SweepProgress, evaluate
from pellucid.evaluation.sweep.run_reader import Run
from pellucid.evaluation.sweep.stored_maps import StoredMap
from pellucid.evaluation.sweep.summary import (
    Correlations,
    MetricLine,
    SummaryLine,
    compare_scores,
    correlate_scores,
    summarize,
    summarize_metrics,
)
from pellucid.evaluation.sweep.sweep_folder import RunError
from pellucid.evaluation.sweep.sweep_options import SETTINGS, SweepOptions

__all__ = [
    "SETTINGS",
    "Correlations",
    "DataSet",
    "MetricLine",
    "ModelSource",
    "PlannedModel",
    "Run",
    "RunError",
    "StoredMap",
    "SummaryLine",
    "SweepOptions",
    "SweepProgress",
    "compare_scores",
    "correlate_scores",
    "evaluate",
    "evaluate_maps",
    "grid_images",
    "grid_targets",
    "read_data_set",
    "summarize",
    "summarize_metrics",
]
