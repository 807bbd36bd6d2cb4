"""Train the surrogate of a digit classifier on Morpho-MNIST (thickness -> intensity) at 32 pixels, and judge it.

python -m experiments.surrogate.digits.train --data DIR --work DIR

Goes on where it was. `--ship` also puts classifier and surrogate into the package, as `digit_cnn` and `digits`.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments.surrogate.digits.data import CONTEXTS, TRAINING, Digits, digit_classifier, load_digits, redraw_digits
from experiments.surrogate.digits.evaluation import oracle_agreement
from pellucid.classifiers import DIGIT_WEIGHTS
from pellucid.storage import to_record, write_atomically
from pellucid.surrogate import (
    PRESETS,
    GlobalOptions,
    SurrogateExplainer,
    TrainingOptions,
    digit_measure,
    load,
    pretrained_folder,
    train,
)
from pellucid.surrogate.causal import BackgroundKnowledge, DiscoveryOptions

RESULTS = Path(__file__).parents[1] / "results"
MORPHOMETRY = "Morpho-MNIST morphometry"
KNOWLEDGE = BackgroundKnowledge({"thickness": 0, "slant": 0, "intensity": 1, "width": 1})
"""Pen and hand come before what they draw; the set makes intensity from thickness."""

_REDRAWN = 300  # digits for the comparison with real ones redrawn
_BOOTSTRAPS = 100


def options_of(steps: int) -> TrainingOptions:
    """The preset, two redrawn versions of each digit, a gain layer, and little nuisance that is kept idle."""
    return PRESETS["cpu-32"].replace(
        steps=steps, num_augmented=2, brightness_context="intensity", nuisance_dim=12, nuisance_swap=8.0
    )


def answered(explainer: SurrogateExplainer, held_out: Digits) -> None:
    """Let the surrogate remember, be measured on, and discover from digits that nothing was trained on."""
    explainer.set_reference(held_out.images)
    explainer.assess(held_out.images, digit_measure(explainer.surrogate), measured_by=MORPHOMETRY)
    options = GlobalOptions(KNOWLEDGE, DiscoveryOptions(bootstraps=_BOOTSTRAPS))
    explainer.discover(held_out.images, held_out.context.values.float(), options=options)


def results_of(explainer: SurrogateExplainer, held_out: Digits) -> dict[str, Any]:
    """All numbers of a surrogate that has answered."""
    assert explainer.assessment is not None
    assert explainer.global_explanation is not None
    assert explainer.global_explanation.data is not None
    accurate = (explainer.encode_batch(held_out.images).classes == held_out.labels).float().mean()
    return {
        "steps": explainer.surrogate.steps,
        "options": to_record(explainer.surrogate.options),
        "classifier_accuracy": float(accurate),
        "predictor_r2": dict(
            zip(CONTEXTS, torch.tensor(explainer.surrogate.quality.predictor_r2).T.tolist(), strict=True)
        ),
        "perceived": dict(zip(CONTEXTS, explainer.surrogate.quality.probe_r2, strict=True)),
        "assessment": asdict(explainer.assessment),
        "decisions": [asdict(edge) for edge in explainer.global_explanation.decision_effects],
        "null": asdict(explainer.global_explanation.null),
        "data_graph": to_record(explainer.global_explanation.data),
        "perceived_graph": to_record(explainer.global_explanation.perceived),
        "notes": list(explainer.global_explanation.notes),
        "oracle_agreement": oracle_agreement(explainer, held_out.rows(0, _REDRAWN)),
    }


def main() -> None:
    """Train, or go on training, then write the numbers."""
    chosen = _arguments()
    torch.set_num_threads(chosen.threads)
    chosen.work.mkdir(parents=True, exist_ok=True)
    digits = load_digits(chosen.data, chosen.work)
    training, held_out = digits.rows(0, TRAINING), digits.rows(TRAINING)
    classifier = digit_classifier(training, chosen.work)
    out = chosen.work / "surrogate"
    if chosen.judge_only:
        explainer = load(out, classifier=classifier)
    else:
        options = options_of(chosen.steps)
        explainer = train(classifier, training.images, training.context, options, out, rerender=redraw_digits)
    answered(explainer, held_out)
    explainer.save(out)
    text = json.dumps(results_of(explainer, held_out), indent=1)
    write_atomically(RESULTS / "digits.json" if chosen.ship else out.with_suffix(".json"), text.encode())
    if chosen.ship:
        write_atomically(DIGIT_WEIGHTS, (chosen.work / "classifier.safetensors").read_bytes())
        explainer.save(pretrained_folder("digits"))
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with morphomnist_ti")
    parser.add_argument("--work", type=Path, required=True, help="folder for weights, checkpoints and numbers")
    parser.add_argument("--steps", type=int, default=PRESETS["cpu-32"].steps)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--judge-only", action="store_true", help="judge the last checkpoint of a training")
    parser.add_argument(
        "--ship", action="store_true", help="put the surrogate into the package, the numbers into results"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
