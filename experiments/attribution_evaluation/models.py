"""The classifiers of the experiments, loaded from a data folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

import pellucid as pl
from experiments.attribution_evaluation.images import CIFAR_CLASSES
from experiments.attribution_evaluation.networks import CifarResNet, MobileNetV2
from experiments.attribution_evaluation.replica import SEEDS, load_replica
from experiments.attribution_evaluation.tflite_weights import convolutions
from pellucid import Classifier
from pellucid.classifiers import copy_in_order, imagenet_class_names, load_weights
from pellucid.data import IMAGENET_MEAN, IMAGENET_STD, Preprocess

CELL = 128
"""Side of an ImageNet cell: a third of the cost of the 224 that these networks were trained with. SqueezeNet's first
convolution is not padded; it needs three pixels more for maps that 2 x 2 cells divide."""

_HALF = (127.5 / 255,) * 3


def load_model(name: str, data: Path) -> Classifier:
    """A classifier of `MODELS` by name, with its published weights."""
    return MODELS[name](data)


def _efficientnet_lite0(data: Path) -> Classifier:
    classifier = pl.load("efficientnet_lite0", input_size=CELL)
    return _imagenet_classifier(classifier.module, classifier.preprocess, classifier.name)


def _mobilenet_v2(data: Path) -> Classifier:
    file = data / "mobilenet_tflite" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
    network, state = MobileNetV2(), {}
    for index, pair in enumerate(convolutions(file)):
        state[f"{index}.weight"], state[f"{index}.bias"] = pair
    last = f"{len(state) // 2 - 1}."
    # The first of its 1001 logits is the background.
    state[f"{last}weight"] = state[f"{last}weight"][1:, :, 0, 0]
    state[f"{last}bias"] = state[f"{last}bias"][1:]
    copy_in_order(network, state, source=str(file))
    preprocess = Preprocess((CELL, CELL), crop_fraction=0.875, mean=_HALF, std=_HALF)
    return _imagenet_classifier(network, preprocess, "mobilenet_v2")


def _squeezenet(data: Path) -> Classifier:
    from torchvision.models import squeezenet1_0

    network = squeezenet1_0(weights=None)
    load_weights(network, data / "squeezenet_dc" / "squeezenet1_0_dc_torchvision_fp16.pt")
    layers = {"middle": "features.7", "final": "features.12"}  # its head is a convolution, ReLU and mean
    return _imagenet_classifier(network, Preprocess.imagenet(CELL + 3, 148), "squeezenet", layers)


def _imagenet_classifier(
    network: nn.Module, preprocess: Any, name: str, aliases: Mapping[str, str] | None = None
) -> Classifier:
    """Channels-last: the same numbers up to rounding, a third faster here."""
    names = imagenet_class_names()
    return Classifier(
        network.eval(), preprocess=preprocess, class_names=names, name=name, aliases=aliases, channels_last=True
    )


def _cifar_resnet(depth: int, file: str) -> Callable[[Path], Classifier]:
    def load(data: Path) -> Classifier:
        network = CifarResNet(depth)
        load_weights(network, data / "cifar10_resnets" / file)
        preprocess = Preprocess((32, 32), mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return Classifier(network.eval(), preprocess=preprocess, class_names=CIFAR_CLASSES, name=f"resnet{depth}")

    return load


def _replica(batch_norm: bool, seed: int) -> Callable[[Path], Classifier]:
    return lambda data: load_replica(batch_norm=batch_norm, seed=seed)


MODELS: dict[str, Callable[[Path], Classifier]] = {
    "efficientnet_lite0": _efficientnet_lite0,
    "mobilenet_v2": _mobilenet_v2,
    "squeezenet": _squeezenet,
    "resnet20": _cifar_resnet(20, "resnet20-12fca82f.th"),
    "resnet56": _cifar_resnet(56, "resnet56-4bfd9763.th"),
    **{f"replica-{kind}-{seed}": _replica(kind == "bn", seed) for kind in ("plain", "bn") for seed in SEEDS},
}
"""Classifiers by name."""
