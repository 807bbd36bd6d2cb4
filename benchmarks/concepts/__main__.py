"""Concepts against the straightforward way and Captum's TCAV: CPU time in one interleaved run, passes, and equality.

python -m benchmarks.concepts [--rounds 3] [--images 50]

Writes benchmarks/results/concepts.md. One thread, EfficientNet-Lite0, drawn concepts; images are random, which
changes no cost. Where two sides compute the same thing, the results are compared before anything is timed.
"""

import argparse
import platform
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import captum
import torch
from PIL import Image
from torch import Tensor, nn

import pellucid as pl
from benchmarks.concepts.rivals import captum_tcav, straightforward_scores
from benchmarks.timing import Timing, interleaved
from pellucid.attribution import Passes
from pellucid.classifiers import Classifier
from pellucid.concepts import (
    CAV,
    ConceptSet,
    ConceptWarning,
    FitOptions,
    VisualTCAV,
    draw_concept_set,
    explain_class,
    explain_layers,
    fit_cavs,
    tcav,
)
from pellucid.synthetic import NEGATIVES, TEXTURES

RESULTS = Path(__file__).parents[1] / "results"
LAYERS = ("blocks.10", "blocks.15", "head")
CLASSES = [340, 291, 918]
STEPS = 50
PER_CONCEPT, NEGATIVE_COUNT = 10, 20
COPIES = 4


@dataclass(frozen=True)
class Bench:
    """A classifier, concepts at its layers, and images."""

    classifier: Classifier
    concepts: list[ConceptSet]
    negatives: ConceptSet
    cavs: dict[str, list[CAV]]
    images: Tensor

    @property
    def network(self) -> nn.Module:
        return self.classifier.module

    def explainers(self, copies: int, options: Mapping[str, Any]) -> list[VisualTCAV]:
        """One explainer per layer; every concept is there `copies` times, under other names."""
        return [
            VisualTCAV(self.classifier.at(layer), _copies(cavs, copies), **options) for layer, cavs in self.cavs.items()
        ]


def make_bench(images: int) -> Bench:
    classifier = pl.load("efficientnet_lite0")
    concepts = [draw_concept_set(name, PER_CONCEPT) for name in TEXTURES]
    negatives = draw_concept_set(NEGATIVES, NEGATIVE_COUNT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConceptWarning)
        cavs = {layer: fit_cavs(classifier.at(layer), concepts, negatives) for layer in LAYERS}
    drawn = torch.randn(images, *classifier.input_shape, generator=torch.Generator().manual_seed(0))
    return Bench(classifier, concepts, negatives, cavs, drawn)


PLAIN: Mapping[str, Any] = {"permutations": 0, "tolerance": None}
"""What the published algorithm computes: no p-values, no more than 50 steps."""


def check_visual_tcav(bench: Bench) -> float:
    """Largest difference between pellucid's published scores and the straightforward ones, over the largest score."""
    ours = torch.stack([result.reference[0, :, :1] for result in local(bench, PLAIN)])
    theirs = straightforward(bench)
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    assert difference < 1e-3, f"the two sides disagree: {difference}"
    return difference


def check_tcav(bench: Bench, count: int = 10) -> None:
    """With the same CAVs (flattened differences of means) both sides give the same sign counts."""
    images, layer = bench.images[:count], LAYERS[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConceptWarning)
        view, options = bench.classifier.at(layer), FitOptions(features="flattened")
        cavs = fit_cavs(view, bench.concepts, bench.negatives, options=options)
    ours = tcav(view, cavs, images, CLASSES[0], permutations=1).scores
    theirs = captum_scores(bench, [layer], images, difference=True)[layer]
    assert torch.allclose(ours, theirs.double()), f"the two sides disagree: {ours} and {theirs}"


def local(bench: Bench, options: Mapping[str, Any]) -> list[pl.concepts.ConceptExplanation]:
    return explain_layers(bench.explainers(1, options), bench.images[:1], CLASSES)


def straightforward(bench: Bench) -> Tensor:
    """Published scores (layers, concepts, 1) of the first image for one class; an IG serves all concepts."""
    network, image = bench.network, bench.images[:1]
    return torch.stack(
        [
            straightforward_scores(network, network.get_submodule(layer), image, cavs, CLASSES[:1], STEPS)
            for layer, cavs in bench.cavs.items()
        ]
    )


def global_visual_tcav(bench: Bench) -> object:
    return explain_class(bench.explainers(1, PLAIN), bench.images, CLASSES[0])


def fit_and_tcav(bench: Bench) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConceptWarning)
        views = [bench.classifier.at(layer) for layer in LAYERS]
        return [
            tcav(view, cavs, bench.images, CLASSES[0])
            for view, cavs in zip(views, fit_cavs(views, bench.concepts, bench.negatives), strict=True)
        ]


def captum_scores(bench: Bench, layers: Sequence[str], images: Tensor, *, difference: bool) -> dict[str, Tensor]:
    """Captum's sign counts by layer, everything from scratch."""
    drawn = [[one for one in concept.images if isinstance(one, Image.Image)] for concept in bench.concepts]
    absent = [one for one in bench.negatives.images if isinstance(one, Image.Image)]
    sets = [bench.classifier.read(images) for images in (*drawn, absent)]
    with tempfile.TemporaryDirectory() as folder:
        return captum_tcav(bench.network, list(layers), sets, images, CLASSES[0], Path(folder), difference=difference)


def fewest(bench: Bench) -> str:
    """Passes that the published scores of one image cannot do without."""
    curved = sum(not bench.classifier.at(layer).is_affine for layer in LAYERS)
    affine = len(LAYERS) - curved
    forward = curved * (STEPS + 1) + affine * 2
    return f"1 + {forward} + {(curved * (STEPS + 1) + affine) * len(CLASSES)}"


def one_more_concept(bench: Bench, rounds: int) -> list[str]:
    """What a further concept adds once the integrated gradients are there: from 6 concepts to 24."""
    lines = []
    for layer in LAYERS:
        for label, options in (("scores", PLAIN), ("scores, 199 permutations", {**PLAIN, "permutations": 199})):
            at_layer = replace(bench, cavs={layer: bench.cavs[layer]})
            few, many = (at_layer.explainers(copies, options) for copies in (1, COPIES))
            runs = {
                "few": lambda few=few: explain_layers(few, bench.images[:1], CLASSES),
                "many": lambda many=many: explain_layers(many, bench.images[:1], CLASSES),
            }
            timings = interleaved(runs, rounds)
            assert runs["few"]()[0].passes == runs["many"]()[0].passes, "a concept must cost no pass"
            each = (timings["many"].median - timings["few"].median) / (len(bench.concepts) * (COPIES - 1))
            lines.append(
                f"| {layer} | {label} | {timings['few'].median:.3f} | {1000 * each:.1f} ms "
                f"| {100 * each / timings['few'].median:.1f} % | 0 |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=50, help="of the global explanation")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Using default classifier for TCAV")
    bench = make_bench(arguments.images)
    difference = check_visual_tcav(bench)
    check_tcav(bench)
    print(f"results agree: published scores to {difference:.1e}, TCAV's counts exactly", flush=True)
    locally = _timed(
        {
            "ours": lambda: local(bench, PLAIN),
            "ours, all": lambda: local(bench, {}),
            "straightforward": lambda: straightforward(bench),
        },
        arguments.rounds,
    )
    globally = _timed(
        {
            "ours": lambda: global_visual_tcav(bench),
            "our tcav": lambda: fit_and_tcav(bench),
            "captum": lambda: captum_scores(bench, LAYERS, bench.images, difference=False),
            "captum, difference": lambda: captum_scores(bench, LAYERS, bench.images, difference=True),
        },
        max(1, arguments.rounds - 2),
    )
    passes = sum((result.passes for result in local(bench, PLAIN)), Passes())
    text = report(bench, difference, locally, globally, passes, one_more_concept(bench, 2 * arguments.rounds + 1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "concepts.md").write_text(text)
    print(text)


def report(
    bench: Bench,
    difference: float,
    locally: dict[str, Timing],
    globally: dict[str, Timing],
    passes: Passes,
    more: list[str],
) -> str:
    """The tables as Markdown."""
    unit, once = locally["straightforward"].median, len(LAYERS) * (STEPS + 1)
    head = [
        "# Concepts against the straightforward way and Captum's TCAV",
        "",
        f"EfficientNet-Lite0 at {', '.join(LAYERS)}; {len(bench.concepts)} concepts of {PER_CONCEPT} drawn images, "
        f"{NEGATIVE_COUNT} negatives. CPU time on one thread, medians of interleaved runs; torch {torch.__version__}, "
        f"captum {captum.__version__}, {platform.machine()}. Before timing, the published scores of both sides were "
        f"found equal to {difference:.0e} of the largest, and TCAV's sign counts from the same CAVs equal.",
        "",
        "The straightforward way runs the full network with a hook at every step of every class. It was timed for one "
        f"image, one class and all layers, with one integrated gradient for all concepts: {unit:.1f} s, {once} "
        "passes there and back. Rows marked * are multiples of that: the same passes, made again for every class, "
        "image or concept.",
        "",
    ]
    tail = [
        "## One more concept, once the integrated gradients are there",
        "",
        "One image, 3 classes; from 6 concepts to 24. Fitting its CAV takes its own images through the network "
        "once and is not counted.",
        "",
        "| layer | what | s with 6 | each further concept | of the whole | passes |",
        "|---|---|---|---|---|---|",
        *more,
        "",
    ]
    return "\n".join([*head, *_local_table(bench, locally, passes), *_global_table(bench, unit, globally), *tail])


def _local_table(bench: Bench, timings: dict[str, Timing], passes: Passes) -> list[str]:
    concepts, ours = len(bench.concepts), timings["ours"].median
    shared, steps = timings["straightforward"].median * len(CLASSES), len(LAYERS) * len(CLASSES) * (STEPS + 1)
    made = f"{passes.prefix_forward} + {passes.suffix_forward} + {passes.suffix_backward}"
    everything = timings["ours, all"].median
    return [
        f"## One image, {concepts} concepts x {len(CLASSES)} classes x {len(LAYERS)} layers",
        "",
        "| who | s | ratio to pellucid | passes |",
        "|---|---|---|---|",
        f"| pellucid, published and signed scores | {ours:.2f} | | {made} (fewest: {fewest(bench)}) |",
        f"| pellucid, with refined steps and p-values (default) | {everything:.2f} | x{everything / ours:.2f} | |",
        f"| full network per step, IG shared by the concepts * | {shared:.1f} | **x{shared / ours:.1f}** | {steps} "
        "there and back, of the whole network |",
        f"| full network per step, IG per concept * | {shared * concepts:.0f} | **x{shared * concepts / ours:.0f}** "
        f"| {steps * concepts} there and back |",
        "",
        "Passes: rows through prefix forward + suffix forward + suffix backward.",
        "",
    ]


def _global_table(bench: Bench, unit: float, timings: dict[str, Timing]) -> list[str]:
    concepts, count = len(bench.concepts), len(bench.images)
    ours, our_tcav, shared = timings["ours"].median, timings["our tcav"].median, unit * count
    rivals = {"default classifier (SGD)": "captum", "differences of means": "captum, difference"}
    captum_rows = [
        f"| Captum, {label} | TCAV from scratch: CAVs, scores, no test | {timings[key].median:.1f} "
        f"| **x{timings[key].median / our_tcav:.1f}** to pellucid's TCAV |"
        for label, key in rivals.items()
    ]
    return [
        f"## {count} images of one class, {concepts} concepts, {len(LAYERS)} layers",
        "",
        "| who | what | s | ratio |",
        "|---|---|---|---|",
        f"| pellucid | Visual-TCAV: both scores with intervals | {ours:.1f} | |",
        f"| full network per step, IG shared by the concepts * | published scores | {shared:.0f} "
        f"| **x{shared / ours:.1f}** |",
        f"| full network per step, IG per concept * | published scores | {shared * concepts:.0f} "
        f"| **x{shared * concepts / ours:.0f}** |",
        f"| pellucid | TCAV from scratch: CAVs with quality, scores, three tests | {our_tcav:.1f} | |",
        *captum_rows,
        "",
    ]


def _timed(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    timings = interleaved(contenders, rounds)
    for name, timing in timings.items():
        print(f"{name}: {timing.median:.2f} s, spread {timing.spread:.2f}", flush=True)
    return timings


def _copies(cavs: Sequence[CAV], copies: int) -> list[CAV]:
    return [replace(cav, name=f"{cav.name} {copy}") for copy in range(copies) for cav in cavs]


if __name__ == "__main__":
    main()
