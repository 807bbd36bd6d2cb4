"""The thirteen published claims about attribution methods, checked on the table of a run."""

from experiments.attribution_evaluation.claims.checks import Check, check, gap
from experiments.attribution_evaluation.claims.published import Claim, Finding, judge_claims

__all__ = ["Check", "Claim", "Finding", "check", "gap", "judge_claims"]
