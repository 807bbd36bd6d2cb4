"""Which published claims hold for a model: Q1 to Q13 of Rao et al., each with the numbers that it rests on.

The claims are those of "Towards Better Understanding Attribution Methods" (CVPR 2022) about box plots of 2,000
attributions; the numbers at which they count as true are ours and stand beside every verdict.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from experiments.attribution_evaluation.claims import checks
from experiments.attribution_evaluation.claims.checks import (
    ACTIVATION,
    BACKPROPAGATION,
    PERTURBATION,
    POOLED,
    Check,
    Scores,
    base_name,
)
from pellucid.evaluation.sweep import SummaryLine, summarize

Verdict = Literal["holds", "partly", "does not hold", "not measured"]
_LOCAL = (*BACKPROPAGATION, "LayerCAM")


@dataclass(frozen=True)
class PublishedClaim:
    """A claim of Rao et al., CVPR 2022, and how it is checked.

    Attributes:
        number: 1 to 13.
        statement: the claim.
        rule: when it counts as true, in words; the thresholds are ours.
        check: from scores to numbers; none where nothing was measured.
        settings, layers, methods: all that the claim is about; every method if none are named.
        extra: what else `pellucid evaluate` needs as options.
        needs: what a run may lack although all of these are in it, in words.
    """

    number: int
    statement: str
    rule: str
    check: Callable[[Scores], Iterable[Check]]
    settings: tuple[str, ...] = ("GridPG",)
    layers: tuple[str, ...] = checks.LAYERS
    methods: tuple[str, ...] = ()
    extra: str = ""
    needs: str = ""

    @property
    def measure(self) -> str:
        """The options of `pellucid evaluate` that measure it."""
        methods = ",".join(self.methods) or "all"
        parts = (
            f"--settings {','.join(self.settings)} --layers {','.join(self.layers)} --methods {methods}",
            self.extra,
        )
        return " ".join(part for part in parts if part)


PUBLISHED = (
    PublishedClaim(
        1,
        "Back-propagation methods at the input localize poorly on GridPG, near chance.",
        "Medians at most a fifth of the way from chance to 1 (0.4 for 2 x 2 cells), and the middle half of the scores "
        "covers chance.",
        checks.backpropagation_is_poor_at_the_input,
        layers=("input",),
        methods=BACKPROPAGATION,
    ),
    PublishedClaim(
        2,
        "Every method except Layer-CAM localizes better on GridPG from the input to the final layer.",
        "Medians do not fall from one layer to the next; Layer-CAM gains at most 0.05 in all.",
        checks.methods_improve_towards_the_final_layer,
    ),
    PublishedClaim(
        3,
        "At the final layer IntGrad, IxG, Grad-CAM and Occlusion are nearly the same on GridPG.",
        "Medians of every two within 0.05, and Spearman's rank correlation of their scores at least 0.8.",
        checks.four_methods_agree_at_the_final_layer,
        layers=("final",),
        methods=("IntegratedGradients", "InputXGradient", "GradCAM", "Occlusion"),
    ),
    PublishedClaim(
        4,
        "Back-propagation methods and Layer-CAM are near perfect on DiFull at all layers.",
        "Medians within 0.03 of what a map that is even in the cell attains (0.1 for signed maps, which are clipped "
        "after up-sampling); at the input within 0.001.",
        checks.local_methods_are_near_perfect_on_difull,
        settings=("DiFull",),
        methods=_LOCAL,
    ),
    PublishedClaim(
        5,
        "Pooled CAMs at the final layer are worse on DiFull than on GridPG: the other cell of the class lights up.",
        "Median on DiFull at most that on GridPG, and a mirror share at least a quarter of the way from chance to 1 "
        "(0.5 for 2 x 2 cells).",
        checks.pooled_activation_lights_up_the_same_class,
        settings=("GridPG", "DiFull"),
        layers=("final",),
        methods=POOLED,
    ),
    PublishedClaim(
        6,
        "Activation methods other than Layer-CAM score below chance at the input on GridPG.",
        "Medians at most 1 / cells.",
        checks.activation_is_below_chance_at_the_input,
        layers=("input",),
        methods=POOLED,
    ),
    PublishedClaim(
        7,
        "Occlusion is high on DiFull at all layers, and falls slightly towards the final one.",
        "Medians at least 0.8; the fall from input to final is 0 to 0.2.",
        checks.occlusion_is_high_on_difull,
        settings=("DiFull",),
        methods=("Occlusion",),
    ),
    PublishedClaim(
        8,
        "RISE is poor everywhere with a wide spread: about half of its maps are good.",
        "Medians at most 0.6, interquartile ranges at least 0.15, and 25 to 75 % of the scores above 0.5.",
        checks.rise_is_poor_everywhere,
        settings=("GridPG", "DiFull"),
        methods=("RISE",),
    ),
    PublishedClaim(
        9,
        "DiPart gives nearly the scores of DiFull; local methods lose a little at the input.",
        "Medians within 0.05 of those on DiFull; at the input, for back-propagation and Layer-CAM, not above them.",
        checks.dipart_equals_difull,
        settings=("DiFull", "DiPart"),
    ),
    PublishedClaim(
        10,
        "At the input CAMs rank the grids unlike all other methods; at the final layer all methods agree.",
        "Median rank correlations on GridPG: CAMs with the rest at the input at most 0.3, the rest among themselves at "
        "least 0.3, all at the final layer at least 0.4.",
        checks.ranks_agree_at_the_final_layer_only,
        layers=("input", "final"),
        methods=(*BACKPROPAGATION, *ACTIVATION, *PERTURBATION),
    ),
    PublishedClaim(
        11,
        "Grids of 3 x 3 cells are harder than grids of 2 x 2.",
        "Medians on GridPG are not higher with more cells. CIFAR-10 trends are for runs on it to say.",
        checks.more_cells_are_harder,
        extra="--n 3 --out OTHER, and then this command with RUN --with OTHER",
        needs="a run with another number of cells",
    ),
    PublishedClaim(
        12,
        "Smoothing makes IntGrad at the input localize well on GridPG, and IxG too where there is no BatchNorm.",
        "IntGrad: the best kernel gains at least 0.05 and ranks grids more like Grad-CAM at the final layer. Both: at "
        "most 0.05 below what the kernel can attain on DiFull. The gain of IxG depends on the network: only shown.",
        checks.smoothing_helps_at_the_input,
        settings=("GridPG", "DiFull"),
        layers=("input", "final"),
        methods=("IntegratedGradients", "InputXGradient", "GradCAM"),
        extra="--smooth 9,17,33,65,129",
        needs="smoothed maps at the input",
    ),
    PublishedClaim(
        13,
        "The worst 2 % of the maps are bad with all methods on GridPG, for the same grids, but not on DiFull.",
        "AggAtt's last bin at the final layer, first cell: mean score at most 0.5 on GridPG, at least 0.8 on DiFull "
        "for back-propagation and Layer-CAM; a tenth of the worst grids common to two methods.",
        checks.the_worst_maps_are_bad_for_all_methods,
        settings=("GridPG", "DiFull"),
        layers=("final",),
        extra="--grids 500",
        needs="at least 25 grids, so that the worst 2 % are some",
    ),
)


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
    def counts(self) -> tuple[int, int]:
        """How many checks hold, and how many decide."""
        deciding = [check.holds for check in self.checks if check.holds is not None]
        return sum(deciding), len(deciding)

    @property
    def inconclusive(self) -> int:
        """How many checks more grids could turn over: their interval reaches across the threshold."""
        return sum(check.conclusive is False for check in self.checks)


@dataclass(frozen=True)
class Claim:
    """A published claim and what was found on it.

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
        verdicts = {finding.verdict for finding in self.findings} - {"not measured"}
        if not verdicts:
            return "not measured"
        return verdicts.pop() if len(verdicts) == 1 else "partly"


def judge_claims(
    table: pa.Table, *, lines: Sequence[SummaryLine] | None = None, others: Sequence[pa.Table] = ()
) -> tuple[Claim, ...]:
    """Judge every claim for every model of a run, finished or not.

    Only layers that were asked for as input, middle and final can be checked.

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
    checks = sorted(test.check(scores), key=lambda check: check.holds is None)
    deciding = [check.holds for check in checks if check.holds is not None]
    verdict: Verdict = "partly"
    if not deciding:
        verdict = "not measured"
    elif all(deciding) or not any(deciding):
        verdict = "holds" if deciding[0] else "does not hold"
    return Finding(scores.model, verdict, tuple(checks), _missing(test, scores, measured=bool(deciding)))


def _missing(test: PublishedClaim, scores: Scores, *, measured: bool) -> str:
    methods = {base_name(method) for method in scores.methods()}
    missing = {
        "settings": [name for name in test.settings if name not in scores.settings],
        "layers": [name for name in test.layers if name not in scores.layers],
        "methods": [name for name in test.methods if name not in methods],
    }
    parts = [f"{what}: {', '.join(names)}" for what, names in missing.items() if names]
    return "; ".join(parts if measured or not test.needs else [*parts, test.needs])
