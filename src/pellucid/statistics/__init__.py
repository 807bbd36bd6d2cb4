"""Statistics of scores: bootstrap intervals, permutation and sign-flip tests, corrections for many tests."""

from pellucid.statistics.comparison import (
    Comparison,
    cliffs_delta,
    compare_methods,
    rank_biserial,
    roc_auc,
    spearman_matrix,
    wilcoxon_p_value,
)
from pellucid.statistics.corrections import CORRECTIONS, benjamini_hochberg, bonferroni, correct, holm
from pellucid.statistics.intervals import Interval, Statistic, bootstrap_interval, bootstrap_mean_interval
from pellucid.statistics.permutation import permutation_p_value, rank_p_value, sign_flip_p_value

__all__ = [
    "CORRECTIONS",
    "Comparison",
    "Interval",
    "Statistic",
    "benjamini_hochberg",
    "bonferroni",
    "bootstrap_interval",
    "bootstrap_mean_interval",
    "cliffs_delta",
    "compare_methods",
    "correct",
    "holm",
    "permutation_p_value",
    "rank_biserial",
    "rank_p_value",
    "roc_auc",
    "sign_flip_p_value",
    "spearman_matrix",
    "wilcoxon_p_value",
]
