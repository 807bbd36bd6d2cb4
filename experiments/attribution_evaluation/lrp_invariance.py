"""What LRP depends on beyond the function: how batch norm and the head are written, forgotten weights, biases.

python -m experiments.attribution_evaluation.lrp_invariance --data DIR --work DIR [--minutes 20] [--out DIR]

On CIFAR-10's ResNet-20, at the input, and on toys of eight features.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from experiments.attribution_evaluation.cifar import some_images
from experiments.attribution_evaluation.commands import arguments, prepare
from experiments.attribution_evaluation.connected_heads import HEADS, connected_classifier, toy_shares
from experiments.attribution_evaluation.images import Labelled, cifar_images
from experiments.attribution_evaluation.models import load_model
from experiments.attribution_evaluation.results import write_json, write_table
from pellucid import Classifier
from pellucid.attribution import LRP, InputXGradient, Method, ZPlus
from pellucid.classifiers import randomize_cascading, randomize_independent, replace_module
from pellucid.evaluation import (
    DiFull,
    GridPG,
    GridSet,
    candidate_pool,
    distinct_grids,
    evaluate_maps,
    same_class_grids,
)

if TYPE_CHECKING:
    import pyarrow as pa

_MODEL = "resnet20"
_GRIDS = 12
_STAGES = ("linear", "layer3", "layer2", "layer1", "bn1", "conv1")
_PLUS = ("layer3", "layer2", "layer1")  # get z+; the first convolution has z-B, the last layer epsilon

Explain = Callable[[Tensor, Tensor], Tensor]
"""Grid images (B, C, H, W) and the classes (B, T) of the evaluated cells -> maps (B, T, h, w)."""

_METHODS: dict[str, Method] = {
    "batch norm merged": LRP(),
    "batch norm as a diagonal convolution": LRP(fold_batch_norm=False),
    "biases without relevance": LRP(absorb_bias=False),
    "epsilon 0.25": LRP(composite="epsilon025_plus_box"),
    "gamma 0.25": LRP(composite="epsilon_gamma_box"),
    "z+ everywhere": LRP(composite="excitation_backprop"),
    "epsilon everywhere": LRP(composite="epsilon"),
    "epsilon everywhere, biases without relevance": LRP(composite="epsilon", absorb_bias=False),
    "epsilon in the last 6 convolutions": LRP(num_conv_epsilon=6),
    "input x gradient": InputXGradient(),
}


def studies(classifier: Classifier) -> Iterator[tuple[str, str, str, Callable[[], Explain]]]:
    """(study, setting, variant, how to make the function that explains)."""
    for variant, method in _METHODS.items():
        yield "rules", "GridPG", variant, lambda method=method: _in_gridpg(classifier, method)
        yield "rules", "DiFull", variant, lambda method=method: _in_difull(classifier, method)
    for head in HEADS:
        for rule, method in (("epsilon", LRP()), ("z+", LRP(rules={"head*": ZPlus()}))):
            yield (
                "heads",
                "DiFull",
                f"{head}, {rule} in the head",
                lambda h=head, m=method: _connected(classifier, h, m),
            )
    for study, steps in (
        ("cascading randomization", randomize_cascading(classifier.module, layers=_STAGES)),
        ("independent randomization", randomize_independent(classifier.module, layers=_STAGES)),
        ("cascading randomization of z+ layers", randomize_cascading(classifier.module, layers=_PLUS)),
    ):
        for step in steps:
            network = replace_module(classifier, step.network)
            yield study, "GridPG", step.layer, lambda network=network: _in_gridpg(network, LRP())


def _in_gridpg(classifier: Classifier, method: Method) -> Explain:
    view = GridPG(classifier).at("input")
    return lambda images, classes: method(view, images, classes).values


def _in_difull(classifier: Classifier, method: Method) -> Explain:
    view = DiFull(classifier).at("input")
    heads = torch.tensor([0, 3])
    return lambda images, classes: method(view, images, torch.stack([heads.expand_as(classes), classes], -1)).values


def _connected(classifier: Classifier, head: str, method: Method) -> Explain:
    views = [connected_classifier(classifier, cell, head).at("input") for cell in (0, 3)]

    def explain(images: Tensor, classes: Tensor) -> Tensor:
        maps = [method(view, images, own).values for view, own in zip(views, classes.unbind(1), strict=True)]
        return torch.cat(maps, dim=1)

    return explain


def grid_sets(classifier: Classifier, images: Labelled) -> dict[str, GridSet]:
    """The grids of both settings, of images that the trained network is sure of."""
    paths, labels = [str(path) for path, _ in images], [label for _, label in images]
    logits = torch.cat([classifier.logits(classifier.read(paths[at : at + 64])) for at in range(0, len(paths), 64)])
    pool = candidate_pool(paths, labels, logits)
    return {"GridPG": distinct_grids(pool, 2, _GRIDS), "DiFull": same_class_grids(pool, 2, _GRIDS, reuse=True)}


def measure(classifier: Classifier, grids: dict[str, GridSet], folder: Path, seconds: float) -> "list[pa.Table]":
    """Score every variant, one file for each; those that are there are not made again."""
    import pyarrow.parquet as pq

    tables, started = [], time.monotonic()
    for number, (study, setting, variant, make) in enumerate(studies(classifier)):
        file = folder / f"{number:03d}.parquet"
        if not file.is_file() and time.monotonic() - started < seconds:
            table = evaluate_maps(
                make(),
                grids[setting],
                classifier=classifier,
                method=variant,
                setting=setting,
                layer="input",
                model=study,
            )
            partial = file.with_suffix(".part")
            pq.write_table(table, partial)
            partial.replace(file)
            print(f"{study}: {variant} in {setting}", flush=True)
        if file.is_file():
            tables.append(pq.read_table(file))
    return tables


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    levels = (0, 0.05, 0.5, 0.95, 1)
    return {str(level): float(value) for level, value in zip(levels, np.quantile(values, levels), strict=True)}


def main() -> None:
    """Run for as long as allowed, then write what there is."""
    chosen = arguments(__doc__)
    prepare()
    classifier = load_model(_MODEL, chosen.data)
    grids = grid_sets(classifier, some_images(cifar_images(chosen.data, chosen.work / "cifar10")))
    write_table(measure(classifier, grids, chosen.work / "lrp", 60 * chosen.minutes), chosen.out, "lrp_invariance")
    shares = toy_shares(200)
    write_json({rule: _quantiles(values) for rule, values in shares.items()}, chosen.out, "lrp_toy")


if __name__ == "__main__":
    main()
