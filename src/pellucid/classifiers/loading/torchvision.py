"""torchvision's classifiers with their published preprocessing and layers."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.classifiers.loading.loaded_model import (
    LoadedModel,
    imagenet_class_names,
    import_library,
    load_or_leave_random,
    unknown_name_error,
)
from pellucid.data import Preprocess
from pellucid.errors import ModelError

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


def load_torchvision(architecture: str, weights: str | Path | None) -> LoadedModel:
    """An architecture of torchvision.

    Args:
        architecture: such as "resnet50".
        weights: a published set, a file, "random", or None for the default set.

    Raises:
        MissingExtraError: torchvision is not installed.
        ModelError: no such architecture or weights.
    """
    models = import_library("torchvision.models")
    names = models.list_models(module=models)
    if architecture not in names:
        raise unknown_name_error("torchvision classifier", architecture, names)
    entry, weights = _find_weights(models.get_model_weights(architecture), weights)
    transform = entry.transforms()
    (size,), (resize,) = transform.crop_size, transform.resize_size
    interpolation, mean, std = transform.interpolation.value, tuple(transform.mean), tuple(transform.std)
    preprocess = Preprocess((size, size), resize=resize, interpolation=interpolation, mean=mean, std=std)
    arguments = _TORCHVISION_ARGUMENTS.get(architecture, {})
    build = partial(models.get_model_builder(architecture), weights=None, **arguments)
    loaded = load_or_leave_random(
        build, weights, preprocess, rename=_present_names, class_names=_published_names(entry, weights)
    )
    return replace(loaded, layers=_TORCHVISION_LAYERS.get(architecture))


def _find_weights(published: Any, weights: str | Path | None) -> tuple[Any, str | Path]:
    """The published set whose preprocessing counts (for a file of one's own the first), and what to read."""
    first = next(iter(published))
    if weights is not None and str(weights) not in published.__members__:
        by_file = {Path(entry.url).name: entry for entry in published}
        return by_file.get(Path(weights).name, first), weights
    entry = published.DEFAULT if weights is None else published[str(weights)]
    if entry.meta["categories"] is None:
        raise ModelError(f"the published weights {entry} have no trained classifier; take {first}")
    file = _cached_file(entry)
    if not file.is_file():
        raise ModelError(
            f"the published weights {entry} are not at {file}, and pellucid downloads nothing: fetch "
            f'{entry.url} to that place, give weights=FILE, or weights="random" for an untrained network'
        )
    return entry, file


def _published_names(entry: Any, weights: str | Path) -> Sequence[str] | None:
    """ImageNet's names if the file is that of `entry`: from torchvision's cache, or of the SHA-256 in its name."""
    file, published = Path(weights), _cached_file(entry)
    if not entry.name.startswith("IMAGENET1K") or file.name != published.name or not file.is_file():
        return None
    if file == published:
        return imagenet_class_names()
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return imagenet_class_names() if digest.startswith(file.stem.rpartition("-")[2]) else None


def _cached_file(entry: Any) -> Path:
    """Where torchvision downloads the weights of `entry` to."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(entry.url).name)


def _present_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of today for published files: DenseNet's have older ones. The auxiliary heads are left out."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name): tensor
        for name, tensor in state.items()
        if not name.startswith(_AUXILIARY_HEADS)
    }
