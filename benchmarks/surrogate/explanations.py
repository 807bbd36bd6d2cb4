"""What a local explanation takes, against StylEx's search on the same generator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.surrogate.rivals.attfind import attfind
from experiments.surrogate.rivals.stylespace import StyleSpace
from torch import Tensor

from benchmarks.surrogate.bench import TOLERANCE, Bench, PassCounter, timed
from benchmarks.surrogate.rivals import Searched, coordinate_search
from benchmarks.timing import Timing
from pellucid.surrogate import (
    Codes,
    MinimalCounterfactual,
    SurrogateExplainer,
    find_minimal_counterfactual,
    shapley_importance,
    traverse_latent,
)

TOGETHER = 8  # images explained at once


@dataclass(frozen=True)
class Explained:
    """What an answer took.

    Attributes:
        timing: CPU time.
        images: explained in one go.
        drawn, classified: images through generator and classifier, there and back.
        runs: of the generator.
        says: what was found, in short.
    """

    timing: Timing
    images: int
    drawn: tuple[int, int]
    classified: tuple[int, int]
    runs: int
    says: str


def time_explanations(bench: Bench, rounds: int) -> dict[str, Explained]:
    """Answers about one image, and the coordinate search for the same flip on the same generator."""
    explainer, reference = bench.explainer, bench.explainer.reference
    assert reference is not None
    names, concepts = (*explainer.context_names, *explainer.latent_names), reference.codes.concept_coordinates()
    batch, several = explainer.encode_batch(bench.images[:1]), explainer.encode_batch(bench.images[:TOGETHER])
    goals = several.logits.argsort(1, descending=True)[:, 1]
    goal, code, space = int(goals[0]), batch.codes, StyleSpace(explainer.surrogate.networks.generator)
    style, styles = space.coordinates(code.to_vector()), space.coordinates(reference.codes.to_vector())

    def styled(changed: Tensor, codes: Codes) -> Tensor:
        return explainer.surrogate.space.from_display(space.draw(changed, codes.to_vector()))

    runs: dict[str, Callable[[], Any]] = {
        "paint": lambda: explainer.encode_batch(bench.images[:1]),
        "flip": lambda: find_minimal_counterfactual(batch, goals[:1], reference),
        "flips together": lambda: find_minimal_counterfactual(several, goals, reference),
        "importance": lambda: shapley_importance(batch, reference),
        "strips": lambda: [traverse_latent(batch, name, reference) for name in names],
        "explain": lambda: explainer.explain(bench.images[:1]),
        "search of styles": lambda: coordinate_search(
            lambda changed: styled(changed, code), explainer.logits, style, styles.amin(0), styles.amax(0), goal
        ),
        "search of concepts": lambda: coordinate_search(
            lambda changed: explainer.decode(code.replace_concepts(changed)), explainer.logits,
            code.concept_coordinates(), concepts.amin(0), concepts.amax(0), goal,
        ),
        "search of styles, together": lambda: attfind(
            lambda changed, rows: styled(changed, several.codes[rows]), explainer.logits,
            space.coordinates(several.codes.to_vector()), styles.amin(0), styles.amax(0), goal,
        ),
    }  # fmt: skip
    result, counted = _counted(runs, explainer, bench.classified)
    difference = result["search of styles"].effects - result["search of styles, together"].effects[0]
    assert float(difference.abs().max()) < TOLERANCE, f"effects of coordinates differ by {difference.abs().max():.1e}"
    timings = timed("explanation", runs, rounds)
    return {
        name: Explained(timings[name], TOGETHER if "together" in name else 1, *counted[name], _says(result[name]))
        for name in runs
    }


def _counted(
    runs: Mapping[str, Callable[[], Any]], explainer: SurrogateExplainer, classified: PassCounter
) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, int], tuple[int, int], int]]]:
    """What each says, and how many images it draws, classifies, and in how many runs of the generator."""
    drawn, result, counted = PassCounter(), {}, {}
    drawn.watch(explainer.surrogate.networks.generator)
    for name, run in runs.items():
        drawn.reset()
        classified.reset()
        result[name] = run()
        counted[name] = (drawn.images, classified.images, drawn.calls)
    return result, counted


def _says(result: Any) -> str:
    if isinstance(result, MinimalCounterfactual):
        concepts = float(result.moved.float().mean())
        return f"{int(result.valid.sum())} of {len(result.valid)} flipped, {concepts:.1f} concepts"
    if isinstance(result, Searched):
        return f"{'flipped' if result.flipped else 'not flipped'} with {len(result.chosen)} of {len(result.effects)}"
    return ""
