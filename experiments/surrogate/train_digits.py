"""Train the twin of a digit classifier on Morpho-MNIST (thickness -> intensity) at 32 pixels, and judge it.

python -m experiments.surrogate.train_digits --data DIR --work DIR [--steps N] [--plain] [--judge-only]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from experiments.surrogate.digits import TRAINING, digit_classifier, load_digits, redraw_anew
from experiments.surrogate.digits_evaluation import effectiveness, fidelity, oracle_agreement
from pellucid.data import write_atomically
from pellucid.surrogate import PRESETS, TwinSurrogate, load, train

__all__ = ["judge", "main"]

_MEASURED = 300  # held-out pictures whose interventions are measured


def judge(twin: TwinSurrogate, held_out: Any) -> dict[str, Any]:
    """All numbers of a twin, on digits that neither classifier nor twin were trained on."""
    measured = held_out.rows(0, _MEASURED)
    return {
        "steps": twin.steps,
        "options": twin.options.record(),
        "judges": twin.quality.judged,
        "perceived": dict(zip(twin.context_names, twin.quality.perceived, strict=True)),
        "fidelity": fidelity(twin, held_out),
        "effectiveness": effectiveness(twin, measured),
        "oracle_agreement": oracle_agreement(twin, measured),
    }


def main() -> None:
    """Train, or go on training, then write the numbers beside the twin."""
    chosen = _arguments()
    torch.set_num_threads(chosen.threads)
    chosen.work.mkdir(parents=True, exist_ok=True)
    digits = load_digits(chosen.data, chosen.work)
    training, held_out = digits.rows(0, TRAINING), digits.rows(TRAINING)
    classifier = digit_classifier(training, chosen.work)
    out = chosen.work / ("plain" if chosen.plain else "twin")
    if chosen.judge_only:
        twin = load(out, classifier=classifier)
    else:
        options = PRESETS["cpu-32"].but(steps=chosen.steps, **json.loads(chosen.options))
        options = options if chosen.plain else options.but(gain="intensity")
        rerender = None if chosen.plain else redraw_anew
        twin = train(classifier, training.pictures, training.context, options, out, rerender=rerender)
    results = judge(twin, held_out)
    write_atomically(out.with_suffix(".json"), json.dumps(results, indent=1).encode())
    print(json.dumps(results, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with morphomnist_ti")
    parser.add_argument("--work", type=Path, required=True, help="folder for weights, checkpoints and numbers")
    parser.add_argument("--steps", type=int, default=PRESETS["cpu-32"].steps)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--options", default="{}", help="further training options, as JSON")
    parser.add_argument("--plain", action="store_true", help="without re-rendered versions and without a gain layer")
    parser.add_argument("--judge-only", action="store_true", help="judge the last checkpoint of a training")
    return parser.parse_args()


if __name__ == "__main__":
    main()
