"""Statistics of scores: confidence intervals, permutation and sign-flip tests, corrections for many tests."""

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
from pellucid.statistics.intervals import (
    FEWEST,
    Interval,
    Statistic,
    binomial_interval,
    bootstrap_interval,
    cluster_interval,
    mean_interval,
    score_interval,
    t_quantile,
)
from pellucid.statistics.permutation import permutation_p_value, rank_p_value, sign_flip_p_value

__all__ = [
    "CORRECTIONS",
    "FEWEST",
    "Comparison",
    "Interval",
    "Statistic",
    "benjamini_hochberg",
    "binomial_interval",
    "bonferroni",
    "bootstrap_interval",
    "cliffs_delta",
    "cluster_interval",
    "compare_methods",
    "correct",
    "holm",
    "mean_interval",
    "permutation_p_value",
    "rank_biserial",
    "rank_p_value",
    "roc_auc",
    "score_interval",
    "sign_flip_p_value",
    "spearman_matrix",
    "t_quantile",
    "wilcoxon_p_value",
]
