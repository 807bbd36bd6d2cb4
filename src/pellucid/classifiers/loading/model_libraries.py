"""Named classifiers: pellucid's own, EfficientNet-Lite, torchvision's and timm's networks, with their preprocessing."""

import difflib
import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.classifiers.loading.digit_cnn import (
    DIGIT_CNN,
    DIGIT_WEIGHTS,
    digit_cnn,
    digit_preprocess,
)
from pellucid.classifiers.loading.efficientnet_lite import (
    EFFICIENTNET_LITE,
    EfficientNetLite,
    lite_preprocess,
    published_weights,
)
from pellucid.classifiers.loading.imagenet import imagenet_class_names
from pellucid.classifiers.loading.weights import (
    build_with_weights,
    copy_in_order,
    load_weights,
    read_state_dict,
)
from pellucid.data import Preprocess
from pellucid.errors import MissingExtraError, ModelError

RANDOM = "random"
FACTORY = "package.module:factory"

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
class LoadedModel:
    """A network with what belongs to it; attributes as in `Classifier`, `layers` are its aliases."""

    module: nn.Module
    preprocess: Preprocess | None
    origin: str = ""
    class_names: Sequence[str] | None = None
    layers: Mapping[str, str] | None = None


def named(name: str, weights: str | Path | None) -> LoadedModel | None:
    """A network that a name stands for; None where it is no such name.

    Raises:
        MissingExtraError: a package is not installed.
        ModelError: no such architecture or weights.
    """
    zoo, _, rest = name.partition(":")
    if name == DIGIT_CNN:
        return _digit_cnn(weights)
    if name in EFFICIENTNET_LITE:
        return _efficientnet_lite(name, weights)
    if zoo == "torchvision" and rest:
        return _torchvision(rest, weights)
    if zoo == "timm" and rest:
        return _timm(rest, weights)
    return None


def _digit_cnn(weights: str | Path | None) -> LoadedModel:
    module = digit_cnn()
    if weights == RANDOM:
        return LoadedModel(module.eval(), digit_preprocess(), "random weights")
    load_weights(module, DIGIT_WEIGHTS if weights is None else weights)
    origin = "" if weights is None else Path(weights).name
    return LoadedModel(module.eval(), digit_preprocess(), origin, [str(digit) for digit in range(10)])


def _efficientnet_lite(name: str, weights: str | Path | None) -> LoadedModel:
    config = EFFICIENTNET_LITE[name]
    build, preprocess = partial(EfficientNetLite, config), lite_preprocess(config)
    if weights is not None:
        return _finished(build, weights, preprocess)
    module, file = build(), published_weights(name)
    copy_in_order(module, read_state_dict(file), source=str(file))
    return LoadedModel(module.eval(), preprocess, class_names=imagenet_class_names())


def _torchvision(architecture: str, weights: str | Path | None) -> LoadedModel:
    models = _imported("torchvision.models")
    names = models.list_models(module=models)
    if architecture not in names:
        raise unknown("torchvision classifier", architecture, names)
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


def _timm(architecture: str, weights: str | Path | None) -> LoadedModel:
    timm = _imported("timm")
    if not timm.is_model(architecture):
        raise unknown("timm classifier", architecture, timm.list_models())
    try:
        config = timm.get_pretrained_cfg(architecture, allow_unregistered=False)
    except RuntimeError as error:
        raise ModelError(f"no timm classifier {architecture!r}: {error}") from error
    if not config.num_classes:
        raise ModelError(f"timm:{architecture} has no classification head; add one to it in a {FACTORY}")
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
    whole = mode == "squash" and fraction == 1  # the whole image, whatever its proportions
    if not whole and (mode != "center" or height != width):
        raise ModelError(
            f"timm:{architecture} wants images prepared in a way that pellucid does not know (crop_mode "
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


def _finished(
    build: Callable[..., nn.Module],
    weights: str | Path,
    preprocess: Preprocess,
    *,
    classes: int = 1000,
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> LoadedModel:
    """The network with the weights in a file; random ones stay, and the origin says so."""
    if weights == RANDOM:
        return LoadedModel(build().eval(), preprocess, "random weights")
    module, classes = build_with_weights(build, weights, classes=classes, rename=rename)
    names = imagenet_class_names() if classes == 1000 else None
    return LoadedModel(module.eval(), preprocess, Path(weights).name, names)


def _imported(module: str) -> Any:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        raise MissingExtraError(missing, package, f"{package}:NAME") from error
    except Exception as error:
        raise ModelError(
            f"{package} cannot be imported with torch {torch.__version__} ({format_error(error)}): torch and "
            "torchvision are built in pairs, install two that belong together (torchvision's README has "
            "the table)"
        ) from error


def format_error(error: Exception) -> str:
    """An error of a stranger's code in one line."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def unknown(kind: str, name: str, names: Sequence[str]) -> ModelError:
    """The error of a name that does not exist, with those that are near."""
    near = difflib.get_close_matches(name, names, n=4)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"there are {', '.join(names[:6])}{', ...' * (len(names) > 6)}"
    )
    return ModelError(f"no {kind} {name!r}; {hint}")
