"""The surrogate against plain StyleGAN2 and StylEx's search: training, drawing, explaining; in one interleaved run.

python -m benchmarks.surrogate [--rounds 7] [--steps 208]

Writes benchmarks/results/surrogate.json and surrogate.md. One thread, CPU time, preset cpu-32, a small CNN and digits
drawn here. Where two sides compute the same thing, the results are compared before anything is timed.
"""

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from experiments.surrogate.rivals.stylespace import StyleSpace

import pellucid as pl
from benchmarks.surrogate.bench import (
    TOLERANCE,
    Bench,
    Steps,
    make_bench,
    time_convolutions,
    time_generators,
    time_steps,
)
from benchmarks.surrogate.explanations import TOGETHER, Explained, time_explanations
from pellucid.storage import to_record
from pellucid.surrogate import PRESETS

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=208, help="of the surrogate's training, a third of them warm-up")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = PRESETS["cpu-32"].replace(steps=arguments.steps, warmup_steps=arguments.steps // 3, predictor_steps=150)
    bench = make_bench(options)
    code = sum(bench.explainer.surrogate.networks.blocks)
    result: dict[str, Any] = {
        "versions": {"pellucid": pl.__version__, "torch": torch.__version__, "machine": platform.machine()},
        "options": to_record(options),
        "steps": time_steps(bench, arguments.rounds),
        "modulated": time_convolutions(code, arguments.rounds),
        "generators": time_generators(code, arguments.rounds),
        "explanations": time_explanations(bench, min(3, arguments.rounds)),
    }
    text = report(bench, **result)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "surrogate.json").write_text(json.dumps(result, indent=1, default=asdict) + "\n")
    (RESULTS / "surrogate.md").write_text(text)
    print(text)


_HEAD = """# The surrogate against plain StyleGAN2 and StylEx's search

Preset cpu-32 (batch {batch}, 32 px), a CNN of three blocks and drawn digits; CPU time on one thread, medians of
interleaved runs; torch {torch}, {machine}.

## Training, full loss

A step as pellucid makes it, after the warm-up: generator, discriminator, encoders, predictors, classifier. The rival is the
same step with a plain StyleGAN2 in place of the generator: a weight for each image, convolutions with a group for
each image, transposed convolutions to grow (a quarter of the multiplications of ours, which doubles the maps first),
blur by depthwise convolutions. The bound: exactly the convolutions that the step runs, forward and backward, as the
dispatcher saw them in a real step, with the same shapes and memory orders and nothing around them. Every {lazy}th step
has R1 and Hessian penalty besides; speeds are of the mix.

| generator | images/s | ratio | ms, most steps | ms, every {lazy}th | convolutions there + back | images/s of them alone | share of that bound |
|---|---|---|---|---|---|---|---|
"""  # noqa: E501

_MODULATED = """
## Modulated convolutions, batch 32, there and back

Ours: scaled channels around one ordinary convolution. Grouped: a weight and a group for each image. Error: largest
difference of outputs and gradients (of input, weight and style) over the largest value, asserted below {tolerance:g}.

| weight | pixels | ours, ms | grouped, ms | ratio | error |
|---|---|---|---|---|---|
"""

_GENERATORS = """
## The generator alone

At 32 px the widths of cpu-32 (64 channels up to 8 px, then 32 and 16), at 64 px 64 channels up to 16 px, then the same.

| pixels | batch | forward, ms | plain StyleGAN2 | ratio | there and back, ms | plain StyleGAN2 | ratio |
|---|---|---|---|---|---|---|---|
"""

_EXPLANATIONS = """
## One local explanation

{concepts} concepts and {styles} styles of a surrogate after {steps} steps of training, which is no good surrogate: costs hang on that only
where a flip is looked for. Passes are counted by hooks, in images there + back. The search is StylEx's for one
image: one coordinate and one direction at a time, then those that gain most together until the class changes. It
yields one number for each coordinate; they were found equal to those of pellucid's own search in batches.

| what | images drawn | classified | runs of the generator | ms | ratio to the flip | found |
|---|---|---|---|---|---|---|
"""  # noqa: E501

_ANSWERS = {
    "paint": "codes, redrawing and logits, shared by all answers",
    "flip": "smallest and sparsest flip",
    "flips together": f"the same for {TOGETHER} images at once, per image",
    "importance": "Shapley values of all concepts, 64 permutations",
    "strips": "strips of all concepts, 9 images each",
    "explain": "everything `explain` says",
    "search of styles": "**StylEx's search, styles**",
    "search of concepts": "the same search, concepts only",
    "search of styles, together": f"its first part for {TOGETHER} images at once (`attfind`), per image",
}


def report(
    bench: Bench,
    versions: Mapping[str, str],
    options: Mapping[str, Any],
    steps: Mapping[str, Steps],
    modulated: Sequence[Mapping[str, Any]],
    generators: Sequence[Mapping[str, Any]],
    explanations: Mapping[str, Explained],
) -> str:
    """The tables as Markdown."""
    space = StyleSpace(bench.explainer.surrogate.networks.generator)
    styles = space.coordinates(bench.explainer.encode(bench.images[:1]).to_vector()).shape[1]
    concepts = len((*bench.explainer.context_names, *bench.explainer.latent_names))
    return "\n".join(
        [
            _HEAD.format(**versions, **options) + "\n".join(_step_lines(steps, options)),
            _MODULATED.format(tolerance=TOLERANCE) + "\n".join(map(_modulated_line, modulated)),
            _GENERATORS + "\n".join(map(_generator_line, generators)),
            _EXPLANATIONS.format(concepts=concepts, styles=styles, **options)
            + "\n".join(_explanation_line(name, one, explanations["flip"]) for name, one in explanations.items()),
            "",
        ]
    )


def _step_lines(steps: Mapping[str, Steps], options: Mapping[str, Any]) -> list[str]:
    batch, every, ours = options["batch"], options["lazy"], steps["pellucid"].seconds(options["lazy"])
    return [
        f"| {name} | {batch / one.seconds(every):.0f} | {_ratio(one.seconds(every), ours)} "
        f"| {1000 * one.ordinary.median:.0f} | {1000 * one.lazy.median:.0f} | {' + '.join(map(str, one.convolutions))} "
        f"| {batch / one.seconds_alone(every):.0f} | {100 * one.seconds_alone(every) / one.seconds(every):.0f} % |"
        for name, one in steps.items()
    ]


def _modulated_line(row: Mapping[str, Any]) -> str:
    ours, grouped = row["ours"].median, row["grouped"].median
    weight = " x ".join(map(str, row["weight"]))
    return (
        f"| {weight} | {row['pixels']} | {1000 * ours:.2f} | {1000 * grouped:.2f} | {_ratio(grouped, ours)} "
        f"| {row['error']:.0e} |"
    )


def _generator_line(row: Mapping[str, Any]) -> str:
    cells = [
        f"{1000 * ours:.1f} | {1000 * plain:.1f} | {_ratio(plain, ours)}"
        for ours, plain in ((row[f"ours {task}"].median, row[f"plain {task}"].median) for task in ("forward", "both"))
    ]
    return f"| {row['pixels']} | {row['batch']} | {' | '.join(cells)} |"


def _explanation_line(name: str, one: Explained, flipped: Explained) -> str:
    drawn, classified = (
        " + ".join(f"{count // one.images}" for count in counts) for counts in (one.drawn, one.classified)
    )
    seconds = one.timing.median / one.images
    return (
        f"| {_ANSWERS[name]} | {drawn} | {classified} | {one.runs} | {1000 * seconds:.0f} "
        f"| {_ratio(seconds, flipped.timing.median)} | {one.says} |"
    )


def _ratio(theirs: float, ours: float) -> str:
    return "" if theirs == ours else f"x{theirs / ours:.2f}"


if __name__ == "__main__":
    main()
