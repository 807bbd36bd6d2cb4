"""The ML-Att sweep: every method, at every layer, in every setting, over a data set."""

from pellucid.evaluation.sweep.dataset import DataSet, read_data_set
from pellucid.evaluation.sweep.evaluate import SweepProgress, evaluate
from pellucid.evaluation.sweep.external_maps import evaluate_maps
from pellucid.evaluation.sweep.folder import RunError
from pellucid.evaluation.sweep.models import ModelSource
from pellucid.evaluation.sweep.run import Run
from pellucid.evaluation.sweep.stored_maps import StoredMap
from pellucid.evaluation.sweep.summary import (
    Correlations,
    SummaryLine,
    compare,
    correlate,
    summarize,
)
from pellucid.evaluation.sweep.sweep_images import grid_images, grid_targets
from pellucid.evaluation.sweep.sweep_options import SETTINGS, SweepOptions

__all__ = [
    "SETTINGS",
    "Correlations",
    "DataSet",
    "ModelSource",
    "Run",
    "RunError",
    "StoredMap",
    "SummaryLine",
    "SweepOptions",
    "SweepProgress",
    "compare",
    "correlate",
    "evaluate",
    "evaluate_maps",
    "grid_images",
    "grid_targets",
    "read_data_set",
    "summarize",
]
