"""`pellucid surrogate evaluate`: how far a twin may be believed."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pellucid.cli.common import (
    AsJson,
    Device,
    Weights,
    print_json,
    screen,
)
from pellucid.cli.surrogate_common import (
    COMMAND,
    RunContext,
    RunFolder,
    RunImages,
    RunModel,
    Sample,
    Seed,
    TrainCommand,
    Transferred,
    load_run,
    sample_of,
    stages,
    tidy,
)
from pellucid.cli.surrogate_measures import DESCRIPTIONS, JUDGES, measure_named

if TYPE_CHECKING:
    from pellucid.surrogate import SurrogateExplainer


MeasureChoice = Annotated[
    str | None,
    typer.Option("--measure", help="What re-measures images: judges or morphomnist. \\[default: as in training]"),
]
Page = Annotated[Path | None, typer.Option("--out", help="Also write the marks as a page, x.html.")]
Keep = Annotated[
    bool, typer.Option("--keep", help="Let these marks decide what is refused, and explain against these images.")
]


def evaluate(
    run: RunFolder,
    images: RunImages = None,
    context: RunContext = None,
    measure: MeasureChoice = None,
    model: RunModel = None,
    weights: Weights = None,
    transferred: Transferred = False,
    keep: Keep = False,
    out: Page = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure a twin: is it faithful to the classifier, and does it control what it is asked to set?"""
    explainer = load_run(run, model, weights, device)
    sample = sample_of(run, explainer, images, context)
    chosen = measure or (TrainCommand.load(run).measure if (run / COMMAND).exists() else JUDGES)
    with stages(as_json) as tell:
        if keep:
            explainer.set_reference(sample.images)
        explainer.assess(
            sample.images,
            measure_named(chosen, explainer, sample),
            measured_by=DESCRIPTIONS[chosen],
            transferred=transferred,
            seed=seed,
            on_progress=lambda done, total: tell("measuring control", done, total),
        )
    if keep:
        explainer.save_state(run)
    read = _read_off(explainer, sample)
    written = [] if out is None else [_page(explainer, out)]
    if as_json:
        assert explainer.assessment is not None
        print_json(tidy({"run": run, "assessment": asdict(explainer.assessment), **read, "files": written}))
        return
    print_assessment(explainer, read)
    for file in written:
        screen.print(f"wrote {file}", highlight=False, markup=False, soft_wrap=True)


def _page(explainer: "SurrogateExplainer", out: Path) -> Path:
    from pellucid.reports.surrogate.graph_page import write_surrogate_page

    write_surrogate_page(out, explainer)
    return out


def _read_off(explainer: "SurrogateExplainer", sample: Sample) -> dict[str, dict[str, float]]:
    """R2 of the contexts as the twin's judges and as the classifier's features tell them, on these images.

    `unlearnt` is what the features tell with random weights, on training images.
    """
    from pellucid.surrogate.explain.global_explanation import r2_by_context

    if sample.context is None:
        return {}
    table, names = explainer.standard_context(sample.context.values.float()), explainer.context_names
    return {
        "judged": r2_by_context(names, explainer.encode(sample.images).context, table),
        "perceived": r2_by_context(names, explainer.perceived_context(sample.images), table),
        "unlearnt": dict(zip(names, explainer.quality.untrained_baseline, strict=False)),
    }


def print_assessment(explainer: "SurrogateExplainer", read: Mapping[str, Mapping[str, float]] | None = None) -> None:
    """Fidelity, then a line for each context: how it obeys, what leaks, whether it is shown."""
    marks = explainer.assessment
    assert marks is not None
    table = Table("fidelity", "", "what it is", title=f"{marks.images} images", title_justify="left")
    for name, value, meaning in (
        ("agreement", f"{marks.agreement:.1%}", "images that get the same class when the twin redraws them"),
        ("KL", f"{marks.kl:.3f}", "nats between the classifier's answers to image and redrawing; 0 is perfect"),
        ("logit R2", f"{marks.logit_r2:.3f}", "share of the variance of the logits that survives redrawing"),
        ("head", f"{marks.head_agreement:.1%}", "images whose class the concepts alone tell"),
        ("swaps", f"{marks.swap_flips:.1%}", "images that change class with another's nuisance; 0 is perfect"),
        ("feature cosine", f"{marks.realism.cosine:.3f}", "of the classifier's features of image and redrawing"),
        (
            "Fréchet",
            f"{marks.realism.frechet:.3g}",
            f"of those features over all images; between two halves of the real ones {marks.realism.floor:.3g}",
        ),
    ):
        table.add_row(name, value, meaning)
    screen.print(table)
    if not marks.controls:
        return
    where = ", changes laid on the images" if marks.transferred else ""
    control = Table(
        *("concept", "asked ~ measured", "slope", "leak into others, sd", "shown"),
        title=f"control, measured by {marks.measured_by}{where}",
        title_justify="left",
    )
    for each in marks.controls:
        leak = ", ".join(f"{escape(name)} {value:.2f}" for name, value in each.leak.items()) or "none"
        shown = "yes" if each.effective else "refused" if each.correlation == each.correlation else "not measured"
        followed = f"{each.correlation:.2f}"
        if each.measurable < 0.995:
            followed += f" ({1 - each.measurable:.1%} not measurable)"
        control.add_row(escape(each.concept), followed, f"{each.slope:.2f}", leak, shown)
    screen.print(control)
    if read:
        _print_read(read)


def _print_read(read: Mapping[str, Mapping[str, float]]) -> None:
    table = Table(
        *("concept", *read),
        title="told by (R2): the twin's judges, the classifier's features, the same with random weights",
        title_justify="left",
    )
    for name in read["judged"]:
        table.add_row(escape(name), *(f"{values[name]:.2f}" if name in values else "" for values in read.values()))
    screen.print(table)
