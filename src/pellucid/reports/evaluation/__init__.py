"""The page of an evaluation run: scores, plots, AggAtt, costs, and what was run."""

from pellucid.reports.evaluation.evaluation_page import render_evaluation, write_evaluation

__all__ = ["render_evaluation", "write_evaluation"]
