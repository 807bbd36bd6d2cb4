"""A color classifier that was not made here: the surrogate of CIFAR-10's published ResNet-20, with concepts as context.

python -m experiments.surrogate.cifar.run --data DIR --work DIR [--out DIR] [--steps N]

Contexts and checkpoints are kept in --work, so that a run that was broken off goes on; the numbers go to
OUT/cifar.json. No image is among them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.attribution_evaluation.models import load_model
from experiments.surrogate.cifar.context import CONTEXTS, LAYER, Concepts, fit_concepts, load_images
from experiments.surrogate.real_images.examine import HeldOut, Questions, examine, rounded
from experiments.surrogate.real_images.statistics import STATISTICS, effect_of_code, shown, unshown, versions_of
from pellucid.classifiers import Classifier
from pellucid.data import ContextTable
from pellucid.storage import read_tensors, write_atomically, write_tensors
from pellucid.surrogate import (
    PRESETS,
    Rerender,
    TrainingOptions,
    train,
)

TRAINING, HELD_OUT = 5000, 1000
OPTIONS = PRESETS["cpu-32"].replace(
    steps=4000,
    batch_size=16,
    latent_dim=12,
    nuisance_dim=64,
    generator_lr=6e-4,
    predictor_steps=1500,
)
"""More latents and nuisance than `cpu-32` has: photographs hold more than digits. Smaller steps, and twice the rate."""

_BOUNDS = (0.05, 0.95)  # quantiles between which code draws the statistics of versions
_MEASURED_BY = "code (statistics) and Visual-TCAV through the classifier (concepts)"


def run(data: Path, work: Path, options: TrainingOptions, questions: Questions) -> dict[str, Any]:
    """Train, or go on training, and examine."""
    classifier = load_model("resnet20", data)
    images, labels = load_images(classifier, data, work)
    images, labels = images[: TRAINING + HELD_OUT], labels[: TRAINING + HELD_OUT]
    cavs = fit_concepts(classifier, data)
    concepts = Concepts(classifier, cavs)
    context = _context(concepts, images, work)
    training = context.subset(slice(0, TRAINING))
    explainer = train(
        classifier,
        images[:TRAINING],
        training,
        options,
        work / "surrogate",
        rerender=_versions(concepts, training, classifier),
    )
    held_out = HeldOut(images[TRAINING:], labels[TRAINING:], context.subset(slice(TRAINING, None)))
    result = examine(
        explainer,
        held_out,
        concepts,
        _MEASURED_BY,
        _setter(classifier),
        STATISTICS,
        questions,
        lambda line: print(line, flush=True),
    )
    explainer.save(work / "surrogate")
    quality = {cav.name: {"auc": cav.auc, "stability": cav.stability} for cav in cavs}
    return result | {"concepts": {"layer": LAYER, "cavs": quality}, "training_images": TRAINING}


def _context(concepts: Concepts, images: Tensor, work: Path) -> ContextTable:
    """Measured once, then kept."""
    kept = work / "context.safetensors"
    if not kept.exists():
        write_tensors(kept, {"context": concepts(images, lambda line: print(line, flush=True))})
    return ContextTable(CONTEXTS, read_tensors(kept)["context"])


def _versions(concepts: Concepts, training: ContextTable, classifier: Classifier) -> Rerender:
    """Versions whose statistics code draws independently; all contexts are measured again."""
    statistics = training.select(STATISTICS).values.float()
    low, high = torch.quantile(statistics, torch.tensor(_BOUNDS), dim=0)

    def rerender(images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = unshown(classifier, versions_of(shown(classifier, images), low, high, random))
        return drawn, concepts(drawn)

    return rerender


def _setter(classifier: Classifier) -> Any:
    return lambda images, name, value: unshown(classifier, effect_of_code(shown(classifier, images), name, value))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with cifar10, cifar10_resnets and concept sets"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for contexts, checkpoints and the surrogate")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder for the numbers"
    )
    parser.add_argument("--steps", type=int, default=OPTIONS.steps)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    result = run(chosen.data, chosen.work, OPTIONS.replace(steps=chosen.steps), Questions(measured=250))
    write_atomically(chosen.out / "cifar.json", (json.dumps(rounded(result), indent=1) + "\n").encode())
    print(f"wrote {chosen.out / 'cifar.json'}")


if __name__ == "__main__":
    main()
