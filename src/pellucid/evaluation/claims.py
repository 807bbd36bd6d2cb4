"""Which published claims hold for this model: Q1 to Q13 of Rao et al., each with the numbers that it rests on.

The claims are those of "Towards Better Understanding Attribution Methods" (CVPR 2022) about box plots of 2,000
attributions; the numbers at which they count as true are ours and stand beside every verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pellucid.evaluation.claims_evidence import Check, Scores, base_name
from pellucid.evaluation.claims_published import PUBLISHED, PublishedClaim
from pellucid.evaluation.sweep.summary import SummaryLine, summarize

if TYPE_CHECKING:
    import pyarrow as pa


Verdict = Literal["holds", "partly", "does not hold", "not measured"]


@dataclass(frozen=True)
class Finding:
    """What one model says about a claim.

    Attributes:
        model: name.
        verdict: "holds" if every check does, "does not hold" if none does, "partly" otherwise.
        checks: the numbers, first those that decide.
        missing: what of the claim this run did not measure, in words; empty if nothing.
    """

    model: str
    verdict: Verdict
    checks: tuple[Check, ...]
    missing: str

    @property
    def held(self) -> tuple[int, int]:
        """How many checks hold, and how many decide."""
        deciding = [each.holds for each in self.checks if each.holds is not None]
        return sum(deciding), len(deciding)

    @property
    def inconclusive(self) -> int:
        """How many checks more grids could turn over: their interval reaches across the threshold."""
        return sum(each.conclusive is False for each in self.checks)


@dataclass(frozen=True)
class Claim:
    """A published claim, judged.

    Attributes:
        number: 1 to 13.
        statement: the claim.
        rule: when it counts as true here.
        measure: the options of `pellucid evaluate` that measure it.
        findings: one for each model.
    """

    number: int
    statement: str
    rule: str
    measure: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Of all models that say something: theirs where they agree, else "partly"."""
        found = {each.verdict for each in self.findings} - {"not measured"}
        if not found:
            return "not measured"
        return found.pop() if len(found) == 1 else "partly"


def judge_claims(
    table: pa.Table, *, lines: Sequence[SummaryLine] | None = None, others: Sequence[pa.Table] = ()
) -> tuple[Claim, ...]:
    """Judge every claim for every model of a run, finished or not.

    Only layers that were asked for as input, middle and final can be judged.

    Args:
        table: of the run (`Run.table()`).
        lines: its summary, where it is at hand; else it is made.
        others: tables of runs with another number of cells, for claim 11.
    """
    lines = summarize(table) if lines is None else lines
    models = dict.fromkeys(line.model for line in lines)
    summaries = [summarize(other) for other in others]
    scores = [
        Scores(
            table,
            lines,
            model,
            [
                Scores(other, own, model)
                for other, own in zip(others, summaries, strict=True)
                if any(line.model == model for line in own)
            ],
        )
        for model in models
    ]
    return tuple(
        Claim(test.number, test.statement, test.rule, test.measure, tuple(_finding(test, each) for each in scores))
        for test in PUBLISHED
    )


def _finding(test: PublishedClaim, scores: Scores) -> Finding:
    checks = sorted(test.check(scores), key=lambda each: each.holds is None)
    deciding = [each.holds for each in checks if each.holds is not None]
    verdict: Verdict = "partly"
    if not deciding:
        verdict = "not measured"
    elif all(deciding) or not any(deciding):
        verdict = "holds" if deciding[0] else "does not hold"
    return Finding(scores.model, verdict, tuple(checks), _lacking(test, scores, measured=bool(deciding)))


def _lacking(test: PublishedClaim, scores: Scores, *, measured: bool) -> str:
    methods = {base_name(method) for method in scores.methods()}
    missing = {
        "settings": [name for name in test.settings if name not in scores.settings],
        "layers": [name for name in test.layers if name not in scores.layers],
        "methods": [name for name in test.methods if name not in methods],
    }
    parts = [f"{what}: {', '.join(names)}" for what, names in missing.items() if names]
    return "; ".join(parts if measured or not test.needs else [*parts, test.needs])
