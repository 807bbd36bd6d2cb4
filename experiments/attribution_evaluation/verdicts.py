"""Which published claims hold for which network: tables in Markdown and JSON.

python -m experiments.attribution_evaluation.verdicts [--out DIR]            # of the committed results
python -m experiments.attribution_evaluation.verdicts RUN [--with OTHER]...  # of a run of `pellucid evaluate`

For a run, verdicts.md and verdicts.json are written into its folder (or --out); OTHER is a run of the same model with
another number of cells, for the claim that compares them.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.attribution_evaluation.claims import Check, Claim, Finding, judge_claims
from experiments.attribution_evaluation.commands import RESULTS
from experiments.attribution_evaluation.results import read_results, write_json
from pellucid.evaluation import Run
from pellucid.evaluation.sweep import SummaryLine, compare_scores, summarize
from pellucid.storage import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

_TABLES = {"imagenet": (), "cifar-2x2": ("cifar-3x3",), "batchnorm": ()}
"""Results on which the claims are checked, and those of more cells that they are compared with."""

_SHOWN = 6


def judge_results(out: Path) -> dict[str, tuple[Claim, ...]]:
    """The claims, checked on every table that is there."""
    claims = {}
    for name, others in _TABLES.items():
        table = read_results(out, name)
        if table is not None:
            more = [other for each in others if (other := read_results(out, each)) is not None]
            claims[name] = judge_claims(table, others=more)
    return claims


def judge_run(run: Run, others: Sequence[Run] = ()) -> dict[str, tuple[Claim, ...]]:
    """The claims, checked on a run, finished or not; `others` have another number of cells."""
    return {run.folder.name: judge_claims(run.table(), lines=run.summary(), others=[own.table() for own in others])}


def write_verdicts(verdicts: Mapping[str, Sequence[Claim]], out: Path) -> None:
    """Write verdicts.md and verdicts.json."""
    write_json({name: [asdict(claim) for claim in claims] for name, claims in verdicts.items()}, out, "verdicts")
    parts = [part for name, claims in verdicts.items() for part in (f"## {name}\n", *claims_table(claims))]
    _write(out / "verdicts.md", "# Verdicts on the published claims\n", parts)


def claims_table(claims: Sequence[Claim]) -> Iterator[str]:
    """Markdown: each claim with a row for each network."""
    for claim in claims:
        yield f"### Q{claim.number}. {claim.statement}\n\n{claim.rule}\n"
        yield "| network | verdict | checks that hold | measured: value [95 %] |\n|---|---|---|---|"
        for finding in claim.findings:
            holding, total = finding.counts
            doubt = f", {finding.inconclusive} within their interval" if finding.inconclusive else ""
            numbers = "; ".join(_format_check(check) for check in _decisive_checks(finding))
            missing = f" Not in this run: {finding.missing}." if finding.missing else ""
            yield f"| {finding.model} | {finding.verdict} | {holding} of {total}{doubt} | {numbers}{missing} |"
        yield ""


def medians_table(lines: Sequence[SummaryLine], layers: Sequence[str] = ("input", "middle", "final")) -> Iterator[str]:
    """Markdown: medians with intervals, a table for each network and setting."""
    groups: dict[tuple[str, str, str], list[SummaryLine]] = {}
    for line in lines:
        groups.setdefault((line.model, line.variant, line.setting), []).append(line)
    for (model, variant, setting), own in groups.items():
        state = "" if variant == "trained" else f", {variant}"
        yield f"### {model}{state}: {setting}\n\n| method | {' | '.join(layers)} |\n|---|{'---|' * len(layers)}"
        cells = {(line.name, line.layer): line for line in own}
        for name in dict.fromkeys(line.name for line in own):
            control = any(line.control for line in own if line.name == name)
            row = " | ".join(_median(cells.get((name, layer))) for layer in layers)
            yield f"| {f'({name})' if control else name} | {row} |"
        yield ""


def smoothing_table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Markdown: rank correlations with Grad-CAM at the final layer, and medians, by kernel."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["model"]), []).append(row)
    for (method, model), own in groups.items():
        kernels = [str(row["kernel"]) if row["kernel"] > 1 else "none" for row in own]
        norm = f"BatchNorm: {own[0]['batch_norm']}"
        yield f"### S-{method}, {model} ({norm}, {own[0]['grids']} grids)\n"
        yield f"| kernel | {' | '.join(kernels)} |\n|---|{'---|' * len(own)}"
        for title, name in (
            ("rank correlation with Grad-CAM at final", "rank_correlation"),
            ("median on GridPG", "gridpg"),
            ("median on DiFull", "difull"),
            ("attainable on DiFull", "attainable"),
            ("closed form of the leak", "leak_closed_form"),
        ):
            yield f"| {title} | {' | '.join(_number(row.get(name)) for row in own)} |"
        yield ""


def lrp_table(lines: Sequence[SummaryLine]) -> Iterator[str]:
    """Markdown: medians of every variant of LRP, a table for each study."""
    for study in dict.fromkeys(line.model for line in lines):
        own = [line for line in lines if line.model == study]
        settings = list(dict.fromkeys(line.setting for line in own))
        yield f"### {study}\n\n| variant | {' | '.join(settings)} |\n|---|{'---|' * len(settings)}"
        cells = {(line.method, line.setting): line for line in own}
        for variant in dict.fromkeys(line.method for line in own):
            yield f"| {variant} | {' | '.join(_median(cells.get((variant, setting))) for setting in settings)} |"
        yield ""


def paired_table(table: "pa.Table", study: str, reference: str) -> Iterator[str]:
    """Markdown: differences to one variant on the same grids of GridPG, with Wilcoxon's p after Holm's correction."""
    yield f"### {study}: minus {reference}, grid by grid on GridPG\n"
    yield "| variant | median difference | p |\n|---|---|---|"
    for pair in compare_scores(table, setting="GridPG", layer="input", model=study):
        if pair.first == reference:
            yield f"| {pair.second} | {-pair.median:+.3f} | {pair.wilcoxon_holm:.2g} |"
    yield ""


def _number(value: float | Sequence[float] | None) -> str:
    if value is None:
        return ""
    return f"{value[0] if isinstance(value, Sequence) else value:.2f}"


def _decisive_checks(finding: Finding) -> list[Check]:
    """The checks that fail first, then those that hold; a few of them."""
    decisive = [check for check in finding.checks if check.holds is not None]
    return sorted(decisive, key=lambda check: bool(check.holds))[:_SHOWN]


def _format_check(check: Check) -> str:
    interval = "" if isnan(check.low) else f" [{check.low:.2f}, {check.high:.2f}]"
    mark = "" if check.holds else " (fails)"
    return f"{check.subject}, {check.quantity}: {check.value:.2f}{interval}{mark}"


def _median(line: SummaryLine | None) -> str:
    if line is None or not line.median.scores:
        return ""
    interval = "" if isnan(line.median.low) else f" [{line.median.low:.2f}, {line.median.high:.2f}]"
    return f"{line.median.estimate:.2f}{interval} {line.median.grids}"


def main() -> None:
    """Write the verdicts on a run, or all tables that there are results for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of a run; without it the committed results")
    parser.add_argument("--with", dest="others", type=Path, action="append", default=[], help="run with other cells")
    parser.add_argument("--out", type=Path, help="folder of the results")
    arguments = parser.parse_args()
    if arguments.run is not None:
        verdicts = judge_run(Run(arguments.run), [Run(other) for other in arguments.others])
        write_verdicts(verdicts, arguments.out or arguments.run)
        return
    out = arguments.out or RESULTS
    write_verdicts(judge_results(out), out)
    medians: list[str] = []
    for name in ("imagenet", "cifar-2x2", "cifar-3x3", "batchnorm"):
        table = read_results(out, name)
        if table is not None:
            medians += [f"## {name}\n", *medians_table(summarize(_unsmoothed(table)))]
    title = "# Median localization scores [95 %] and number of grids; controls in brackets\n"
    _write(out / "medians.md", title, medians)
    _write_studies(out)


def _write_studies(out: Path) -> None:
    if (out / "smoothing.json").is_file():
        rows = json.loads((out / "smoothing.json").read_text(encoding="utf-8"))
        _write(out / "smoothing.md", "# Smoothing at the input\n", list(smoothing_table(rows)))
    table = read_results(out, "lrp_invariance")
    if table is not None:
        title = "# LRP of ResNet-20 at the input: median localization scores [95 %] and number of grids\n"
        paired = paired_table(table, "rules", "batch norm merged")
        _write(out / "lrp.md", title, [*lrp_table(summarize(table)), *paired])


def _unsmoothed(table: "pa.Table") -> "pa.Table":
    import pyarrow.compute as pc

    return table.filter(pc.equal(table["kernel_size"], 1))


def _write(path: Path, title: str, parts: Sequence[str]) -> None:
    write_atomically(path, "\n".join([title, *parts]).encode())
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
