"""`pellucid concepts rank` and `tcav`: how much concepts count for a class, over many images of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pellucid.cli.common import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Images,
    MaxBatch,
    MaxBytes,
    Model,
    Weights,
    load_classifier,
    print_json,
    progress_bar,
    screen,
)
from pellucid.cli.concepts_common import (
    Builtin,
    Cache,
    ConceptLayers,
    ConceptRequest,
    Concepts,
    Count,
    EstimatorName,
    Negatives,
    Permutations,
    Seed,
    about,
    cavs_by_layer,
    check_baseline,
    concept_targets,
    readable_images,
)
from pellucid.cli.concepts_explain import (
    Baseline,
    Outputs,
    outputs,
    print_files,
    write_outputs,
)
from pellucid.errors import PellucidError

if TYPE_CHECKING:
    from pellucid.concepts import ClassExplanation, TCAVResult


ClassTargets = Annotated[list[str], typer.Option("--target", help="Class name or index; repeat for several.")]
ClassTarget = Annotated[str, typer.Option("--target", help="Class name or index.")]
Hierarchical = Annotated[bool, typer.Option(help="Let intervals hold the CAVs' uncertainty too.")]
RandomSets = Annotated[int, typer.Option(min=2, help="Parts of the negatives that each stand in for all of them.")]
Features = Annotated[str, typer.Option(help="pooled, or flattened: every cell on its own, as TCAV first did.")]


def rank(
    images: Images,
    target: ClassTargets,
    concepts: Concepts = None,
    builtin: Builtin = "",
    negatives: Negatives = None,
    layers: ConceptLayers = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    estimator: EstimatorName = "difference",
    baseline: Baseline = "zero",
    permutations: Permutations = 999,
    hierarchical: Hierarchical = False,
    count: Count = None,
    seed: Seed = 0,
    out: Outputs = None,
    cache: Cache = "",
    device: Device = None,
    max_batch: MaxBatch = 16,
    max_bytes: MaxBytes = None,
    as_json: AsJson = False,
) -> None:
    """Rank concepts for a class over images of it (global Visual-TCAV), with intervals and paired differences."""
    from pellucid.workflows import ExplainClassOptions, explain_class

    check_baseline(baseline)
    chosen: Any = baseline
    files, skipped = readable_images(images)
    places = outputs(out, Path("pellucid-out") / "class")
    classifier = load_classifier(model, weights, device)
    concept_targets(classifier, target)
    found = cavs_by_layer(
        classifier,
        ConceptRequest(
            concepts=concepts, builtin=builtin, negatives=negatives, layers=layers, estimator=estimator,
            count=count, seed=seed, cache=cache, max_batch=max_batch,
        ),
        as_json,
    )  # fmt: skip
    options = ExplainClassOptions(
        target=tuple(target), baseline=chosen, permutations=permutations, hierarchical=hierarchical, seed=seed,
        max_batch=max_batch, max_bytes=max_bytes,
    )  # fmt: skip
    with progress_bar(as_json) as progress:
        task = progress.add_task(f"{', '.join(target)} in {len(files)} images", total=len(files))
        report = explain_class(
            classifier, files, options, cavs=found, on_images=lambda number: progress.update(task, advance=number)
        )
    results, whole = report.results, report.to_dict(skipped=skipped)

    def pages(place: Path) -> list[Path]:
        from pellucid.reports import write_class_page

        file = place if place.suffix else place / "concepts.html"
        write_class_page(file, report)
        return [file]

    written = write_outputs(places, whole, pages)
    if as_json:
        print_json(whole | {"files": [str(file) for file in written]})
        return
    for t in range(len(results[0].targets)):
        for result in results:
            _print_ranking(result, t)
    print_files(written)


def _print_ranking(result: "ClassExplanation", t: int) -> None:
    table = Table(
        *("concept", "evidence, logits [95 %]", "ahead of the next by", "seen in", "reference"),
        title=escape(f"{result.targets[t]} at {result.layer}: {len(result.sources)} images"),
        title_justify="left",
        caption="* significant against relabelled images; leads are paired by image, with sign-flip tests",
        caption_justify="left",
    )
    for place in result.ranking(t, "signed"):
        d = result.concepts.index(place.concept)
        adjusted = result.signed.adjusted_p_values
        star = "*" if adjusted is not None and float(adjusted[d, t]) < 0.05 else ""
        lead = ""
        if place.lead is not None:
            lead = f"{place.lead:.3f} [{place.lead_low:.3f}, {place.lead_high:.3f}] p = {place.lead_p_value:.2g}"
        table.add_row(
            escape(place.concept),
            escape(f"{place.mean:+.3f}{star} [{place.low:+.3f}, {place.high:+.3f}]"),
            escape(lead),
            f"{place.share_seen:.0%}",
            f"{float(result.reference.mean[d, t]):.4f}",
        )
    screen.print(table)


def tcav(
    images: Images,
    target: ClassTarget,
    concepts: Concepts = None,
    builtin: Builtin = "",
    negatives: Negatives = None,
    layers: ConceptLayers = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    estimator: EstimatorName = "difference",
    features: Features = "pooled",
    random_sets: RandomSets = 10,
    permutations: Permutations = 499,
    count: Count = None,
    seed: Seed = 0,
    out: Outputs = None,
    cache: Cache = "",
    device: Device = None,
    max_batch: MaxBatch = 16,
    as_json: AsJson = False,
) -> None:
    """TCAV scores of a class with random-set tests: for how many images a step towards a concept raises its logit."""
    from pellucid.concepts import tcav as score_class
    from pellucid.concepts.concept_table import plain, tcav_rows

    files, skipped = readable_images(images)
    places = outputs(out, Path())
    if out and any(place.suffix not in (".json", ".parquet") for place in places):
        raise PellucidError(f"--out {places[0]}: TCAV has tables only; give a file .json or .parquet")
    classifier = load_classifier(model, weights, device)
    (wanted_class,) = concept_targets(classifier, [target]) or []
    found = cavs_by_layer(
        classifier,
        ConceptRequest(
            concepts=concepts, builtin=builtin, negatives=negatives, layers=layers, estimator=estimator,
            features=features, count=count, seed=seed, cache=cache, max_batch=max_batch,
        ),
        as_json,
    )  # fmt: skip
    class_images = classifier.read(files)
    results = []
    with progress_bar(as_json) as progress:
        task = progress.add_task(f"{target} in {len(files)} images", total=len(found))
        for layer, cavs in found.items():
            results.append(
                score_class(
                    classifier.at(layer), cavs, class_images, wanted_class,
                    random_sets=random_sets, permutations=permutations, seed=seed, max_batch=max_batch,
                )
            )  # fmt: skip
            progress.update(task, advance=1)
    notes = list(dict.fromkeys(note for result in results for note in result.notes))
    told = about(
        classifier, found, notes=notes, skipped=skipped, random_sets=random_sets, permutations=permutations, seed=seed
    )
    whole = plain({"about": told, "rows": list(tcav_rows(results, [str(file) for file in files]))})
    written = write_outputs(places, whole, lambda place: []) if out else []
    if as_json:
        print_json(whole | {"files": [str(file) for file in written]})
        return
    for result in results:
        _print_scores(result)
    print_files(written)


def _print_scores(result: "TCAVResult") -> None:
    table = Table(
        *("concept", "TCAV", "over random sets", "by chance", "p, random sets", "p, relabelled", "mean sensitivity"),
        title=escape(f"{result.target} at {result.layer}: {len(result.sensitivities)} images"),
        title_justify="left",
        caption="p-values Holm-adjusted over the concepts; the test over random sets is lenient, see the next",
        caption_justify="left",
    )
    for d, concept in enumerate(result.concepts):
        own, chance = result.random_scores[d], result.baseline_scores[d]
        table.add_row(
            escape(concept),
            f"{float(result.scores[d]):.2f}",
            f"{float(own.mean()):.2f} ({float(own.min()):.2f} to {float(own.max()):.2f})",
            f"{float(chance.mean()):.2f} ({float(chance.min()):.2f} to {float(chance.max()):.2f})",
            f"{float(result.adjusted['p_values'][d]):.3g}",
            f"{float(result.adjusted['relabeled_p_values'][d]):.3g}",
            f"{float(result.mean_sensitivities[d]):+.3g}",
        )
    screen.print(table)
