"""Statistics of scores: bootstrap intervals, permutation and sign-flip tests, corrections for many tests."""

from pellucid.statistics.intervals import (
    Comparison,
    Interval,
    bootstrap_interval,
    cliffs_delta,
    compare_methods,
    holm,
    rank_biserial,
    sign_flip_p,
    spearman_matrix,
    wilcoxon_p,
)

__all__ = [
    "Comparison",
    "Interval",
    "bootstrap_interval",
    "cliffs_delta",
    "compare_methods",
    "holm",
    "rank_biserial",
    "sign_flip_p",
    "spearman_matrix",
    "wilcoxon_p",
]
