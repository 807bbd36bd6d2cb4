"""The published claims, judged on tables whose truth is known because it was drawn."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from experiments.attribution_evaluation.claims import Claim, Finding, check, gap, judge_claims
from experiments.attribution_evaluation.verdicts import judge_run, write_verdicts
from numpy.typing import NDArray
from tests.evaluation.sweep_support import color_classifier, write_squares

from pellucid.attribution import GradCAM
from pellucid.evaluation.sweep import SweepOptions, evaluate, summarize
from pellucid.evaluation.sweep.run_tables import score_schema
from pellucid.statistics import Interval, cluster_interval

Medians = Mapping[tuple[str, str, str], float]
LAYERS = ("input", "middle", "final")
LOCAL = ("Gradient", "InputXGradient", "IntegratedGradients", "LayerCAM")
POOLED = ("GradCAM", "AblationCAM")


def published() -> dict[tuple[str, str, str], float]:
    """(setting, layer, method) -> median, as in the figures of the paper."""
    found = {}
    for setting in ("GridPG", "DiFull", "DiPart"):
        for step, layer in enumerate(LAYERS):
            for method in LOCAL:
                poor = 0.3 + 0.02 * step if method in ("Gradient", "LayerCAM") else (0.3, 0.5, 0.85)[step]
                near = {"DiFull": 1.0 if layer == "input" else 0.97, "DiPart": 0.98 if layer == "input" else 0.97}
                found[setting, layer, method] = poor if setting == "GridPG" else near[setting]
            for method in POOLED:
                found[setting, layer, method] = (0.15, 0.3, 0.85 if setting == "GridPG" else 0.48)[step]
            found[setting, layer, "Occlusion"] = (0.3, 0.6, 0.85)[step] if setting == "GridPG" else 0.95 - 0.03 * step
            found[setting, layer, "RISE"] = 0.48 + 0.01 * step
    return found


def spread(setting: str, layer: str, method: str) -> float:
    """Standard deviation of the scores."""
    if setting != "GridPG" and method != "RISE":
        return 0.0 if method in LOCAL else 0.001
    return {"RISE": 0.2, "GradCAM": 0.02}.get(method, 0.08 if layer == "input" else 0.02)


def table(
    medians: Medians,
    *,
    grids: int = 100,
    cells: int = 4,
    model: str = "net",
    kernels: Mapping[int, float] | None = None,
    noise: Callable[[str, str, str], float] = spread,
    shared: bool = True,
) -> pa.Table:
    """Scores around the medians; all methods but the pooled ones at the input find the same grids hard if `shared`."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(grids, cells))
    parts = []
    for (setting, layer, method), median in medians.items():
        smoothed = dict(kernels or {}) if layer == "input" and method in LOCAL else {}
        for kernel, gain in {1: 0.0, **smoothed}.items():
            own = rng.normal(size=(grids, cells))
            logits_agree = common if shared and not (layer == "input" and method in POOLED) else own
            scores = median + gain * (setting == "GridPG") + noise(setting, layer, method) * (logits_agree + 0.01 * own)
            parts.append(rows(model, setting, layer, method, kernel, np.clip(scores, 0, 1)))
    return pa.concat_tables(parts)


def rows(
    model: str, setting: str, layer: str, method: str, kernel: int, scores: NDArray[np.float64], **changes: Any
) -> pa.Table:
    """The rows of scores (grids, cells), of which same-class pairs have the corners only."""
    cells = np.arange(scores.shape[1]) if setting == "GridPG" else np.array([0, scores.shape[1] - 1])
    score = scores[:, cells].ravel()
    columns: dict[str, Any] = {field.name: 0 for field in score_schema()}
    columns |= {"model": model, "variant": "trained", "setting": setting, "layer": layer, "layer_name": layer}
    columns |= {"method": method, "kernel_size": kernel, "options": "{}", "control": False, "non_finite": False}
    columns |= {"grid": np.arange(len(scores)).repeat(len(cells)), "cell": np.tile(cells, len(scores))}
    columns |= {"score": score, "score_native": score, "cell_mass": score, "status": "ok", "note": ""}
    columns |= {"attainable": 1.0 if layer == "input" else 0.97}
    columns |= {"mirror_share": None if setting == "GridPG" else 0.8 if method in POOLED else 1 / 3, **changes}
    full = {name: value if isinstance(value, np.ndarray) else [value] * len(score) for name, value in columns.items()}
    return pa.table(full, schema=score_schema())


def judge(scores: pa.Table, **others: Any) -> tuple[Claim, ...]:
    """The claims, with the summary of the scores."""
    return judge_claims(scores, lines=summarize(scores), **others)


def verdicts(judged: tuple[Claim, ...]) -> dict[int, str]:
    return {claim.number: claim.verdict for claim in judged}


@pytest.fixture(scope="module")
def as_published() -> tuple[Claim, ...]:
    nine = table({key: value - 0.05 for key, value in published().items() if key[0] == "GridPG"}, cells=9, grids=40)
    return judge(table(published(), kernels={9: 0.1, 65: 0.3}), others=[nine])


def finding(judged: tuple[Claim, ...], number: int) -> Finding:
    (found,) = next(claim for claim in judged if claim.number == number).findings
    return found


def test_all_claims_hold_on_scores_as_published(as_published: tuple[Claim, ...]) -> None:
    failing = [
        (claim.number, each) for claim in as_published for each in claim.findings[0].checks if each.holds is False
    ]
    # Nothing here makes the best methods bad in a few grids, which is what the last claim is about.
    assert {number for number, _ in failing} <= {13}
    assert [claim.verdict for claim in as_published[:12]] == ["holds"] * 12


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (1, {("GridPG", "input", method): 0.8 for method in LOCAL}),
        (2, {("GridPG", "final", method): 0.1 for method in (*LOCAL[:3], *POOLED, "Occlusion", "RISE")}),
        (3, {("GridPG", "final", "Occlusion"): 0.5, ("GridPG", "final", "GradCAM"): 0.6}),
        (4, {("DiFull", layer, method): 0.6 for layer in LAYERS for method in LOCAL}),
        (5, {("DiFull", "final", method): 0.97 for method in POOLED}),
        (6, {("GridPG", "input", method): 0.7 for method in POOLED}),
        (7, {("DiFull", layer, "Occlusion"): 0.5 for layer in LAYERS}),
        (8, {(setting, layer, "RISE"): 0.95 for setting in ("GridPG", "DiFull") for layer in LAYERS}),
        (9, {("DiPart", layer, method): 0.3 for layer in LAYERS for method in LOCAL}),
        (12, {("DiFull", "input", method): 0.5 for method in LOCAL}),
    ],
)
def test_each_claim_fails_on_scores_that_contradict_it(number: int, changes: Medians) -> None:
    judged = judge(table({**published(), **changes}, grids=30, kernels={9: -0.1, 65: -0.2}))
    assert verdicts(judged)[number] in ("does not hold", "partly")
    contradicted = [each for each in finding(judged, number).checks if each.holds is False]
    assert len(contradicted) >= len(changes) / 3


def test_claims_about_local_methods_all_fail_together() -> None:
    bad = {("DiFull", layer, method): 0.6 for layer in LAYERS for method in LOCAL}
    judged = judge(table({**published(), **bad}, grids=30))
    assert verdicts(judged)[4] == "does not hold"
    assert finding(judged, 4).counts == (0, 12)


def test_what_was_not_run_is_not_measured_and_says_what_to_run() -> None:
    judged = judge(table({key: value for key, value in published().items() if key[2] == "Gradient"}, grids=5))
    found = verdicts(judged)
    assert {number for number, verdict in found.items() if verdict == "not measured"} >= {3, 5, 6, 7, 8, 11, 12, 13}
    occlusion = next(claim for claim in judged if claim.number == 7)
    assert "methods: Occlusion" in occlusion.findings[0].missing
    assert "--settings DiFull --layers input,middle,final --methods Occlusion" in occlusion.measure
    assert "another number of cells" in finding(judged, 11).missing
    assert "25 grids" in finding(judged, 13).missing


def test_a_setting_or_layer_that_is_missing_is_named() -> None:
    judged = judge(table({("GridPG", "layer4", "GradCAM"): 0.8}, grids=5))
    assert set(verdicts(judged).values()) == {"not measured"}
    assert "layers: input" in finding(judged, 1).missing
    assert "settings: DiFull, DiPart" in finding(judged, 9).missing


def test_few_grids_leave_checks_unsettled_that_many_settle() -> None:
    near = {("GridPG", "input", method): 0.38 for method in LOCAL}
    few, many = (judge(table(near, grids=grids)) for grids in (4, 400))
    assert finding(few, 1).inconclusive > finding(many, 1).inconclusive == 0


def test_chance_follows_the_number_of_cells() -> None:
    """0.3 is near chance for 4 cells (up to 0.4), but not for 9 (up to 0.289)."""
    medians = {("GridPG", "input", "Gradient"): 0.3}
    median = [finding(judge(table(medians, cells=cells)), 1).checks[0] for cells in (4, 9)]
    assert [each.holds for each in median] == [True, False]
    assert [each.expected for each in median] == ["at most 0.4", "at most 0.289"]


def test_options_in_a_methods_name_do_not_hide_its_class() -> None:
    medians = {("DiFull", layer, "Occlusion (window=9)"): 0.9 for layer in LAYERS}
    assert verdicts(judge(table(medians, grids=10)))[7] == "holds"


def test_the_worst_grids_are_those_of_the_last_bin() -> None:
    medians = {("GridPG", "final", method): 0.5 for method in (*LOCAL, *POOLED)}
    same, other = (table(medians, grids=50, noise=lambda *_: 0.1, shared=shared) for shared in (True, False))
    checks = {(each.subject, each.quantity): each for each in finding(judge(same), 13).checks}
    chosen = [same[name].to_pylist() for name in ("method", "cell", "score")]
    worst = min(score for method, cell, score in zip(*chosen, strict=True) if (method, cell) == ("GradCAM", 0))
    assert checks["GradCAM at final", "mean score in the worst bin on GridPG"].value == pytest.approx(worst)
    in_common = "share of the worst grids in common, mean of 15 pairs"
    assert checks["two methods at final", in_common].value > 0.9
    apart = {each.quantity: each.value for each in finding(judge(other), 13).checks}
    assert apart[in_common] < 0.2


def test_models_that_disagree_make_a_claim_hold_partly() -> None:
    medians = {("GridPG", "input", "GradCAM"): 0.1}
    both = pa.concat_tables([table(medians), table({("GridPG", "input", "GradCAM"): 0.9}, model="other")])
    claim = next(each for each in judge(both) if each.number == 6)
    assert [(each.model, each.verdict) for each in claim.findings] == [("net", "holds"), ("other", "does not hold")]
    assert claim.verdict == "partly"


def test_maps_without_a_score_and_controls_do_not_count() -> None:
    scores = np.full((6, 4), 0.3)
    refused = rows("net", "GridPG", "input", "Gradient", 1, np.full((6, 4), np.nan), status="refused", note="none")
    control = rows("net", "GridPG", "input", "GradCAM", 1, scores, control=True)
    random = rows("net", "GridPG", "input", "AblationCAM", 1, scores, variant="random down to fc (1 of 1)")
    assert set(verdicts(judge(pa.concat_tables([refused, control, random]))).values()) == {"not measured"}


def test_the_gap_of_independent_medians_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(200):
        first, second = rng.normal(0.7, 0.1, 60), rng.normal(0.5, 0.2, 60)
        one, other = (cluster_interval(each, range(60)) for each in (first, second))
        found = gap(one, other)
        assert found.estimate == pytest.approx(np.median(first) - np.median(second))
        covered += found.low <= 0.2 <= found.high
    assert 0.9 <= covered / 200 <= 0.995


@pytest.mark.parametrize(
    ("value", "low", "high", "holds", "conclusive"),
    [
        (0.3, 0.2, 0.35, True, True),
        (0.3, 0.2, 0.5, True, False),
        (0.5, 0.45, 0.6, False, True),
        (0.5, 0.3, 0.6, False, False),
    ],
)
def test_a_check_is_settled_when_its_interval_is_on_one_side(
    value: float, low: float, high: float, holds: bool, conclusive: bool
) -> None:
    found = check("a", "b", Interval(value, low, high, 0.95, 9, 3, 0), most=0.4)
    assert (found.holds, found.conclusive, found.expected) == (holds, conclusive, "at most 0.4")
    assert check("a", "b", value).holds is None


def test_a_median_of_too_few_grids_settles_nothing() -> None:
    found = check("a", "b", Interval(0.3, np.nan, np.nan, 0.95, 9, 3, 0), most=0.4)
    assert (found.holds, found.conclusive) == (True, False)
    assert check("a", "b", 0.3, most=0.4).conclusive is None


def test_a_gap_reaches_as_far_as_both_intervals_together() -> None:
    first, second = Interval(0.7, 0.6, 0.75, 0.95, 9, 9, 0), Interval(0.5, 0.46, 0.62, 0.95, 8, 8, 1)
    found = gap(first, second)
    assert found.low == pytest.approx(0.2 - (0.01 + 0.0144) ** 0.5)
    assert found.high == pytest.approx(0.2 + (0.0025 + 0.0016) ** 0.5)


def test_verdicts_of_a_run_are_written_into_its_folder_and_other_runs_decide_on_more_cells(tmp_path: Path) -> None:
    squares = write_squares(tmp_path / "squares")
    options = SweepOptions(settings=("GridPG",), layers=("final",), grids=3)
    run, other = (
        evaluate(squares, color_classifier(), [GradCAM()], tmp_path / f"run-{n}", replace(options, n=n))
        for n in (2, (2, 3))
    )
    write_verdicts(judge_run(run, [other]), run.folder)
    text = (run.folder / "verdicts.md").read_text(encoding="utf-8")
    assert [line.split(".")[0] for line in text.splitlines() if line.startswith("###")] == [
        f"### Q{number}" for number in range(1, 14)
    ]
    assert "median with 6 cells minus with 4" in text
    assert "methods: Occlusion" in text
    write_verdicts(judge_run(run), tmp_path / "alone")
    assert "median with 6 cells minus with 4" not in (tmp_path / "alone" / "verdicts.md").read_text(encoding="utf-8")
