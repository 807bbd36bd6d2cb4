"""The recipe for images of 256 pixels on one GPU or several, and what it costs in arithmetic.

torchrun --nproc-per-node 8 -m experiments.surrogate.recipe_256.run --images DIR --model MODULE:FACTORY --out DIR
python -m experiments.surrogate.recipe_256.run --cost FILE

DIR holds images, in folders or not, and context.csv: a row for each image, its path below DIR in the column "file",
and its context. FACTORY returns a `pellucid.Classifier` on the device "cuda". A run that was broken off goes on when
the command is given again. With --cost nothing is trained: the operations of the networks of a preset are counted.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pellucid as pl
from pellucid.data import read_context
from pellucid.storage import write_atomically
from pellucid.surrogate import (
    PRESETS,
    SurrogateExplainer,
    TrainingOptions,
    train,
)
from pellucid.surrogate.model import (
    AttributePredictors,
    DataSizes,
    Discriminator,
    Generator,
    SurrogateNetworks,
    make_discriminator,
)

_FEATURES, _CONTEXTS = 960, 8  # as of a ResNet-18 seen at four layers, with eight contexts; they hardly count
_BACKWARD = 3  # a forward and a backward pass, in forward passes


def train_on_gpus(folder: Path, model: str, run: Path, options: TrainingOptions) -> SurrogateExplainer:
    """Train, or go on training, on the GPU of this process; the images are read as they are needed."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # what "cuda" means from here on
    context = read_context(folder / "context.csv", folder)
    assert context.files is not None
    return train(pl.load(model), context.files, context, options, run)


def cost(preset: str) -> dict[str, Any]:
    """Operations (multiplications, additions) of a preset's networks for one training image, all but the classifier.

    In a step the generator redraws every image and half of them with changed codes; the discriminator sees these for
    the generator's sake, and for its own these and the real ones. Lazy terms are left out.
    """
    options = PRESETS[preset]
    sizes = DataSizes(3, _FEATURES, 2, tuple(f"context {number}" for number in range(_CONTEXTS)))
    explainer, discriminator = SurrogateNetworks(sizes, options), make_discriminator(sizes, options)
    predictors = AttributePredictors(3, _CONTEXTS, options)
    side = options.resolution
    image, code = torch.zeros(4, 3, side, side), torch.zeros(4, sum(explainer.blocks))
    forward = {
        "generator": _operations(explainer.generator, code),
        "discriminator": _operations(discriminator, image, torch.zeros(4, _FEATURES)),
        "predictor_r2": _operations(predictors, image),
        "nuisance encoder": _operations(explainer.nuisance, image),
    }
    drawn = 1.5 * (forward["generator"] + forward["discriminator"]) + 0.5 * forward["predictor_r2"]
    read = forward["nuisance encoder"] * 1.5
    step = _BACKWARD * (drawn + read + 2.5 * forward["discriminator"])
    images = options.steps * options.batch_size
    return {
        "preset": preset,
        "torch": torch.__version__,
        "parameters": {
            "surrogate": _parameters(explainer),
            "generator": _parameters(explainer.generator),
            "discriminator": _parameters(discriminator),
        },
        "forward_gflop": {name: value / 1e9 for name, value in forward.items()},
        "step_gflop_per_image": step / 1e9,
        "training_images": images,
        "training_exaflop": step * images / 1e18,
        "hours_at_100_teraflops": step * images / 1e14 / 3600,
    }


def _operations(network: nn.Module | Generator | Discriminator, *inputs: torch.Tensor) -> float:
    """Of one row, forward."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return float(counter.get_total_flops()) / len(inputs[0])


def _parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with images and context.csv")
    parser.add_argument("--model", help="module:factory that returns the classifier")
    parser.add_argument("--out", type=Path, help="folder of the training")
    parser.add_argument("--preset", choices=PRESETS, default="gpu-256")
    parser.add_argument("--steps", type=int, help="fewer or more than the preset has")
    parser.add_argument("--cost", type=Path, help="only count operations, into this file")
    chosen = parser.parse_args()
    if chosen.cost is not None:
        write_atomically(chosen.cost, (json.dumps(cost(chosen.preset), indent=1) + "\n").encode())
        return
    if None in (chosen.images, chosen.model, chosen.out):
        parser.error("give --images, --model and --out, or --cost")
    options = PRESETS[chosen.preset]
    options = (
        options
        if chosen.steps is None
        else options.replace(steps=chosen.steps, warmup_steps=min(options.warmup_steps, chosen.steps))
    )
    print(train_on_gpus(chosen.images, chosen.model, chosen.out, options))


if __name__ == "__main__":
    main()
