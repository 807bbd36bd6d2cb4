"""A small classifier of digits whose weights come with pellucid: something to explain at once."""

from pathlib import Path

from torch import nn

from pellucid.classifiers.loading.loaded_model import RANDOM, LoadedModel
from pellucid.classifiers.loading.weights import load_weights
from pellucid.data import Preprocess

DIGIT_CNN = "digit_cnn"
DIGIT_WEIGHTS = Path(__file__).with_name("digit_cnn.safetensors")
"""Made by `experiments/surrogate/digits/train.py` on 8,500 digits of Morpho-MNIST (thickness -> intensity)."""

_SIDE = 32


def digit_cnn() -> nn.Sequential:
    """Three blocks of convolution, BatchNorm, ReLU and pooling, then one linear layer; grey images of 32 x 32.

    >>> digit_cnn()[-1].out_features
    10
    """
    layers: list[nn.Module] = []
    channels = 1
    for width in (32, 32, 64):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * (_SIDE // 8) ** 2, 10))


def make_digit_preprocess() -> Preprocess:
    """Bright digits on black, [0, 1] to [-1, 1].

    >>> make_digit_preprocess().input_size
    (32, 32)
    """
    return Preprocess((_SIDE, _SIDE), mean=(0.5,), std=(0.5,))


def load_digit_cnn(weights: str | Path | None) -> LoadedModel:
    """The network with its own weights, those in a file, or "random" ones.

    >>> load_digit_cnn(None).class_names[7], load_digit_cnn("random").origin
    ('7', 'random weights')
    """
    module = digit_cnn()
    if weights == RANDOM:
        return LoadedModel(module.eval(), make_digit_preprocess(), "random weights")
    load_weights(module, DIGIT_WEIGHTS if weights is None else weights)
    if weights is not None:  # trained on whatever, if for ten classes
        return LoadedModel(module.eval(), make_digit_preprocess(), Path(weights).name)
    return LoadedModel(module.eval(), make_digit_preprocess(), class_names=[str(digit) for digit in range(10)])
