"""Five ways in which concept scores mislead, on a real classifier, each with its fix.

python -m experiments.concepts.failures --data DIR [--out DIR]

Silent zeros, hidden sign, the baseline, the gauge of the logits, correlated concepts; and what chance must mean for
a p-value. Writes failures.json and failures.png.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from experiments.concepts.failures.cases import Bench, baselines, correlated, gauge, hidden_sign, silent_zeros
from experiments.concepts.failures.chance import chance
from experiments.concepts.failures.figure import draw_figure
from experiments.concepts.textures.data import Sizes, class_images, few_images, photo_sets
from pellucid import load
from pellucid.concepts import ConceptWarning
from pellucid.storage import write_atomically

RESULTS = Path(__file__).parent / "results"
FULL = Sizes(per_concept=40, negatives=80, per_class=12, classes=1, pairs=10)


def run(data: Path, out: Path, sizes: Sizes = FULL) -> dict[str, Any]:
    """All of them, from the same images and concepts."""
    classifier = load("efficientnet_lite0")
    concepts, negatives = photo_sets(data, classifier, sizes)
    (zebras,) = class_images(data, sizes).values()
    mixed = [file for _, file in few_images(data, classifier, sizes)]
    *textures, placebo = concepts
    bench = Bench(classifier, textures, placebo, negatives, classifier.read(zebras), classifier.read(mixed))
    result: dict[str, Any] = {}
    for case in (silent_zeros, hidden_sign, baselines, gauge, correlated, chance):
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConceptWarning)
            result[case.__name__] = case(bench)
        print(f"{case.__name__}: {time.process_time() - started:.0f} s", flush=True)
    result = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.6g}"))
    write_atomically(out / "failures.json", (json.dumps(result, indent=1) + "\n").encode())
    draw_figure(result, out / "failures.png")
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the images")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only the figure, from failures.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.report:
        draw_figure(json.loads((arguments.out / "failures.json").read_bytes()), arguments.out / "failures.png")
    else:
        run(arguments.data, arguments.out)


if __name__ == "__main__":
    main()
